"""Frame rates and dropped frames from the times of frames."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.formats.sampling import sampling_of


def test_even_times():
    found = sampling_of(np.arange(100) / 7.5 + 3, "clock")
    assert found.frame_rate_hz == pytest.approx(7.5)
    assert (found.frames, found.problems) == (None, ())


def test_times_rounded_to_milliseconds():
    times = np.round(np.arange(1000) / 29.7, 3)
    assert sampling_of(times, "clock").frame_rate_hz == pytest.approx(29.7, rel=1e-4)
    # One interval that fits no frame: the rate of the others, which the median of rounded ones is not.
    times[500:] += 0.45 / 29.7
    found = sampling_of(times, "clock")
    assert found.frame_rate_hz == pytest.approx(29.7, rel=2e-4)
    assert found.frames is None
    assert "clock: intervals between frames vary, up to 1.5 times" in found.problems[0]


@pytest.mark.parametrize("lost", [[10], [10, 11, 12], [3, 50, 51, 97], list(range(20, 60))])
def test_dropped_frames(lost):
    kept = np.delete(np.arange(100), lost)
    found = sampling_of(np.round(kept / 29.7, 3), "clock")
    np.testing.assert_array_equal(found.frames, kept)
    assert found.frame_rate_hz == pytest.approx(29.7, rel=2e-3)
    assert found.problems == (
        f"clock: {len(lost)} frames are missing, by the times of the others; their place is kept",
    )


def test_a_pause_need_not_be_a_multiple():
    times = np.arange(100) / 10
    times[50:] += 2.04
    np.testing.assert_array_equal(sampling_of(times, "clock").frames[[49, 50]], [49, 70])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 1, np.nan], "are missing"),
        ([0.0], "are missing"),
        ([0, 1, 1], "do not increase at frame 2"),
        ([], "missing"),
    ],
)
def test_times_that_tell_nothing(times, message):
    found = sampling_of(times, "clock")
    assert (found.frame_rate_hz, found.frames) == (None, None)
    assert message in found.problems[0]

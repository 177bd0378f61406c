"""Which frame rate of a recording counts, and a timeline without holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_rt.errors import InputError
from cascade_rt.formats import Recording
from cascade_rt.formats.timeline import frame_rate, whole_timeline


def _recording(*, rate: float | None = None, frames: list[int] | None = None) -> Recording:
    n_frames = 4 if frames is None else len(frames)
    dff = np.arange(2.0 * n_frames, dtype=np.float32).reshape(2, n_frames)
    dff.flags.writeable = False
    index = None if frames is None else np.array(frames, np.int64)
    return Recording(traces=dff, path=Path("session.npz"), frame_rate_hz=rate, frames=index)


@pytest.mark.parametrize(
    ("stored", "given", "rate"), [(30.0, None, 30.0), (None, 15.0, 15.0), (30.9, 30.0, 30.0), (28.5, 30.0, 30.0)]
)
def test_the_rate_given_counts_before_the_stored_one(stored: float | None, given: float | None, rate: float) -> None:
    assert frame_rate(_recording(rate=stored), given) == rate


def test_no_rate_and_contradicting_rates_are_refused() -> None:
    with pytest.raises(InputError, match=r"session\.npz: does not tell its frame rate; give it with --frame-rate"):
        frame_rate(_recording(), None)
    with pytest.raises(InputError, match=r"recorded at 31\.6 Hz, --frame-rate says 30 Hz"):
        frame_rate(_recording(rate=31.6), 30.0)


@pytest.mark.parametrize(("frames", "first"), [(None, 0), ([7, 8, 9], 7)])
def test_a_recording_without_gaps_is_taken_as_it_is(frames: list[int] | None, first: int) -> None:
    recording = _recording(frames=frames)
    dff, first_frame = whole_timeline(recording)
    assert dff is recording.dff
    assert first_frame == first


def test_missing_frames_become_nan() -> None:
    dff, first_frame = whole_timeline(_recording(frames=[5, 6, 9]))
    np.testing.assert_array_equal(dff, [[0, 1, np.nan, np.nan, 2], [3, 4, np.nan, np.nan, 5]])
    assert first_frame == 5

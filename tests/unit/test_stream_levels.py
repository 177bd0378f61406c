"""Noise levels of a stream: given, changed in mid-stream, or measured at the start and then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from recordings import drive, offline, open_stream, recording

import cascade_rt as crt
from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from cascade_rt.engine import Model
    from cascade_rt.stream import SpikeStream

NAMES = ("binned", "online", "conditioned")
#: Inside and far outside of the trained range, on the edges between bins, unknown.
LEVELS = (0.01, 0.9, 1.0, 1.49, 1.51, 2.2, 3.7, 5.9, 6.1, 8.0, 40.0, float("nan"))
TOLERANCE = 1e-5

# --------------------------------------------------------------------------------------------------- noise levels


@pytest.mark.parametrize("name", NAMES)
def test_new_noise_levels_hold_from_the_next_frame(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    spec = model.spec
    rng = np.random.default_rng(11)
    dff = recording(rng, len(LEVELS), 300)
    dff[0, 100:105] = np.nan
    for at in (1, 20, 137, 200):
        old, new = rng.permutation(LEVELS), rng.permutation(LEVELS)
        new[0], new[1] = old[0], old[1]
        given = new.copy()
        stream = open_stream(model, old, lookahead_frames=spec.lookaheads)
        first = drive(stream, dff[:, :at], [9], flush=False)
        stream.set_noise_levels(given)
        given[:] = 1
        np.testing.assert_array_equal(stream.noise_levels, new)
        for lookahead, chunks in _going_on(stream, dff[:, at:]).items():
            seen = np.concatenate([first[lookahead].prob, chunks], axis=1)
            options: Any = {"lookahead_frames": lookahead}
            expected = offline(dff, model, noise_levels=new, **options)
            change = max(at - lookahead, 0)
            expected[:, :change] = offline(dff, model, noise_levels=old, **options)[:, :change]
            np.testing.assert_allclose(seen, expected, rtol=0, atol=TOLERANCE)


def _going_on(stream: SpikeStream, dff: np.ndarray) -> dict[int, np.ndarray]:
    """Push the rest of a recording and flush, without the checks of a start."""
    parts: dict[int, list[np.ndarray]] = {x: [] for x in stream.lookahead_frames}
    for chunk in [*(stream.push(dff[:, t : t + 5]) for t in range(0, dff.shape[1], 5)), stream.flush()]:
        for lookahead, part in {chunk.lookahead_frames: chunk, **chunk.revisions}.items():
            parts[lookahead].append(part.spike_prob)
    return {lookahead: np.concatenate(found, axis=1) for lookahead, found in parts.items()}


def test_noise_levels_are_the_streams_own(binned: Model) -> None:
    given = np.array([1.0, 2.0])
    stream = open_stream(binned, given)
    given[:] = 50
    stream.noise_levels[:] = 60
    np.testing.assert_array_equal(stream.noise_levels, [1.0, 2.0])


@pytest.mark.parametrize("name", NAMES)
def test_unknown_noise_levels_leave_neurons_without_output(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    dff = recording(np.random.default_rng(12), 3, 120)
    stream = open_stream(model, [np.nan, 0.0, -3.0], lookahead_frames=model.spec.lookaheads)
    assert np.isnan(stream.noise_levels).all()
    for described in drive(stream, dff, [30]).values():
        assert np.isnan(described.prob).all()
        assert not described.valid.any()


def test_wrong_noise_levels_in_mid_stream_change_nothing(binned: Model) -> None:
    stream = open_stream(binned, [1.0, 2.0])
    with pytest.raises(InputError, match=r"\(2,\)"):
        stream.set_noise_levels([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(stream.noise_levels, [1.0, 2.0])


# ---------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("size", [1, 13, 64, 500])
@pytest.mark.parametrize("name", NAMES)
def test_calibration_measures_then_keeps_the_noise_levels(name: str, size: int, models: dict[str, Model]) -> None:
    model = models[name]
    rate, window = model.spec.frame_rate_hz, model.spec.windowsize
    dff = recording(np.random.default_rng(13), 5, 330)
    dff[1, 20:23] = np.nan
    length = 140
    stream = open_stream(
        model, None, n_neurons=5, calibration_s=length / rate, lookahead_frames=model.spec.lookaheads, threshold="none"
    )
    assert stream.calibrating
    assert stream.calibration_progress == 0
    assert np.isnan(stream.noise_levels).all()
    seen = drive(stream, dff, [size])
    assert not stream.calibrating
    assert stream.calibration_progress == 1
    nu = crt.noise_levels(dff[:, :length], frame_rate_hz=rate)
    np.testing.assert_allclose(stream.noise_levels, nu, rtol=1e-6)
    first = crt.noise_levels(dff[:, :window], frame_rate_hz=rate)
    for lookahead, described in seen.items():
        calibrated = slice(length - lookahead, None)
        final = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead, threshold="none")
        np.testing.assert_allclose(described.prob[:, calibrated], final[:, calibrated], rtol=0, atol=TOLERANCE)
        # What is not called provisional is final; a piece is called provisional if it began as such.
        settled = ~described.provisional
        np.testing.assert_allclose(described.prob[:, settled], final[:, settled], rtol=0, atol=TOLERANCE)
        assert described.provisional[: max(length - lookahead, 0)].all()
        if size == 1:
            assert settled[max(length - lookahead, 0) :].all()
        # Until then, values from the first full window on, by the ν of that window.
        early = offline(dff, model, noise_levels=first, lookahead_frames=lookahead, threshold="none")
        part = slice(window - lookahead, length - lookahead)
        np.testing.assert_allclose(described.prob[:, part], early[:, part], rtol=0, atol=TOLERANCE)
        assert np.isnan(described.prob[:, : window - 1 - lookahead]).all()


def test_frames_that_fill_gaps_are_no_measure_of_noise(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(14), 3, 200)
    touched = np.zeros(200, bool)
    touched[[40, 41, 42, 90]] = True
    held = dff.copy()
    held[:, 40:43] = held[:, 39:40]
    held[:, 90] = 1e3
    stream = open_stream(conditioned, None, n_neurons=3, calibration_s=150 / 30)
    drive(stream, held, [6], touched=touched)
    missing = np.where(touched, np.nan, dff)[:, :150]
    np.testing.assert_allclose(stream.noise_levels, crt.noise_levels(missing, frame_rate_hz=30.0), rtol=1e-6)


def test_progress_of_the_calibration_is_told(conditioned: Model) -> None:
    stream = open_stream(conditioned, None, n_neurons=1, calibration_s=4.0)
    for expected in (0.25, 0.5, 0.75):
        stream.push(recording(np.random.default_rng(0), 1, 30))
        assert stream.calibration_progress == pytest.approx(expected)
        assert stream.calibrating
    stream.push(recording(np.random.default_rng(0), 1, 30))
    assert (stream.calibration_progress, stream.calibrating) == (1.0, False)


def test_values_of_the_calibration_that_wait_for_the_threshold_stay_provisional(online: Model) -> None:
    """The noise floor holds frames back; those computed with the first ν are provisional when they come out."""
    rate = online.spec.frame_rate_hz
    dff = recording(np.random.default_rng(15), 8, 200)
    # The noise changes after the first window, so that both ν differ.
    dff[:, 40:] *= 4
    length = 120
    options: Any = {"n_neurons": 8, "calibration_s": length / rate, "threshold": "noise_floor"}
    seen = drive(open_stream(online, None, **options), dff, [1])[6]
    assert seen.provisional[: length - 6].all(), "frames described during the calibration"
    assert not seen.provisional[length - 6 + 6 :].any()


def test_given_noise_levels_end_a_calibration(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(16), 2, 200)
    stream = open_stream(conditioned, None, n_neurons=2, lookahead_frames=1)
    drive(stream, dff[:, :100], [7], flush=False)
    stream.set_noise_levels([1.0, 5.0])
    assert not stream.calibrating
    seen = _going_on(stream, dff[:, 100:])[1]
    expected = offline(dff, conditioned, noise_levels=[1.0, 5.0], lookahead_frames=1)
    np.testing.assert_allclose(seen, expected[:, 99:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_without_any_known_noise_level_a_calibration_still_runs(name: str, models: dict[str, Model]) -> None:
    """All neurons NaN (a closed shutter) for longer than the window, then data."""
    model = models[name]
    rate = model.spec.frame_rate_hz
    dff = recording(np.random.default_rng(17), 2, 260)
    dff[:, :80] = np.nan
    options: Any = {"n_neurons": 2, "calibration_s": 150 / rate, "lookahead_frames": model.spec.lookaheads}
    stream = open_stream(model, None, **options)
    seen = drive(stream, dff, [3])
    nu = crt.noise_levels(dff[:, :150], frame_rate_hz=rate)
    np.testing.assert_allclose(stream.noise_levels, nu, rtol=1e-6)
    for lookahead, described in seen.items():
        expected = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead)[:, 150:]
        np.testing.assert_allclose(described.prob[:, 150:], expected, rtol=0, atol=TOLERANCE)


def test_a_gap_does_not_pass_for_calibration(conditioned: Model) -> None:
    """ν must not be frozen after a handful of frames because a gap made the frame index jump."""
    dff = recording(np.random.default_rng(18), 3, 400)
    stream = open_stream(conditioned, None, n_neurons=3, calibration_s=120 / 30)
    stream.push(dff[:, :10])
    stream.skip(5000)
    stream.push(dff[:, 10:20])
    assert stream.calibrating
    assert stream.calibration_progress < 0.5
    stream.push(dff[:, 20:])
    assert not stream.calibrating
    truth = crt.noise_levels(dff, frame_rate_hz=30.0)
    np.testing.assert_allclose(stream.noise_levels, truth, rtol=0.3)


def test_a_calibration_shorter_than_the_window_is_refused(binned: Model) -> None:
    with pytest.raises(InputError, match=r"calibration_s=2: expected at least the model's window, 2\.1 s"):
        open_stream(binned, None, n_neurons=1, calibration_s=2.0)
    assert not open_stream(binned, [1.0], calibration_s=2.0).calibrating

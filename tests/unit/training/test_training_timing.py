"""Timing of isolated spikes: which they are, and how far from them the maximum of a prediction lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.targets import smooth_spikes
from training.timing import Timing, TraceTiming, isolated_events, timing, trace_timing

RATE = 30.0
SPIKES = np.arange(60, 1200, 60)


def _counts(frames: np.ndarray, n: int = 1260) -> np.ndarray:
    return np.bincount(frames, minlength=n).astype(np.float32)


def _measured(
    prediction: np.ndarray, counts: np.ndarray, *, rate: float = RATE, smoothing_s: float = 0.05, causal: bool = False
) -> Timing:
    truth = smooth_spikes(counts, smoothing_s=smoothing_s, frame_rate_hz=rate, causal_kernel=causal)
    (found,) = timing([_traced(prediction[None], truth, counts, rate, smoothing_s, causal)])
    return found


def _traced(
    prediction: np.ndarray, truth: np.ndarray, counts: np.ndarray, rate: float, smoothing_s: float, causal: bool
) -> TraceTiming:
    return trace_timing(prediction, truth, counts, frame_rate_hz=rate, smoothing_s=smoothing_s, causal_kernel=causal)


def test_which_events_are_isolated() -> None:
    """0.5 s before are 15 frames, 0.3 s after are 9."""
    frames = np.array([5, 40, 60, 61, 90, 91, 92, 120, 129, 160, 169, 185, 200, 216, 295])
    found = isolated_events(_counts(frames, 300), RATE)
    # 5 and 295: too near the ends; 90-92: three frames; 120 and 160: followed too soon; 129, 169, 200: preceded.
    assert found.tolist() == [[40, 40], [60, 61], [185, 185], [216, 216]]
    assert isolated_events(np.zeros(50), RATE).shape == (0, 2)
    several = isolated_events(_counts(np.array([30, 30, 30]), 60), RATE)
    assert several.tolist() == [[30, 30]]


def test_at_low_rates_events_are_still_some_frames_apart() -> None:
    frames = np.array([20, 24, 40])
    assert isolated_events(_counts(frames, 60), 7.5).tolist() == [[40, 40]]
    assert isolated_events(_counts(frames + np.array([0, 1, 2]), 60), 7.5).tolist() == [[20, 20], [25, 25], [42, 42]]


@pytest.mark.parametrize(("rate", "smoothing_s"), [(7.5, 0.2), (15.0, 0.1), (30.0, 0.025), (60.0, 0.012)])
@pytest.mark.parametrize("causal", [False, True], ids=["gaussian", "causal"])
def test_a_perfect_prediction_has_no_timing_error(rate: float, smoothing_s: float, causal: bool) -> None:
    """Pairs in neighbouring frames and spikes of one frame among them; a causal kernel has its maximum later."""
    counts = _counts(np.concatenate([SPIKES, SPIKES[::3] + 1, SPIKES[::4]]))
    truth = smooth_spikes(counts, smoothing_s=smoothing_s, frame_rate_hz=rate, causal_kernel=causal)
    found = _measured(truth, counts, rate=rate, smoothing_s=smoothing_s, causal=causal)
    assert found == Timing(0.0, 0.0, 1.0, 0.0, SPIKES.size)


@pytest.mark.parametrize("shift", [-2, -1, 1, 3])
def test_a_prediction_shifted_by_frames_is_that_late(shift: int) -> None:
    counts = _counts(SPIKES)
    truth = smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=RATE)
    found = _measured(np.roll(truth, shift), counts)
    assert found.signed_error_s == pytest.approx(shift / RATE, abs=1e-6)
    assert found.absolute_error_s == pytest.approx(abs(shift) / RATE, abs=1e-6)
    assert found.detected == 1.0


def test_a_shift_beyond_what_is_searched_is_not_detected() -> None:
    counts = _counts(SPIKES)
    truth = smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=RATE)
    found = _measured(np.roll(truth, 12), counts)
    assert found.detected == 0.0
    assert np.isnan([found.absolute_error_s, found.signed_error_s]).all()


@pytest.mark.parametrize("part", [-0.4, 0.25, 0.5])
def test_shifts_of_parts_of_a_frame_are_seen(part: float) -> None:
    counts = _counts(SPIKES)
    frame = np.arange(counts.size)
    bumps = np.exp(-0.5 * ((frame[:, None] - SPIKES - part) / 1.5) ** 2).sum(axis=1) / (1.5 * np.sqrt(2 * np.pi))
    found = _measured(bumps, counts)
    assert found.signed_error_s == pytest.approx(part / RATE, abs=0.05 / RATE)


def test_low_bumps_are_missed_and_bumps_in_silence_are_false_events() -> None:
    counts = _counts(SPIKES, 1260 + 1800)
    truth = smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=RATE)
    prediction = np.where(np.arange(truth.size) < 630, truth, 0.3 * truth)
    false = smooth_spikes(_counts(np.arange(1500, 2700, 100), truth.size), smoothing_s=0.05, frame_rate_hz=RATE)
    found = _measured(prediction + false, counts)
    assert found.detected == pytest.approx(10 / 19)
    assert found.absolute_error_s == 0.0
    quiet_minutes = (truth.size - 31 * SPIKES.size) / RATE / 60
    assert found.false_per_min == pytest.approx(12 / quiet_minutes)
    assert _measured(prediction + 0.3 * false, counts).false_per_min == 0.0


def test_events_where_the_prediction_is_undefined_do_not_count() -> None:
    counts = _counts(SPIKES)
    truth = smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=RATE)
    prediction = truth.copy()
    prediction[:200] = np.nan
    found = _measured(prediction, counts)
    assert (found.events, found.detected, found.absolute_error_s) == (SPIKES.size - 3, 1.0, 0.0)
    nothing = _measured(np.full_like(truth, np.nan), counts)
    assert nothing.events == 0
    assert np.isnan(nothing[:4]).all()


def test_recordings_of_a_neuron_are_taken_together_and_few_events_are_not_enough() -> None:
    parts = []
    for shift, spikes in ((1, SPIKES[:3]), (1, SPIKES[:1]), (-1, SPIKES[:5])):
        counts = _counts(spikes, 400)
        truth = smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=RATE)
        rows = np.stack([np.roll(truth, shift), 0 * truth])
        parts.append(_traced(rows, truth, counts, RATE, 0.05, False))
    late, nothing = timing(parts)
    assert late.events == 9
    assert late.signed_error_s == pytest.approx(-1 / RATE, abs=1e-6)
    assert late.absolute_error_s == pytest.approx(1 / RATE, abs=1e-6)
    assert nothing.detected == 0.0
    hardly = timing([*parts[:2], replace(parts[2], error_s=np.full_like(parts[2].error_s, np.nan))])[0]
    assert hardly.detected == pytest.approx(4 / 9)
    assert np.isnan(hardly[:2]).all()
    (few, _) = timing(parts[:2])
    assert few.events == 4
    assert np.isnan(few[:3]).all()
    assert few.false_per_min == 0.0

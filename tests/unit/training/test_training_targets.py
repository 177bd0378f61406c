"""Targets: every spike in its own frame, nothing shifted."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training.targets import bin_spikes, smooth_spikes

RATE = 30.0


def _one_spike(frame: int, n: int = 200) -> np.ndarray:
    counts = np.zeros(n, np.float32)
    counts[frame] = 1
    return counts


@pytest.mark.parametrize("offset", [-0.49, -0.2, 0.0, 0.3, 0.49])
def test_a_spike_belongs_to_the_frame_during_which_it_fell(offset: float) -> None:
    times = 12.3 + np.arange(50) / RATE
    counts = bin_spikes(np.array([times[20] + offset / RATE]), times)
    assert np.flatnonzero(counts).tolist() == [20]


def test_spikes_outside_the_recording_are_not_counted_and_doublets_are() -> None:
    times = np.arange(10) / RATE
    spikes = np.array([-0.51 / RATE, -0.49 / RATE, 3 / RATE, 3.1 / RATE, 9.49 / RATE, 9.51 / RATE])
    assert bin_spikes(spikes, times).tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 1]


def test_uneven_frame_times() -> None:
    times = np.array([0.0, 0.1, 0.25, 0.30, 0.5])
    assert bin_spikes(np.array([0.17, 0.18, 0.26, 0.41]), times).tolist() == [0, 1, 2, 0, 1]


def test_one_frame_has_no_length() -> None:
    with pytest.raises(TrainingError, match="at least 2"):
        bin_spikes(np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("smoothing", [0.025, 0.05, 0.2])
@pytest.mark.parametrize("frame", [40, 41, 100])
def test_gaussian_peaks_in_the_frame_of_the_spike(smoothing: float, frame: int) -> None:
    target = smooth_spikes(_one_spike(frame), smoothing_s=smoothing, frame_rate_hz=RATE)
    assert target.argmax() == frame
    np.testing.assert_array_equal(target[frame - 20 : frame], target[frame + 1 : frame + 21][::-1])
    assert target.sum() == pytest.approx(1, abs=1e-6)
    lags = np.arange(target.size) - frame
    assert np.sqrt((target * lags**2).sum()) / RATE == pytest.approx(smoothing, rel=0.02)


@pytest.mark.parametrize(("smoothing", "rate"), [(0.025, 30.0), (0.05, 30.0), (0.1, 15.0), (0.2, 7.5), (0.05, 7.5)])
def test_causal_kernel_starts_at_the_spike(smoothing: float, rate: float) -> None:
    target = smooth_spikes(_one_spike(100), smoothing_s=smoothing, frame_rate_hz=rate, causal_kernel=True)
    assert (target[:100] == 0).all()
    assert target[100:105].sum() > 0.5
    assert target.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("smoothing", "rate"), [(0.025, 30.0), (0.05, 30.0), (0.1, 15.0), (0.2, 7.5), (0.05, 60.0)])
def test_causal_kernel_is_the_published_one(smoothing: float, rate: float) -> None:
    """The kernel of the published causal models: an inverse Gaussian, placed within an array of 199 frames."""
    from scipy.stats import invgauss

    centred = invgauss.pdf(np.arange(199) / rate, 2 * smoothing, 101 / rate, 1)
    centred = np.roll(centred, int((99 - int(centred.argmax())) / 1.5))
    centred /= centred.sum()
    target = smooth_spikes(_one_spike(100), smoothing_s=smoothing, frame_rate_hz=rate, causal_kernel=True)
    np.testing.assert_allclose(target[100:190], centred[99:189], atol=2e-6)


def test_smoothing_leaves_its_input_alone() -> None:
    counts = _one_spike(5, 20)
    counts.flags.writeable = False
    smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=RATE)

"""Kernels: against scipy, and against CASCADE's recipe for causal models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.stats import invgauss

from cascade_rt.errors import InputError
from cascade_rt.smoothing import noise_floor, smooth_spikes, spike_kernel

CONDITIONS = [(0.05, 30.0), (0.025, 30.0), (0.2, 7.5), (0.1, 30.0), (0.4, 30.0), (0.05, 10.0), (0.2, 100.0), (0.5, 3.0)]


def on_lags(kernel: np.ndarray, origin: int, lags: np.ndarray) -> np.ndarray:
    """Values of a kernel at the given distances (frames) from the spike."""
    where = lags + origin
    inside = (where >= 0) & (where < kernel.size)
    return np.where(inside, kernel[np.clip(where, 0, kernel.size - 1)], 0.0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("smoothing_s", "rate"), [*CONDITIONS, (0.001, 1.0), (0.01, 500.0)])
def test_kernel_is_a_distribution_that_holds_the_spikes_own_frame(
    smoothing_s: float, rate: float, causal: bool
) -> None:
    kernel, origin = spike_kernel(smoothing_s, rate, causal)
    assert kernel.dtype == np.float64
    assert (kernel >= 0).all()
    assert kernel.sum() == pytest.approx(1.0, abs=1e-12)
    assert 0 <= origin < kernel.size


@pytest.mark.parametrize(("smoothing_s", "rate"), CONDITIONS)
def test_gaussian_kernel_is_scipys(smoothing_s: float, rate: float) -> None:
    spike = np.zeros(2001)
    spike[1000] = 1
    kernel, origin = spike_kernel(smoothing_s, rate)
    expected = gaussian_filter1d(spike, smoothing_s * rate)
    np.testing.assert_allclose(on_lags(kernel, origin, np.arange(-1000, 1001)), expected, atol=1e-6)
    assert origin == kernel.size // 2


@pytest.mark.parametrize(("smoothing_s", "rate"), CONDITIONS)
def test_causal_kernel_is_that_of_the_published_models(smoothing_s: float, rate: float) -> None:
    density = invgauss.pdf(np.arange(199) / rate, 2 * smoothing_s, loc=101 / rate)
    rolled = np.roll(density, int((99 - density.argmax()) / 1.5))
    kernel, origin = spike_kernel(smoothing_s, rate, causal=True)
    np.testing.assert_allclose(on_lags(kernel, origin, np.arange(-99, 100)), rolled / rolled.sum(), atol=2e-5)


def test_causal_kernel_has_almost_nothing_before_the_spike() -> None:
    kernel, origin = spike_kernel(0.05, 30.0, causal=True)
    assert kernel[:origin].sum() == 0
    assert kernel.argmax() - origin == 2


def test_noise_floor_is_the_one_of_cascade() -> None:
    assert noise_floor(0.05, 30.0) == pytest.approx(0.0978427823, abs=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_spikes_are_convolved(causal: bool) -> None:
    counts = np.random.default_rng(0).poisson(0.1, (3, 120))
    options = {"smoothing_s": 0.05, "frame_rate_hz": 30.0}
    kernel, origin = spike_kernel(0.05, 30.0, causal)
    expected = [np.convolve(row, kernel)[origin : origin + row.size] for row in counts]
    smooth = smooth_spikes(counts, causal_kernel=causal, **options)
    assert smooth.dtype == np.float32
    np.testing.assert_allclose(smooth, expected, atol=1e-6)
    np.testing.assert_array_equal(smooth_spikes(counts[1], causal_kernel=causal, **options), smooth[1])


def test_unknown_counts_reach_as_far_as_a_spike() -> None:
    counts = np.zeros((1, 40))
    counts[0, 20] = np.nan
    counts.flags.writeable = False
    kernel, origin = spike_kernel(0.05, 30.0)
    unknown = np.isnan(smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=30.0))[0]
    assert np.flatnonzero(unknown).tolist() == list(range(20 - origin, 20 - origin + kernel.size))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_options(bad: float) -> None:
    with pytest.raises(InputError, match=r"smoothing_s.*expected a positive number"):
        spike_kernel(bad, 30.0)
    with pytest.raises(InputError, match="frame_rate_hz"):
        spike_kernel(0.05, bad)
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        smooth_spikes(np.zeros((2, 2, 2)), smoothing_s=0.05, frame_rate_hz=30.0)

"""Noise that lifts a trace to a noise level."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.noise import noise_levels
from training.noising import NoiseTable, add_noise, noise_shape


def _trace(n: int = 6000, rate: float = 30.0, nu: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spikes = rng.random(n) < 0.03
    clean = np.convolve(spikes, np.exp(-np.arange(60) / 15))[:n]
    sd = nu * np.sqrt(rate) / (100 * 0.6745 * np.sqrt(2))
    return (clean + sd * rng.standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize("rate", [7.5, 30.0, 100.0])
@pytest.mark.parametrize("nu", [2.0, 4.0, 8.0])
def test_the_noise_level_asked_for_is_reached(nu: float, rate: float) -> None:
    trace = _trace(rate=rate)
    noised = add_noise(trace, NoiseTable(trace, rate), nu, np.random.default_rng(1))
    assert noised is not None
    assert noise_levels(noised[None], frame_rate_hz=rate)[0] == pytest.approx(nu, rel=0.04)


def test_the_input_is_not_written_to_and_the_noise_is_fresh() -> None:
    trace = _trace()
    trace.flags.writeable = False
    first = add_noise(trace, NoiseTable(trace, 30.0), 4.0, np.random.default_rng(1))
    again = add_noise(trace, NoiseTable(trace, 30.0), 4.0, np.random.default_rng(1))
    other = add_noise(trace, NoiseTable(trace, 30.0), 4.0, np.random.default_rng(2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_noisier_recording_is_left_out() -> None:
    trace = _trace(nu=5.0)
    assert add_noise(trace, NoiseTable(trace, 30.0), 4.0, np.random.default_rng(0)) is None
    assert NoiseTable(trace, 30.0).noise_sd(4.0) == 0.0


def test_noise_grows_with_the_square_root_of_the_fluorescence() -> None:
    dff = np.repeat(np.array([0.0, 0.0, 3.0], np.float32), 20000)
    np.testing.assert_allclose(noise_shape(dff)[[0, -1]], [1.0, 2.0])
    noised = add_noise(dff, NoiseTable(dff, 30.0), 4.0, np.random.default_rng(0))
    assert noised is not None
    quiet, bright = (noised - dff)[:40000].std(), (noised - dff)[40000:].std()
    assert bright / quiet == pytest.approx(2.0, rel=0.03)


def test_a_trace_below_minus_one_has_a_noise_shape() -> None:
    assert np.isfinite(noise_shape(np.array([-1.4, -1.0, 0.2], np.float32))).all()

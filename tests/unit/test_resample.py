"""Changing the frame rate keeps times, slow signals and gaps where they are."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import InputError
from cascade_rt.resample import resample


@pytest.mark.parametrize(("rate", "wanted"), [(30.0, 30.0), (15.0, 30.0), (40.0, 30.0), (31.17, 30.0), (7.5, 30.0)])
def test_slow_signals_keep_their_time(rate: float, wanted: float) -> None:
    time_s = np.arange(int(20 * rate)) / rate
    dff = np.stack([np.sin(2 * np.pi * 0.5 * time_s), np.full(time_s.size, 0.3)]).astype(np.float32)
    dff.flags.writeable = False
    new, new_rate = resample(dff, frame_rate_hz=rate, new_rate_hz=wanted)
    assert new_rate == pytest.approx(wanted, rel=1e-3)
    assert new.dtype == np.float32
    new_s = np.arange(new.shape[1]) / new_rate
    assert new_s[-1] == pytest.approx(time_s[-1], abs=1 / min(rate, wanted))
    inside = (new_s > 1) & (new_s < 19)
    np.testing.assert_allclose(new[0, inside], np.sin(2 * np.pi * 0.5 * new_s[inside]), atol=5e-3)
    np.testing.assert_allclose(new[1], 0.3, atol=2e-3)


def test_same_rate_changes_nothing() -> None:
    dff = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    np.testing.assert_array_equal(resample(dff, frame_rate_hz=30.0, new_rate_hz=30.0)[0], dff)


def test_faster_noise_is_averaged_not_aliased() -> None:
    dff = np.random.default_rng(0).standard_normal((4, 6000)).astype(np.float32)
    new, _ = resample(dff, frame_rate_hz=120.0, new_rate_hz=30.0)
    assert new.std() == pytest.approx(0.5, rel=0.1)


def test_gaps_stay_where_they_are_and_touch_no_other_neuron() -> None:
    dff = np.random.default_rng(0).standard_normal((3, 300)).astype(np.float32)
    whole, _ = resample(dff, frame_rate_hz=15.0, new_rate_hz=30.0)
    holed = dff.copy()
    holed[1, 100:120] = np.nan
    holed[2] = np.inf
    new, _ = resample(holed, frame_rate_hz=15.0, new_rate_hz=30.0)
    np.testing.assert_array_equal(new[0], whole[0])
    assert np.isnan(new[2]).all()
    gone = np.flatnonzero(np.isnan(new[1]))
    assert (gone[0], gone[-1], gone.size) == (199, 238, 40)


@pytest.mark.parametrize("rates", [(0.0, 30.0), (30.0, np.nan), (-1.0, 30.0), (5000.0, 30.0), (0.1, 30.0)])
def test_rates_that_make_no_sense(rates: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="Hz: expected"):
        resample(np.zeros((1, 100), np.float32), frame_rate_hz=rates[0], new_rate_hz=rates[1])

"""Changing the frame rate keeps times, slow signals and gaps where they are."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import InputError
from cascade_rt.resample import rebin, resample


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


@pytest.mark.parametrize(("old", "new"), [(30.0, 20.0), (30.0, 7.5), (15.0, 17.3), (30.0, 30.0)])
def test_rebinning_keeps_the_number_of_spikes(old: float, new: float) -> None:
    rng = np.random.default_rng(0)
    prob = rng.gamma(0.2, 0.5, (3, 900)).astype(np.float32)
    prob[:, :40] = prob[:, -40:] = 0
    n_frames = int(900 * new / old)
    prob.flags.writeable = False
    out = rebin(prob, frame_rate_hz=old, new_rate_hz=new, n_frames=n_frames)
    assert out.shape == (3, n_frames)
    assert out.dtype == np.float32
    np.testing.assert_allclose(np.nansum(out, axis=1), prob.sum(axis=1), rtol=1e-5)
    if old == new:
        np.testing.assert_allclose(out, prob, atol=1e-5)


def test_rebinned_spikes_stay_at_their_time() -> None:
    prob = np.zeros((1, 300), np.float32)
    prob[0, 90] = 2.0  # at 3 s of 30 Hz: frame 60 of 20 Hz
    out = rebin(prob, frame_rate_hz=30.0, new_rate_hz=20.0, n_frames=200)
    assert np.nanargmax(out[0]) == 60
    np.testing.assert_allclose(out[0, 60], 2.0, atol=1e-5)
    centre = np.nansum(np.arange(200) * out[0]) / np.nansum(out[0])
    np.testing.assert_allclose(centre, 60, atol=1e-3)


def test_what_touches_an_undefined_frame_is_undefined() -> None:
    prob = np.ones((1, 300), np.float32)
    prob[0, 90:93] = np.nan  # 2.983 to 3.083 s
    out = rebin(prob, frame_rate_hz=30.0, new_rate_hz=20.0, n_frames=200)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(out[0, 5:190])) + 5, [60, 61, 62])
    longer = rebin(np.ones((1, 30), np.float32), frame_rate_hz=30.0, new_rate_hz=20.0, n_frames=25)
    assert np.isnan(longer[0, 20:]).all()
    assert np.isfinite(longer[0, 1:19]).all()

"""The simulator: seeded, true to its conventions, and like GCaMP8 in the ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.io import loadmat

from cascade_rt._kernels import compiling
from cascade_rt.errors import InputError
from cascade_rt.noise import check_dff, noise_levels
from cascade_rt.simulation import INDICATORS, simulate

if TYPE_CHECKING:
    from pathlib import Path

needs_compiler = pytest.mark.skipif(compiling._INTERPRETED, reason="takes minutes without the compiler")


def test_same_seed_same_recording_and_neurons_do_not_depend_on_each_other() -> None:
    one = simulate(3, 10, 30, seed=4)
    for other in (simulate(3, 10, 30, seed=4), simulate(5, 10, 30, seed=4)):
        np.testing.assert_array_equal(one.dff, other.dff[:3])
        np.testing.assert_array_equal(one.spike_counts, other.spike_counts[:3])
        np.testing.assert_array_equal(one.noise_levels, other.noise_levels[:3])
    assert not np.array_equal(one.dff, simulate(3, 10, 30, seed=5).dff)


def test_what_a_recording_is() -> None:
    recording = simulate(4, 20, 15, indicator="GCaMP6s", seed=1)
    assert recording.dff.shape == recording.spike_counts.shape == (4, 300)
    assert recording.dff.dtype == np.float32
    assert (recording.frame_rate_hz, recording.indicator) == (15.0, "GCaMP6s")
    for times, counts in zip(recording.spike_times, recording.spike_counts, strict=True):
        assert (np.diff(times) > 0).all()
        np.testing.assert_array_equal(np.histogram(times, np.arange(301) / 15)[0], counts)
    np.testing.assert_allclose(recording.noise_levels, noise_levels(recording.dff, frame_rate_hz=15.0))


@pytest.mark.parametrize("indicator", INDICATORS)
def test_fluorescence_shows_a_spike_from_its_frame_on(indicator: str) -> None:
    recording = simulate(6, 40, 30, indicator=indicator, noise_levels=0, drift=0, seed=2)
    for dff, counts in zip(recording.dff, recording.spike_counts, strict=True):
        (frames,) = np.nonzero(counts)
        assert frames.size
        assert not dff[: frames[0]].any()
        assert dff[frames[0]] > 0
        assert dff[frames[0] + 1] > dff[frames[0] - 1]


@needs_compiler
def test_noise_is_as_asked_for_and_stronger_where_it_is_bright() -> None:
    wanted = np.array([0.5, 1, 2, 4, 8])
    recording = simulate(5, 120, 30, noise_levels=wanted, seed=3)
    np.testing.assert_allclose(recording.noise_levels, wanted, rtol=0.02)
    assert check_dff(recording.dff, recording.noise_levels, frame_rate_hz=30, noise_range=(2, 8)) == []
    silent = simulate(2, 60, 30, spike_rate_hz=0, noise_levels=3.0, drift=0, seed=3)
    assert not silent.spike_counts.any()
    np.testing.assert_allclose(silent.noise_levels, 3.0, rtol=0.02)
    clean = simulate(1, 300, 30, noise_levels=0, drift=0, seed=9, spike_rate_hz=3).dff[0]
    noisy = simulate(1, 300, 30, noise_levels=4, drift=0, seed=9, spike_rate_hz=3).dff[0]
    bright = clean > np.quantile(clean, 0.9)
    assert np.std((noisy - clean)[bright]) > 1.1 * np.std((noisy - clean)[clean < 0.1])


@needs_compiler
def test_default_population_is_plausible() -> None:
    recording = simulate(100, 120, 30, seed=0)
    rates = recording.spike_counts.sum(axis=1) / 120
    assert 0.3 < np.median(rates) < 0.8
    assert 1.4 < np.median(recording.noise_levels) < 2.6
    intervals = np.concatenate([np.diff(times) for times in recording.spike_times])
    assert intervals.min() >= 0.003
    assert 0.1 < (intervals < 0.05).mean() < 0.6  # bursts


def test_wrong_use() -> None:
    with pytest.raises(InputError, match="'GCaMP8f', 'GCaMP8m'"):
        simulate(1, 1, 30, indicator="GCaMP9")
    for arguments in ((0, 1, 30), (1, 0, 30), (1, 1, 0), (1, np.nan, 30), (1.5, 1, 30)):
        with pytest.raises(InputError, match="expected a"):
            simulate(*arguments)  # type: ignore[arg-type]
    for wrong in ([1, 2], -1.0, np.nan):
        with pytest.raises(InputError, match=r"noise_levels.*\(3,\)"):
            simulate(3, 1, 30, noise_levels=wrong)


# ------------------------------------------------------------------------------------------- ground truth


def single_spike_response(traces: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean ΔF/F, every 10 ms from 0.1 s before to 0.5 s after spikes with no other 1 s before and 0.6 s after."""
    lags = np.arange(-10, 50) * 0.01
    found = []
    for time, dff, spikes in traces:
        alone = np.diff(spikes, prepend=-np.inf) > 1
        alone &= np.diff(spikes, append=np.inf) > 0.6
        for spike in spikes[alone & (spikes > time[0] + 0.5) & (spikes < time[-1] - 0.6)]:
            before = dff[(time > spike - 0.25) & (time < spike - 0.02)].mean()
            found.append(np.interp(spike + lags, time, dff) - before)
    assert len(found) > 100
    return np.mean(found, axis=0)


@needs_compiler
@pytest.mark.parametrize("indicator", ["GCaMP8m", "GCaMP8s"])
def test_single_spikes_look_as_in_ground_truth(shared: Path, indicator: str) -> None:
    (folder,) = (shared / "ground_truth").glob(f"*{indicator}*")
    traces = []
    for file in sorted(folder.glob("*.mat")):
        for entry in loadmat(file)["CAttached"][0]:
            time = np.ravel(entry[0][0]["fluo_time"])
            traces.append(
                (time, np.ravel(entry[0][0]["fluo_mean"])[: time.size], np.ravel(entry[0][0]["events_AP"]) / 1e4)
            )
    truth = single_spike_response([(t, x, np.sort(s[~np.isnan(s)])) for t, x, s in traces])
    recording = simulate(40, 120, 120, indicator=indicator, noise_levels=1.0, seed=1)
    time = (np.arange(recording.dff.shape[1]) + 0.5) / 120
    ours = single_spike_response([(time, *both) for both in zip(recording.dff, recording.spike_times, strict=True)])
    assert np.corrcoef(ours, truth)[0, 1] > 0.95
    assert ours.max() == pytest.approx(truth.max(), rel=0.25)
    # From the peak to half of it, in steps of 10 ms.
    half = [int(np.flatnonzero(x[x.argmax() :] < x.max() / 2)[0]) for x in (ours, truth)]
    assert half[0] == pytest.approx(half[1], rel=0.35)

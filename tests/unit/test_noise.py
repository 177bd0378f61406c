"""Noise levels: against numpy and CASCADE, running against batch; and the usual mistakes in recordings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter1d

from cascade_rt import noise
from cascade_rt._kernels import compiling
from cascade_rt.errors import InputError, StreamError
from cascade_rt.noise import NoiseTracker, check_dff, noise_levels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RATE = 30.0
needs_compiler = pytest.mark.skipif(compiling._INTERPRETED, reason="takes minutes without the compiler")


def some_dff(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise with NaN, infinities, an unknown and a constant neuron; read-only."""
    rng = np.random.default_rng(seed)
    dff = rng.normal(0, 0.1, shape).astype(np.float32)
    dff[0, ::7] = np.nan
    dff[1, 5:8] = (np.inf, -np.inf, np.inf)
    dff[2] = np.nan
    dff[3] = 0.25
    dff.flags.writeable = False
    return dff


def slowly(dff: np.ndarray, rate: float) -> np.ndarray:
    """The definition, neuron by neuron."""
    out = []
    for row in np.asarray(dff, np.float64):
        with np.errstate(invalid="ignore"):
            difference = np.abs(np.diff(row))
        difference = difference[np.isfinite(difference)]
        out.append(np.median(difference) * 100 / np.sqrt(rate) if difference.size else np.nan)
    return np.array(out)


@pytest.mark.parametrize("n_frames", [2, 3, 20, 101, 500])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_follows_the_definition(n_frames: int, dtype: type) -> None:
    dff = some_dff((6, n_frames + 8))[:, 8:].astype(dtype)
    nu = noise_levels(dff, frame_rate_hz=RATE)
    assert nu.dtype == np.float64
    np.testing.assert_allclose(nu, slowly(dff, RATE), rtol=1e-6)


def test_unknown_and_constant_neurons() -> None:
    nu = noise_levels(some_dff((5, 60)), frame_rate_hz=RATE)
    assert np.isnan(nu[2])
    assert nu[3] == 0
    assert np.isfinite(nu[[0, 1, 4]]).all()
    assert np.isnan(noise_levels(np.zeros((2, 1)), frame_rate_hz=RATE)).all()


def test_blocks_layouts_and_files_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dff = some_dff((9, 80))
    nu = noise_levels(dff, frame_rate_hz=RATE)
    np.save(tmp_path / "dff.npy", dff)
    monkeypatch.setattr(noise, "BLOCK", 200)
    for same in (np.asfortranarray(dff), np.load(tmp_path / "dff.npy", mmap_mode="r"), dff.tolist()):
        np.testing.assert_array_equal(noise_levels(same, frame_rate_hz=RATE), nu)


@pytest.mark.parametrize("name", ["allen_30Hz", "ogb_7.5Hz"])
def test_golden(shared: Path, name: str) -> None:
    (file,) = (shared / "golden").glob(f"{name}*.npz")
    golden = np.load(file)
    rate = float(golden["frame_rate"])
    np.testing.assert_allclose(noise_levels(golden["dff"], frame_rate_hz=rate), golden["noise_levels"], rtol=1e-6)


def test_wrong_use() -> None:
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        noise_levels(np.zeros(5), frame_rate_hz=RATE)
    with pytest.raises(InputError, match="real numbers"):
        noise_levels(np.zeros((2, 5), complex), frame_rate_hz=RATE)
    for rate in (0.0, -30.0, np.nan, np.inf):
        with pytest.raises(InputError, match="frame_rate_hz"):
            noise_levels(np.zeros((2, 5)), frame_rate_hz=rate)


# ------------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize("seed", range(5))
def test_tracker_is_the_batch_whatever_the_chunks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dff = some_dff((5, 90), seed)
    tracker = NoiseTracker(5, RATE, capacity_frames=40)
    given = 0
    while given < dff.shape[1]:
        k = int(rng.integers(0, 60))
        tracker.push(dff[:, given : given + k])
        given = min(given + k, dff.shape[1])
        remembered = dff[:, max(0, given - 40) : given]
        np.testing.assert_array_equal(tracker.levels(), noise_levels(remembered, frame_rate_hz=RATE))
        assert tracker.n_frames == given


def test_tracker_remembers_a_minute_by_default() -> None:
    dff = np.random.default_rng(0).normal(size=(2, 1000))
    tracker = NoiseTracker(2, 10.0)
    tracker.push(dff)
    np.testing.assert_array_equal(tracker.levels(), noise_levels(dff[:, -600:], frame_rate_hz=10.0))


def test_tracker_does_not_bridge_gaps() -> None:
    tracker = NoiseTracker(1, RATE)
    for value in (0.0, 0.1, np.nan, 50.0, 50.1):
        tracker.push([[value]])
    assert tracker.levels()[0] == pytest.approx(10 / np.sqrt(RATE), rel=1e-5)


def test_tracker_reset_is_a_new_one() -> None:
    dff = some_dff((4, 50))
    used, new = NoiseTracker(4, RATE), NoiseTracker(4, RATE)
    used.push(dff)
    used.reset()
    assert np.isnan(used.levels()).all()
    for tracker in (used, new):
        tracker.push(dff[:, 10:30])
    np.testing.assert_array_equal(used.levels(), new.levels())


def test_tracker_wrong_use() -> None:
    with pytest.raises(StreamError, match=r"expected \(2, k\)"):
        NoiseTracker(2, RATE).push(np.zeros((3, 4)))
    with pytest.raises(InputError, match="capacity_frames"):
        NoiseTracker(2, RATE, capacity_frames=1)


# ----------------------------------------------------------------------------------------- usual mistakes


def recording(n_neurons: int = 30, n_frames: int = 600, nu: float = 2.0, seed: int = 0) -> np.ndarray:
    """Events with a decay, on noise of level ``nu``."""
    rng = np.random.default_rng(seed)
    spikes = (rng.random((n_neurons, n_frames)) < 0.02).astype(float)
    signal = np.array([np.convolve(row, np.exp(-np.arange(60) / 10))[:n_frames] for row in spikes])
    return 0.4 * signal + rng.normal(0, nu * np.sqrt(RATE) / 95.4, signal.shape)


def told(dff: np.ndarray, rate: float = RATE, noise_range: tuple[float, float] = (2.0, 8.0)) -> list[str]:
    return check_dff(dff, noise_levels(dff, frame_rate_hz=rate), frame_rate_hz=rate, noise_range=noise_range)


def test_nothing_to_say_about_a_recording() -> None:
    assert told(recording()) == []
    assert told(recording(n_neurons=700, n_frames=200)) == []
    assert told(recording(nu=0.3)) == []
    assert told(np.full((3, 50), np.nan)) == []
    assert told(some_dff((6, 90))) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.T, "looks transposed.*600 rows and 30 columns.*dff.T"),
        (lambda x: 12 * x, "may not be ΔF/F as a fraction.*divide by 100"),
        (lambda x: x + 1, "rest near 0.[89].*F / F0, subtract 1"),
        (lambda x: gaussian_filter1d(x, 1.5, axis=1), "look smoothed in time.*neither denoised"),
        (lambda x: gaussian_filter1d(x, 60, axis=1), "30 of 30 neurons have almost no noise"),
        (lambda x: np.vstack([x, 7 * x[:2]]), "2 of 32 neurons.*far above.*trained 2 to 8.*leave these neurons out"),
    ],
    ids=["transposed", "doubtful scale", "F/F0", "smoothed", "denoised", "noisy neurons"],
)
def test_what_should_be_looked_at(change: Callable[[np.ndarray], np.ndarray], said: str) -> None:
    (sentence,) = (s for s in told(change(recording())) if "far above" not in s or "far above" in said)
    assert re.search(said, sentence)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: 100 * x, "cannot be ΔF/F as a fraction: the median noise level is ν = 2.*percent, divide by 100"),
        (lambda x: 800 * (1 + x), r"look like fluorescence.*Expected \(F - F0\) / F0"),
        (lambda x: np.round(800 * (1 + x)).astype(np.uint16), "look like fluorescence"),
    ],
    ids=["percent", "fluorescence", "counts"],
)
def test_what_cannot_be(change: Callable[[np.ndarray], np.ndarray], said: str) -> None:
    with pytest.raises(InputError, match=said):
        told(change(np.maximum(recording(), -0.9)))


@needs_compiler
@pytest.mark.parametrize("name", ["allen_visual_coding_30Hz", "zebrafish_pDp_OGB1_7.5Hz"])
def test_example_recordings(shared: Path, name: str) -> None:
    rate = 30.0 if "30Hz" in name else 7.5
    dff = loadmat(shared / "recordings" / f"{name}.mat")["dF_traces"]
    assert told(dff, rate) == []
    (sentence,) = told(dff.T, rate)
    assert "transposed" in sentence
    with pytest.raises(InputError, match="percent"):
        told(100 * dff, rate)
    assert any("smoothed" in sentence for sentence in told(gaussian_filter1d(dff, 1.0, axis=1), rate))


@needs_compiler
def test_ground_truth_raises_no_alarm(shared: Path) -> None:
    folders = sorted((shared / "ground_truth").iterdir())
    assert folders
    for folder in folders:
        traces, rates = [], []
        for file in sorted(folder.glob("*.mat"))[:6]:
            for entry in loadmat(file)["CAttached"][0]:
                if "fluo_time" not in entry[0][0].dtype.names:
                    continue
                time = np.ravel(entry[0][0]["fluo_time"])
                traces.append(np.ravel(entry[0][0]["fluo_mean"])[: time.size])
                rates.append(1 / np.nanmean(np.diff(time)))
        n_frames = int(np.median([trace.size for trace in traces]))
        dff = np.array([trace[:n_frames] for trace in traces if trace.size >= n_frames], np.float64)
        assert told(dff, float(np.median(rates))) == [], folder.name
        if min(dff.shape) >= 10:
            assert "transposed" in told(dff.T, float(np.median(rates)))[0], folder.name

"""What is wrong with a recording: each mistake is made on purpose, and found; without mistakes, nothing is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter1d

from cascade_rt import frame_faults
from cascade_rt._kernels import compiling
from cascade_rt.decay import measure_half_decay, plausible_half_decay
from cascade_rt.errors import InputError
from cascade_rt.lazy import LazyMatrix
from cascade_rt.noise import noise_levels
from cascade_rt.quality import Finding, check_fluorescence, check_recording
from cascade_rt.simulation import INDICATORS, simulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RATE = 30.0
N, T = 24, 2400
needs_compiler = pytest.mark.skipif(compiling._INTERPRETED, reason="takes minutes without the compiler")


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """ΔF/F that nothing is wrong with, (24, 2400), read-only."""
    dff = simulate(N, T / RATE, RATE, indicator="GCaMP6s", seed=3).dff
    dff.flags.writeable = False
    return dff


def check(dff: Any, rate: float = RATE, **options: Any) -> list[Finding]:
    return check_recording(dff, noise_levels(dff, frame_rate_hz=rate), frame_rate_hz=rate, **options)


def counts_of(dff: np.ndarray) -> np.ndarray:
    """Fluorescence with such a ΔF/F; every neuron with a baseline of its own."""
    baseline = np.linspace(300, 900, dff.shape[0])[:, None]
    return np.asarray(baseline * (1 + np.maximum(dff, -0.9)), np.float32)


def only(found: list[Finding], code: str) -> Finding:
    assert [finding.code for finding in found] == [code], [finding.text for finding in found]
    return found[0]


# ── nothing wrong ──


@pytest.mark.parametrize("rate", [7.5, 30.0])
@pytest.mark.parametrize("indicator", sorted(INDICATORS))
def test_simulated_recordings_raise_no_alarm(indicator: str, rate: float) -> None:
    for noise in (None, 0.2, 6.0):
        dff = simulate(12, 1800 / rate, rate, indicator=indicator, noise_levels=noise, seed=1).dff
        assert check(dff, rate, indicator=indicator, noise_range=(1, 8), timestamps=np.arange(1800) / rate) == []
    assert check_fluorescence(counts_of(dff), frame_rate_hz=rate) == []


def test_the_same_spikes_in_all_neurons_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    for indicator in INDICATORS:
        one = simulate(1, 120, RATE, indicator=indicator, noise_levels=0.01, spike_rate_hz=1.5, drift=0).dff[0]
        for late in (1, 2):
            dff = np.stack([np.roll(one, rng.integers(0, late)) * gain for gain in rng.lognormal(0, 0.4, 30)])
            dff = dff + 0.017 * np.sqrt(1 + np.maximum(dff, 0)) * rng.normal(size=dff.shape)
            # Slow transients with hardly any noise do look smoothed.
            assert {f.code for f in check(dff)} <= {"smoothed"}


@needs_compiler
@pytest.mark.parametrize("name", ["allen_visual_coding_30Hz", "zebrafish_pDp_OGB1_7.5Hz"])
def test_example_recordings(shared: Path, name: str) -> None:
    rate = 30.0 if "30Hz" in name else 7.5
    dff = loadmat(shared / "recordings" / f"{name}.mat")["dF_traces"]
    indicator = "GCaMP6f" if "allen" in name else "OGB-1"
    found = check(dff, rate, indicator=indicator, noise_range=(1, 8), timestamps=np.arange(dff.shape[1]) / rate)
    unknown = tuple(np.flatnonzero(np.isnan(dff).all(axis=1)).tolist())
    assert [(f.code, f.severity, f.neurons) for f in found] == ([("undefined", "note", unknown)] if unknown else [])


@needs_compiler
def test_ground_truth(shared: Path) -> None:
    ground_truth = pytest.importorskip("training.ground_truth")
    for folder in sorted((shared / "ground_truth").iterdir()):
        recordings, _ = ground_truth.read_files(ground_truth.neuron_files(folder)[:8])
        for rate in (None, 15.0):
            # At a higher rate than their own, they would be interpolated, and found to be.
            usable = [r for r in recordings if rate is None or r.frame_rate_hz > rate]
            traces = [r if rate is None else ground_truth.resample(r, rate) for r in usable]
            traces = [trace for trace in traces if trace is not None]
            if not traces:
                continue
            native = float(np.median([trace.frame_rate_hz for trace in traces]))
            alike = [trace.dff for trace in traces if abs(trace.frame_rate_hz / native - 1) < 0.05]
            n_frames = int(np.median([row.size for row in alike]))
            dff = np.array([row[:n_frames] for row in alike if row.size >= n_frames])
            found = check(dff, native, indicator=folder.name.split("-")[1])
            assert found == [], (folder.name, native)


def test_values_in_steps_are_no_repeated_frames() -> None:
    rng = np.random.default_rng(0)
    for n_neurons in (1, 3, 20):
        counts = rng.poisson(3.0, (n_neurons, 3000)).astype(np.uint16)
        assert {f.code for f in check_fluorescence(counts, frame_rate_hz=RATE)} <= {"not_positive"}
    sparse = np.maximum(rng.normal(-3, 1, (40, 3000)), 0)
    assert not {f.code for f in check(sparse)} & {"repeated_frames", "interpolated_frames", "padding"}


# ── values ──


@pytest.mark.parametrize(
    ("change", "code", "severity", "said"),
    [
        (lambda x: 100 * x, "percent", "error", "divide by 100"),
        (lambda x: 12 * x, "scale", "warning", "may not be"),
        (lambda x: 800 * (1 + x), "fluorescence", "error", r"\(F - F0\) / F0"),
        (lambda x: x.T, "transposed", "error", "dff.T"),
        (lambda x: gaussian_filter1d(x, 60, axis=1), "denoised", "error", "neither denoised"),
        (lambda x: gaussian_filter1d(x, 1.2, axis=1), "smoothed", "warning", "over two frames"),
        (lambda x: x + 1, "baseline", "warning", "subtract 1"),
    ],
)
def test_values(clean: np.ndarray, change: Callable[..., Any], code: str, severity: str, said: str) -> None:
    finding = only(check(change(clean)), code)
    assert finding.severity == severity
    assert re.search(said, finding.text)


def test_noise_beyond_the_model(clean: np.ndarray) -> None:
    dff = clean.copy()
    dff[[4, 9]] += np.random.default_rng(0).normal(0, 0.8, (2, T))
    finding = only(check(dff, noise_range=(1, 8)), "noise_range")
    assert finding.neurons == (4, 9)


def test_transposed_fluorescence(clean: np.ndarray) -> None:
    finding = only(check_fluorescence(counts_of(clean).T, frame_rate_hz=RATE), "transposed")
    assert finding.severity == "error"
    assert check_recording(counts_of(clean).T, [], frame_rate_hz=RATE, kind="fluorescence") == [finding]


# ── time ──


def test_time_stamps_of_another_rate(clean: np.ndarray) -> None:
    times = np.arange(T) / RATE
    assert check(clean, timestamps=times * 1.015) == []
    assert check(clean, timestamps=np.round(times, 3)) == []
    finding = only(check(clean, timestamps=times * 1.04), "frame_rate")
    assert finding.severity == "warning"
    assert "30 Hz" in finding.text
    assert "28.85 Hz" in finding.text
    assert only(check(clean, timestamps=times * 4), "frame_rate").severity == "error"
    finding = only(check_fluorescence(counts_of(clean), frame_rate_hz=RATE, timestamps=1000 * times), "timestamps")
    assert "milliseconds" in finding.text


def test_dropped_frames(clean: np.ndarray) -> None:
    index = np.delete(np.arange(T + 4), [100, 101, 102, 900])
    finding = only(check(clean, timestamps=index / RATE), "dropped_frames")
    assert finding.frames == ((100, 101), (897, 898))
    assert "4 frames are missing at 2 places" in finding.text


def test_irregular_times(clean: np.ndarray) -> None:
    steps = np.random.default_rng(0).uniform(0.6, 1.4, T) / RATE
    finding = only(check(clean, timestamps=np.cumsum(steps)), "irregular_frames")
    assert "by 23 %" in finding.text
    twice = np.concatenate([np.arange(T // 2)] * 2) / RATE
    finding = only(check(clean, timestamps=twice), "timestamps")
    assert finding.frames == ((T // 2, T // 2 + 1),)


def test_decay_tells_a_wrong_rate(clean: np.ndarray) -> None:
    assert check(clean, indicator="GCaMP6s") == []
    finding = only(check(clean, 4 * RATE, indicator="jGCaMP6s"), "decay")
    assert finding.severity == "warning"
    assert "too high" in finding.text
    fast = simulate(N, 120, RATE, indicator="GCaMP8s", seed=3).dff
    assert "too low" in only(check(fast, RATE / 4, indicator="GCaMP8s"), "decay").text
    assert check(clean, 4 * RATE) == []
    assert check(clean, 4 * RATE, indicator="an unknown one") == []


def test_half_decay_of_a_known_one() -> None:
    trace = np.zeros(3000)
    trace[100::300] = 1.0
    dff = np.array([np.convolve(trace, 0.5 ** (np.arange(200) / 12))[:3000]] * 2)
    dff += 0.005 * np.random.default_rng(0).normal(size=dff.shape)
    measured = measure_half_decay(dff, frame_rate_hz=RATE)
    assert measured.n_transients == 20
    assert measured.seconds == pytest.approx(12 / RATE, rel=0.03)
    assert plausible_half_decay("GCaMP6") == (0.09, 1.45)


def test_frames_marked_as_bad(clean: np.ndarray) -> None:
    bad = np.zeros(T, bool)
    assert check(clean, bad_frames=bad) == []
    bad[50:53] = bad[70] = True
    finding = only(check(clean, bad_frames=bad), "marked_frames")
    assert finding.frames == ((50, 53), (70, 71))
    assert finding.text.startswith("4 frames are marked as bad")


# ── frames ──


def test_lost_frames(clean: np.ndarray) -> None:
    dff = clean.copy()
    dff[:, 500:503] = np.nan
    dff[1:, 540] = np.nan
    finding = only([f for f in check(dff) if f.severity != "note"], "lost_frames")
    assert finding.frames == ((500, 503), (540, 541))
    # The windows of frames 500 to 503 + 62 and of 540 to 603 overlap.
    assert "undefined in 104 frames" in finding.text
    assert "--fill-gaps 3" in finding.text
    dff[:, 1000:1030] = np.nan
    assert "too many to fill; --fill-gaps 5 fills the 2 short ones" in check(dff)[0].text


def test_values_that_some_neurons_lack(clean: np.ndarray) -> None:
    dff = clean.copy()
    dff[[3, 7], 500:600] = np.nan
    finding = only(check(dff), "missing_values")
    assert (finding.severity, finding.neurons) == ("note", (3, 7))
    dff = clean.copy()
    dff[5, 700] = np.inf
    assert only(check(dff), "infinite").neurons == (5,)


def interpolated(traces: np.ndarray, start: int, stop: int) -> None:
    weight = np.arange(1, stop - start + 1) / (stop - start + 1)
    traces[:, start:stop] = (1 - weight) * traces[:, start - 1 : start] + weight * traces[:, stop : stop + 1]


@pytest.mark.parametrize("n_neurons", [1, 3, N])
def test_interpolated_frames(clean: np.ndarray, n_neurons: int) -> None:
    traces = np.array(clean[:n_neurons], np.float64)
    for start in (300, 900, 1500):
        interpolated(traces, start, start + 6)
    expected = ((300, 306), (900, 906), (1500, 1506))
    for found in (check(traces), check_fluorescence(1000 * (2 + traces), frame_rate_hz=RATE)):
        finding = only(found, "interpolated_frames")
        assert finding.frames == expected
        assert finding.text.startswith("18 frames (0.75 %)")


def test_frames_interpolated_before_the_baseline_moved(clean: np.ndarray) -> None:
    fluorescence = counts_of(clean).astype(np.float64)
    interpolated(fluorescence, 300, 310)
    baseline = np.percentile(fluorescence, 20, axis=1, keepdims=True) * (1 + 0.1 * np.linspace(0, 1, T))
    finding = only(check((fluorescence / baseline - 1).astype(np.float32)), "interpolated_frames")
    assert finding.frames == ((300, 310),)


def test_held_frames(clean: np.ndarray) -> None:
    dff = clean.copy()
    for start in (400, 1600):
        dff[:, start : start + 5] = dff[:, start - 1 : start]
    finding = only(check(dff), "repeated_frames")
    assert finding.frames == ((400, 405), (1600, 1605))
    assert "one in" not in finding.text


@pytest.mark.parametrize("every", [2, 5, 10])
def test_every_kth_frame_is_a_copy(clean: np.ndarray, every: int) -> None:
    frames = np.arange(T)
    frames[every - 1 :: every] -= 1
    dff = clean[:, frames]
    finding = next(f for f in check(dff) if f.code == "repeated_frames")
    assert [start for start, _ in finding.frames] == list(range(every - 1, T, every))
    assert f"about one in {every}:" in finding.text


@pytest.mark.parametrize("frames", [1, 3])
def test_flashes(clean: np.ndarray, frames: int) -> None:
    dff = clean.copy()
    for start in range(200, T - 100, 211):
        dff[:, start : start + frames] += 5.0
    finding = only(check(dff), "flash_frames")
    assert finding.frames == tuple((start, start + frames) for start in range(200, T - 100, 211))


def test_dark_frames(clean: np.ndarray) -> None:
    fluorescence = counts_of(clean)
    fluorescence[:, 700:704] = 5 + np.random.default_rng(0).normal(size=(N, 4))
    assert only(check_fluorescence(fluorescence, frame_rate_hz=RATE), "dark_frames").frames == ((700, 704),)
    dff = clean.copy()
    dff[:, 700:704] = -0.95 + 0.01 * fluorescence[:, 700:704] / 5
    dff[:, 700:704] -= 1.0
    assert only(check(dff), "dark_frames").frames == ((700, 704),)


def test_movement(clean: np.ndarray) -> None:
    dff = clean.copy()
    shift = np.where(np.arange(N) % 2, 2.5, -2.5)
    dff[:, 800] += shift
    dff[:, 1200:1240] += shift[:, None]
    finding = only(check(dff), "moved_frames")
    assert {start for start, _ in finding.frames} >= {800, 1200}
    assert all(800 <= a < 802 or 1200 <= a <= 1240 for a, _ in finding.frames)


def test_faults_across_the_pieces_that_are_read(clean: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    dff = clean.copy()
    dff[:, 498:503] = dff[:, 497:498]
    interpolated(dff, 996, 1004)
    dff[:, 1499:1502] += 5.0
    dff[:, 1999:2001] = np.nan
    whole = check(dff)
    assert {f.code for f in whole} == {"repeated_frames", "interpolated_frames", "flash_frames", "lost_frames"}
    monkeypatch.setattr(frame_faults, "PIECE", 100)
    monkeypatch.setattr(frame_faults, "VALUES", 500 * N)
    monkeypatch.setattr(frame_faults, "ROWS", (N, N))
    assert check(dff) == whole


# ── neurons ──


def test_neurons_without_a_trace(clean: np.ndarray) -> None:
    dff = clean.copy()
    dff[2], dff[6] = np.nan, 0.25
    dff[9] = dff[5]
    found = {f.code: f for f in check(dff)}
    assert {code: f.neurons for code, f in found.items()} == {"undefined": (2,), "constant": (6,), "copies": (9,)}
    assert {f.severity for f in found.values()} == {"note"}
    assert "row 9 of row 5" in found["copies"].text
    fluorescence = counts_of(dff)
    fluorescence[9] = fluorescence[5]
    codes = {f.code: f.neurons for f in check_fluorescence(fluorescence, frame_rate_hz=RATE)}
    assert codes == {code: f.neurons for code, f in found.items()}


@pytest.mark.parametrize("frames", [1, 20, 300])
def test_planes_padded_with_zeros(clean: np.ndarray, frames: int) -> None:
    fluorescence = counts_of(clean)
    fluorescence[16:, -frames:] = 0
    found = [
        only(check_fluorescence(fluorescence, frame_rate_hz=RATE), "padding"),
        only(check(fluorescence / np.percentile(fluorescence, 20, axis=1, keepdims=True) - 1), "padding"),
    ]
    for finding, value in zip(found, ("0", "-1"), strict=True):
        assert finding.neurons == tuple(range(16, N))
        assert finding.frames == ((T - frames, T),)
        assert f"the same value {value} in up to {frames} frames" in finding.text


def test_padded_at_both_ends_in_all_neurons(clean: np.ndarray) -> None:
    dff = clean.copy()
    dff[:, :12] = dff[:, 12:13]
    dff[:, -100:] = -1
    finding = only(check(dff), "padding")
    assert finding.frames == ((0, 13), (T - 100, T))


def test_fluorescence_that_is_not_positive(clean: np.ndarray) -> None:
    fluorescence = counts_of(clean)
    fluorescence[[1, 8]] -= 1.2 * np.median(fluorescence[[1, 8]], axis=1, keepdims=True)
    assert only(check_fluorescence(fluorescence, frame_rate_hz=RATE), "not_positive").neurons == (1, 8)


# ── reading, arguments, order ──


class Counting:
    """An array that counts what is read of it, and at most at a time."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, 2
        self.read, self.most = 0, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        assert isinstance(key, tuple)
        assert all(isinstance(part, slice) for part in key)
        part = self.array[key]
        self.read += part.size
        self.most = max(self.most, part.size)
        return part


@needs_compiler
def test_little_is_read_and_held() -> None:
    rng = np.random.default_rng(0)
    dff = (0.1 * rng.standard_normal((2000, 20_000), np.float32)).astype(np.float32)
    dff[:, 12_345:12_350] = np.nan
    counting = Counting(dff)
    nu = np.full(2000, 1.7)
    finding = only(check_recording(counting, nu, frame_rate_hz=RATE, indicator="GCaMP6f"), "lost_frames")
    assert finding.frames == ((12_345, 12_350),)
    assert counting.read < 0.2 * dff.size
    assert counting.most <= 4_000_000


def test_a_file_gives_the_same(clean: np.ndarray, tmp_path: Path) -> None:
    dff = clean.copy()
    dff[:, 300:304] = np.nan
    dff[20:, -7:] = -1
    expected = check(dff)
    assert len(expected) >= 2
    with h5py.File(tmp_path / "dff.h5", "w") as file:
        for data, transposed in ((dff, False), (dff.T, True)):
            matrix = LazyMatrix(file.create_dataset(str(transposed), data=data), transposed=transposed)
            nu = noise_levels(dff, frame_rate_hz=RATE)
            assert check_recording(matrix, nu, frame_rate_hz=RATE) == expected


def test_the_worst_comes_first(clean: np.ndarray) -> None:
    dff = 100 * clean
    dff[2] = np.nan
    dff[:, 300:304] = np.nan
    found = check(dff)
    assert [f.severity for f in found] == ["error", "warning", "note"]
    assert [f.order for f in found] == [0, 1, 2]
    assert found[0].to_dict() == {"code": "percent", "severity": "error", "text": found[0].text}


def test_next_to_nothing() -> None:
    for shape in ((0, 100), (3, 0), (3, 1), (1, 3), (2, 10)):
        values = np.random.default_rng(0).normal(0, 0.1, shape)
        assert check_recording(values, np.ones(shape[0]), frame_rate_hz=RATE, indicator="GCaMP6f") == []
        assert not [f for f in check_fluorescence(values + 5, frame_rate_hz=RATE) if f.severity == "error"]
    assert {f.code for f in check(np.full((3, 100), np.nan))} == {"undefined"}


def test_wrong_use(clean: np.ndarray) -> None:
    nu = np.ones(N)
    with pytest.raises(InputError, match="expected one for each of the 24 neurons"):
        check_recording(clean, nu[1:], frame_rate_hz=RATE)
    with pytest.raises(InputError, match="frame_rate_hz"):
        check_recording(clean, nu, frame_rate_hz=0)
    with pytest.raises(InputError, match=r"timestamps.*expected \(2400,\)"):
        check_recording(clean, nu, frame_rate_hz=RATE, timestamps=np.arange(5))
    with pytest.raises(InputError, match=r"bad_frames.*expected \(2400,\)"):
        check_recording(clean, nu, frame_rate_hz=RATE, bad_frames=np.zeros(5, bool))
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        check_fluorescence(np.zeros(5), frame_rate_hz=RATE)
    with pytest.raises(InputError, match="kind"):
        check_recording(clean, nu, frame_rate_hz=RATE, kind="spikes")  # type: ignore[arg-type]

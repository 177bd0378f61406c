"""Ground truth: irregular files, resampling, splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.io import savemat

from cascade_rt.errors import TrainingError
from training.ground_truth import (
    Recording,
    dataset_folders,
    find_dataset,
    read_datasets,
    read_neuron,
    resample,
    resample_recordings,
)
from training.targets import smooth_spikes

if TYPE_CHECKING:
    from pathlib import Path


def _struct(n: int = 400, rate: float = 30.0, spikes: Any = (1.0, 2.0), **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    struct = {
        "fluo_time": np.arange(n) / rate,
        "fluo_mean": 0.1 * rng.standard_normal(n),
        "events_AP": np.asarray(spikes, float) * 1e4,
    }
    return {k: v for k, v in {**struct, **changes}.items() if v is not None}


def _noise(n: int, seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(n)


def _write(folder: Path, *structs: dict[str, Any], name: str = "cell1_mini.mat") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(structs)), object)
    for i, struct in enumerate(structs):
        cells[0, i] = struct
    savemat(folder / name, {"CAttached": cells})
    return folder / name


def _recording(values: np.ndarray, rate: float, spikes: Any = ()) -> Recording:
    return Recording(
        dataset="D",
        neuron="n",
        number=0,
        dff=values.astype(np.float32),
        frame_times_s=5.0 + np.arange(values.size) / rate,
        spike_times_s=5.0 + np.asarray(spikes, float),
    )


def test_clean_file(tmp_path: Path) -> None:
    recordings, problems = read_neuron(_write(tmp_path / "DS99-x", _struct(), _struct(n=50)))
    assert problems == []
    assert [(r.dataset, r.neuron, r.number, r.dff.size) for r in recordings] == [
        ("DS99-x", "cell1", 0, 400),
        ("DS99-x", "cell1", 1, 50),
    ]
    assert recordings[0].spike_times_s.tolist() == [1.0, 2.0]
    assert recordings[0].frame_rate_hz == pytest.approx(30)


def test_nan_padded_events(tmp_path: Path) -> None:
    (recording,), problems = read_neuron(_write(tmp_path, _struct(spikes=[2.0, np.nan, 1.0, np.nan])))
    assert recording.spike_times_s.tolist() == [1.0, 2.0]
    assert problems == []


@pytest.mark.parametrize("events", [np.zeros((0, 0)), np.array([3e4])])
def test_no_spikes_or_a_single_one(tmp_path: Path, events: np.ndarray) -> None:
    (recording,), _ = read_neuron(_write(tmp_path, _struct(events_AP=events)))
    assert recording.spike_times_s.size == events.size


def test_trace_longer_than_its_times(tmp_path: Path) -> None:
    path = _write(tmp_path, _struct(fluo_mean=np.linspace(0, 1, 500)))
    (recording,), (problem,) = read_neuron(path)
    assert recording.dff.size == 400
    assert recording.dff[-1] == pytest.approx(399 / 499)
    assert "500 fluorescence values for 400 frame times" in str(problem)
    assert problem.action == "trimmed"


def test_times_that_are_nan_at_the_ends_are_trimmed(tmp_path: Path) -> None:
    times = np.arange(400) / 30
    times[:20] = np.nan
    times[390:] = np.nan
    (recording,), (problem,) = read_neuron(_write(tmp_path, _struct(fluo_time=times)))
    assert recording.dff.size == 370
    assert recording.frame_times_s[0] == pytest.approx(20 / 30)
    assert "30 frames without a value or a time" in problem.what


def test_a_gap_inside_splits_and_never_splices(tmp_path: Path) -> None:
    values = np.ones(400)
    values[100:110] = np.nan
    recordings, problems = read_neuron(_write(tmp_path, _struct(fluo_mean=values)))
    assert [r.dff.size for r in recordings] == [100, 290]
    assert {r.number for r in recordings} == {0}
    assert recordings[1].frame_times_s[0] == pytest.approx(110 / 30)
    assert {p.action for p in problems} == {"trimmed", "split"}


def test_missing_field_names_file_and_recording(tmp_path: Path) -> None:
    recordings, (problem,) = read_neuron(_write(tmp_path / "DS99", _struct(), _struct(fluo_time=None)))
    assert len(recordings) == 1
    assert str(problem) == "DS99/cell1_mini.mat, recording 1: no field fluo_time; skipped"


def test_too_short_and_disordered_recordings_are_reported(tmp_path: Path) -> None:
    backwards = np.arange(400)[::-1] / 30
    recordings, problems = read_neuron(_write(tmp_path, _struct(n=10), _struct(fluo_time=backwards)))
    assert recordings == []
    assert ["only 10 usable frames" in problems[0].what, "do not increase" in problems[1].what] == [True, True]


def test_recordings_of_one_neuron_may_differ_in_length_and_rate(tmp_path: Path) -> None:
    structs = (_struct(n=400, rate=7.5), _struct(n=5000, rate=500.0, spikes=[]), _struct(n=70, rate=30.0))
    recordings, problems = read_neuron(_write(tmp_path, *structs))
    assert problems == []
    assert [(r.number, r.dff.size) for r in recordings] == [(0, 400), (1, 5000), (2, 70)]
    assert [r.frame_rate_hz for r in recordings] == pytest.approx([7.5, 500.0, 30.0])
    assert [r.duration_s for r in recordings] == pytest.approx([400 / 7.5, 10.0, 70 / 30])


def test_values_and_times_that_are_nan_in_other_places(tmp_path: Path) -> None:
    struct = _struct()
    struct["fluo_time"][:7] = np.nan
    struct["fluo_mean"][-5:] = np.nan
    struct["fluo_mean"][3:9] = np.inf
    (recording,), (problem,) = read_neuron(_write(tmp_path, struct))
    assert recording.dff.size == 400 - 9 - 5
    assert (problem.what, problem.action) == ("14 frames without a value or a time", "trimmed")
    assert np.isfinite(recording.dff).all()
    np.testing.assert_allclose(np.diff(recording.frame_times_s), 1 / 30)


def test_dark_frames_at_the_start(tmp_path: Path) -> None:
    values = np.full(400, 0.2)
    values[:3] = -0.9
    (recording,), (problem,) = read_neuron(_write(tmp_path, _struct(fluo_mean=values)))
    assert recording.dff.size == 397
    assert "3 dark frames" in problem.what


@pytest.mark.parametrize("content", [b"", b"not a mat file at all, but text", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_unreadable_file_is_one_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken_mini.mat"
    path.write_bytes(content)
    recordings, (problem,) = read_neuron(path)
    assert recordings == []
    assert problem.recording is None
    assert "broken_mini.mat" in str(problem)


def test_truncated_file_is_one_problem(tmp_path: Path) -> None:
    path = _write(tmp_path, _struct())
    path.write_bytes(path.read_bytes()[:-300])
    recordings, problems = read_neuron(path)
    assert (recordings, len(problems)) == ([], 1)


def test_datasets_are_found_by_name_and_number(tmp_path: Path) -> None:
    _write(tmp_path / "DS98-a", _struct())
    _write(tmp_path / "DS99-b", _struct())
    assert list(dataset_folders(tmp_path)) == ["DS98-a", "DS99-b"]
    assert find_dataset(tmp_path, "DS99").name == "DS99-b"
    assert len(read_datasets(tmp_path, ["DS98-a", "DS99"])[0]) == 2
    with pytest.raises(TrainingError, match="DS98-a, DS99-b"):
        find_dataset(tmp_path, "DS9")
    with pytest.raises(TrainingError, match=r"no ground-truth datasets .* --download"):
        dataset_folders(tmp_path / "nowhere")


def test_files_that_hold_the_same_recording_are_one_neuron(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second file begins later, has another frame rate and its own spike times, as happens in the database."""
    other = _struct(n=420, rate=25.0, spikes=[3.0], fluo_mean=_noise(420, seed=1))
    copied = np.concatenate([_noise(30, seed=2), _struct()["fluo_mean"]])
    _write(tmp_path / "DS98-a", _struct(), name="cell1_mini.mat")
    _write(tmp_path / "DS98-a", other, name="cell2_mini.mat")
    _write(tmp_path / "DS99-b", _struct(n=430, rate=20.0, fluo_mean=copied), name="cell1_mini.mat")
    with caplog.at_level("INFO"):
        recordings, (problem,) = read_datasets(tmp_path, ["DS98", "DS99"])
    assert str(problem) == "DS99-b/cell1_mini.mat: holds the same recording as DS98-a/cell1_mini.mat; joined"
    assert str(problem) in caplog.text
    assert [r.cell for r in recordings] == [("DS98-a", "cell1"), ("DS98-a", "cell2"), ("DS98-a", "cell1")]
    assert [(r.dataset, r.neuron) for r in recordings][2] == ("DS99-b", "cell1")
    trace = resample(recordings[2], 10.0)
    assert trace is not None
    assert trace.cell == ("DS98-a", "cell1")


# ── resampling ──


@pytest.mark.parametrize("rate", [28.7, 30.0, 31.4])
def test_rates_within_five_percent_are_kept(rate: float) -> None:
    recording = _recording(np.random.default_rng(0).standard_normal(100), rate)
    trace = resample(recording, 30.0)
    assert trace is not None
    assert trace.frame_rate_hz == pytest.approx(rate)
    np.testing.assert_array_equal(trace.dff, recording.dff)


@pytest.mark.parametrize("method", ["average", "fourier"])
@pytest.mark.parametrize("native", [7.5, 15.6, 60.0, 122.0, 500.0])
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.75])
def test_a_transient_keeps_its_distance_to_its_spike(method: Any, native: float, phase: float) -> None:
    """A bump of fluorescence centred on the spike stays centred on it, whatever the rates."""
    spike = 10.03
    times = np.arange(round(20 * native)) / native
    bump = np.exp(-0.5 * ((times - spike) / 0.3) ** 2)
    trace = resample(_recording(bump, native, [spike]), 30.0, method=method, phase=phase)
    assert trace is not None
    frames = np.arange(trace.n_frames)
    centre = (trace.dff * frames).sum() / trace.dff.sum()
    (frame,) = np.flatnonzero(trace.spike_counts)
    assert abs(centre - frame) <= 0.51
    assert trace.frame_rate_hz == 30.0


def test_a_simulated_spike_is_seen_in_its_own_frame() -> None:
    """A sharp calcium transient starts in the frame of its spike, and so does the peak of the target."""
    native, onsets = 120.0, np.array([3.0, 6.51, 9.72, 14.3])
    times = np.arange(2400) / native
    fluorescence = sum(np.where(times >= s, np.exp(-np.maximum(times - s, 0) / 0.3), 0.0) for s in onsets)
    trace = resample(_recording(np.asarray(fluorescence), native, onsets), 30.0)
    assert trace is not None
    target = smooth_spikes(trace.spike_counts, smoothing_s=0.025, frame_rate_hz=trace.frame_rate_hz)
    for frame in np.flatnonzero(trace.spike_counts):
        assert target[frame] == target[frame - 3 : frame + 4].max()
        rise = np.diff(trace.dff[frame - 3 : frame + 4]).argmax() + frame - 2
        assert rise in (frame, frame + 1)


def test_averaging_suppresses_what_the_new_rate_cannot_show() -> None:
    times = np.arange(4800) / 120.0
    alias = np.sin(2 * np.pi * 30.0 * times)
    trace = resample(_recording(alias, 120.0), 30.0)
    assert trace is not None
    assert np.abs(trace.dff).max() < 1e-4


def test_all_spikes_survive_resampling() -> None:
    spikes = np.sort(np.random.default_rng(1).uniform(0.1, 19.8, 200))
    for rate in (7.5, 122.0):
        trace = resample(_recording(np.zeros(round(20 * rate)), rate, spikes), 30.0)
        assert trace is not None
        assert trace.spike_counts.sum() == 200


def test_nothing_is_left_of_a_short_recording_at_a_low_rate() -> None:
    assert resample(_recording(np.zeros(40), 500.0), 30.0) is None


def test_recordings_too_short_for_a_network_are_reported() -> None:
    long, short = _recording(np.zeros(500), 60.0), _recording(np.zeros(100), 60.0)
    traces, (problem,) = resample_recordings([long, short], 30.0, shortest_frames=64)
    assert [t.n_frames for t in traces] == [250]
    assert str(problem) == "D/n, recording 0: 1.7 s are fewer than 64 frames at 30 Hz; skipped"
    assert problem.dataset == "D"
    assert resample_recordings([long, short], 60.0, shortest_frames=64)[1] == []
    assert len(resample_recordings([long, short], 1.0)[1]) == 2


def test_real_files(shared: Path) -> None:
    """The irregular ones of the database, and a recording at 500 Hz."""
    root = shared / "ground_truth"
    recordings, problems = read_neuron(root / "DS03-Cal520-m-S1" / "CAttached_S1_Cal520_cell5_mini.mat")
    assert len(recordings) == 1
    assert [p.recording for p in problems] == [1, 2, 3]
    trace = resample(recordings[0], 30.0)
    assert trace is not None
    assert trace.n_frames == pytest.approx(30 * 81.9, abs=2)
    assert np.isfinite(trace.dff).all()
    found, problems = read_neuron(root / "DS04-OGB1-zf-pDp" / "CAttached_OGB_pDp_190115_Fish2_cellA_mini.mat")
    assert found[0].dff.size <= 468
    assert "900 fluorescence values for 468" in problems[0].what

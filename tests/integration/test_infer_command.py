"""`cascade-rt infer` on what real pipelines left: one command, and the numbers of `predict` on the same ΔF/F."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import cascade_rt as crt
from cascade_rt.baseline import BaselineOptions, delta_f_over_f
from cascade_rt.cli import main
from cascade_rt.errors import CascadeWarning, InputError, OutputExistsError
from cascade_rt.lazy import LazyMatrix
from cascade_rt.smoothing import smooth_spikes

SUITE2P = Path(__file__).parents[1] / "data" / "suite2p"
MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"
#: What the card of the model has for GCaMP8m at ν = 2 and the longest look-ahead.
CARD_CORRELATION = 0.915


def predicted(dff: Any, **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        return crt.predict(dff, crt.load_model(MODEL), **({"frame_rate_hz": 30.0} | options))


def simulated(n_neurons: int = 8, seconds: float = 60.0, rate: float = 30.0) -> np.ndarray:
    return crt.simulate(n_neurons, seconds, rate, indicator="GCaMP8m", seed=1).dff


def infer(path: Path, *options: Any) -> dict[str, Any]:
    """Run the command; returns its JSON."""
    code, out = run(path, "--json", *options)
    assert code == 0, out
    return json.loads(out)


def run(*arguments: Any) -> tuple[int, str]:
    import contextlib
    import io

    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said if "--json" not in arguments else io.StringIO()),
    ):
        code = main(["infer", *map(str, arguments)])
    return code, said.getvalue()


@pytest.fixture(params=["v1", "v0"])
def suite2p(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    shutil.copytree(SUITE2P / request.param, tmp_path / "mouse1")
    return tmp_path / "mouse1", request.param


def test_a_suite2p_folder(suite2p: tuple[Path, str]) -> None:
    folder, version = suite2p
    before = {path: path.read_bytes() for path in folder.rglob("spks.npy")}
    answer = infer(folder, "--indicator", "GCaMP8m")
    assert (answer["format"], answer["model"]) == ("suite2p", MODEL)
    assert [plane["name"] for plane in answer["planes"]] == ["plane0", "plane1"]
    assert {path: path.read_bytes() for path in folder.rglob("spks.npy")} == before
    assert (folder / "suite2p" / "cascade_report.html").is_file()
    truth = np.load(SUITE2P / "truth.npz")
    correlations = []
    with crt.open_result(answer["result"]) as result:
        for plane in result.recordings:
            part = folder / "suite2p" / plane.name
            cells = np.load(part / "iscell.npy")[:, 0] > 0
            prob = np.load(part / "cascade_spike_prob.npy")
            np.testing.assert_array_equal(prob, plane.spike_prob[:])
            assert np.isnan(prob[~cells]).all()
            made = delta_f_over_f(
                np.load(part / "F.npy"),
                frame_rate_hz=30.0,
                options=BaselineOptions(neuropil_coefficient=0.7),
                neuropil=np.load(part / "Fneu.npy"),
            )
            np.testing.assert_allclose(prob[cells], predicted(made.dff[cells]), atol=1e-5)
            correlations += _with_truth(prob, truth, truth[f"{version}_{plane.name}_cell"], truth["spike_cell"])
    assert len(correlations) >= 15
    assert np.median(correlations) >= CARD_CORRELATION


def _with_truth(prob: np.ndarray, truth: Any, cells: np.ndarray, spike_cell: np.ndarray) -> list[float]:
    """Correlation of each row with the smoothed true spikes, the frames of flash and jerk left out."""
    n_frames = prob.shape[1]
    clean = np.ones(n_frames, bool)
    for frame in [*truth["flash_frames"], *truth["jerk_frames"]]:
        clean[max(0, frame - 32) : frame + 33] = False
    found = []
    for row, cell in zip(prob, cells, strict=True):
        used = clean & np.isfinite(row)
        if cell < 0 or not used.any():
            continue
        frames = (truth["spike_time_s"][spike_cell == cell] * 30).astype(int)
        counts = np.bincount(frames[frames < n_frames], minlength=n_frames)
        smooth = smooth_spikes(counts, smoothing_s=0.025, frame_rate_hz=30.0)
        found.append(float(np.corrcoef(row[used], smooth[used])[0, 1]))
        # A frame earlier or later is worse: the result is where the spikes were.
        for shift in (-1, 1):
            assert (
                found[-1] > np.corrcoef(np.roll(row, shift)[used][2:-2], smooth[used][2:-2])[0, 1]
                or np.isnan(np.roll(row, shift)[used]).any()
            )
    return found


@pytest.mark.filterwarnings("ignore:The 'manufacturer' field:DeprecationWarning")
def test_the_nwb_file_that_suite2p_wrote(tmp_path: Path) -> None:
    pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
    source = tmp_path / "ophys.nwb"
    shutil.copy(SUITE2P / "v1" / "suite2p" / "ophys.nwb", source)
    answer = infer(source, "--indicator", "GCaMP8m")
    copy = tmp_path / "ophys_cascade.nwb"
    assert str(copy) in answer["outputs"]
    folder = SUITE2P / "v1" / "suite2p"
    with pynwb.NWBHDF5IO(str(copy), "r") as file, crt.open_result(answer["result"]) as result:
        ophys = file.read().processing["ophys"]
        for plane in result.recordings:
            cells = np.load(folder / plane.name / "iscell.npy")[:, 0] > 0
            made = delta_f_over_f(
                np.load(folder / plane.name / "F.npy")[cells],
                frame_rate_hz=30.0,
                options=BaselineOptions(neuropil_coefficient=0.7),
                neuropil=np.load(folder / plane.name / "Fneu.npy")[cells],
            )
            np.testing.assert_allclose(plane.spike_prob[:][cells], predicted(made.dff), atol=1e-5)
            series = ophys[f"SpikeProbability_{plane.name}"]
            # Suite2p's file has as many frames for each plane; what it filled up stays NaN.
            stored = series.data[:].T
            np.testing.assert_array_equal(stored[:, : plane.n_frames], plane.spike_prob[:])
            assert np.isnan(stored[:, plane.n_frames :]).all()
    assert not pynwb.validate(path=str(copy))


def test_a_caiman_file(tmp_path: Path) -> None:
    dff = simulated()
    path = tmp_path / "analysis.hdf5"
    with h5py.File(path, "w") as file:
        estimates = file.create_group("estimates")
        estimates["C"], estimates["YrA"] = np.zeros_like(dff), dff
        estimates["S"] = np.zeros((8, 5))
        estimates["F_dff"] = dff
        estimates["idx_components"] = np.array([0, 1, 2, 3, 5, 6, 7])
        file.create_group("params/data")["fr"] = 30.0
    answer = infer(path, "--indicator", "GCaMP8m")
    assert answer["format"] == "caiman"
    with crt.open_result(answer["result"]) as result:
        kept = np.arange(8) != 4
        np.testing.assert_allclose(result.spike_prob[:][kept], predicted(dff[kept]), atol=1e-5)
        assert np.isnan(result.spike_prob[4]).all()
    with h5py.File(tmp_path / "analysis_cascade.hdf5") as file:
        assert file["estimates/spike_prob"].shape == dff.shape


def test_a_mat_file_with_real_data(shared: Path, tmp_path: Path) -> None:
    source = shared / "recordings" / "allen_visual_coding_30Hz.mat"
    answer = infer(source, "--frame-rate", 30, "--indicator", "GCaMP6f", "--out", tmp_path)
    from scipy.io import loadmat

    dff = loadmat(source)["dF_traces"]
    model = crt.load_model(answer["model"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        expected = crt.predict(dff, model, frame_rate_hz=30.0)
    with crt.open_result(answer["result"]) as result:
        np.testing.assert_allclose(result.spike_prob[:], expected, atol=1e-5)
    assert (tmp_path / "allen_visual_coding_30Hz_spike_prob.mat").is_file()


def _npy(folder: Path, values: np.ndarray) -> Path:
    np.save(folder / "traces.npy", values)
    return folder / "traces.npy"


def test_what_is_found_and_decided_is_said(tmp_path: Path) -> None:
    code, said = run(_npy(tmp_path, simulated()), "--frame-rate", 30, "--indicator", "GCaMP8m", "--spikes")
    assert code == 0
    for text in (
        "traces.npy: NumPy file",
        "8 neurons, 1800 frames at 30 Hz (1 min 0 s)",
        "ΔF/F as the file has it",
        "noise level ν: median",
        f"model {MODEL}, look-ahead 31 frames",
        "because: trained for GCaMP8m",
        "single spikes found",
        "traces_cascade.h5",
        "traces_cascade_report.html",
        "traces_spike_prob.npy",
    ):
        assert text in said
    assert "live" not in said


def test_another_frame_rate_comes_back_on_the_frames_of_the_source(tmp_path: Path) -> None:
    path = _npy(tmp_path, simulated(rate=20.0))
    code, said = run(path, "--frame-rate", 20, "--indicator", "GCaMP8m")
    assert code == 1
    assert "no installed model was made for 20 Hz" in said
    assert "--resample" in said
    assert [item.name for item in tmp_path.iterdir()] == ["traces.npy"]
    answer = infer(path, "--frame-rate", 20, "--indicator", "GCaMP8m", "--resample")
    made = crt.simulate(8, 60.0, 20.0, indicator="GCaMP8m", seed=1)
    with crt.open_result(answer["result"]) as result:
        prob = result.spike_prob[:]
    assert prob.shape == made.dff.shape
    used = np.isfinite(prob[0])
    truth = smooth_spikes(made.spike_counts, smoothing_s=0.1, frame_rate_hz=20.0)

    def correlation(shift: int) -> float:
        pairs = zip(prob, truth, strict=True)
        return float(np.median([np.corrcoef(p[used], np.roll(t, shift)[used])[0, 1] for p, t in pairs]))

    assert "15Hz" in answer["model"]
    assert correlation(0) > 0.9
    assert max(correlation(-1), correlation(1)) < correlation(0) - 0.015


def test_what_cannot_be_dff_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = _npy(tmp_path, 100 * simulated())
    code, said = run(path, "--frame-rate", 30)
    assert code == 1
    assert "percent" in said
    assert [item.name for item in tmp_path.iterdir()] == ["traces.npy"]
    answer = infer(path, "--frame-rate", 30, "--percent", "--model", MODEL)
    with crt.open_result(answer["result"]) as result:
        np.testing.assert_allclose(result.spike_prob[:], predicted(simulated()), atol=1e-4)


def test_existing_results_are_kept_unless_told(tmp_path: Path) -> None:
    path = _npy(tmp_path, simulated())
    infer(path, "--frame-rate", 30, "--model", MODEL)
    before = (tmp_path / "traces_cascade.h5").read_bytes()
    with pytest.raises(OutputExistsError, match=r"traces_cascade\.h5 exists: pass --overwrite"):
        crt.infer(path, frame_rate_hz=30.0, model=MODEL)
    assert (tmp_path / "traces_cascade.h5").read_bytes() == before
    infer(path, "--frame-rate", 30, "--model", MODEL, "--overwrite")


def test_unknown_options_and_planes_are_refused(tmp_path: Path) -> None:
    path = _npy(tmp_path, simulated())
    with pytest.raises(InputError, match="unknown options: framerate"):
        crt.infer(path, framerate=30.0)
    with pytest.raises(InputError, match="has no plane 'plane7'"):
        crt.infer(path, frame_rate_hz=30.0, planes=("plane7",))


def test_missing_frames(tmp_path: Path) -> None:
    dff = simulated()
    dff[:, 900:902] = np.nan
    path = _npy(tmp_path, dff)
    code, said = run(path, "--frame-rate", 30, "--model", MODEL)
    assert code == 0
    assert "2 frames" in said
    assert "--fill-gaps 2" in said
    answer = infer(path, "--frame-rate", 30, "--model", MODEL, "--fill-gaps", 2, "--overwrite")
    with crt.open_result(answer["result"]) as result:
        assert np.isfinite(result.spike_prob[:, 100:1700]).all()


def test_a_dataset_in_the_order_of_time_is_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dff = simulated(16, 120.0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("dff", data=dff.T, chunks=(1, 16))
        file["frame_rate"] = 30.0
    monkeypatch.setattr("cascade_rt.lazy.BLOCK_VALUES", 2 * dff.shape[1])
    monkeypatch.setattr("cascade_rt.lazy.MOST_BLOCK_VALUES", 2 * dff.shape[1])
    monkeypatch.setattr("cascade_rt.lazy.SLAB_VALUES", 16 * 500)
    sizes = []
    read = LazyMatrix.__getitem__

    def spy(self: LazyMatrix, key: Any) -> np.ndarray:
        values = read(self, key)
        sizes.append(values.size)
        return values

    monkeypatch.setattr(LazyMatrix, "__getitem__", spy)
    answer = infer(tmp_path / "x.h5", "--transposed", "--model", MODEL)
    assert sizes
    assert max(sizes) <= dff.size / 3
    with crt.open_result(answer["result"]) as result:
        np.testing.assert_allclose(result.spike_prob[:], predicted(dff), atol=1e-5)


def test_neurons_without_noise_are_nan_as_for_predict(tmp_path: Path) -> None:
    dff = simulated()
    dff[2], dff[5], dff[6, 7] = 0.0, np.nan, np.inf
    answer = infer(_npy(tmp_path, dff), "--frame-rate", 30, "--model", MODEL)
    with crt.open_result(answer["result"]) as result:
        np.testing.assert_allclose(result.spike_prob[:], predicted(dff), atol=1e-5)
        assert np.isnan(result.noise_levels[[2, 5]]).all()
        assert result.why_undefined[2] == "constant"
        assert result.why_undefined[5] == "without a finite value"
        assert result.why_undefined[6] == "with infinite values"
        assert result.why_undefined[0] == ""

"""The commands on real files, as a user calls them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import io

import cascade_rt
from cascade_rt.benchmarks import synthetic_dff
from cascade_rt.cli import main

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"
N_NEURONS, N_FRAMES, RATE = 6, 400, 30.0


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASCADE_RT_MODELS", str(tmp_path / "models"))


@pytest.fixture(scope="module")
def dff() -> NDArray[np.float32]:
    made = synthetic_dff(N_NEURONS, N_FRAMES, frame_rate_hz=RATE, noise_levels=np.linspace(1.5, 6, N_NEURONS))
    made.flags.writeable = False
    return made


@pytest.fixture(scope="module")
def expected(dff: NDArray[np.float32]) -> NDArray[np.float32]:
    return cascade_rt.predict(dff, cascade_rt.load_model(MODEL), frame_rate_hz=RATE)


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def predict(*argv: str) -> int:
    return main(["predict", *argv, "--model", MODEL])


# --------------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("kind", ["npy", "npz", "mat"])
def test_predict_reads_each_kind_of_file(
    dff: NDArray[np.float32], expected: NDArray[np.float32], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "npy":
        np.save("in.npy", dff)
    elif kind == "npz":
        np.savez("in.npz", dff=dff, frame_rate_hz=RATE)
    else:
        io.savemat("in.mat", {"dF_traces": dff})
    rate = [] if kind == "npz" else ["--frame-rate", "30"]
    told = answer(capsys, "predict", f"in.{kind}", "--model", MODEL, *rate)
    assert told["out"] == "in_spike_prob.npz"
    assert (told["n_neurons"], told["n_frames"], told["lookahead_frames"]) == (N_NEURONS, N_FRAMES, 31)
    assert told["trained_noise_levels"] == list(cascade_rt.load_model(MODEL).spec.noise_range)
    with np.load("in_spike_prob.npz") as result:
        np.testing.assert_array_equal(result["spike_prob"], expected)
        np.testing.assert_array_equal(result["valid"], np.isfinite(expected))
        np.testing.assert_array_equal(result["frame"], np.arange(N_FRAMES))
        np.testing.assert_allclose(result["noise_levels"], cascade_rt.noise_levels(dff, frame_rate_hz=RATE))
        metadata = json.loads(str(result["metadata"]))
    assert (metadata["model"], metadata["alignment"], metadata["threshold"]) == (MODEL, "target", "zero")
    assert metadata["complete"] is True


def test_predict_says_what_it_found(dff: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("in.npy", dff)
    assert predict("in.npy", "--frame-rate", "30", "--plot", "in.png", "--lookahead", "2", "--threshold", "none") == 0
    shown = capsys.readouterr().out
    for text in (
        "6 neurons, 400 frames at 30 Hz",
        "look-ahead 2 frames",
        "100 ms",
        "alignment target",
        MODEL,
        "neuron-frames/s",
    ):
        assert text in shown
    assert Path("in.png").stat().st_size > 10_000


def test_predict_options_reach_the_prediction(dff: NDArray[np.float32]) -> None:
    np.save("in.npy", dff)
    nu = np.full(N_NEURONS, 3.0)
    np.save("nu.npy", nu)
    options = ["--noise-levels", "nu.npy", "--lookahead", "3", "--threshold", "none", "--alignment", "cascade"]
    assert predict("in.npy", "--frame-rate", "30", "--out", "out.npz", *options) == 0
    wanted = cascade_rt.predict(
        dff,
        cascade_rt.load_model(MODEL),
        frame_rate_hz=RATE,
        noise_levels=nu,
        lookahead_frames=3,
        threshold="none",
        alignment="cascade",
    )
    with np.load("out.npz") as result:
        np.testing.assert_array_equal(result["spike_prob"], wanted)


def test_predict_into_npy(dff: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.save("in.npy", dff)
    assert predict("in.npy", "--frame-rate", "30", "--out", "out.npy") == 0
    np.testing.assert_array_equal(np.load("out.npy"), expected)
    metadata = json.loads(Path("out.npy.json").read_text(encoding="utf-8"))
    assert metadata["model"] == MODEL
    assert len(metadata["noise_levels"]) == N_NEURONS


def test_predict_refuses_before_it_computes(dff: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("in.npy", dff)
    Path("there.npz").write_bytes(b"mine")
    Path("there.png").write_bytes(b"mine")
    np.save("few.npy", np.ones(2))
    cases = [
        (["in.npy", "--frame-rate", "30", "--out", "there.npz"], "there.npz exists"),
        (["in.npy", "--frame-rate", "30", "--plot", "there.png"], "there.png exists"),
        (["in.npy", "--frame-rate", "30", "--plot", "in.jpg"], "a picture is written as"),
        (["in.npy", "--frame-rate", "30", "--out", "nowhere/out.npz"], "does not exist"),
        (["in.npy"], "give it with --frame-rate"),
        (["in.npy", "--frame-rate", "40"], "--resample"),
        (["in.npy", "--frame-rate", "30", "--lookahead", "4"], "no look-ahead of 4 frames"),
        (["in.npy", "--frame-rate", "30", "--noise-levels", "few.npy"], "one noise level for each of the 6 neurons"),
        (["none.npy", "--frame-rate", "30"], "there is no such file"),
    ]
    before = sorted(Path().iterdir())
    for argv, message in cases:
        assert predict(*argv) == 1, argv
        shown = capsys.readouterr()
        assert message in shown.err, argv
        assert len(shown.err.splitlines()) == 1
        assert shown.out == ""
    assert sorted(Path().iterdir()) == before
    assert Path("there.npz").read_bytes() == b"mine"
    assert predict("in.npy", "--frame-rate", "30", "--out", "there.npz", "--plot", "there.png", "--overwrite") == 0


def test_predict_names_the_rates_that_disagree(dff: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("in.npz", dff=dff, frame_rate_hz=15.0)
    assert predict("in.npz", "--frame-rate", "30") == 1
    assert "recorded at 15 Hz, --frame-rate says 30 Hz" in capsys.readouterr().err


def test_predict_resamples_knowingly(dff: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("in.npy", dff)
    told = answer(capsys, "predict", "in.npy", "--frame-rate", "60", "--resample", "--model", MODEL)
    assert (told["frame_rate_hz"], told["source_frame_rate_hz"], told["n_frames"]) == (30.0, 60.0, 200)
    with np.load("in_spike_prob.npz") as result:
        assert result["spike_prob"].shape == (N_NEURONS, 200)
        assert json.loads(str(result["metadata"]))["frame_rate_hz"] == 30.0
    # Near the model's rate nothing is done.
    told = answer(capsys, "predict", "in.npy", "--frame-rate", "31", "--resample", "--model", MODEL, "--overwrite")
    assert (told["frame_rate_hz"], told["n_frames"]) == (31.0, N_FRAMES)


def test_predict_of_a_recorded_run_keeps_gaps(dff: NDArray[np.float32]) -> None:
    folder = Path("session")
    folder.mkdir()
    kept = np.r_[10:150, 160:N_FRAMES]
    np.save(folder / "dff.npy", dff[:, kept])
    np.save(folder / "dff_frame.npy", kept.astype(np.int64))
    (folder / "run.json").write_text(json.dumps({"frame_rate_hz": RATE}), encoding="utf-8")
    assert predict("session", "--out", "out.npz") == 0
    whole = dff[:, 10:].copy()
    whole[:, 140:150] = np.nan
    wanted = cascade_rt.predict(whole, cascade_rt.load_model(MODEL), frame_rate_hz=RATE)
    with np.load("out.npz") as result:
        np.testing.assert_array_equal(result["spike_prob"], wanted)
        assert (result["frame"][0], result["frame"][-1]) == (10, N_FRAMES - 1)


# ------------------------------------------------------------------------------------------------------ discretize


@pytest.fixture
def spikes_result() -> NDArray[np.float32]:
    """A result whose spikes are known: single ones, far apart, smoothed as the model's targets."""
    from cascade_rt.smoothing import smooth_spikes

    counts = np.zeros((3, 300), np.float32)
    counts[0, [50, 120, 200]] = 1
    counts[1, 80] = 2
    prob = smooth_spikes(counts, smoothing_s=0.025, frame_rate_hz=RATE)
    metadata = {"model": MODEL, "frame_rate_hz": RATE, "smoothing_s": 0.025, "causal_kernel": False}
    frame = np.arange(1000, 1300)
    np.savez("result.npz", spike_prob=prob, frame=frame, valid=np.isfinite(prob), metadata=json.dumps(metadata))
    return prob


def test_discretize_finds_the_spikes(spikes_result: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "discretize", "result.npz")
    assert (told["spikes"], told["silent_neurons"], told["out"]) == (5, 1, "result_spikes.npz")
    assert told["expected_spikes"] == pytest.approx(5.0, abs=1e-3)
    assert told["fit_error"] < 1e-3
    with np.load("result_spikes.npz") as spikes:
        np.testing.assert_array_equal(spikes["neuron"], [0, 0, 0, 1, 1])
        np.testing.assert_array_equal(spikes["frame"], [1050, 1120, 1200, 1080, 1080])
        np.testing.assert_allclose(spikes["time_s"], spikes["frame"] / RATE)
    assert main(["discretize", "result.npz"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_discretize_into_csv(spikes_result: NDArray[np.float32]) -> None:
    assert main(["discretize", "result.npz", "--out", "spikes.csv"]) == 0
    with Path("spikes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"neuron": "0", "frame": "1050", "time_s": "35.000000"}
    assert len(rows) == 5


def test_discretize_of_each_kind_of_result(dff: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("in.npy", dff)
    counts = []
    for kind in ("npz", "npy", "mat"):
        assert predict("in.npy", "--frame-rate", "30", "--out", f"out.{kind}") == 0
        capsys.readouterr()
        told = answer(capsys, "discretize", f"out.{kind}", "--out", f"{kind}.npz")
        counts.append((told["spikes"], told["smoothing_s"], round(told["expected_spikes"], 3)))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][0] > 0


def test_discretize_needs_to_know_the_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("bare.npz", spike_prob=np.zeros((2, 100), np.float32))
    assert main(["discretize", "bare.npz"]) == 1
    assert "name it with --model" in capsys.readouterr().err
    assert main(["discretize", "bare.npz", "--out", "spikes.txt"]) == 1
    assert ".npz or .csv" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["bare.npz"]
    assert answer(capsys, "discretize", "bare.npz", "--model", MODEL)["spikes"] == 0


def test_values_that_are_not_valid_hold_no_spikes(
    spikes_result: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load("result.npz") as stored:
        arrays = dict(stored)
    arrays["valid"] = np.ones_like(arrays["valid"])
    arrays["valid"][0, 100:] = False
    np.savez("touched.npz", **arrays)
    assert answer(capsys, "discretize", "touched.npz")["spikes"] == 3


# ------------------------------------------------------------------------------------------------------- bench, doctor


def test_bench_measures(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "bench", "--model", MODEL, "--neurons", "10", "--seconds", "0.3")
    assert told["sgemm_gflops"] > 0
    assert told["offline"]["neuron_frames_per_s"] > 0
    assert told["live"]["latency"]["count"] == 300
    assert told["live"]["whole_p50_over_sgemm"] >= told["live"]["latency_p50_over_sgemm"]
    assert told["sustained"]["n_frames"] == 9
    assert told["machine"]["cores"] >= 1


def test_doctor_finds_this_installation_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "doctor")
    found = {check["name"]: check for check in told["checks"]}
    assert told["ok"]
    assert found["self-test"]["status"] == "ok"
    assert found["self-test"]["values"]["largest_difference"] <= 1e-5
    assert found["sockets"]["values"]["round_trip_p50_ms"] > 0
    assert found["packages"]["values"]["numpy"] == np.__version__
    assert MODEL in found["models"]["values"]["models"]


def test_doctor_fails_when_a_model_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    from cascade_rt.bundle import find_bundle

    shutil.copytree(find_bundle(MODEL), tmp_path / "models" / "broken")
    weights = tmp_path / "models" / "broken" / "network.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "network.onnx" in shown
    assert "failed: models" in shown

"""``cascade-rt export``, and ``discretize`` and ``run`` with portable results, as a user calls them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from result_files import METADATA, N_FRAMES, N_NEURONS, SPIKES, names_in, prob_of, write_portable
from scipy import io

from cascade_rt.cli import main
from cascade_rt.results import ResultWriter, open_result
from cascade_rt.smoothing import smooth_spikes
from cascade_rt.testing import ramp

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answer(capsys, *argv):
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_export(tmp_path, capsys):
    write_portable(tmp_path / "a.h5", spikes=True)
    assert main(["export", "a.h5", "b.mat"]) == 0
    assert capsys.readouterr().out.splitlines() == ["6 neurons, 50 frames", "written: b.mat"]
    np.testing.assert_array_equal(io.loadmat("b.mat")["spike_prob"], prob_of())
    told = answer(capsys, "export", "b.mat", "c.npz")
    assert told == {"out": "c.npz", "complete": True, "planes": [{"name": "", "n_neurons": 6, "n_frames": 50}]}
    with open_result("c.npz") as result:
        np.testing.assert_array_equal(result.spike_prob, prob_of())
        assert [one.tolist() for one in result.spikes] == SPIKES
    assert main(["export", "a.h5", "b.mat"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", "a.h5", "b.mat", "--overwrite"]) == 0


def test_export_of_planes(tmp_path, capsys):
    write_portable(tmp_path / "a.h5", ("plane0", "plane1"))
    assert main(["export", "a.h5", "b.npy"]) == 1
    assert "plane0, plane1" in capsys.readouterr().err
    assert main(["export", "a.h5", "b.npy", "--plane", "plane1"]) == 0
    assert capsys.readouterr().out.startswith("plane1: 6 neurons")
    np.testing.assert_array_equal(np.load("b.npy"), prob_of() + 1000)


def test_export_of_what_a_killed_program_left(tmp_path, capsys):
    with ResultWriter(tmp_path / "a.h5", METADATA) as writer:
        writer.begin("", 2, 5, frame_rate_hz=10.0).write([1], ramp(1, 5))
    assert main(["export", "a.h5", "b.csv"]) == 1
    assert "a.incomplete.h5" in capsys.readouterr().err
    assert main(["export", "a.incomplete.h5", "b.csv"]) == 0
    assert "incomplete" in capsys.readouterr().out
    assert (tmp_path / "b.csv").read_text().splitlines()[1] == "0,0.000000,,0"
    assert names_in(tmp_path) == ["a.incomplete.h5", "b.csv"]


def test_discretize_reads_portable_results(tmp_path, capsys):
    counts = np.zeros((3, 300), np.float32)
    counts[0, [50, 120, 200]] = 1
    counts[1, 80] = 2
    prob = smooth_spikes(counts, smoothing_s=0.025, frame_rate_hz=30.0)
    timestamps = np.arange(300) / 30 + 100
    with ResultWriter(tmp_path / "a.h5", {"model": MODEL, "smoothing_s": 0.025, "causal_kernel": False}) as writer:
        for name in ("plane0", "plane1"):
            target = writer.begin(name, 3, 300, frame_rate_hz=30.0, first_frame=1000, timestamps=timestamps)
            target.write([0, 1, 2], prob if name == "plane1" else 0 * prob)
        writer.finish()
    assert main(["discretize", "a.h5"]) == 1
    assert "plane0, plane1" in capsys.readouterr().err
    told = answer(capsys, "discretize", "a.h5", "--plane", "plane1")
    assert (told["spikes"], told["silent_neurons"], told["n_neurons"], told["n_frames"]) == (5, 1, 3, 300)
    with np.load("a_spikes.npz") as spikes:
        np.testing.assert_array_equal(spikes["neuron"], [0, 0, 0, 1, 1])
        np.testing.assert_array_equal(spikes["frame"], [1050, 1120, 1200, 1080, 1080])
        np.testing.assert_allclose(spikes["time_s"], timestamps[[50, 120, 200, 80, 80]])
    write_portable(tmp_path / "b.h5")
    told = answer(capsys, "discretize", "b.h5", "--out", "b.csv")
    assert told["frame_rate_hz"] == 20.0
    assert (told["n_neurons"], told["n_frames"]) == (N_NEURONS, N_FRAMES)


def test_a_run_writes_a_portable_result(tmp_path, capsys):
    dff = np.random.default_rng(0).normal(0, 0.05, (4, 300)).astype(np.float32)
    np.save("in.npy", dff)
    common = [
        "run",
        "--model",
        MODEL,
        "--frame-rate",
        "30",
        "--source",
        "in.npy",
        "--lookahead",
        "2,15",
        "--view",
        "none",
    ]
    assert main([*common, "--sink", "a.h5", "--sink", "b.npz", "--calibration-s", "3"]) == 0
    capsys.readouterr()
    with open_result("a.h5") as portable, open_result("b.npz") as plain:
        np.testing.assert_array_equal(portable.spike_prob[:], plain.spike_prob)
        np.testing.assert_array_equal(portable.valid[:].astype(bool), plain.valid)
        np.testing.assert_array_equal(portable.frame_index, plain.frame_index)
        np.testing.assert_array_equal(portable.revisions[2].spike_prob[:], plain.revisions[2].spike_prob)
        np.testing.assert_array_equal(portable.noise_levels, plain.noise_levels)
        assert portable.complete
        assert (portable.metadata["model"], portable.lookahead_frames) == (MODEL, 15)
    assert main([*common, "--sink", "a.h5"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    # The kernel of a spike is known from the result itself.
    assert answer(capsys, "discretize", "a.h5")["smoothing_s"] == 0.025
    assert names_in(tmp_path) == ["a.h5", "a_spikes.npz", "b.npz", "in.npy"]

"""``python -m training evaluate`` on finished models, and ``generalise``, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from networks import picking_layers, picking_network, spec_for, write_published
from truth_files import write_dataset

from cascade_rt.bundle import write_bundle
from training.cli import main

GCAMP, OGB = "DS30-GCaMP8f-m-V1", "DS01-OGB1-m-V1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ground truth in which the recording is the truth; a model that copies it, and a published one that does so."""
    folder = tmp_path_factory.mktemp("place")
    write_dataset(folder / "truth", GCAMP)
    write_dataset(folder / "truth", OGB, neurons=3)
    network = picking_network(64, (0, 2, 31))
    spec = spec_for(network, (0, 2, 31), name="copying", training_datasets=(OGB,))
    write_bundle(folder / "copying", spec, {None: network}, card="", config={})
    for name, changes in {"causal": {"causal_kernel": 1}, "slow": {"sampling_rate": 7.5}}.items():
        write_published(
            folder / "published" / name,
            make=lambda rng: picking_layers(64, 32),
            levels=(1,),
            training_datasets=["DS02-GCaMP8f-m-V1"],
            **changes,
        )
    return folder


def _evaluate(place: Path, tmp_path: Path, *options: str) -> int:
    folders = ["--ground-truth", place / "truth", "--published", place / "published", "--runs", tmp_path / "runs"]
    return main(["evaluate", *options, *map(str, folders), "--noise-levels", "0.25", "0.5"])


def test_a_finished_model_beside_published_weights(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "scores.png"
    assert _evaluate(place, tmp_path, str(place / "copying"), "--against", "causal", "--plot", str(picture)) == 0
    text = capsys.readouterr().out
    assert "### copying on datasets that it was not trained on" in text
    assert f"Medians over the neurons of {GCAMP} [95 % bootstrap interval]" in text
    assert "causal on the same neurons, against true spikes smoothed with its own causal kernel of 50 ms" in text
    assert "against true spikes smoothed with the evaluated model's Gaussian of 50 ms; it was trained on DS30" in text
    assert "| causal, 31 | this model, 2 | difference, 2 | this model, 31 | difference, 31 |" in text
    height, width, _ = imread(picture).shape
    assert width > 1500
    assert height > 1000

    document = json.loads((tmp_path / "runs" / "copying" / "evaluation.json").read_text(encoding="utf-8"))
    assert {row["dataset"] for table in document["tables"] for row in table["scores"]} == {GCAMP}
    summary = {(r["dataset"], r["noise_level"], r["lookahead"]): r for r in document["tables"][0]["summary"]}
    quiet, noisy = summary["all", 0.25, 31], summary["all", 0.5, 31]
    assert quiet["correlation"]["median"] > noisy["correlation"]["median"] > 0.7
    assert quiet["timing_error_ms"]["median"] < 5
    assert quiet["detected_percent"]["median"] > 95
    same = document["comparisons"][1]["summary"][-1]["correlation"]["difference"]
    assert same["median"] == pytest.approx(0, abs=0.01)


def test_json_is_all_that_is_printed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _evaluate(place, tmp_path, str(place / "copying"), "--datasets", "DS01", "DS30", "--json") == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [t["test"] for t in document["tables"]] == ["unseen", "seen"]
    assert "WAS TRAINED ON" in document["tables"][1]["title"]
    assert document == json.loads((tmp_path / "runs" / "copying" / "evaluation.json").read_text(encoding="utf-8"))


def test_published_weights_can_be_what_is_scored(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(place, tmp_path, str(place / "published" / "causal"), "--datasets", "DS01") == 0
    assert "### causal on datasets that it was not trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "slow"], r"slow is for 7.5 Hz and copying for 30 Hz"),
        (["--against", "nothing"], "no model 'nothing'"),
        (["--datasets", "DS77"], "'DS77': found 0"),
        (["--plot", "scores.gif"], ".png, .pdf, .svg"),
    ],
    ids=["rate", "unknown", "dataset", "picture"],
)
def test_what_cannot_be_done_is_said_at_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert _evaluate(place, tmp_path, str(place / "copying"), *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_and_a_model_of_the_same_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name alone is the configuration; --model asks for the shipped model."""
    name = "GCaMP8_EXC_30Hz_smoothing25ms"
    assert _evaluate(place, tmp_path, name, "--datasets", "DS01") == 1
    assert "add --model" in capsys.readouterr().err
    assert _evaluate(place, tmp_path, name, "--datasets", "DS01", "--model") == 0
    assert f"### {name} on datasets that it was not trained on" in capsys.readouterr().out
    assert _evaluate(place, tmp_path, "NoSuchModel") == 1
    assert "no model 'NoSuchModel'" in capsys.readouterr().err
    assert _evaluate(place, tmp_path, name, "--noise-levels", "0") == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_leave_one_dataset_out(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the configuration to the table; the second time nothing is trained."""
    pytest.importorskip("tensorflow", reason="training needs TensorFlow (the extra 'train')")
    pytest.importorskip("tf2onnx", reason="export needs tf2onnx (the extra 'train')")
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"name: tiny\nframe_rate_hz: 30.0\nsmoothing_s: 0.05\ndatasets: [{OGB}, {GCAMP}]\n"
        "network: {filter_sizes: [5, 3, 3], filter_numbers: [4, 4, 4], dense_expansion: 4, noise_hidden: 2,"
        " noise_range: [0.2, 1.0], lookahead_frames: [0, 4]}\n"
        "fit: {target_frames: 200000, segment_frames: 80, batch: 16, block_steps: 20, learning_rate: 0.005,"
        " warmup_steps: 10, phases: 1, methods: [average], jit: false}\n",
        encoding="utf-8",
    )
    options = ["--ground-truth", str(place / "truth"), "--runs", str(tmp_path / "runs"), "--noise-levels", "0.5"]
    command = ["generalise", str(config), *options]
    assert main([*command, "--plot", str(tmp_path / "left_out.png")]) == 0
    text = capsys.readouterr().out
    assert "Leave one dataset out" in text
    assert f"| {OGB} | 0.5 | 3 |" in text
    assert f"| {GCAMP} | 0.5 | 2 |" in text
    assert imread(tmp_path / "left_out.png").shape[1] > 1500
    parts = [tmp_path / "runs" / "tiny" / name / "checkpoint.npz" for name in ("without_DS01", "without_DS30")]
    before = [path.read_bytes() for path in parts]
    assert main([*command, "--datasets", "DS30", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["dataset"] for row in document["tables"][0]["scores"]} == {GCAMP}
    assert [path.read_bytes() for path in parts] == before

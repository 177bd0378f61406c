"""``python -m training fit``, as a user runs it: from scratch, from a published configuration, from a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_fit import write_start
from truth_files import write_dataset

from training.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SHAPE = {"filter_sizes": [9, 5, 3], "filter_numbers": [4, 5, 6], "dense_expansion": 4}
SHORT = {"target_frames": 8000, "segment_frames": 158, "batch": 2, "block_steps": 5, "warmup_steps": 5, "jit": False}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("keras", reason="training needs Keras (the extra 'train')")
    folder = tmp_path_factory.mktemp("truth")
    write_dataset(folder, "DS98-mine", neurons=3, seconds=60.0)
    write_dataset(folder, "DS99-other", neurons=2, seconds=60.0)
    return folder


def _fit(truth: Path, folder: Path, values: dict[str, Any], *options: str) -> int:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return main(["fit", str(path), "--ground-truth", str(truth), "--runs", str(folder / "runs"), *options])


def test_a_published_configuration(
    truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    values = {
        "model_name": "theirs",
        "sampling_rate": 30,
        "training_datasets": ["DS98-mine", "DS99-other"],
        "noise_levels": [2, 3, 4],
        "smoothing": 0.05,
        "causal_kernel": 0,
        "windowsize": 64,
        "before_frac": 0.5,
        "ensemble_size": 5,
        **SHAPE,
        "network": {"lookahead_frames": [0, 5]},
        "fit": SHORT,
    }
    with caplog.at_level(logging.WARNING, "training"):
        assert _fit(truth, tmp_path, values) == 0
    assert "ensemble_size 5: one network" in "\n".join(caplog.messages)
    out = capsys.readouterr().out
    picture = tmp_path / "runs" / "theirs" / "all" / "loss.png"
    assert f"Loss curve: {picture}" in out
    assert "theirs, all: " in out
    assert picture.is_file()


def test_from_a_model_with_ones_own_ground_truth(
    truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.fit import read_record

    start = write_start(tmp_path / "start")
    values = {"name": "mine", "datasets": "all", "fit": {**SHORT, "validation_share": 0.2, "validation_blocks": 1}}
    assert _fit(truth, tmp_path, values, "--from", str(start)) == 0
    out = capsys.readouterr().out
    assert f"starting from {start}" in out
    assert "(1 neuron held out," in out
    record = read_record(tmp_path / "runs" / "mine" / "all")
    assert len(record["held_out"]) == 1
    assert _fit(truth, tmp_path, {**values, "smoothing_s": 0.1}, "--from", str(start)) == 1
    assert f"smoothing_s is 0.1 s, but {start} was trained with 0.05 s" in capsys.readouterr().err

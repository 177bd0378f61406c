"""``python -m training zoo`` as a user runs it: killed, run again, with a model that cannot be made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from truth_files import write_dataset

import training

psutil = pytest.importorskip("psutil")

TINY = (
    "frame_rate_hz: 30.0\nsmoothing_s: 0.05\n"
    "network: {filter_sizes: [5, 3, 3], filter_numbers: [4, 4, 4], dense_expansion: 4, noise_hidden: 2,"
    " noise_range: [0.2, 10.0], lookahead_frames: [0, 4]}\n"
    "fit: {target_frames: 300_000, segment_frames: 80, batch: 16, block_steps: 20, learning_rate: 0.005,"
    " warmup_steps: 10, phases: 1, methods: [average], jit: false, checkpoint_blocks: 1}\n"
)


NOTHING_TO_DO = "0 tasks to do for 1 models and studies, 2 at a time\nall is done\n"


def _write(path: Path, name: str, more: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"name: {name}\n{more}\n" + TINY, encoding="utf-8")


def _start(place: Path, *options: str) -> subprocess.Popen[str]:
    paths = [str(Path(training.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    folders = ["--ground-truth", "truth", "--runs", "runs", "--to", "models", "--configs", "configs"]
    return subprocess.Popen(
        [sys.executable, "-m", "training", "zoo", *folders, *options],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _zoo(place: Path, *options: str) -> tuple[int, str]:
    process = _start(place, *options)
    text, _ = process.communicate()
    return process.returncode, text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_run_again_and_a_model_that_fails(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="training needs TensorFlow (the extra 'train')")
    pytest.importorskip("tf2onnx", reason="export needs tf2onnx (the extra 'train')")
    write_dataset(tmp_path / "truth", "DS98-a")
    write_dataset(tmp_path / "truth", "DS99-b")
    configs = tmp_path / "configs"
    _write(configs / "model.yaml", "model", "datasets: [DS98-a]\ntest_datasets: [DS99-b]\nfolds: 2")
    _write(configs / "broken.yaml", "broken", "datasets: [DS77-missing]")

    # Killed while a fit is going on: its process ends too, and its checkpoint stays.
    process = _start(tmp_path, "--jobs", "1", "--only", "model")
    checkpoint = tmp_path / "runs" / "model" / "all" / "checkpoint.npz"
    while not checkpoint.exists():
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"ended with {process.wait(0.05)}: {process.communicate()[0]}")
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "a worker outlived the command"

    # What was begun shows; what fails is told, and the rest is made.
    code, text = _zoo(tmp_path, "--list", "--only", "model")
    assert code == 0
    assert "0 of 3 + " in text
    code, text = _zoo(tmp_path, "--jobs", "2")
    assert code == 1, text
    assert "broken, all: FAILED" in text
    assert "'DS77-missing': found 0" in text
    assert "not finished: broken\n" in text
    log = (tmp_path / "runs" / "model" / "all" / "log.txt").read_text(encoding="utf-8")
    assert log.count("model, all: begins") == 2
    card = (tmp_path / "models" / "model" / "CARD.md").read_text(encoding="utf-8")
    assert "Datasets that the model was not trained on" in card
    assert "2-fold cross-validation" in card

    # Nothing more to do, until there is no bundle.
    code, text = _zoo(tmp_path, "--list")
    rows = {line.split()[0]: " ".join(line.split()[-5:]) for line in text.splitlines()}
    assert rows["model"] == "3 of 3 done done"
    assert rows["broken"] == "0 of 1 - -"
    assert _zoo(tmp_path, "--jobs", "2", "--only", "model") == (0, NOTHING_TO_DO)
    shutil.rmtree(tmp_path / "models")
    assert _zoo(tmp_path, "--list", "--only", "model")[1].endswith("3 of 3  done    -\n")

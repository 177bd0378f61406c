"""A fit that is killed, again and again, ends with the weights of one that was not; on more than one Keras backend."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import training

SCRIPT = Path(__file__).parents[1] / "small_fit.py"
#: One process after another on the same folder, each killed: the fit has 40 steps in blocks of 4, a checkpoint and a
#: scoring of held-out neurons after every 2 blocks.
MOMENTS = {
    "tensorflow": ("checkpoint:2", "validation:1", "replacing:1", "block:28"),
    "jax": ("checkpoint:3", "block:28"),
}


def _process(folder: Path, backend: str, *moment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(training.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *moment],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def _answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", MOMENTS)
def test_killed_and_resumed(tmp_path: Path, backend: str) -> None:
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec(backend) is None:
        pytest.skip(f"Keras on {backend} is not installed")
    whole = _answer(_process(tmp_path / "whole", backend))
    assert whole["steps"] == list(range(4, 41, 4))
    for moment in MOMENTS[backend]:
        killed = _process(tmp_path / "killed", backend, moment)
        assert killed.returncode != 0, f"{moment}: was to be killed, but ended: {killed.stdout}"
        assert not killed.stdout, killed.stderr
    resumed = _answer(_process(tmp_path / "killed", backend))
    assert resumed["steps"] == list(range(28, 41, 4))
    assert resumed["weights"] == whole["weights"]
    files = {path.name for path in (tmp_path / "killed").iterdir()}
    assert files == {"checkpoint.npz", "fit.json", "loss.csv", "loss.png"}
    for name in ("fit.json", "loss.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # What was fitted on one backend is exported from another: a finished run is the same on each.
    if backend != "tensorflow" and importlib.util.find_spec("tensorflow") is not None:
        assert _answer(_process(tmp_path / "killed", "tensorflow")) == {"steps": [], "weights": whole["weights"]}

"""Sessions for tests of batches, and the command as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cascade_rt
import cascade_rt as crt

ROOT = Path(cascade_rt.__file__).parents[1]
MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"


def write_sessions(folder: Path, n_sessions: int) -> list[Path]:
    """Small sessions, of alternating formats, each in a folder of its own."""
    paths = []
    for number in range(n_sessions):
        place = folder / f"session{number:02d}"
        place.mkdir(parents=True)
        dff = crt.simulate(4, 20.0, 30.0, indicator="GCaMP8m", seed=number).dff
        if number % 2:
            np.save(place / "traces.npy", dff)
            paths.append(place / "traces.npy")
        else:
            np.savez(place / "traces.npz", dff=dff, frame_rate_hz=30.0)
            paths.append(place / "traces.npz")
    return paths


def start(folder: Path, *options: Any) -> subprocess.Popen[bytes]:
    """Start the batch on everything below ``folder``, in a process of its own."""
    command = [sys.executable, "-m", "cascade_rt.cli", "batch", str(folder), "--model", MODEL, "--frame-rate", "30"]
    return subprocess.Popen(
        [*command, "--no-reports", *map(str, options)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def results(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Spike probabilities and noise levels of every session; each is complete."""
    found = {}
    for path in sorted(folder.rglob("*_cascade.h5")):
        with crt.open_result(path) as result:
            assert result.complete, path
            found[path.parent.name] = (result.spike_prob[:], result.noise_levels)
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert sorted(one) == sorted(other)
    for name, (prob, nu) in one.items():
        np.testing.assert_array_equal(prob, other[name][0])
        np.testing.assert_array_equal(nu, other[name][1])

"""The benchmarks run; their bounds are not asked for here, where other tests keep the processor busy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cascade_rt
from cascade_rt.benchmarks import synthetic_dff
from cascade_rt.noise import noise_levels

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("script", sorted(path.name for path in BENCH.glob("bench_*.py")))
def test_smoke(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), "--smoke"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(cascade_rt.__file__).parents[1])},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["machine"]["cores"] >= 1
    assert list(tmp_path.iterdir()) == []


def test_synthetic_noise_has_the_level_asked_for() -> None:
    wanted = np.array([1.0, 3.0, 8.0])
    dff = synthetic_dff(3, 6000, frame_rate_hz=30.0, noise_levels=wanted)
    np.testing.assert_allclose(noise_levels(dff, frame_rate_hz=30.0), wanted, rtol=0.1)
    np.testing.assert_array_equal(dff, synthetic_dff(3, 6000, frame_rate_hz=30.0, noise_levels=wanted))

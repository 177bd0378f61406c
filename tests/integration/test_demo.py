"""The demonstration: three real processes, real sockets, the recording's own frame rate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cascade_rt
from cascade_rt.chunks import SpikeChunk
from cascade_rt.demo import MODEL, load_demo, median_correlation, run_demo
from cascade_rt.errors import CascadeError, InputError
from cascade_rt.noise import noise_levels
from cascade_rt.rehearsal import Received


def chunk(first: int, values: np.ndarray, lookahead: int = 2) -> SpikeChunk:
    prob = np.asarray(values, np.float32)
    return SpikeChunk(spike_prob=prob, first_frame=first, valid=np.isfinite(prob), lookahead_frames=lookahead)


def test_demo_from_an_empty_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cascade_rt", "demo", "--seconds", "4", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(cascade_rt.__file__).parents[1])},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"]
    assert (told["lost"], told["n_frames"], told["problems"]) == (0, 120, [])
    assert told["largest_difference"] <= 1e-5
    assert set(told["lookaheads"]) == {"2", "15"}
    for entry in told["lookaheads"].values():
        assert entry["frames"] == 120
        assert entry["same_undefined"]
        assert entry["correlation"] > 0.5
    assert told["latency"]["count"] >= 100
    assert [path.name for path in tmp_path.iterdir()] == ["demo_output"]
    assert [path.name for path in (tmp_path / "demo_output").iterdir()] == ["demo.png"]
    assert (tmp_path / "demo_output" / "demo.png").stat().st_size > 20_000


def test_a_process_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=r"run process ended with exit code 1: .*no look-ahead of 4 frames"):
        run_demo(tmp_path, seconds=3.0, lookaheads=(4,), live_view=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.5, 1e6])
def test_lengths_that_cannot_be_shown(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InputError, match="can be shown for"):
        run_demo(tmp_path, seconds=seconds)


def test_the_recording_is_what_it_says() -> None:
    demo = load_demo()
    n_neurons, n_frames = demo.dff.shape
    assert n_neurons >= 30
    assert n_frames >= 60 * demo.frame_rate_hz
    np.testing.assert_allclose(demo.noise_levels, noise_levels(demo.dff, frame_rate_hz=demo.frame_rate_hz), rtol=1e-5)
    counts = demo.spike_counts()
    assert counts.sum() == sum(len(times) for times in demo.spike_times_s) > 500
    part = demo.first(300)
    assert part.dff.shape == (n_neurons, 300)
    np.testing.assert_array_equal(part.spike_counts(), counts[:, :300])


def test_the_model_finds_the_spikes_of_the_recording() -> None:
    demo = load_demo()
    model = cascade_rt.load_model(MODEL)
    prob = cascade_rt.predict(demo.dff, model, frame_rate_hz=demo.frame_rate_hz)
    counts = demo.spike_counts()
    assert median_correlation(prob, counts, model.spec) > 0.7
    # Shifted by a frame it fits worse: the recording's spikes and frames are aligned.
    for shift in (-1, 1):
        assert median_correlation(prob, np.roll(counts, shift, axis=1), model.spec) < median_correlation(
            prob, counts, model.spec
        )


def test_what_is_received_is_put_together() -> None:
    received = Received(2, 5, [2, 15])
    received.add(chunk(0, [[1, 2], [3, 4]]))
    received.add(chunk(2, [[5, 6, 7], [8, 9, 10]]))
    received.add(chunk(0, np.ones((2, 5)), lookahead=15))
    np.testing.assert_array_equal(received.spike_prob[2], [[1, 2, 5, 6, 7], [3, 4, 8, 9, 10]])
    assert received.lost() == 0
    assert received.unexpected == []


def test_loss_repetition_and_strangers_are_seen() -> None:
    received = Received(1, 6, [2])
    received.add(chunk(0, [[1, 2]]))
    received.add(chunk(1, [[2, 3]]))  # frame 1 twice
    received.add(chunk(4, [[5, 6]]))  # frame 3 never
    assert received.lost() == 2
    received.add(chunk(5, [[6, 7]]))
    received.add(chunk(0, [[1]], lookahead=3))
    received.add(chunk(0, [[1], [2]]))
    assert len(received.unexpected) == 3


def test_damaged_recording(tmp_path: Path) -> None:
    (tmp_path / "demo.npz").write_bytes(b"PK")
    with pytest.raises(CascadeError, match="install cascade-rt again"):
        load_demo(tmp_path / "demo.npz")

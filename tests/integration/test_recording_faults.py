"""Recording under fault: killed at any moment, a disk that is full or slow. What is there opens and is reproduced."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from live import Bench, Command, recording
from networks import write_conditioned

from cascade_rt.endpoints.attachments import attach_model
from cascade_rt.endpoints.buffered import BufferedSink
from cascade_rt.endpoints.files import RecordingFolder
from cascade_rt.endpoints.results import NpyAppender
from cascade_rt.engine import load_model
from cascade_rt.formats import read_recording
from cascade_rt.ports import EndOfStream
from cascade_rt.recorded import RecordedRun
from cascade_rt.rerun import rerun
from cascade_rt.runner import Runner
from cascade_rt.stream import SpikeStream
from cascade_rt.testing import ListSink, ListSource, ramp_chunks

KILLS = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_conditioned(tmp_path_factory.mktemp("faults") / "small", lookaheads=(0, 2, 7))


def start(bundle, bench, folder, *more):
    return Command(
        "run", "--model", bundle, *bench.endpoints, "--record", "kept", "--lookahead", "2,7", "--calibration-s", 3,
        "--threads", 1, "--view", "none", "--json", *more, folder=folder,
    )  # fmt: skip


def test_killed_at_any_moment(bundle, tmp_path):
    """Frames come at 200 Hz with gaps and restarts, calibration and all; the run is killed at random."""
    rng = np.random.default_rng(11)
    dff = recording(n_frames=3000)
    seen = []
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        frames_before = int(rng.integers(1, 700))
        with Bench() as bench, start(bundle, bench, folder) as command:
            sent = 0
            while sent < frames_before:
                sent = bench.send(dff[:, sent : sent + 5], first_frame=sent, pause_s=0.01) + 3 * (sent % 100 == 95)
            time.sleep(rng.uniform(0, 0.01))
            command.kill()
        kept = folder / "kept"
        if not (kept / "run.json").is_file():  # nothing had been written yet
            continue
        run = RecordedRun(kept)
        assert not run.ended
        assert json.loads((kept / "run.json").read_text(encoding="utf-8"))["complete"] is False
        if not run.n_frames:
            continue
        readable = read_recording(kept)
        np.testing.assert_array_equal(readable.dff, dff[:, readable.frames])
        told = rerun(kept)
        assert told.agrees(), (number, told)
        assert told.frames == run.n_frames
        seen.append((run.n_frames, sum(entry.frames for entry in told.lookaheads)))
    assert len(seen) >= KILLS // 2
    assert sum(compared for _, compared in seen) > 500


needs_tmpfs = pytest.mark.skipif(sys.platform != "linux", reason="a small disk is made with tmpfs")


@needs_tmpfs
def test_a_full_disk(bundle, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a small disk needs permission to mount one")
    try:
        dff = recording(n_neurons=60, n_frames=2500)
        with Bench() as bench, Command(
            "run", "--model", bundle, *bench.endpoints, "--record", disk / "kept", "--lookahead", "2", "--threads", 1,
            "--calibration-s", 3, "--view", "none", folder=tmp_path,
        ) as command:  # fmt: skip
            bench.send(dff[:, :2000], [20] * 100)
            bench.receive(until=(2, 1997))
            deadline = time.monotonic() + 20
            while not any(disk.rglob("dff.npy")) and time.monotonic() < deadline:
                time.sleep(0.01)
            bench.send_end(bench.send(dff[:, 2000:], [20] * 25, first_frame=2000))
            bench.receive()
            code, out = command.wait()
        assert code == 1
        assert "RECORDING INCOMPLETE" in out
        assert "No space left on device" in out
        assert "frames: 2500 processed, 0 lost" in out
        assert "nothing more is recorded; the run goes on" in command.stderr
        frame, _, _ = bench.values(2)
        np.testing.assert_array_equal(frame, np.arange(2500), err_msg="the live receiver got everything")
        assert json.loads((disk / "kept" / "run.json").read_text(encoding="utf-8"))["complete"] is False
        if RecordedRun(disk / "kept").n_frames:
            readable = read_recording(disk / "kept")
            np.testing.assert_array_equal(readable.dff, dff[:, readable.frames])
            assert rerun(disk / "kept").agrees()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing stops as long as the event is cleared."""
    running = threading.Event()
    running.set()
    write = NpyAppender.append

    def append(self, columns):
        running.wait()
        write(self, columns)

    monkeypatch.setattr(NpyAppender, "append", append)
    yield running
    running.set()


class Paced(ListSource):
    """Stops the disk at one frame and lets it go on at another; never far ahead of the run and of a disk that works."""

    def __init__(self, items, disk, live, stop_at, go_at):
        super().__init__(items)
        self._plan = {stop_at: disk.clear, go_at: disk.set}
        self._live = live
        self.settled = lambda: True

    def receive(self, timeout_s):
        item = super().receive(timeout_s)
        first = getattr(item, "first_frame", 0)
        deadline = time.monotonic() + 20
        if first in self._plan:
            while self._live.frames < first - 8 and time.monotonic() < deadline:
                time.sleep(0.0005)
            self._plan.pop(first)()
        while (self._live.frames < first - 20 or not self.settled()) and time.monotonic() < deadline:
            time.sleep(0.0005)
        return item


class Counting(ListSink):
    frames = 0

    def send(self, chunk):
        super().send(chunk)
        self.frames += chunk.n_frames if chunk.lookahead_frames == 2 else 0


@pytest.mark.parametrize("given", [True, False], ids=["noise levels given", "hole in the calibration"])
def test_a_disk_that_is_too_slow_for_a_while(bundle, tmp_path, slow_disk, given):
    """The run goes on; the recording has one hole that says where it is; everything away from it is reproduced."""
    model = load_model(bundle, threads=1)
    dff = recording(n_frames=900)
    items = [
        type(chunk)(frames=dff[:, chunk.first_frame : chunk.first_frame + 1], first_frame=chunk.first_frame, t_recv=1.0)
        for chunk in ramp_chunks(6, 900)
        if chunk.first_frame not in (700, 701)
    ]
    live = Counting()
    stop, go = (200, 400) if given else (100, 300)
    source = Paced([*items, EndOfStream(next_frame=900)], slow_disk, live, stop, go)
    nu = np.array([1.5, 2, 2.5, 3, 4, 6]) if given else None
    options = {"threshold": "zero", "alignment": "target", "allow_rate_mismatch": False, "calibration_s": 8.0}
    told = {"name": "small", "device": "cpu", "threads": 1}
    folder = RecordingFolder(
        tmp_path / "kept",
        configuration={
            "gap": "hold", "noise_levels": "given" if given else "calibrated", "stream": options, "model": told,
        },
        noise_levels=nu,
        attach=lambda place: {"model": {**told, **attach_model(bundle, place)}},
    )  # fmt: skip
    sink = BufferedSink(folder, capacity_bytes=40_000)
    source.settled = lambda: not slow_disk.is_set() or sink._bytes < 15_000

    def make(n, rate):
        return SpikeStream(
            model, n_neurons=n, frame_rate_hz=rate, noise_levels=nu, lookahead_frames=(2, 7), **options
        )  # fmt: skip

    summary = Runner(source, [live, sink], make, frame_rate_hz=30.0).run()
    assert summary.complete
    assert summary.frames["processed"] == 898
    np.testing.assert_array_equal(live.results(2)[0], np.arange(900))
    (account,) = summary.values["recordings"]
    assert not account["complete"]
    missing = account["missing"]
    assert missing["frames"] > 50
    assert stop - 5 < missing["first_frame"] < missing["stop_frame"] <= go + 60
    assert missing["frames"] == missing["stop_frame"] - missing["first_frame"]
    run = RecordedRun(tmp_path / "kept")
    assert run.n_frames + missing["frames"] == 898, "every frame is recorded or reported as missing"
    (hole,) = run.missing
    assert (hole["first_frame"], hole["stop_frame"]) == (missing["first_frame"], missing["stop_frame"])
    frames = read_recording(tmp_path / "kept").frames
    assert not np.isin(np.arange(hole["first_frame"], hole["stop_frame"]), frames).any()
    again = rerun(tmp_path / "kept")
    assert again.missing_frames == missing["frames"]
    for entry in again.lookaheads:
        assert entry.near_holes > 0
        assert entry.frames > 300
        assert entry.largest_difference < 1e-5
        assert entry.valid_equal
        assert entry.nan_pattern_equal

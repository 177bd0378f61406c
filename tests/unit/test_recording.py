"""The folder that a run records into, and the thread in front of it: nothing lost silently, readable at any moment."""

from __future__ import annotations

import errno
import json
import logging
import threading

import numpy as np
import pytest

from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.endpoints.attachments import attach_rules
from cascade_rt.endpoints.buffered import BufferedSink, Missing
from cascade_rt.endpoints.files import RecordingFolder
from cascade_rt.endpoints.growing import GrowingFolder
from cascade_rt.endpoints.results import NpyAppender
from cascade_rt.events import Event
from cascade_rt.formats import read_recording
from cascade_rt.gaps import Piece
from cascade_rt.ports import EndOfStream, RunInfo, Sink
from cascade_rt.recorded import RecordedRun, read_columns, read_lines
from cascade_rt.runner import Runner
from cascade_rt.testing import FakeStream, ListSink, ListSource, fake_spec, ramp, ramp_chunks

N = 4
CONFIGURATION = {"gap": "hold", "noise_levels": "given", "model": {"name": "fake"}, "stream": {}}


def run_info(**changes):
    metadata = {"frame_rate_hz": 30.0, "lookahead_frames": [2], "stream": "test", "model": "fake"}
    values = {"stream": "test", "n_neurons": N, "frame_rate_hz": 30.0, "lookaheads": (2,), "spec": fake_spec()}
    return RunInfo(**{**values, "metadata": metadata, **changes})


def result(first, n=1, *, provisional=False):
    prob = ramp(N, n, first)
    return SpikeChunk(
        spike_prob=prob, first_frame=first, valid=np.ones(prob.shape, bool), lookahead_frames=2, provisional=provisional
    )


def piece(first, n=1, **more):
    return Piece(frames=ramp(N, n, first), first_frame=first, arrivals=(100.0 + first,), **more)


class SlowSink:
    """Waits at each call until it is let through; remembers what it got."""

    live = False
    dropped = 0
    name = "slow"

    def __init__(self, fail_at=None):
        self.gate = threading.Semaphore(0)
        self.calls = []
        self.fail_at = fail_at
        self.left = None

    def _call(self, what):
        self.gate.acquire()
        if self.fail_at == len(self.calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.calls.append(what)

    def open(self, stopped):
        self.calls.append("open")

    def start(self, info):
        self.calls.append("start")

    def send(self, chunk):
        self._call(("send", chunk.first_frame))

    def keep_piece(self, piece, dff=None):
        self._call(("piece", piece.first_frame))

    def send_event(self, event):
        self._call(("event", event.frame))

    def note_missing(self, missing):
        self.calls.append(("missing", missing.first_frame, missing.stop_frame, missing.frames))

    def finish(self, next_frame, *, complete, metadata):
        self.calls.append(("finish", complete, metadata["recording"]["missing"]))

    def abandon(self, account):
        self.left = account

    def close(self):
        self.calls.append("close")


def free(sink, n=10_000):
    sink.gate.release(n)


def settle(sink, n):
    """Wait until the inner sink got so many calls."""
    for _ in range(5000):
        if len(sink.calls) >= n:
            return
        threading.Event().wait(0.001)
    raise AssertionError(sink.calls)


def test_everything_arrives_in_order_and_the_hooks_are_those_of_the_sink():
    inner = SlowSink()
    free(inner)
    sink = BufferedSink(inner)
    assert isinstance(sink, Sink)
    assert not hasattr(sink, "keep_control")
    sink.open(lambda: False)
    sink.start(run_info())
    for first in range(5):
        sink.keep_piece(piece(first), None)
        sink.send(result(first))
    sink.finish(5, complete=True, metadata={})
    sink.close()
    sink.close()
    expected = [call for first in range(5) for call in (("piece", first), ("send", first))]
    assert inner.calls == ["open", "start", *expected, ("finish", True, None), "close", "close"]
    account = sink.account()
    assert account["complete"]
    assert account["failure"] is account["missing"] is None


def test_a_slow_disk_leaves_one_counted_hole(caplog):
    inner = SlowSink()
    sink = BufferedSink(inner, capacity_bytes=10 * 1100)
    sink.open(lambda: False)
    sink.start(run_info())
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        for first in range(50):
            sink.keep_piece(piece(first), None)  # takes about 1000 bytes; nothing is written
    sink.send_event(Event(rule="a", kind="stimulate", frame=7))  # small and precious: still gets in
    kept = sink.account()["missing"]["first_frame"]
    assert 5 < kept <= 11
    assert sink.account()["missing"]["frames"] == 50 - kept
    assert [record.levelname for record in caplog.records] == ["WARNING"], "told once"
    assert "cannot be written as fast as frames come" in caplog.text
    free(inner)
    settle(inner, 2 + kept + 1)
    for first in range(50, 55):
        sink.keep_piece(piece(first), None)
    sink.finish(55, complete=True, metadata={})
    sink.close()
    pieces = [call for call in inner.calls if call[0] == "piece"]
    assert pieces == [("piece", first) for first in [*range(kept), *range(50, 55)]]
    at = inner.calls.index(("missing", kept, 50, 50 - kept))
    assert inner.calls[at + 1] == ("piece", 50), "told where it is"
    assert inner.calls.index(("event", 7)) < at
    finished = next(call for call in inner.calls if call[0] == "finish")
    assert finished[1] is False
    assert finished[2]["frames"] == 50 - kept
    assert not sink.account()["complete"]


def test_a_source_that_can_wait_loses_nothing():
    inner = SlowSink()
    sink = BufferedSink(inner, capacity_bytes=3000, wait=True)
    sink.open(lambda: False)
    sink.start(run_info())
    helper = threading.Timer(0.05, free, [inner])
    helper.start()
    for first in range(40):
        sink.send(result(first))
    sink.finish(40, complete=True, metadata={})
    sink.close()
    helper.join()
    assert [call for call in inner.calls if call[0] == "send"] == [("send", first) for first in range(40)]
    assert sink.account()["complete"]
    assert sink.account()["most_waiting_bytes"] <= 3000


def test_one_item_larger_than_the_buffer_is_written():
    inner = SlowSink()
    free(inner)
    sink = BufferedSink(inner, capacity_bytes=10)
    sink.open(lambda: False)
    sink.start(run_info())
    settle(inner, 2)
    sink.send(result(0, 1000))
    sink.finish(1000, complete=True, metadata={})
    sink.close()
    assert ("send", 0) in inner.calls


def test_a_full_disk_stops_the_recording_and_not_the_run(caplog):
    inner, live = SlowSink(fail_at=3), ListSink()
    free(inner)
    runner = Runner(
        ListSource([*ramp_chunks(N, 40), EndOfStream(next_frame=40)]), [live, BufferedSink(inner)],
        lambda n, rate: FakeStream(n_neurons=n, frame_rate_hz=rate, lookahead_frames=2), frame_rate_hz=30.0,
    )  # fmt: skip
    with caplog.at_level(logging.ERROR, "cascade_rt"):
        summary = runner.run()
    assert summary.complete, "the run itself is"
    np.testing.assert_array_equal(live.results(2)[0], np.arange(40))
    (account,) = summary.values["recordings"]
    assert not account["complete"]
    assert "No space left on device" in account["failure"]
    assert account["missing"]["results"]["2"] > 0
    assert "nothing more is recorded; the run goes on" in caplog.text
    assert inner.left["failure"] == account["failure"]
    assert inner.calls == ["open", "start", ("piece", 0), "close"], "nothing is tried again"


def test_the_end_does_not_wait_forever(caplog):
    inner = SlowSink()
    sink = BufferedSink(inner, finish_s=0.05)
    sink.open(lambda: False)
    sink.start(run_info())
    for first in range(5):
        sink.send(result(first))
    with caplog.at_level(logging.ERROR, "cascade_rt"):
        sink.finish(5, complete=True, metadata={})
    assert "were not written within 0.05 s" in sink.account()["failure"]
    assert sink.account()["missing"]["results"] == {"2": 5}
    free(inner)
    sink.close()
    assert ("finish", True, None) not in inner.calls


def test_a_bug_in_the_sink_comes_out_at_the_end():
    class Broken(SlowSink):
        def send(self, chunk):
            raise ZeroDivisionError("bug")

    sink = BufferedSink(Broken())
    sink.open(lambda: False)
    sink.start(run_info())
    sink.send(result(0))
    with pytest.raises(ZeroDivisionError):
        sink.finish(1, complete=True, metadata={})
    sink.close()


def test_missing_counts_by_kind():
    missing = Missing()
    assert not missing
    missing.add("send", result(3, 2))
    missing.add("keep_piece", piece(10, 3, reset="gap"))
    missing.add("keep_piece", piece(13, 2, touched=True))
    missing.add("keep_message", FrameChunk(frames=ramp(N, 2), first_frame=0))
    missing.add("send_event", Event(rule="a", kind="sham"))
    missing.add("keep_control", {"rule": "a"})
    told = missing.to_dict()
    assert json.loads(json.dumps(told)) == {
        "pieces": 2, "frames": 3, "filled": 2, "resets": 1, "first_frame": 10, "stop_frame": 15, "results": {"2": 2},
        "messages": 1, "events": 1, "controls": 1,
    }  # fmt: skip


# --- the folder --------------------------------------------------------------------------------------------


def write(folder, **options):
    sink = RecordingFolder(folder, configuration=CONFIGURATION, noise_levels=np.ones(N), **options)
    sink.open(lambda: False)
    sink.start(run_info())
    sink.keep_message(FrameChunk(frames=ramp(N, 3, 5), first_frame=5, t_source=0.5, t_recv=7.0))
    sink.keep_piece(piece(5, 3, t_source=1.5))
    sink.send(result(5, 1, provisional=True))
    sink.keep_piece(Piece(frames=ramp(N, 2, 8), first_frame=8, touched=True))
    sink.keep_control({"rule": "a", "action": "arm", "odd": float("nan")})
    sink.keep_piece(piece(10, 2, reset="gap"))
    sink.send(result(6, 2))
    sink.send_event(Event(rule="a", kind="stimulate", frame=6))
    return sink


def test_all_that_decides_about_results_is_kept(tmp_path):
    sink = write(tmp_path / "run")
    sink.keep_noise_levels(np.full(N, 2.0), 12)
    sink.finish(12, complete=True, metadata={"exit_reason": "end", "noise_levels": np.full(N, 2.0)})
    run = RecordedRun(tmp_path / "run")
    assert run.ended
    assert (run.n_frames, run.n_pieces) == (5, 3)
    a, b, c = run.steps()
    np.testing.assert_array_equal(a.piece.frames, ramp(N, 3, 5))
    assert (a.piece.first_frame, a.piece.t_source, a.piece.arrivals) == (5, 1.5, (105.0,))
    np.testing.assert_array_equal(b.piece.frames, np.repeat(ramp(N, 1, 7), 2, axis=1))
    assert (b.piece.touched, b.piece.first_frame, b.controls) == (True, 8, ())
    assert (c.piece.reset, c.piece.first_frame) == ("gap", 10)
    assert c.controls == ({"rule": "a", "action": "arm", "odd": None},)
    assert run.controls[0]["next_frame"] == 10
    kept = run.results(2)
    np.testing.assert_array_equal(kept.frame, [5, 6, 7])
    np.testing.assert_array_equal(kept.provisional, [True, False, False])
    assert run.events[0]["frame"] == 6
    np.testing.assert_array_equal(run.noise_levels_given, np.ones(N))
    np.testing.assert_array_equal(run.noise_levels, np.full(N, 2.0))
    assert run.described["noise_levels_final_before_frame"] == 12
    np.testing.assert_array_equal(read_columns(tmp_path / "run" / "message.npy", np.dtype(np.int64), 2), [[5], [3]])
    np.testing.assert_array_equal(read_recording(tmp_path / "run").frames, [5, 6, 7, 10, 11])


def test_fluorescence_and_what_was_made_of_it_are_both_kept(tmp_path):
    sink = RecordingFolder(tmp_path / "run", configuration=CONFIGURATION, noise_levels=np.ones(N))
    sink.open(lambda: False)
    sink.start(run_info())
    sink.keep_piece(piece(0, 3), ramp(N, 3) + 100)
    sink.keep_piece(Piece(frames=ramp(N, 2, 3), first_frame=3, touched=True), ramp(N, 2) + 200)
    sink.keep_piece(piece(5), ramp(N, 1) + 300)
    sink.finish(6, complete=True, metadata={})
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "fluorescence.npy"), ramp(N, 6)[:, [0, 1, 2, 5]])
    steps = list(RecordedRun(tmp_path / "run").steps())
    np.testing.assert_array_equal(steps[0].piece.frames, ramp(N, 3) + 100)
    np.testing.assert_array_equal(steps[1].piece.frames, ramp(N, 2) + 200)


def test_files_that_end_at_different_places_are_cut_to_agree(tmp_path):
    write(tmp_path / "run").finish(12, complete=True, metadata={})
    folder = tmp_path / "run"
    for name, n_frames, n_pieces in (("dff", 3, 1), ("dff_frame", 3, 1), ("dff_time", 3, 1), ("piece", 3, 1)):
        path = folder / f"{name}.npy"
        data = path.read_bytes()
        path.write_bytes(data[:-9])  # the last column is torn, whatever the header says
        run = RecordedRun(folder)
        assert (run.n_frames, run.n_pieces) == (n_frames, n_pieces), name
        assert len(list(run.steps())) == n_pieces
        path.write_bytes(data[:60])
        assert RecordedRun(folder).n_frames == 0
        path.write_bytes(data)
    frame = np.load(folder / "dff_frame.npy")
    np.save(folder / "dff_frame.npy", np.where(frame == 10, 0, frame))  # lengthened by a power failure, never filled
    assert RecordedRun(folder).n_pieces == 1


def test_a_torn_line_is_left_out_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"', encoding="utf-8")
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n', encoding="utf-8")
    with pytest.raises(Exception, match="line 2 is not JSON"):
        read_lines(path)


def test_a_hole_stands_in_for_the_frames_that_are_missing(tmp_path):
    sink = RecordingFolder(tmp_path / "run", configuration=CONFIGURATION, noise_levels=np.ones(N))
    sink.open(lambda: False)
    sink.start(run_info())
    sink.keep_piece(piece(0, 3))
    hole = Missing()
    for first in range(3, 8):
        hole.add("keep_piece", piece(first))
    sink.note_missing(hole)
    sink.keep_piece(piece(8, 2))
    broken = Missing()
    broken.add("keep_piece", piece(10))
    broken.add("keep_piece", piece(500, reset="gap"))
    sink.note_missing(broken)
    sink.keep_piece(piece(501))
    sink.finish(502, complete=False, metadata={})
    steps = list(RecordedRun(tmp_path / "run").steps())
    told = [(s.piece.first_frame, s.piece.n_frames, s.recorded, s.piece.touched, s.piece.reset) for s in steps]
    assert told == [
        (0, 3, True, False, ""),
        (3, 5, False, True, ""),
        (8, 2, True, False, ""),
        (501, 1, True, False, "gap"),
    ]
    assert np.isnan(steps[1].piece.frames).all()


def test_a_file_on_a_full_disk_keeps_what_it_promised(tmp_path, monkeypatch):
    clock = [0.0]
    growing = GrowingFolder(tmp_path / "run", N, {}, clock=lambda: clock[0])
    growing.add_piece(piece(0, 5), piece(0, 5).frames)
    clock[0] = 2.0
    growing.add_piece(piece(5, 5), piece(5, 5).frames)

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(NpyAppender, "_write_waiting", full)
    growing.add_piece(piece(10, 5), piece(10, 5).frames)
    with pytest.raises(OSError, match="No space"):
        growing.close()
    growing.abandon({"recording": {"failure": "No space left on device"}})
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "dff.npy"), ramp(N, 10))
    described = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert described["complete"] is False
    assert "No space" in described["recording"]["failure"]


def test_rules_are_copied_with_what_they_name(tmp_path):
    inside, outside = tmp_path / "rules", tmp_path / "lab"
    (inside / "parts").mkdir(parents=True)
    outside.mkdir()
    (inside / "parts" / "w.npy").write_bytes(b"weights")
    (outside / "mine.py").write_text("class Mine: ...", encoding="utf-8")
    text = "rules:\n  a:\n    weights: parts/w.npy\n    above: 1\n  b:\n    plugin: ../lab/mine.py:Mine\n"
    (inside / "mine.yaml").write_text(text, encoding="utf-8")
    kept = tmp_path / "kept"
    kept.mkdir()
    told = attach_rules(inside / "mine.yaml", kept)
    copy = (kept / told["copy"]).read_text(encoding="utf-8")
    assert set(told["files"]) == {"parts/w.npy", "elsewhere0/mine.py"}
    assert copy == text.replace("../lab/mine.py", "elsewhere0/mine.py")
    for name in told["files"]:
        assert (kept / "rules" / name).is_file()
    assert (kept / "rules" / "as_given.yaml").read_text(encoding="utf-8") == text


def test_a_place_where_nothing_can_be_written_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="no folder can be made"):
        RecordingFolder(tmp_path / "a" / "b").open(lambda: False)

"""The run loop with prepared sources and a stream whose results are its input: every frame is accounted for."""

from __future__ import annotations

import json
import logging
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_rt.chunks import FrameChunk
from cascade_rt.errors import FileFormatError, InputError, StreamError, WireError
from cascade_rt.ports import EndOfStream, Sink, Source
from cascade_rt.receiving import FrameQueue, Rejections, Stopped
from cascade_rt.runner import Runner
from cascade_rt.testing import FakeStream, ListSink, ListSource, ManualClock, ramp, ramp_chunks

RATE = 30.0


class Run:
    """A runner with a fake stream, its sink and its stream."""

    def __init__(self, items, *, sinks=None, lookahead=2, source=None, stream=None, **options):
        self.streams = []
        self.sinks = [ListSink()] if sinks is None else sinks
        self.stream_options = {"lookahead_frames": lookahead, **(stream or {})}
        self.source = source or ListSource(items)
        self.runner = Runner(self.source, self.sinks, self.make, **{"frame_rate_hz": RATE, **options})

    def make(self, n_neurons, rate):
        self.streams.append(FakeStream(n_neurons=n_neurons, frame_rate_hz=rate, **self.stream_options))
        return self.streams[-1]

    def __call__(self):
        return self.runner.run()


def check_results(sink, lookahead, frames, first=0):
    """What came out: every frame once, in order, and its own index where it is defined."""
    index, prob, valid = sink.results(lookahead)
    np.testing.assert_array_equal(index, frames)
    defined = ~np.isnan(prob[0])
    values = ramp(len(prob), index[-1] + 1 - first, first)[:, index - first]
    np.testing.assert_array_equal(prob[:, defined], values[:, defined])
    return prob, valid


def test_a_stream_to_its_end():
    run = Run([*ramp_chunks(3, 40, [4, 1, 5]), EndOfStream(next_frame=40)])
    summary = run()
    prob, valid = check_results(run.sinks[0], 2, np.arange(40))
    assert (np.flatnonzero(valid[0]) == np.arange(13, 38)).all(), "a window of 16 frames, 2 of them after the frame"
    assert summary.exit_reason == "end"
    assert summary.complete
    frames = summary.frames
    assert (frames["received"], frames["processed"], frames["lost"], frames["last"]) == (40, 40, 0, 39)
    assert run.sinks[0].finished["next_frame"] == 40
    assert not run.sinks[0].is_open
    assert not run.source.is_open
    assert run.streams[0].prepared > 0
    del prob


def test_the_immediate_result_goes_out_before_its_revisions():
    run = Run([*ramp_chunks(2, 40), EndOfStream()], lookahead=(0, 2, 7))
    run()
    order = [chunk.lookahead_frames for chunk in run.sinks[0].chunks]
    for lookahead in (0, 2, 7):
        check_results(run.sinks[0], lookahead, np.arange(40))
    newest = {}
    for chunk, lookahead in zip(run.sinks[0].chunks, order, strict=True):
        newest[lookahead] = chunk.first_frame + chunk.n_frames
        assert newest[0] >= newest.get(2, 0) >= newest.get(7, 0)
    assert run.runner.summary.to_dict()["integration"] == [
        {"lookahead_frames": n, "frames": n + 1, "ms": pytest.approx(1000 * (n + 1) / RATE, abs=0.01)}
        for n in (0, 2, 7)
    ]


def test_live_sinks_are_served_before_files():
    order = []

    class Noting(ListSink):
        def send(self, chunk):
            order.append((self.name, chunk.lookahead_frames))
            super().send(chunk)

    sinks = [Noting(live=False, name="file"), Noting(name="socket")]
    Run([*ramp_chunks(2, 12, [12]), EndOfStream()], sinks=sinks, lookahead=(2, 7))()
    assert order[:4] == [("socket", 2), ("socket", 7), ("file", 2), ("file", 7)]


def test_results_name_the_sources_frames_after_a_late_start():
    run = Run([*ramp_chunks(2, 40, first_frame=1000), EndOfStream()])
    summary = run()
    check_results(run.sinks[0], 2, np.arange(1000, 1040), first=1000)
    assert summary.frames["before_start"] == 1000
    assert summary.frames["lost"] == 0


@pytest.mark.parametrize("gap", ["hold", "nan"])
def test_a_gap_is_filled_and_marked(gap):
    chunks = ramp_chunks(2, 100)
    run = Run([*chunks[:40], *chunks[45:], EndOfStream()], gap=gap)
    summary = run()
    index, prob, valid = run.sinks[0].results(2)
    np.testing.assert_array_equal(index, np.arange(100))
    touched = np.arange(40 - 2, 45 + 15 - 2)
    assert not valid[:, touched].any()
    assert valid[:, 13:38].all()
    assert valid[:, 58:98].all()
    assert np.isnan(prob[:, 40:45]).all() == (gap == "nan")
    assert (summary.frames["lost"], summary.frames["filled"], summary.frames["gaps"]) == (5, 5, 1)
    assert summary.frames["processed"] + summary.frames["lost"] == 100


def test_a_long_gap_costs_nothing_and_keeps_the_index(caplog):
    far = 10**9
    run = Run([*ramp_chunks(2, 30), *[
        FrameChunk(frames=ramp(2, 1, i), first_frame=far + i) for i in range(30)], EndOfStream()])  # fmt: skip
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        summary = run()
    index, prob, valid = run.sinks[0].results(2)
    np.testing.assert_array_equal(index, [*range(30), *range(far, far + 30)])
    assert sum(run.streams[0].pushed) == 60
    assert not valid[:, 28 : 30 + 13].any()
    assert valid[:, 30 + 13 : 30 + 28].all()
    np.testing.assert_array_equal(prob[:, 30 + 13 : 30 + 28], ramp(2, 30)[:, 13:28])
    assert summary.frames["skipped"] == far - 30
    assert f"before frame {far}" in caplog.text


def test_a_gap_ends_a_run_that_must_have_none():
    chunks = ramp_chunks(2, 60)
    run = Run([*chunks[:40], *chunks[42:], EndOfStream()], gap="stop")
    with pytest.raises(StreamError, match="40 to 41"):
        run()
    check_results(run.sinks[0], 2, np.arange(40))
    assert run.sinks[0].finished["complete"] is False
    assert run.runner.summary.exit_reason == "error"
    assert "40 to 41" in run.runner.summary.error
    assert not run.sinks[0].is_open


def test_a_restarted_counter_is_followed(caplog):
    run = Run([*ramp_chunks(2, 60), *ramp_chunks(2, 40), EndOfStream()])
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        summary = run()
    index, prob, _ = run.sinks[0].results(2)
    np.testing.assert_array_equal(index, [*range(60), *range(40)])
    np.testing.assert_array_equal(prob[:, 60 + 13 : 60 + 38], ramp(2, 40)[:, 13:38])
    assert summary.frames["restarts"] == 1
    assert "counts anew" in caplog.text


def test_messages_that_do_not_fit_are_counted_and_change_nothing(caplog):
    good = ramp_chunks(2, 40, stream="s", frame_rate_hz=RATE)
    strange = [
        FrameChunk(frames=np.zeros((3, 1), np.float32), first_frame=5, stream="s"),
        FrameChunk(frames=np.zeros((2, 1), np.float32), first_frame=5, stream="other"),
        FrameChunk(frames=np.zeros((2, 1), np.float32), first_frame=5, stream="s", frame_rate_hz=15.0),
        WireError("shape", "bad shape"),
        WireError("shape", "bad shape again"),
        EndOfStream(stream="other"),
    ]
    run = Run([*good[:20], *strange, *good[20:], EndOfStream(stream="s")])
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        summary = run()
    check_results(run.sinks[0], 2, np.arange(40))
    assert summary.to_dict()["messages"]["rejected"] == {"neurons": 1, "rate": 1, "shape": 2, "stream": 2}
    assert caplog.text.count("bad shape") == 1, "logged at a limited rate"


def test_the_frame_rate_comes_from_the_first_message_if_not_given():
    run = Run([*ramp_chunks(2, 5, frame_rate_hz=7.5), EndOfStream()], frame_rate_hz=None)
    run()
    assert run.streams[0].frame_rate_hz == 7.5
    assert run.sinks[0].info.frame_rate_hz == 7.5


def test_a_missing_or_contradicting_frame_rate_ends_the_run():
    with pytest.raises(InputError, match="--frame-rate"):
        Run([*ramp_chunks(2, 5)], frame_rate_hz=None)()
    with pytest.raises(StreamError, match=r"says 15 Hz.*started with 30 Hz"):
        Run([*ramp_chunks(2, 5, frame_rate_hz=15.0)])()


def test_stop_processes_what_was_received():
    run = None
    source = ListSource(ramp_chunks(2, 50), then=lambda: run.runner.stop())
    run = Run((), source=source)
    summary = run()
    check_results(run.sinks[0], 2, np.arange(50))
    assert summary.exit_reason == "interrupted"
    assert summary.complete, "a live run has no end of its own"


def test_stopping_a_recording_leaves_it_incomplete():
    run = None
    source = ListSource(ramp_chunks(2, 50), finite=True, then=lambda: run.runner.stop())
    run = Run((), source=source)
    assert not run().complete
    assert run.sinks[0].finished["complete"] is False


def test_a_source_that_fails_ends_the_run_and_closes_everything():
    run = Run([*ramp_chunks(2, 20), FileFormatError("damaged at byte 5")])
    with pytest.raises(FileFormatError, match="byte 5"):
        run()
    check_results(run.sinks[0], 2, np.arange(20))
    assert not run.sinks[0].is_open
    assert not run.source.is_open


def test_a_stream_that_fails_is_not_asked_again():
    run = Run([*ramp_chunks(2, 20), EndOfStream()])

    def broken(n_neurons, rate):
        stream = FakeStream(n_neurons=n_neurons, frame_rate_hz=rate)

        def fail(frames, *, touched=False):
            raise StreamError("broken")

        stream.push = fail
        stream.flush = lambda: pytest.fail("flushed a broken stream")
        return stream

    run.runner._make_stream = broken
    with pytest.raises(StreamError, match="broken"):
        run()
    assert run.sinks[0].finished["complete"] is False


def test_a_sink_that_cannot_finish_does_not_cost_the_others():
    class Full(ListSink):
        def finish(self, next_frame, *, complete, metadata):
            raise FileFormatError("too large")

    sinks = [Full(live=False), ListSink(live=False)]
    run = Run([*ramp_chunks(2, 20), EndOfStream()], sinks=sinks)
    with pytest.raises(FileFormatError, match="too large"):
        run()
    assert sinks[1].finished["complete"] is True
    assert run.runner.summary.exit_reason == "error"
    assert not any(sink.is_open for sink in sinks)


def test_a_sink_that_cannot_open_leaves_nothing_open():
    class Refusing(ListSink):
        def open(self, stopped):
            raise InputError("in use")

    sinks = [ListSink(), Refusing()]
    run = Run([*ramp_chunks(2, 20), EndOfStream()], sinks=sinks)
    with pytest.raises(InputError, match="in use"):
        run()
    assert not any(sink.is_open for sink in sinks)
    assert sinks[0].chunks == []


def test_nothing_received():
    run = Run([EndOfStream(next_frame=7)])
    summary = run()
    assert run.sinks[0].info is None
    assert run.sinks[0].chunks == []
    assert summary.frames["before_start"] == 7
    assert summary.to_dict()["model"] is None


def test_frames_lost_at_the_end_are_reported():
    assert Run([*ramp_chunks(2, 20), EndOfStream(next_frame=23)])().frames["lost"] == 3


def test_latency_is_from_receiving_to_having_published():
    clock = ManualClock()

    class Slow(ListSink):
        def send(self, chunk):
            clock.advance(0.004 if chunk.lookahead_frames == 2 else 1.0)
            super().send(chunk)

    source = ListSource([*ramp_chunks(2, 30, t_recv=0.0), EndOfStream()])
    stream = {"noise_levels": np.ones(2)}
    run = Run((), source=source, sinks=[Slow()], lookahead=(2, 7), clock=clock, stream=stream)
    run.runner._queue.take = lambda *a, take=run.runner._queue.take: _fresh(take(*a), clock)
    summary = run()
    assert summary.latency["max_ms"] == pytest.approx(4, rel=0.01)
    assert summary.latency["deadline_misses"] == 0
    assert summary.latency["deadline_ms"] == pytest.approx(1000 / RATE, rel=1e-3)


def _fresh(items, clock):
    """One item at a time, received now."""
    from dataclasses import replace

    return [replace(item, t_recv=clock.now_s) if isinstance(item, FrameChunk) else item for item in items]


def test_times_travel_with_results():
    chunks = [FrameChunk(frames=ramp(2, 1, i), first_frame=i, t_source=100.0 + i, t_recv=float(i)) for i in range(30)]
    run = Run([*chunks, EndOfStream()])
    run()
    for chunk in run.sinks[0].chunks:
        if chunk.t_source is not None:
            newest = chunk.first_frame + chunk.n_frames - 1 + 2
            assert chunk.t_source == 100.0 + newest
            assert chunk.t_recv == newest
            assert chunk.t_emit is not None


def test_calibration_is_followed_and_reported(caplog):
    run = Run([*ramp_chunks(2, 60), EndOfStream()], stream={"calibration_s": 1.0})
    with caplog.at_level(logging.INFO, "cascade_rt"):
        summary = run()
    provisional = [chunk.provisional for chunk in run.sinks[0].chunks]
    assert provisional == sorted(provisional, reverse=True)
    assert any(provisional)
    assert not provisional[-1]
    assert "noise levels measured" in caplog.text
    assert summary.to_dict()["noise_levels"]["median"] == 1.0
    assert summary.to_dict()["calibration_finished"] is True
    np.testing.assert_array_equal(run.sinks[0].finished["metadata"]["noise_levels"], [1, 1])


def test_an_unfinished_calibration_is_reported():
    summary = Run([*ramp_chunks(2, 20), EndOfStream()], stream={"calibration_s": 60.0})()
    assert summary.to_dict()["calibration_finished"] is False
    assert summary.to_dict()["noise_levels"] is None
    assert summary.to_dict()["neurons"]["without_noise_level"] == 2


def test_unusable_neurons_are_counted():
    frames = ramp(5, 40)
    frames[0] = np.nan
    frames[1] = 3
    frames[2, :20] = np.nan
    frames[3, 7] = np.inf
    items = [FrameChunk(frames=frames[:, i : i + 4], first_frame=i) for i in range(0, 40, 4)]
    counted = Run([*items, EndOfStream()])().to_dict()["neurons"]
    assert counted == {"total": 5, "all_nan": 1, "constant": 1, "infinite": 1, "without_noise_level": 0}


def test_values_in_percent_are_noticed(caplog):
    rng = np.random.default_rng(0)
    frames = (100 * rng.normal(0, 0.2, (6, 300))).astype(np.float32)
    items = [FrameChunk(frames=frames[:, i : i + 10], first_frame=i) for i in range(0, 300, 10)]
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        summary = Run([*items, EndOfStream()])()
    assert summary.to_dict()["warnings"]
    assert "percent" in caplog.text
    with pytest.raises(InputError, match="percent"):
        Run((), source=ListSource([*items, EndOfStream()], finite=True))()


def test_a_silent_source_is_noticed_once(caplog):
    clock = ManualClock(step_s=1.0)
    run = None
    source = ListSource([*ramp_chunks(2, 3, t_recv=0.0), *[None] * 3], then=lambda: run.runner.stop())
    run = Run((), source=source, clock=clock)
    real = run.runner._queue.take
    run.runner._queue.take = lambda n, timeout: real(n, 0.001)
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        run()
    assert caplog.text.count("no frames from list for") <= 1


def test_the_observer_is_called_between_frames_and_at_the_end():
    class Watching:
        calls = 0
        forced = 0

        def update(self, *, force=False):
            self.calls += 1
            self.forced += force

    watching = Watching()
    Run([*ramp_chunks(2, 20), EndOfStream()], observer=watching)()
    assert watching.forced == 2
    assert watching.calls >= 2


def test_frames_are_kept_as_received():
    class Keeping(ListSink):
        def __init__(self):
            super().__init__(live=False)
            self.kept = []

        def keep_frames(self, piece):
            self.kept.append(piece)

    keeping = Keeping()
    chunks = ramp_chunks(2, 30)
    Run([*chunks[:10], *chunks[12:], EndOfStream()], sinks=[keeping])()
    kept = [i for piece in keeping.kept for i in range(piece.first_frame, piece.stop_frame)]
    assert kept == [*range(10), *range(12, 30)]


def test_what_is_shown_of_fluorescence_is_its_dff():
    class Keeping(ListSink):
        def __init__(self):
            super().__init__(live=False)
            self.shown = []

        def keep_frames(self, piece):
            self.shown.append(piece)

    class Half:
        full = True

        def push(self, frames):
            return frames / 2

        def reset(self):
            pass

    keeping = Keeping()
    Run([*ramp_chunks(2, 20), EndOfStream()], sinks=[keeping], make_baseline=lambda n, rate: Half())()
    np.testing.assert_array_equal(np.concatenate([piece.frames for piece in keeping.shown], axis=1), ramp(2, 20) / 2)
    assert keeping.shown[0].first_frame == 0


def test_the_summary_is_json():
    run = Run([*ramp_chunks(2, 20), EndOfStream()], metadata={"threshold": "zero", "alignment": "target"})
    answer = json.loads(json.dumps(run().to_dict(), allow_nan=False))
    assert answer["threshold"] == "zero"
    assert answer["model"] == "fake_30Hz"
    assert answer["versions"]["cascade_rt"]


def test_the_parts_for_tests_follow_the_protocols():
    assert isinstance(ListSource(()), Source)
    assert isinstance(ListSink(), Sink)


def test_a_second_interrupt_closes_at_once():
    class Interrupting(ListSink):
        def send(self, chunk):
            raise KeyboardInterrupt

    sinks = [Interrupting(), ListSink(live=False)]
    run = Run([*ramp_chunks(2, 60), EndOfStream()], sinks=sinks)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert sinks[1].finished is None
    assert not any(sink.is_open for sink in sinks)


# --- the queue -------------------------------------------------------------------------------------------


def test_a_full_queue_drops_the_oldest_half_at_once():
    queue = FrameQueue(10)
    for chunk in ramp_chunks(2, 11):
        queue.put(chunk)
    assert queue.dropped == 6
    assert [item.first_frame for item in queue.take(100, 0)] == list(range(6, 11))


def test_what_is_not_frames_is_never_dropped():
    queue = FrameQueue(4)
    queue.put(EndOfStream())
    for chunk in ramp_chunks(2, 20):
        queue.put(chunk)
    queue.put(Stopped())
    items = queue.take(100, 0)
    assert isinstance(items[0], EndOfStream)
    assert isinstance(items[-1], Stopped)
    assert queue.dropped + sum(isinstance(item, FrameChunk) for item in items) == 20


def test_a_chunk_larger_than_the_queue_passes_alone():
    queue = FrameQueue(4)
    for chunk in ramp_chunks(2, 20, [2, 10, 8]):
        queue.put(chunk)
    assert [item.n_frames for item in queue.take(100, 0)] == [8]
    queue.put_waiting(ramp_chunks(2, 10, [10])[0], lambda: False)
    assert len(queue) == 10


def test_waiting_puts_wait_and_lose_nothing():
    queue = FrameQueue(3)
    chunks = ramp_chunks(2, 50)
    thread = threading.Thread(target=lambda: [queue.put_waiting(chunk, lambda: False) for chunk in chunks])
    thread.start()
    taken = []
    while len(taken) < 50:
        taken += queue.take(2, 5.0)
        assert len(queue) <= 3
    thread.join()
    assert [item.first_frame for item in taken] == list(range(50))
    assert queue.dropped == 0


def test_taking_is_bounded_but_takes_at_least_one():
    queue = FrameQueue(100)
    for chunk in ramp_chunks(2, 40, [20, 5, 5, 10]):
        queue.put(chunk)
    assert [item.n_frames for item in queue.take(10, 0)] == [20]
    assert [item.n_frames for item in queue.take(10, 0)] == [5, 5]
    assert queue.take(1, 0)[0].n_frames == 10
    assert queue.take(1, 0) == []


def test_rejections_are_logged_at_a_limited_rate(caplog):
    clock = ManualClock()
    rejections = Rejections(interval_s=10, clock=clock)
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        for _ in range(100):
            rejections.add("shape", "odd")
        clock.advance(11)
        rejections.add("shape", "odd")
        rejections.add("topic", "other")
    assert len(caplog.records) == 3
    assert "100 such messages" in caplog.text
    assert rejections.to_dict() == {"shape": 101, "topic": 1}
    assert rejections.total == 102


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=5, max_size=40), lose=st.sets(st.integers(0, 39)), slow=st.booleans())
def test_every_frame_is_accounted_for(sizes, lose, slow):
    """Lost messages and an overrun queue: what was sent is processed or lost, and results are contiguous."""
    chunks = ramp_chunks(2, sum(sizes), sizes)
    sent = [chunk for number, chunk in enumerate(chunks) if number not in lose]
    total = sum(sizes)
    source = ListSource([*sent, EndOfStream(next_frame=total)], lossless=not slow)
    run = Run((), source=source, queue_frames=4 if slow else 256, stream={"noise_levels": np.ones(2)})
    frames = run().frames
    assert frames["processed"] + frames["lost"] + frames["before_start"] == total
    assert frames["received"] == sum(chunk.n_frames for chunk in sent)
    if not slow:
        assert frames["overrun"] == 0
    index, prob, valid = run.sinks[0].results(2)
    if index.size:
        assert (np.diff(index) > 0).all()
        np.testing.assert_array_equal(prob[0][valid[0]], index[valid[0]])

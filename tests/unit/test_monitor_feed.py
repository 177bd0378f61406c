"""From the run to the page's process: nothing is lost on the way that could be shown, and nobody waits."""

from __future__ import annotations

import queue
import threading
import time

import numpy as np
import pytest
import zmq
from monitor_run import LOOKAHEADS, SPEC, Rules

from cascade_rt import codec
from cascade_rt.chunks import SpikeChunk
from cascade_rt.errors import InputError, WireError
from cascade_rt.events import Event
from cascade_rt.gaps import Piece, SequenceCounters
from cascade_rt.monitor import start_monitor
from cascade_rt.monitor.collector import Collector
from cascade_rt.monitor.feed import WAITING, MonitorSink, take
from cascade_rt.monitor.following import take_published
from cascade_rt.ports import RunInfo
from cascade_rt.receiving import Rejections
from cascade_rt.runstats import RunStatistics

RUN = RunInfo(stream="s", n_neurons=5, frame_rate_hz=30.0, lookaheads=LOOKAHEADS, spec=SPEC)


def chunk(first, n=1, lookahead=2, n_neurons=5):
    prob = (np.arange(n_neurons)[:, None] * 10.0 + np.arange(first, first + n)).astype(np.float32)
    return SpikeChunk(
        spike_prob=prob, first_frame=first, valid=np.ones(prob.shape, bool), lookahead_frames=lookahead,
        t_recv=1.0, t_emit=1.002,
    )  # fmt: skip


def piece(first, n=1):
    return Piece(frames=np.full((5, n), float(first), np.float32), first_frame=first)


def statistics():
    made = RunStatistics(counters=SequenceCounters(received=3), rejections=Rejections())
    made.noise_levels = np.array([1.0, 2.0, 3.0, np.nan, 9.0])
    made.integration = ((2, 3), (7, 8))
    return made


class Line:
    """A sink and the socket at its other end."""

    def __init__(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.linger = 0
        public, secret = zmq.curve_keypair()
        self.socket.curve_secretkey, self.socket.curve_publickey, self.socket.curve_server = secret, public, True
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.sink = MonitorSink(f"tcp://127.0.0.1:{port}", public, name="page")
        self.sink.statistics = statistics()
        self.sink.open(lambda: False)
        deadline = time.monotonic() + 20
        while not self.sink._socket.poll(100, zmq.POLLOUT):
            assert time.monotonic() < deadline

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.sink.close()
        self.socket.close()
        self.context.term()


def test_everything_arrives_at_the_collector():
    with Line() as line:
        sink, collector = line.sink, Collector()
        sink.rules = Rules().describe
        sink.start(RUN)
        sink.send(chunk(10, 2))
        sink.send(chunk(5, 2, lookahead=7))
        sink.keep_frames(piece(12, 2))
        sink.send_event(Event(rule="a", kind="sham", frame=10))
        sink.finish(14, complete=True, metadata={"exit_reason": "end"})
        while collector.status().get("ended") != "end":
            assert line.socket.poll(20_000)
            take(line.socket.recv_multipart(), collector)
    assert collector.info["model"] == SPEC.name
    assert collector.info["integration"] == [[2, 3, 100.0], [7, 8, pytest.approx(266.667, abs=0.01)]]
    np.testing.assert_array_equal(collector.estimates[2].prob.read(10, 12), chunk(10, 2).spike_prob.T)
    np.testing.assert_array_equal(collector.estimates[7].prob.read(5, 7), chunk(5, 2).spike_prob.T)
    np.testing.assert_array_equal(collector.dff.read(12, 14), piece(12, 2).frames.T)
    assert [event["kind"] for event in collector.events] == ["sham"]
    status = collector.status()
    assert status["frames"]["received"] == 3
    assert (status["noise"]["outside"], status["noise"]["unknown"]) == (1, 1)
    assert status["rules"][0]["rule"] == "burst"
    assert sink.skipped == 0


def test_the_values_do_not_have_to_lie_in_order():
    with Line() as line:
        line.sink.start(RUN)
        values = np.asfortranarray(chunk(0, 4).spike_prob)
        line.sink.send(SpikeChunk(spike_prob=values, first_frame=0, valid=values > 0, lookahead_frames=2))
        collector = Collector()
        while 2 not in collector.estimates:
            assert line.socket.poll(20_000)
            take(line.socket.recv_multipart(), collector)
        np.testing.assert_array_equal(collector.estimates[2].prob.read(0, 4), values.T)


def test_a_page_that_stands_still_costs_the_run_nothing():
    with Line() as line:  # nobody reads
        line.sink.start(RUN)
        big = np.zeros((5, 200_000), np.float32)
        many = SpikeChunk(spike_prob=big, first_frame=0, valid=big == 0, lookahead_frames=2)
        done = threading.Event()

        def send():
            for _ in range(4 * WAITING):
                line.sink.send(many)
            done.set()

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        assert done.wait(60), "send waits for the page"
        thread.join()
        assert line.sink.skipped > 0
        assert line.sink.dropped == 0


def test_nobody_without_the_key_gets_anything():
    with Line() as line:
        other = line.context.socket(zmq.PUSH)
        other.linger = 0
        other.immediate = True
        other.connect(line.sink._address)
        assert not other.poll(500, zmq.POLLOUT)
        other.close()


def test_without_a_process_nothing_hangs():
    sink = MonitorSink("tcp://127.0.0.1:1", zmq.curve_keypair()[0], name="page")
    sink.open(lambda: False)
    sink.start(RUN)
    sink.send(chunk(0))
    sink.send_event(Event(rule="a", kind="sham"))
    sink.close()
    sink.close()
    assert sink.skipped == 2


def test_a_monitor_starts_and_ends():
    asked: queue.SimpleQueue = queue.SimpleQueue()
    with start_monitor("127.0.0.1:0", control=asked.put) as monitor:
        assert monitor.url.startswith("http://127.0.0.1:")
        assert len(monitor.url.partition("#token=")[2]) >= 24
        port = monitor.sink.name.rsplit(":", 1)[1].strip("/")
        with pytest.raises(InputError, match="another port"):
            start_monitor(f"127.0.0.1:{port}")
        monitor.watch(statistics())
    monitor.close()
    assert monitor._process.returncode == 0
    with start_monitor("127.0.0.1:0") as plain:
        assert "#" not in plain.url


def test_a_monitor_whose_process_is_killed_does_not_disturb():
    with start_monitor("127.0.0.1:0") as monitor:
        monitor.watch(statistics())
        monitor.sink.open(lambda: False)
        monitor.sink.start(RUN)
        monitor._process.kill()
        monitor._process.wait()
        for first in range(200):
            monitor.sink.send(chunk(first))
        monitor.sink.finish(200, complete=True, metadata={})


def test_what_a_run_publishes_can_be_shown_too():
    collector = Collector()
    for first in (0, 1, 4):
        take_published(codec.encode_spikes(chunk(first), stream="s", frame_rate_hz=30.0), collector)
    take_published(codec.encode_spikes(chunk(0, lookahead=7), stream="s", frame_rate_hz=30.0), collector)
    take_published(codec.encode_event(Event(rule="a", kind="stimulate"), stream="s"), collector)
    assert collector.info["lookaheads"] == [2, 7]
    assert collector.info["has_dff"] is False
    take_published(codec.encode_spikes(chunk(5), stream="s", frame_rate_hz=30.0), collector)
    assert collector.estimates[2].prob.stop == 6
    take_published(codec.encode_end("s", 6), collector)
    assert collector.status()["ended"] == "end"
    assert len(collector.events) == 1
    for parts in ([], [b"dff", b"{}", b""], [b"spike_prob", b"{", b""], codec.encode_spikes(chunk(0), stream="s")):
        with pytest.raises(WireError):
            take_published(parts, collector)

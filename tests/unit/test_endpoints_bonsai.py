"""The bridge to Bonsai, and sending from a thread behind a bounded queue."""

from __future__ import annotations

import json
import struct
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import zmq

from cascade_rt.chunks import SpikeChunk
from cascade_rt.endpoints import open_sink, open_source
from cascade_rt.endpoints.background import BackgroundSender
from cascade_rt.endpoints.bonsai import BonsaiSink, BonsaiSource
from cascade_rt.errors import InputError, WireError
from cascade_rt.events import Event
from cascade_rt.ports import EndOfStream, RunInfo


@pytest.fixture
def peer():
    """A socket at the other end."""
    with zmq.Context() as context:
        sockets = []

        def make(kind):
            socket = context.socket(kind)
            socket.linger = 0
            sockets.append(socket)
            return socket, socket.bind_to_random_port("tcp://127.0.0.1")

        yield make
        for socket in sockets:
            socket.close()


def opened(text):
    source = open_source(text)
    assert isinstance(source, BonsaiSource)
    source.open()
    return source


def test_a_push_node_has_no_topic(peer):
    push, port = peer(zmq.PUSH)
    source = opened(f"bonsai://127.0.0.1:{port}?neurons=3&topic=&type=pull")
    try:
        push.send(struct.pack("<3f", 1, 2, 3))
        push.send(struct.pack("<6f", 4, 5, 6, 7, 8, 9))
        first, second = source.receive(10), source.receive(10)
        np.testing.assert_array_equal(first.frames, [[1], [2], [3]])
        np.testing.assert_array_equal(second.frames, [[4, 7], [5, 8], [6, 9]])
        assert (first.first_frame, second.first_frame) == (0, 1)
        push.send_multipart([b"end"])
        assert source.receive(10) == EndOfStream(next_frame=3)
    finally:
        source.close()


def test_indices_show_a_loss(peer):
    push, port = peer(zmq.PUSH)
    source = opened(f"bonsai://127.0.0.1:{port}?neurons=1&index=true&type=pull")
    try:
        for number in (5, 9):
            push.send_multipart([b"dff", struct.pack("<q", number), struct.pack("<f", number)])
        assert [source.receive(10).first_frame for _ in range(2)] == [5, 9]
    finally:
        source.close()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b"dff", bytes(12)], "parts"),
        ([b"dff", bytes(8), bytes(12), b""], "parts"),
        ([b"other", bytes(8), bytes(12)], "topic"),
        ([b"dff", bytes(7), bytes(12)], "frame"),
        ([b"dff", struct.pack("<q", -1), bytes(12)], "frame"),
        ([b"dff", bytes(8), bytes(11)], "payload"),
        ([b"dff", bytes(8), b""], "payload"),
    ],
)
def test_malformed_messages_are_refused(peer, parts, reason):
    push, port = peer(zmq.PUSH)
    source = opened(f"bonsai://127.0.0.1:{port}?neurons=3&index=true&type=pull")
    try:
        push.send_multipart(parts)
        with pytest.raises(WireError) as caught:
            source.receive(10)
        assert caught.value.reason == reason
        push.send_multipart([b"dff", bytes(8), bytes(12)])
        assert source.receive(10).n_frames == 1
    finally:
        source.close()


def test_only_the_topic_is_subscribed_to(peer):
    pub, port = peer(zmq.XPUB)
    source = opened(f"bonsai://127.0.0.1:{port}?neurons=1&topic=cells")
    try:
        subscribed: set[bytes] = set()
        while {b"cells", b"end"} - subscribed:
            assert pub.poll(10_000)
            message = pub.recv()
            (subscribed.add if message[:1] == b"\1" else subscribed.discard)(message[1:])
        assert subscribed <= {b"cells", b"end", b"dff"}
        pub.send_multipart([b"cells", struct.pack("<f", 1)])
        assert source.receive(10).frames[0, 0] == 1
    finally:
        source.close()


def test_results_are_plain(peer):
    pull, port = peer(zmq.PULL)
    sink = open_sink(f"bonsai://127.0.0.1:{port}?type=push&bind=false&index=true&topic=p&overrun=wait")
    assert isinstance(sink, BonsaiSink)
    sink.open(lambda: False)
    info = RunInfo(stream="s", n_neurons=2, frame_rate_hz=30.0, lookaheads=(1, 4), spec=SimpleNamespace(name="m"))
    sink.start(info)
    prob = np.array([[1, 2], [3, 4]], np.float32)
    valid = np.array([[True, False], [True, True]])
    for lookahead in (1, 4):
        sink.send(SpikeChunk(spike_prob=prob, first_frame=7, valid=valid, lookahead_frames=lookahead))
    sink.send_event(Event(rule="a", kind="stimulate", frame=8, data={}))
    sink.finish(9, complete=True, metadata={})
    messages = []
    while not messages or messages[-1][0] != b"end":
        assert pull.poll(10_000)
        messages.append(pull.recv_multipart())
    sink.close()
    first, second, event, end = messages
    assert first == [b"p", struct.pack("<q", 7), struct.pack("<2f", 1, 3)]
    assert second[:2] == [b"p", struct.pack("<q", 8)]
    np.testing.assert_array_equal(np.frombuffer(second[2], "<f4"), [np.nan, 4])
    assert event[0] == b"event"
    assert json.loads(event[1])["frame"] == 8
    assert end == [b"end", b""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bonsai://127.0.0.1:5", "neurons=N"),
        ("bonsai:127.0.0.1:5?neurons=1", "bonsai://HOST:PORT"),
        ("bonsai://127.0.0.1:5?neurons=0", "neurons=0"),
        ("bonsai://127.0.0.1:5?neurons=1&index=1", "index=1"),
        ("bonsai://127.0.0.1:5?neurons=1&wire=raw", "unknown option"),
        ("bonsai://10.0.0.1:5?neurons=1", "--insecure"),
    ],
)
def test_mistakes_in_the_address_are_named(text, message):
    with pytest.raises(InputError, match=message):
        open_source(text)


def test_a_sink_that_is_open_to_the_network_needs_consent():
    with pytest.raises(InputError, match="--insecure"):
        open_sink("bonsai://*:5")
    assert isinstance(open_sink("bonsai://*:5", insecure=True), BonsaiSink)


# --- BackgroundSender ---------------------------------------------------------------------------------------


def test_items_are_delivered_in_order_and_in_another_thread():
    done, threads = [], set()

    def deliver(item):
        threads.add(threading.current_thread())
        done.append(item)

    sender = BackgroundSender("test", deliver)
    sender.start()
    assert all(sender.put(n) for n in range(500))
    sender.close()
    sender.close()
    assert done == list(range(500))
    assert threading.current_thread() not in threads
    assert (sender.sent, sender.dropped) == (500, 0)


def test_a_slow_receiver_costs_items_not_time(caplog):
    gate, inside, done = threading.Event(), threading.Event(), []

    def deliver(item):
        inside.set()
        gate.wait(10)
        done.append(item)

    sender = BackgroundSender("test", deliver, capacity=3)
    sender.start()
    assert sender.put(0)
    assert inside.wait(10)
    assert [sender.put(n) for n in range(1, 6)] == [True, True, True, False, False]
    gate.set()
    sender.close()
    assert done == [0, 1, 2, 3]
    assert (sender.sent, sender.dropped) == (4, 2)
    assert "queue is full" in caplog.text


def test_what_fails_is_counted_and_the_next_is_tried(caplog):
    done, order = [], []

    def deliver(item):
        if item == 1:
            raise OSError("unplugged")
        done.append(item)

    sender = BackgroundSender("laser", deliver, begin=lambda: order.append("begin"), end=lambda: order.append("end"))
    sender.start()
    for n in range(3):
        sender.put(n)
    sender.close()
    assert (done, order, sender.sent, sender.dropped) == ([0, 2], ["begin", "end"], 2, 1)
    assert "laser: OSError: unplugged" in caplog.text


def test_a_receiver_that_hangs_does_not_hold_up_the_end(caplog):
    gate = threading.Event()
    sender = BackgroundSender("test", lambda item: bool(gate.wait(10)))
    sender.start()
    for n in range(3):
        sender.put(n)
    sender.close(linger_s=0.05)
    gate.set()
    assert sender.dropped >= 2
    assert "before the end" in caplog.text

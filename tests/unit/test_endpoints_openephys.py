"""The bridge to Open Ephys: messages as the plugin sends them, channels put together, events back."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import zmq

from cascade_rt.endpoints import open_sink, open_source, parse_endpoint
from cascade_rt.endpoints.openephys import OpenEphysEventSink, OpenEphysSource
from cascade_rt.endpoints.openephys_messages import BlockAssembler, Heartbeat, parse_channels, parse_data
from cascade_rt.errors import InputError, WireError
from cascade_rt.events import Event
from cascade_rt.ports import EndOfStream


def data_message(channel, first, values, *, stream="probe", rate=30.0, number=0):
    """A DATA message of the current plugin, byte for byte."""
    content = {
        "stream": stream, "channel_num": channel, "num_samples": len(values), "sample_num": first, "sample_rate": rate,
    }  # fmt: skip
    header = {
        "message_num": number, "type": "data", "content": content, "data_size": 4 * len(values),
        "timestamp": 1_700_000_000_000,
    }  # fmt: skip
    return [b"DATA\0", json.dumps(header).encode(), np.asarray(values, "<f4").tobytes()]


def ramp(channel, first, n):
    """Values that tell their channel and sample."""
    return 1000 * channel + np.arange(first, first + n, dtype=np.float32)


def test_a_message_is_read():
    block = parse_data(data_message(3, 40, [1.5, -2.0]))
    assert (block.channel, block.first_sample, block.rate_hz, block.stream) == (3, 40, 30.0, "probe")
    np.testing.assert_array_equal(block.samples, [[1.5, -2.0]])


def test_messages_of_earlier_versions_are_read():
    content = {
        "stream_id": 7, "channel_num": 1, "n_samples": 3, "n_real_samples": 2, "timestamp": 5, "sample_rate": 10,
    }  # fmt: skip
    header = json.dumps({"message_no": 1, "type": "data", "content": content, "data_size": 12}).encode()
    block = parse_data([b"DATA\0", header, np.array([1, 2, 9], "<f4").tobytes()])
    assert (block.channel, block.first_sample, block.stream) == (1, 5, "7")
    np.testing.assert_array_equal(block.samples, [[1, 2]])

    content = {"n_channels": 2, "n_samples": 2, "n_real_samples": 2, "timestamp": 5, "sample_rate": 10}
    header = json.dumps({"message_no": 1, "type": "data", "content": content}).encode()
    block = parse_data([b"DATA\0", header, np.array([1, 2, 3, 4], "<f4").tobytes()])
    assert block.channel is None
    np.testing.assert_array_equal(block.samples, [[1, 2], [3, 4]])
    (chunk,) = BlockAssembler([1, 0]).add(block)
    np.testing.assert_array_equal(chunk.frames, [[3, 4], [1, 2]])


@pytest.mark.parametrize("envelope", [b"EVENT\0", b"SPIKE\0", b"PARAM\0", b"event"])
def test_what_is_not_data_is_passed_over(envelope):
    assert parse_data([envelope, b"{}"]) is None


def changed(**content):
    parts = data_message(0, 0, [1.0])
    header = json.loads(parts[1])
    header["content"].update(content)
    return [parts[0], json.dumps(header).encode(), parts[2]]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b"DATA\0"], "parts"),
        (data_message(0, 0, [1.0])[:2], "parts"),
        ([b"WHAT\0", b"{}", b""], "topic"),
        ([b"DATA\0", b"{", b""], "header"),
        ([b"DATA\0", b"[" * 100_000, b""], "header"),
        ([b"DATA\0", b"[]", b""], "header"),
        ([b"DATA\0", b'{"content": 3}', b""], "header"),
        (changed(sample_num=-1), "header"),
        (changed(sample_num=1.5), "header"),
        (changed(channel_num="a"), "header"),
        (changed(num_samples=2), "payload"),
        (changed(num_samples=2**60), "header"),
        (changed(num_samples=2**50), "payload"),
        (changed(n_real_samples=5), "payload"),
        (changed(sample_rate=0), "rate"),
        (changed(sample_rate="x"), "rate"),
    ],
)
def test_malformed_messages_are_refused(parts, reason):
    with pytest.raises(WireError) as caught:
        parse_data(parts)
    assert caught.value.reason == reason


def test_channels_in_any_order_make_frames():
    rng = np.random.default_rng(0)
    assembler = BlockAssembler([2, 0, 5], scale=0.5)
    chunks, first = [], 100
    for n in (3, 1, 8, 2):
        for channel in rng.permutation(6):
            chunks += assembler.add(parse_data(data_message(int(channel), first, ramp(channel, first, n))))
        first += n
    assert [chunk.first_frame for chunk in chunks] == [100, 103, 104, 112]
    together = np.concatenate([chunk.frames for chunk in chunks], axis=1)
    np.testing.assert_array_equal(together, 0.5 * np.stack([ramp(c, 100, 14) for c in (2, 0, 5)]))
    assert chunks[1].t_source == pytest.approx(103 / 30)
    assert chunks[1].frame_rate_hz == 30.0


def test_a_lost_channel_is_reported_and_its_values_are_nan():
    assembler = BlockAssembler([0, 1])
    assert assembler.add(parse_data(data_message(0, 0, [1, 2]))) == []
    assert assembler.add(parse_data(data_message(0, 2, [3, 4]))) == []
    error, lost, whole = assembler.add(parse_data(data_message(1, 2, [5, 6])))
    assert isinstance(error, WireError)
    assert error.reason == "channels"
    assert "channels 1" in str(error)
    np.testing.assert_array_equal(lost.frames, [[1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(whole.frames, [[3, 4], [5, 6]])
    assert (lost.first_frame, whole.first_frame) == (0, 2)


def test_a_channel_that_never_comes_does_not_stop_the_others():
    assembler = BlockAssembler([0, 9])
    out = [item for n in range(30) for item in assembler.add(parse_data(data_message(0, n, [n])))]
    chunks = [item for item in out if not isinstance(item, WireError)]
    assert [chunk.first_frame for chunk in chunks] == list(range(len(chunks)))
    assert len(chunks) >= 20
    assert len(out) == 2 * len(chunks)


def test_a_lost_buffer_is_a_gap_and_a_new_start_is_followed():
    assembler = BlockAssembler([0])
    firsts = []
    for first in (0, 2, 6, 8, 0, 2):
        firsts += [chunk.first_frame for chunk in assembler.add(parse_data(data_message(0, first, [1, 2])))]
    assert firsts == [0, 2, 6, 8, 0, 2]


def test_contradictions_within_a_buffer_are_refused():
    assembler = BlockAssembler([0, 1])
    assembler.add(parse_data(data_message(0, 0, [1, 2])))
    for wrong in (data_message(0, 0, [1, 2]), data_message(1, 0, [1, 2, 3])):
        with pytest.raises(WireError):
            assembler.add(parse_data(wrong))
    (chunk,) = assembler.add(parse_data(data_message(1, 0, [3, 4])))
    np.testing.assert_array_equal(chunk.frames, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "channels"), [("3", [0, 1, 2]), ("4-6", [4, 5, 6]), ("7,1,3-4", [7, 1, 3, 4]), ("0,2", [0, 2])]
)
def test_channels_are_chosen(text, channels):
    assert parse_channels("", text) == channels


@pytest.mark.parametrize("text", ["", "0", "a", "3-", "5-4", "1,1", "-2", "1-3,2"])
def test_impossible_choices_are_refused(text):
    with pytest.raises(InputError, match="channels="):
        parse_channels("x", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openephys://127.0.0.1:5556", "which channels"),
        ("openephys:127.0.0.1:5556?channels=2", "openephys://HOST:PORT"),
        ("openephys://127.0.0.1?channels=2", "openephys://HOST:PORT"),
        ("openephys://127.0.0.1:0?channels=2", "1 to 65535"),
        ("openephys://127.0.0.1:1?channels=2&scale=0", "scale=0"),
        ("openephys://127.0.0.1:1?channel=2", "unknown option"),
        ("openephys://10.0.0.1:5556?channels=2", "--insecure"),
    ],
)
def test_mistakes_in_the_address_are_named(text, message):
    with pytest.raises(InputError, match=message):
        open_source(text)


def test_sources_and_sinks_are_made_from_text():
    assert isinstance(open_source("openephys://10.0.0.1:5556?channels=2", insecure=True), OpenEphysSource)
    sink = open_sink("openephys://127.0.0.1:5556?line=3&plugin=zmq")
    assert isinstance(sink, OpenEphysEventSink)
    for wrong in ("openephys://127.0.0.1:5556?line=300", "openephys://127.0.0.1:5556?plugin=x"):
        with pytest.raises(InputError):
            open_sink(wrong)
    with pytest.raises(InputError, match="--insecure"):
        open_sink("openephys://10.0.0.1:5556")
    with pytest.raises(InputError, match="plain mode"):
        open_source("openephys://127.0.0.1:5556?channels=2", raw_neurons=2)
    with pytest.raises(InputError, match="not possible here"):
        parse_endpoint("openephys://127.0.0.1:5556", "sink")


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


def bound(context, kind):
    socket = context.socket(kind)
    socket.linger = 0
    return socket, socket.bind_to_random_port("tcp://127.0.0.1")


def test_the_source_receives_beats_and_ends(context):
    now = [0.0]
    (pub, port), (rep, beats) = bound(context, zmq.XPUB), bound(context, zmq.REP)
    source = OpenEphysSource("127.0.0.1", port, [0, 1], heartbeat_port=beats, idle_s=5, clock=lambda: now[0])
    source.open()
    try:
        assert source.receive(0) is None
        assert rep.poll(5000)
        heartbeat = json.loads(rep.recv())
        assert heartbeat["type"] == "heartbeat"
        assert heartbeat["application"] == "cascade_rt"
        rep.send(b"heartbeat received")
        assert pub.recv() == b"\1"
        pub.send_multipart([b"EVENT\0", b"{}"])
        pub.send_multipart(data_message(0, 0, [1], stream="probe"))
        pub.send_multipart(data_message(1, 0, [9], stream="other"))
        pub.send_multipart([b"DATA\0", b"no json", b""])
        pub.send_multipart(data_message(1, 0, [2], stream="probe"))
        with pytest.raises(WireError):
            source.receive(5)
        chunk = source.receive(5)
        np.testing.assert_array_equal(chunk.frames, [[1], [2]])
        assert chunk.t_recv == 0.0
        assert source.receive(0) is None
        now[0] = 6.0
        assert source.receive(0) == EndOfStream(next_frame=1)
        assert source.receive(0) is None
    finally:
        source.close()
        source.close()
        pub.close()
        rep.close()


def test_a_heartbeat_without_reply_is_not_fatal(context):
    now = [0.0]
    router, port = bound(context, zmq.ROUTER)  # unlike REP it can leave a request without a reply
    heartbeat = Heartbeat(context, f"tcp://127.0.0.1:{port}", clock=lambda: now[0])
    try:
        heartbeat.beat()
        assert router.poll(5000)
        first = router.recv_multipart()
        for now[0] in (3.0, 9.0):
            heartbeat.beat()
        assert not router.poll(0)
        now[0] = 11.0
        heartbeat.beat()
        assert router.poll(5000)
        second = router.recv_multipart()
        assert second[-1] == first[-1]
        assert second[0] != first[0]  # another connection
    finally:
        heartbeat.close()
        router.close()


def serve(rep, replies, received):
    for reply in replies:
        if not rep.poll(10_000):
            return
        received.append(rep.recv())
        rep.send(reply)


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        ("network", [b"TTL Line=3 State=1", b"TTL Line=3 State=0"]),
        ("zmq", [{"type": 3, "sample_num": 12, "event_id": 1, "event_channel": 2}]),
    ],
)
def test_events_go_back(context, plugin, expected):
    rep, port = bound(context, zmq.REP)
    received: list[bytes] = []
    server = threading.Thread(target=serve, args=(rep, [b"ok"] * len(expected), received))
    server.start()
    sink = OpenEphysEventSink(f"tcp://127.0.0.1:{port}", line=3, plugin=plugin)
    sink.open()
    sink.send_event(Event(rule="a", kind="sham", newest_frame=11))
    sink.send_event(Event(rule="a", kind="stimulate", newest_frame=12))
    server.join()
    sink.close()
    rep.close()
    if plugin == "zmq":
        messages = [json.loads(part) for part in received]
        assert all(message["type"] == "event" for message in messages)
        assert [message["event"] for message in messages] == expected
    else:
        assert received == expected
    assert (sink.sent, sink.dropped) == (1, 0)


def test_a_plugin_that_does_not_answer_is_counted(context, monkeypatch, caplog):
    monkeypatch.setattr("cascade_rt.endpoints.openephys.REPLY_MS", 20)
    rep, port = bound(context, zmq.REP)
    sink = OpenEphysEventSink(f"tcp://127.0.0.1:{port}")
    sink.open()
    sink.send_event(Event(rule="a", kind="stimulate"))
    sink.close()
    rep.close()
    assert (sink.sent, sink.dropped) == (0, 1)
    assert "did not answer" in caplog.text

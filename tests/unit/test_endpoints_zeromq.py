"""Sockets on ports chosen by the system: what is sent arrives, what cannot be sent is counted, nothing hangs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import zmq
import zmq.auth

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.endpoints import parse_endpoint
from cascade_rt.endpoints.files import FileSource
from cascade_rt.endpoints.replaying import Microscope
from cascade_rt.endpoints.zeromq import ZmqSink, ZmqSocket, ZmqSource
from cascade_rt.errors import InputError, WireError
from cascade_rt.ports import EndOfStream, RunInfo
from cascade_rt.testing import ManualClock, fake_spec, ramp, ramp_chunks

ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def sockets():
    """Make plain sockets that are closed at the end."""
    with zmq.Context() as context:
        made = []

        def make(kind, **options):
            socket = context.socket(kind)
            made.append(socket)
            socket.linger = 0
            for name, value in options.items():
                setattr(socket, name, value)
            return socket

        yield make
        for socket in made:
            socket.close()


def bound_source(options="type=pull", **others):
    source = ZmqSource(parse_endpoint(f"{ANY}?bind=true&{options}"), **others)
    source.open()
    return source


def opened_sink(text, **options):
    sink = ZmqSink(parse_endpoint(text, "sink"), **options)
    sink.open(lambda: False)
    sink.start(RunInfo(stream="s", n_neurons=2, frame_rate_hz=30.0, lookaheads=(2,), spec=fake_spec()))
    return sink


def result(first=0):
    return SpikeChunk(spike_prob=ramp(2, 1, first), first_frame=first, valid=np.ones((2, 1), bool), lookahead_frames=2)


def receive(socket, timeout_ms=5000):
    assert socket.poll(timeout_ms), "nothing came"
    return socket.recv_multipart()


def test_a_source_receives_frames_and_the_end(sockets):
    source = bound_source(clock=ManualClock(3.0))
    assert source.name.startswith("tcp://127.0.0.1:")
    assert "*" not in source.name
    push = sockets(zmq.PUSH)
    push.connect(source.name)
    assert source.receive(0) is None
    chunk = FrameChunk(frames=ramp(2, 3), first_frame=7, stream="s", frame_rate_hz=30.0, t_source=0.5)
    push.send_multipart(codec.encode_frames(chunk))
    push.send_multipart([b"dff", b"{}", b""])
    push.send_multipart(codec.encode_end("s", 10))
    back = source.receive(5)
    np.testing.assert_array_equal(back.frames, chunk.frames)
    assert (back.first_frame, back.t_recv) == (7, 3.0)
    with pytest.raises(WireError):
        source.receive(5)
    assert source.receive(5) == EndOfStream(stream="s", next_frame=10)
    source.close()
    source.close()


def test_a_subscriber_hears_frames_and_the_end_only(sockets):
    pub = sockets(zmq.XPUB)
    port = pub.bind_to_random_port("tcp://127.0.0.1")
    source = ZmqSource(parse_endpoint(f"tcp://127.0.0.1:{port}"))
    source.open()
    assert sorted([receive(pub)[0], receive(pub)[0]]) == [b"\1dff", b"\1end"]
    pub.send_multipart(codec.encode_spikes(result()))
    pub.send_multipart(codec.encode_frames(ramp_chunks(2, 1)[0]))
    pub.send_multipart(codec.encode_end())
    assert isinstance(source.receive(5), FrameChunk)
    assert isinstance(source.receive(5), EndOfStream)
    source.close()


def test_plain_messages_are_counted_on_arrival(sockets):
    source = bound_source(raw_neurons=2)
    push = sockets(zmq.PUSH)
    push.connect(source.name)
    push.send_multipart(codec.encode_raw(ramp(2, 1, 0)))
    push.send_multipart([b"dff", b"odd"])
    push.send_multipart(codec.encode_raw(ramp(2, 3, 1)))
    push.send_multipart([b"end"])
    assert source.receive(5).first_frame == 0
    with pytest.raises(WireError):
        source.receive(5)
    chunk = source.receive(5)
    assert (chunk.first_frame, chunk.n_frames) == (1, 3)
    np.testing.assert_array_equal(chunk.frames, ramp(2, 3, 1))
    assert source.receive(5) == EndOfStream(next_frame=4)
    source.close()


def test_a_sink_publishes_results_and_the_end(sockets):
    pull = sockets(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    sink = opened_sink(f"tcp://127.0.0.1:{port}?type=push&bind=false")
    sink.send(result(5))
    sink.finish(6, complete=True, metadata={})
    sink.close()
    sink.close()
    parts = receive(pull)
    np.testing.assert_array_equal(codec.decode_spikes(parts).spike_prob, ramp(2, 1, 5))
    assert codec.read_header(parts, codec.TOPIC_SPIKES)["stream"] == "s"
    assert codec.decode_end(receive(pull)) == EndOfStream(stream="s", next_frame=6)
    assert sink.dropped == 0


def test_subscribers_come_and_go(sockets):
    sink = opened_sink(ANY)
    sink.send(result(0))
    sub = sockets(zmq.SUB)
    sub.subscribe(b"spike_prob")
    sub.connect(sink.name)
    while not sub.poll(10):
        sink.send(result(1))
    assert codec.decode_spikes(sub.recv_multipart()).first_frame == 1
    sub.close()
    for _ in range(5):
        sink.send(result(2))
    sink.close()
    assert sink.dropped == 0, "PUB/SUB tells nobody what a subscriber missed"


def test_a_push_sink_without_receiver_drops_and_counts():
    sink = opened_sink(f"{ANY}?type=push")
    for frame in range(3):
        sink.send(result(frame))
    sink.close()
    assert sink.dropped == 3


def test_a_waiting_sink_waits_for_a_slow_receiver_and_loses_nothing(sockets):
    pull = sockets(zmq.PULL, rcvhwm=2)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    sink = opened_sink(f"tcp://127.0.0.1:{port}?type=push&bind=false&hwm=2", wait=True)
    large = SpikeChunk(spike_prob=np.ones((50_000, 5), np.float32), first_frame=0, valid=np.ones((50_000, 5), bool),
                       lookahead_frames=2)  # fmt: skip
    received = []
    thread = threading.Thread(target=lambda: [received.append(receive(pull, 20_000)) for _ in range(30)])
    thread.start()
    for _ in range(30):
        sink.send(large)
    thread.join()
    assert len(received) == 30
    assert sink.dropped == 0
    sink.close()


def test_a_waiting_sink_gives_up_when_the_run_is_to_stop():
    clock = ManualClock(step_s=1.0)
    sink = ZmqSink(parse_endpoint(f"{ANY}?type=push", "sink"), wait=True, clock=clock)
    sink.open(lambda: True)
    sink.start(RunInfo(stream="s", n_neurons=2, frame_rate_hz=30.0, lookaheads=(2,), spec=fake_spec()))
    for frame in range(20):
        sink.send(result(frame))
    assert sink.dropped == 20
    sink.close()


def test_an_address_in_use_is_named(sockets):
    other = sockets(zmq.PULL)
    port = other.bind_to_random_port("tcp://127.0.0.1")
    source = ZmqSource(parse_endpoint(f"tcp://127.0.0.1:{port}?type=pull&bind=true"))
    with pytest.raises(InputError, match=rf"cannot bind to tcp://127.0.0.1:{port}: .*in use"):
        source.open()
    source.close()
    with pytest.raises(RuntimeError, match="not open"):
        source.receive(0)


def test_a_host_that_does_not_exist_is_named():
    socket = ZmqSocket(parse_endpoint("tcp://no such host:5?bind=true"))
    with pytest.raises(InputError, match="no such host"):
        socket.open()


# --- encryption --------------------------------------------------------------------------------------------


def test_a_message_of_very_many_parts_is_refused_without_keeping_it(sockets):
    source = bound_source()
    push = sockets(zmq.PUSH)
    push.connect(source.name)
    push.send_multipart([b"dff"] + [bytes(100)] * 20_000)
    push.send_multipart(codec.encode_end("s", 3))
    with pytest.raises(WireError, match="message of 8 parts"):
        source.receive(10)
    assert source.receive(10) == EndOfStream(stream="s", next_frame=3)
    source.close()


@pytest.fixture
def keys(tmp_path):
    if not zmq.has("curve"):
        pytest.skip("this build of ZeroMQ has no CURVE encryption")
    for name in ("ours", "theirs", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "theirs.key").write_bytes((tmp_path / "theirs.key").read_bytes())
    return tmp_path


def test_those_with_a_key_are_heard_and_strangers_are_not(keys):
    source = bound_source(f"type=pull&curve_key={keys}/ours.key_secret&curve_clients={keys}/clients")
    sinks = {
        name: opened_sink(
            f"{source.name}?type=push&bind=false&curve_key={keys}/{name}.key_secret&curve_server_key={keys}/ours.key"
        )
        for name in ("stranger", "theirs")
    }
    open_door = opened_sink(f"{source.name}?type=push&bind=false")
    for sink in (open_door, *sinks.values()):
        sink._send([b"dff", b"who", sink.name.encode()])
        sink._send(codec.encode_end("stranger" if sink is not sinks["theirs"] else "theirs"))
    with pytest.raises(WireError):
        source.receive(10)
    assert source.receive(10) == EndOfStream(stream="theirs")
    assert source.receive(0.3) is None
    for sink in (open_door, *sinks.values()):
        sink._socket._linger_ms = 0
        sink.close()
    source.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("curve_key={keys}/ours.key&curve_server_key={keys}/theirs.key", "only a public key"),
        ("curve_key={keys}/none&curve_server_key={keys}/theirs.key", "cannot be read"),
        ("curve_key={keys}/ours.key_secret&curve_clients={keys}/none", "folder of public keys"),
    ],
)
def test_wrong_keys_are_named(keys, options, message):
    socket = ZmqSocket(parse_endpoint(f"{ANY}?bind=true&type=pull&{options.format(keys=keys)}"))
    with pytest.raises(InputError, match=message):
        socket.open()


# --- the fake microscope -----------------------------------------------------------------------------------


class Schedule(ManualClock):
    """A clock that goes on while somebody sleeps, a little longer than asked."""

    def sleep(self, seconds):
        self.advance(seconds + 1e-4)


@pytest.fixture
def microscope(tmp_path, sockets):
    """Make a microscope that sends a ramp to a PULL socket; returns it and a function that collects."""
    np.save(tmp_path / "ramp.npy", ramp(2, 20))
    pull = sockets(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    clock = Schedule()

    def make(chunk=1, **options):
        return Microscope(
            FileSource(tmp_path / "ramp.npy", chunk_frames=chunk),
            parse_endpoint(f"tcp://127.0.0.1:{port}?type=push&bind=false", "sink"),
            **{"frame_rate_hz": 10.0, "stream": "m", "clock": clock, "sleep": clock.sleep, **options},
        )

    def collect():
        messages = []
        while not messages or isinstance(messages[-1], FrameChunk):
            messages.append(codec.decode_message(receive(pull)))
        return messages

    return make, collect, pull


@pytest.mark.parametrize("chunk", [1, 3, 20, 50])
def test_everything_is_sent_on_a_schedule_that_does_not_drift(microscope, chunk):
    make, collect, _ = microscope
    summary = make(chunk).run()
    *chunks, end = collect()
    np.testing.assert_array_equal(np.concatenate([c.frames for c in chunks], axis=1), ramp(2, 20))
    assert [c.first_frame for c in chunks] == list(range(0, 20, chunk))
    assert [c.t_source for c in chunks] == pytest.approx([c.first_frame / 10 for c in chunks])
    assert end == EndOfStream(stream="m", next_frame=20)
    assert (summary.frames, summary.messages, summary.stopped) == (20, len(chunks), False)
    assert summary.seconds == pytest.approx(2.0, abs=2e-3), "waiting too long each time does not add up"
    assert summary.lateness.max_s < 1e-3
    assert summary.lateness.count == len(chunks)


def test_loops_count_on(microscope):
    make, collect, _ = microscope
    summary = make(7, loops=3, speed=100.0).run()
    *chunks, end = collect()
    assert [c.first_frame for c in chunks] == [0, 7, 14, 20, 27, 34, 40, 47, 54]
    np.testing.assert_array_equal(chunks[3].frames, ramp(2, 7))
    assert end.next_frame == summary.next_frame == 60
    assert summary.seconds == pytest.approx(6.0 / 100, abs=2e-3)


def test_as_fast_as_possible_has_no_schedule(microscope):
    make, collect, _ = microscope
    summary = make(speed=None).run()
    assert len(collect()) == 21
    assert summary.lateness.count == 0
    assert summary.to_dict()["lateness"]["p50_ms"] is None


def test_raw_messages(microscope):
    make, _, pull = microscope
    make(10, raw=True, speed=None).run()
    parts = [receive(pull) for _ in range(3)]
    assert [len(p) for p in parts[:2]] == [2, 2]
    np.testing.assert_array_equal(np.frombuffer(parts[1][1], "<f4").reshape(10, 2).T, ramp(2, 10, 10))
    assert codec.decode_end(parts[2]) == EndOfStream(next_frame=20)


def test_stopping_sends_the_end(microscope):
    make, collect, _ = microscope
    scope = make()
    summary = scope.run(lambda fraction: scope.stop() if fraction > 0.4 else None)
    *chunks, end = collect()
    assert summary.stopped
    assert end.next_frame == len(chunks) == summary.frames == 9


def test_a_pub_waits_for_a_subscriber(tmp_path, sockets):
    np.save(tmp_path / "ramp.npy", ramp(2, 20))
    source = FileSource(tmp_path / "ramp.npy", chunk_frames=1)
    scope = Microscope(source, parse_endpoint(ANY, "sink"), frame_rate_hz=10.0, speed=None, wait_for_subscriber=True)
    bound = threading.Event()
    opened = scope._socket.open
    scope._socket.open = lambda: (opened(), bound.set())
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(scope.run()))
    thread.start()
    assert bound.wait(10)
    other = sockets(zmq.SUB)
    other.subscribe(b"something else")
    other.connect(scope.address)
    sub = sockets(zmq.SUB)
    sub.subscribe(b"")
    sub.connect(scope.address)
    indices = [codec.decode_message(receive(sub)).first_frame for _ in range(20)]
    assert indices == list(range(20))
    assert isinstance(codec.decode_message(receive(sub)), EndOfStream)
    thread.join()
    assert summaries[0].frames == 20


def test_waiting_can_be_stopped(tmp_path):
    np.save(tmp_path / "ramp.npy", ramp(2, 20))
    endpoint = parse_endpoint(f"{ANY}?type=push", "sink")
    scope = Microscope(FileSource(tmp_path / "ramp.npy"), endpoint, frame_rate_hz=10.0)
    threading.Timer(0.2, scope.stop).start()
    summary = scope.run()
    assert (summary.frames, summary.stopped) == (0, True)


@pytest.mark.parametrize("options", [{"loops": 0}, {"speed": 0.0}, {"frame_rate_hz": 0.0}])
def test_wrong_options(microscope, options):
    with pytest.raises(InputError, match="positive"):
        microscope[0](**options)

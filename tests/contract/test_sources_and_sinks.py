"""What every source and every sink promises to the runner, checked on all of them alike."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import zmq
from scipy import io

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.endpoints import open_sink, open_source
from cascade_rt.endpoints.files import RecordingFolder
from cascade_rt.ports import EndOfStream, RunInfo, Sink, Source
from cascade_rt.runner import Runner
from cascade_rt.testing import FakeStream, ListSink, ListSource, fake_spec, ramp, ramp_chunks

N, FRAMES = 3, 90
RAMP = ramp(N, FRAMES)


def socket_pair(kind, other):
    """A plain socket bound to a free port, its address, and its context."""
    context = zmq.Context()
    socket = context.socket(other)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    return context, socket, f"tcp://127.0.0.1:{port}?type={kind}&bind=false"


@pytest.fixture(params=["npy", "npz", "mat", "pull", "sub", "raw", "list"])
def source(request, tmp_path):
    """A source that will give the ramp once it is open."""
    kind = request.param
    if kind == "npy":
        np.save(tmp_path / "r.npy", RAMP)
    elif kind == "npz":
        np.savez(tmp_path / "r.npz", dff=RAMP)
    elif kind == "mat":
        io.savemat(tmp_path / "r.mat", {"dF_traces": RAMP})
    elif kind == "list":
        yield ListSource([*ramp_chunks(N, FRAMES, [5] * 100), EndOfStream(next_frame=FRAMES)])
        return
    if kind in ("npy", "npz", "mat"):
        yield open_source(str(tmp_path / f"r.{kind}"), frame_rate_hz=30.0, chunk_frames=7)
        return
    context, socket, address = socket_pair("sub" if kind == "sub" else "pull", zmq.XPUB if kind == "sub" else zmq.PUSH)

    def send():
        if kind == "sub":
            assert socket.poll(10_000)
        elif not socket.poll(10_000, zmq.POLLOUT):
            return
        for chunk in ramp_chunks(N, FRAMES, [5] * 100):
            socket.send_multipart(codec.encode_raw(chunk.frames) if kind == "raw" else codec.encode_frames(chunk))
        socket.send_multipart(codec.encode_end("", FRAMES))

    thread = threading.Thread(target=send)
    thread.start()
    yield open_source(address, raw_neurons=N if kind == "raw" else None)
    thread.join()
    socket.close()
    context.term()


def test_a_source_gives_every_frame_and_then_the_end(source):
    assert isinstance(source, Source)
    assert source.name
    source.open()
    items = []
    while not items or not isinstance(items[-1], EndOfStream):
        item = source.receive(10)
        assert item is not None, "nothing came"
        items.append(item)
    chunks = items[:-1]
    assert all(isinstance(chunk, FrameChunk) for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate([chunk.frames for chunk in chunks], axis=1), RAMP)
    starts = np.cumsum([0, *(chunk.n_frames for chunk in chunks)])
    assert [chunk.first_frame for chunk in chunks] == starts[:-1].tolist()
    assert items[-1].next_frame == FRAMES
    source.close()
    source.close()


def test_a_source_feeds_a_run(source):
    sink = ListSink()
    runner = Runner(
        source, [sink], lambda n, rate: FakeStream(n_neurons=n, frame_rate_hz=rate, noise_levels=np.ones(n)),
        frame_rate_hz=30.0,
    )  # fmt: skip
    runner._values._frames = None  # a ramp is no ΔF/F
    frames = runner.run().frames
    assert (frames["processed"], frames["lost"]) == (FRAMES, 0)
    index, prob, valid = sink.results(2)
    np.testing.assert_array_equal(index, np.arange(FRAMES))
    np.testing.assert_array_equal(prob[valid], RAMP[valid])


def chunk(first, n, lookahead):
    prob = ramp(N, n, first)
    return SpikeChunk(spike_prob=prob, first_frame=first, valid=np.ones(prob.shape, bool), lookahead_frames=lookahead)


@pytest.fixture(params=["npy", "npz", "mat", "record", "push", "pub", "list"])
def sink(request, tmp_path):
    """A sink, and a function that tells what arrived: (frames, values of look-ahead 2)."""
    kind = request.param
    path = tmp_path / f"out.{kind}"
    if kind == "list":
        made = ListSink()
        yield made, lambda: made.results(2)[:2]
    elif kind == "record":
        kept = tmp_path / "kept"
        yield (
            RecordingFolder(kept),
            lambda: tuple(np.load(kept / f"{name}_lookahead2.npy") for name in ("frame", "spike_prob")),
        )
    elif kind in ("push", "pub"):
        context, socket, address = socket_pair(kind, zmq.PULL if kind == "push" else zmq.SUB)
        if kind == "pub":
            socket.subscribe(b"")
        made = open_sink(address, lossless=True)
        if kind == "pub":
            made.subscribers = socket
        yield made, lambda: received(socket)
        socket.close()
        context.term()
    elif kind == "npy":
        yield open_sink(str(path)), lambda: (segments(path), np.load(path))
    elif kind == "npz":
        yield open_sink(str(path)), lambda: tuple(np.load(path)[key] for key in ("frame", "spike_prob"))
    else:
        yield (
            open_sink(str(path)),
            lambda: tuple(io.loadmat(path, squeeze_me=True)[key] for key in ("frame", "spike_prob")),
        )


def segments(path):
    runs = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))["segments"]
    return np.concatenate([np.arange(first, first + n) for first, n in runs])


def received(socket):
    chunks = []
    while True:
        assert socket.poll(10_000)
        parts = socket.recv_multipart()
        if parts[0] == b"end":
            return (
                np.concatenate([np.arange(c.first_frame, c.first_frame + c.n_frames) for c in chunks]),
                np.concatenate([c.spike_prob for c in chunks], axis=1),
            )
        chunks.append(codec.decode_spikes(parts))


def test_a_sink_delivers_every_result(sink):
    sink, arrived = sink
    assert isinstance(sink, Sink)
    assert sink.name
    info = RunInfo(
        stream="s", n_neurons=N, frame_rate_hz=30.0, lookaheads=(2,), spec=fake_spec(), metadata={"model": "m"}
    )
    sink.open(lambda: False)
    if hasattr(sink, "subscribers"):
        while not sink._socket.socket.poll(10):  # a bound SUB subscribes when it is looked at
            sink.subscribers.poll(10)
    sink.start(info)
    for first, n in ((10, 1), (11, 4), (40, 2)):
        sink.send(chunk(first, n, 2))
    sink.finish(42, complete=True, metadata=info.metadata)
    sink.close()
    sink.close()
    frame, prob = arrived()
    np.testing.assert_array_equal(frame, [10, 11, 12, 13, 14, 40, 41])
    np.testing.assert_array_equal(prob, np.concatenate([ramp(N, 5, 10), ramp(N, 2, 40)], axis=1))
    assert sink.dropped == 0


def test_a_sink_can_be_closed_at_any_time(sink):
    sink, _ = sink
    sink.close()
    sink.open(lambda: False)
    sink.close()
    sink.close()

"""docs/wire-format.md is what the program does: its bytes, its sender and its receiver."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import zmq

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.endpoints import parse_endpoint
from cascade_rt.endpoints.zeromq import ZmqSink, ZmqSource
from cascade_rt.ports import EndOfStream, RunInfo
from cascade_rt.testing import fake_spec, ramp

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
EXAMPLE = FrameChunk(frames=np.array([[0.5], [-0.25]], np.float32), first_frame=7, stream="m1", frame_rate_hz=30.0)


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_bytes_of_the_example():
    parts = codec.encode_frames(EXAMPLE)
    assert parts[0].hex(" ") == "64 66 66"
    assert parts[1] == b'{"v":1,"stream":"m1","frame":7,"shape":[2,1],"dtype":"<f4","rate":30.0,"t":null}'
    assert parts[2].hex(" ") == "00 00 00 3f 00 00 80 be"
    block = re.search(r"part 1.*?\n```", DOCUMENT, re.DOTALL)[0]
    assert parts[1].decode() in block
    assert parts[0].hex(" ") in block
    assert parts[1].hex(" ")[:20] in block
    assert parts[2].hex(" ") in block.replace("3f  00", "3f 00")


def test_every_entry_that_is_sent_is_documented():
    chunk = SpikeChunk(spike_prob=ramp(2, 1), first_frame=0, valid=np.zeros((2, 1), bool), lookahead_frames=2)
    for parts, topic, n_parts in (
        (codec.encode_frames(EXAMPLE), codec.TOPIC_DFF, 3),
        (codec.encode_spikes(chunk), codec.TOPIC_SPIKES, 4),
    ):
        for entry in codec.read_header(parts, topic, n_parts=(n_parts,)):
            assert f"`{entry}`" in DOCUMENT, entry
        assert f"`{topic.decode()}`" in DOCUMENT


def test_the_bits_are_packed_as_documented():
    valid = np.array([[True, False, True, True, False, False, False, False, True]])
    chunk = SpikeChunk(spike_prob=np.ones((1, 9), np.float32), first_frame=0, valid=valid, lookahead_frames=2)
    assert codec.encode_spikes(chunk)[3] == bytes([0b10110000, 0b10000000])


@pytest.fixture
def document_code():
    """Run a block of the document with other addresses, in a thread."""
    started = []

    def start(block, replacements, names):
        for old, new in replacements.items():
            assert old in block
            block = block.replace(old, new)
        thread = threading.Thread(target=exec, args=(compile(block, "docs/wire-format.md", "exec"), names))
        thread.start()
        started.append((thread, names))
        return thread

    yield start
    for thread, names in started:
        thread.join(20)
        assert not thread.is_alive()
        names["socket"].close(0)
    zmq.Context.instance().term()


def test_the_sender_of_the_document(document_code):
    source = ZmqSource(parse_endpoint("tcp://127.0.0.1:*?type=pull&bind=true"))
    source.open()
    block = code_blocks("python")[0]
    names = {"frames": list(ramp(3, 5).T)}
    document_code(block, {'bind("tcp://127.0.0.1:5555")': f'connect("{source.name}")'}, names)
    received = [source.receive(10) for _ in range(6)]
    np.testing.assert_array_equal(np.concatenate([c.frames for c in received[:5]], axis=1), ramp(3, 5))
    assert [c.first_frame for c in received[:5]] == list(range(5))
    assert received[5] == EndOfStream(stream="m1", next_frame=5)
    source.close()


def test_the_receiver_of_the_document(document_code, capsys):
    with zmq.Context() as context, context.socket(zmq.PUSH) as probe:
        port = probe.bind_to_random_port("tcp://127.0.0.1")
        probe.unbind(f"tcp://127.0.0.1:{port}")
    sink = ZmqSink(parse_endpoint(f"tcp://127.0.0.1:{port}?type=push&bind=false", "sink"), wait=True)
    sink.open(lambda: False)
    sink.start(RunInfo(stream="m1", n_neurons=3, frame_rate_hz=30.0, lookaheads=(2,), spec=fake_spec()))
    thread = document_code(code_blocks("python")[1], {"5556": str(port)}, {})
    for first in range(3):
        sink.send(SpikeChunk(spike_prob=np.full((3, 1), first, np.float32), first_frame=first,
                             valid=np.ones((3, 1), bool), lookahead_frames=2))  # fmt: skip
    sink.finish(3, complete=True, metadata={})
    sink.close()
    thread.join(20)
    assert capsys.readouterr().out.split() == ["0", "2", "0.0", "1", "2", "3.0", "2", "2", "6.0"]


def test_the_matlab_order_is_that_of_the_format():
    """``dff.'`` flattened column by column is C order of (n_neurons, n_frames)."""
    dff = ramp(3, 4)
    matlab = dff.T.flatten(order="F").astype("<f4").tobytes()
    assert matlab == codec.encode_frames(FrameChunk(frames=dff, first_frame=0))[2]

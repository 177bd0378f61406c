"""The wire format: what goes through unchanged, what is rejected and why, and that nothing else ever happens."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.errors import InputError, WireError
from cascade_rt.ports import EndOfStream

shapes = st.tuples(st.integers(1, 7), st.integers(1, 9))
times = st.none() | st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=20).filter(str.isprintable)
rates = st.none() | st.floats(1e-3, 1e5)
indices = st.integers(0, 2**53 - 1)


@st.composite
def frame_chunks(draw):
    return FrameChunk(
        frames=draw(hnp.arrays(np.float32, draw(shapes), elements=st.floats(width=32))),
        first_frame=draw(indices),
        t_source=draw(times),
        stream=draw(names),
        frame_rate_hz=draw(rates),
    )


@st.composite
def spike_chunks(draw):
    shape = draw(shapes)
    return SpikeChunk(
        spike_prob=draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32))),
        first_frame=draw(indices),
        valid=draw(hnp.arrays(bool, shape)),
        lookahead_frames=draw(st.integers(0, 100)),
        provisional=draw(st.booleans()),
        model=draw(names),
        alignment=draw(st.sampled_from(["target", "cascade"])),
        t_source=draw(times),
        t_recv=draw(times),
        t_emit=draw(times),
    )


def frames_message(**changes):
    """A good message of 2 neurons x 3 frames, with changes to its header."""
    header = {"v": 1, "stream": "s", "frame": 7, "shape": [2, 3], "dtype": "<f4", "rate": 30.0, "t": None, **changes}
    header = {k: v for k, v in header.items() if v is not ...}
    return [b"dff", json.dumps(header).encode(), np.arange(6, dtype="<f4").tobytes()]


def plain(chunk):
    """Everything about a chunk but its arrays."""
    values = {field.name: getattr(chunk, field.name) for field in fields(chunk)}
    return {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}


def reason_of(parts, decode=codec.decode_message):
    with pytest.raises(WireError) as caught:
        decode(parts)
    assert str(caught.value)
    return caught.value.reason


@settings(deadline=None, derandomize=True, database=None)
@given(frame_chunks())
def test_frames_come_back_as_they_went(chunk):
    back = codec.decode_frames(codec.encode_frames(chunk), t_recv=1.5)
    np.testing.assert_array_equal(back.frames, chunk.frames)
    assert back.frames.dtype == np.float32
    assert plain(back) == plain(chunk) | {"t_recv": 1.5}


@settings(deadline=None, derandomize=True, database=None)
@given(spike_chunks())
def test_results_come_back_as_they_went(chunk):
    back = codec.decode_spikes(codec.encode_spikes(chunk, stream="s", frame_rate_hz=30.0))
    np.testing.assert_array_equal(back.spike_prob, chunk.spike_prob)
    np.testing.assert_array_equal(back.valid, chunk.valid)
    assert plain(back) == plain(chunk)


def test_validity_travels_in_bits_only_where_nan_does_not_tell_it():
    prob = np.ones((3, 5), np.float32)
    prob[1, 2] = np.nan
    chunk = SpikeChunk(spike_prob=prob, first_frame=0, valid=~np.isnan(prob), lookahead_frames=2)
    assert len(codec.encode_spikes(chunk)) == 3
    touched = chunk.valid.copy()
    touched[:, 4] = False
    parts = codec.encode_spikes(replace(chunk, valid=touched))
    assert len(parts) == 4
    assert len(parts[3]) == 2
    np.testing.assert_array_equal(codec.decode_spikes(parts).valid, touched)
    assert reason_of(parts[:3], codec.decode_spikes) == "valid"
    assert reason_of([*parts[:3], parts[3] + b"x"], codec.decode_spikes) == "valid"


def test_header_carries_stream_and_rate_of_results():
    chunk = SpikeChunk(spike_prob=np.ones((1, 1), np.float32), first_frame=3, valid=np.ones((1, 1), bool),
                       lookahead_frames=2)  # fmt: skip
    header = codec.read_header(codec.encode_spikes(chunk, stream="mouse", frame_rate_hz=7.5), codec.TOPIC_SPIKES)
    assert (header["stream"], header["rate"], header["frame"]) == ("mouse", 7.5, 3)


def test_double_precision_is_accepted():
    values = np.array([[0.1, 1e300]])
    parts = [b"dff", json.dumps({"v": 1, "frame": 0, "shape": [1, 2], "dtype": "<f8"}).encode(), values.tobytes()]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(codec.decode_message(parts).frames, values.astype(np.float32))


def test_the_decoded_array_is_never_written_to():
    parts = frames_message()
    assert not codec.decode_message(parts).frames.flags.writeable


def test_ids_name_the_rows():
    chunk = FrameChunk(frames=np.ones((3, 2), np.float32), first_frame=0, ids=(5, "5", "näme"))
    assert codec.decode_frames(codec.encode_frames(chunk)).ids == (5, "5", "näme")
    prob = np.ones((3, 1), np.float32)
    result = SpikeChunk(spike_prob=prob, first_frame=0, valid=prob > 0, lookahead_frames=2, ids=("a", 7))
    assert codec.decode_spikes(codec.encode_spikes(result)).ids == ("a", 7), "rows beyond are free"
    for ids in ([1], [1, 1], [1, True], [1, 2.0], [1, ""], [1, "x" * 65], [1, [2]], {"1": 2}, "ab", 5, [1, 2, 3]):
        assert reason_of(frames_message(ids=ids)) == "ids"
    assert codec.decode_message(frames_message(ids=None)).ids is None
    with pytest.raises(InputError, match="2 ids for 3 neurons"):
        FrameChunk(frames=np.ones((3, 2), np.float32), first_frame=0, ids=(1, 2))


@pytest.mark.parametrize("next_frame", [None, 0, 12])
def test_end(next_frame):
    assert codec.decode_message(codec.encode_end("s", next_frame)) == EndOfStream(stream="s", next_frame=next_frame)


def test_bare_end_is_enough():
    assert codec.decode_message([b"end"]) == EndOfStream()
    assert codec.decode_message([b"end", b""]) == EndOfStream()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"v": 2}, "version"),
        ({"v": True}, "version"),
        ({"v": ...}, "version"),
        ({"frame": -1}, "frame"),
        ({"frame": True}, "frame"),
        ({"frame": 1.0}, "frame"),
        ({"frame": 2**53}, "frame"),
        ({"frame": ...}, "frame"),
        ({"shape": [2]}, "shape"),
        ({"shape": [2, 0]}, "shape"),
        ({"shape": [-2, -3]}, "shape"),
        ({"shape": [2.0, 3]}, "shape"),
        ({"shape": [True, 6]}, "shape"),
        ({"shape": "2,3"}, "shape"),
        ({"shape": [2**62, 2**62]}, "shape"),
        ({"shape": [1_000_000, 1_000_000]}, "shape"),
        ({"shape": [2, 4]}, "payload"),
        ({"shape": [2, 2]}, "payload"),
        ({"dtype": ">f4"}, "dtype"),
        ({"dtype": "<i4"}, "dtype"),
        ({"dtype": "O"}, "dtype"),
        ({"dtype": ["<f4"]}, "dtype"),
        ({"dtype": "<f8"}, "payload"),
        ({"rate": 0}, "rate"),
        ({"rate": -30}, "rate"),
        ({"rate": "30"}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": 10**400}, "rate"),
        ({"t": "now"}, "time"),
        ({"t": [1]}, "time"),
        ({"stream": 5}, "stream"),
        ({"stream": "x" * 257}, "stream"),
        ({"stream": "a\x1b[2J"}, "stream"),
        ({"stream": "\ud800"}, "stream"),
    ],
)
def test_bad_headers_are_rejected_by_reason(changes, reason):
    assert reason_of(frames_message(**changes)) == reason


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "parts"),
        ([b"dff"], "parts"),
        ([b"dff", b"{}"], "parts"),
        ([*frames_message(), b""], "parts"),
        ([b"DFF", *frames_message()[1:]], "topic"),
        ([b"spike_prob", *frames_message()[1:]], "topic"),
        ([b"dff", b"", b""], "header"),
        ([b"dff", b"[1]", b""], "header"),
        ([b"dff", b"\xff\xfe", b""], "header"),
        ([b"dff", b'{"v":1,"rate":NaN}', b""], "header"),
        ([b"dff", b'{"v":1,"t":Infinity}', b""], "header"),
        ([b"dff", b'{"v":' + b"9" * 5000 + b"}", b""], "header"),
        ([b"dff", b"[" * 60_000, b""], "header"),
        ([b"dff", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b""], "header"),
        ([b"dff", b" " * (codec.MAX_HEADER_BYTES + 1), b""], "header"),
        ([b"end", b'{"v":1,"frame":-1}', b""], "frame"),
        ([b"end", b"{}", b""], "version"),
        ([b"end", b"x", b"", b""], "parts"),
    ],
)
def test_bad_messages_are_rejected_by_reason(parts, reason):
    assert reason_of(parts) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lookahead": None}, "lookahead"),
        ({"lookahead": -1}, "lookahead"),
        ({"model": 3}, "model"),
        ({"alignment": "left"}, "alignment"),
        ({"alignment": []}, "alignment"),
        ({"provisional": 1}, "header"),
        ({"valid": "all"}, "valid"),
        ({"t_recv": "x"}, "time"),
    ],
)
def test_bad_result_headers_are_rejected_by_reason(changes, reason):
    chunk = SpikeChunk(spike_prob=np.ones((1, 2), np.float32), first_frame=0, valid=np.ones((1, 2), bool),
                       lookahead_frames=2)  # fmt: skip
    topic, header, payload = codec.encode_spikes(chunk)
    header = json.dumps({**json.loads(header), **changes}).encode()
    assert reason_of([topic, header, payload], codec.decode_spikes) == reason


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(frame_chunks() | spike_chunks(), st.data())
def test_damaged_messages_raise_wire_errors_only(chunk, data):
    encode, decode = (
        (codec.encode_frames, codec.decode_message)
        if isinstance(chunk, FrameChunk)
        else (codec.encode_spikes, codec.decode_spikes)
    )
    parts = encode(chunk)
    number = data.draw(st.integers(0, len(parts) - 1))
    part = bytearray(parts[number])
    if data.draw(st.booleans()) and part:
        part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        part = part[: data.draw(st.integers(0, len(part)))]
    parts[number] = bytes(part)
    try:
        back = decode(parts)
    except WireError:
        return
    assert getattr(back, "n_neurons", 1) >= 1


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"dff", b"end", b"spike_prob", b"{}"]), max_size=5))
def test_random_bytes_raise_wire_errors_only(parts):
    for decode in (codec.decode_message, codec.decode_spikes):
        try:
            decode(parts)
        except WireError:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["v", "stream", "frame", "shape", "dtype", "rate", "t"]), json_values)
def test_any_json_in_any_place_raises_wire_errors_only(name, value):
    try:
        chunk = codec.decode_message(frames_message(**{name: value}))
    except WireError:
        return
    assert chunk.frames.shape == (2, 3)


def test_raw_frames_follow_one_another():
    frames = np.arange(6, dtype=np.float32).reshape(3, 2)
    parts = codec.encode_raw(frames)
    assert len(parts) == 2
    np.testing.assert_array_equal(np.frombuffer(parts[1], "<f4"), [0, 2, 4, 1, 3, 5])
    back = codec.decode_raw(parts, n_neurons=3, first_frame=10)
    np.testing.assert_array_equal(back.frames, frames)
    assert back.first_frame == 10
    assert codec.decode_raw([b"end"], n_neurons=3, first_frame=10) == EndOfStream()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b"dff"], "parts"),
        ([b"dff", b"", b""], "parts"),
        ([b"x", b"\0" * 12], "topic"),
        ([b"dff", b""], "payload"),
        ([b"dff", b"\0" * 13], "payload"),
        ([b"dff", b"\0" * 8], "payload"),
    ],
)
def test_bad_raw_messages_are_rejected(parts, reason):
    assert reason_of(parts, lambda p: codec.decode_raw(p, n_neurons=3, first_frame=0)) == reason


def test_what_cannot_be_expressed_is_not_sent():
    good = FrameChunk(frames=np.ones((1, 1), np.float32), first_frame=0)
    with pytest.raises(InputError, match="empty"):
        codec.encode_frames(replace(good, frames=np.ones((1, 0), np.float32)))
    with pytest.raises(InputError, match="JSON"):
        codec.encode_frames(replace(good, frame_rate_hz=float("inf")))
    with pytest.raises(InputError, match="256"):
        codec.encode_frames(replace(good, stream="x" * 300))
    with pytest.raises(InputError, match="<f4"):
        codec.encode_frames(good, dtype="<i2")

"""Messages to chunks and back: the wire format, version 1.  Pure functions; nothing here knows sockets.

A message is a list of parts (ZeroMQ frames)::

    [topic, header, payload]            in:  topic b"dff"
    [topic, header, payload(, valid)]   out: topic b"spike_prob"
    [b"event", header, b""]             out: a rule decided something; the header has the fields of Event
    [b"end", header, b""]               either way: no more messages of this stream follow

*header*: UTF-8 JSON, one flat object of at most 64 KiB; what is in it stands in ``docs/wire-format.md``. Unknown
entries are ignored. *payload*: the array, C order (all frames of the first neuron, then the second), little endian,
exactly ``n_neurons * n_frames * itemsize`` bytes.

Validity of results: NaN stands for undefined values. ``"valid": "finite"`` says that exactly the values that are not
NaN are valid; ``"valid": "bits"`` that a fourth part has one bit per value (``numpy.packbits``).

Plain mode for senders without JSON: ``[b"dff", samples]``, float32 little endian, any number of whole frames
one after another, each the values of all neurons; frames are counted on arrival.

``docs/wire-format.md`` shows the bytes of an example, and senders and receivers to start from.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import numpy as np

from .chunks import Alignment, FrameChunk, SpikeChunk
from .errors import InputError, WireError
from .events import Event
from .ports import EndOfStream
from .rows import check_ids
from .wirevalues import is_index, is_number, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_PAYLOAD_BYTES",
    "TOPIC_DFF",
    "TOPIC_END",
    "TOPIC_EVENT",
    "TOPIC_SPIKES",
    "decode_end",
    "decode_event",
    "decode_frames",
    "decode_message",
    "decode_raw",
    "decode_spikes",
    "encode_end",
    "encode_event",
    "encode_frames",
    "encode_raw",
    "encode_spikes",
    "read_header",
]

VERSION = 1
TOPIC_DFF = b"dff"
TOPIC_SPIKES = b"spike_prob"
TOPIC_END = b"end"
TOPIC_EVENT = b"event"

MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
MAX_NEURONS = 1_000_000
MAX_FRAMES = 1_000_000
MAX_NAME = 256
_ITEMSIZE = {"<f4": 4, "<f8": 8}

Part = bytes | bytearray | memoryview


# --- making messages ---------------------------------------------------------------------------------------


def encode_frames(chunk: FrameChunk, *, dtype: str = "<f4") -> list[bytes]:
    """Make the message for frames.

    Parameters
    ----------
    chunk : FrameChunk
    dtype : "<f4" or "<f8"
        Number format of the payload.

    Returns
    -------
    list of bytes
        Topic, header, payload.

    Raises
    ------
    InputError
        The chunk cannot be expressed, for example an endless frame rate or no frames at all.
    """
    if dtype not in _ITEMSIZE:
        raise InputError(f"dtype={dtype!r}: expected '<f4' or '<f8'")
    header = _common_header(chunk, chunk.stream, chunk.frames.shape, dtype, chunk.frame_rate_hz)
    header["t"] = chunk.t_source
    return [TOPIC_DFF, _dump(header), chunk.frames.astype(dtype).tobytes("C")]


def encode_spikes(chunk: SpikeChunk, *, stream: str = "", frame_rate_hz: float | None = None) -> list[bytes]:
    """Make the message for the results of one look-ahead; the revisions of ``chunk`` are messages of their own.

    Parameters
    ----------
    chunk : SpikeChunk
    stream : str
        Name of the recording.
    frame_rate_hz : float, optional

    Returns
    -------
    list of bytes
        Topic, header, payload and, where validity is not told by NaN alone, packed bits.
    """
    header = _common_header(chunk, stream, chunk.spike_prob.shape, "<f4", frame_rate_hz)
    by_nan = bool(np.array_equal(chunk.valid, ~np.isnan(chunk.spike_prob)))
    header.update(
        t=chunk.t_source,
        lookahead=int(chunk.lookahead_frames),
        model=chunk.model,
        alignment=chunk.alignment,
        provisional=bool(chunk.provisional),
        valid="finite" if by_nan else "bits",
        t_recv=chunk.t_recv,
        t_emit=chunk.t_emit,
    )
    parts = [TOPIC_SPIKES, _dump(header), chunk.spike_prob.astype("<f4").tobytes("C")]
    if not by_nan:
        parts.append(np.packbits(chunk.valid).tobytes())
    return parts


def encode_event(event: Event, *, stream: str = "") -> list[bytes]:
    """Make the message for an event.

    Parameters
    ----------
    event : Event
    stream : str
        Name of the recording.
    """
    return [TOPIC_EVENT, _dump({"v": VERSION, "stream": stream, **event.to_dict()}), b""]


def encode_end(stream: str = "", next_frame: int | None = None) -> list[bytes]:
    """Make the message that closes a stream.

    Parameters
    ----------
    stream : str
    next_frame : int, optional
        Index that the next frame would have had, so that a receiver knows whether it missed the last ones.
    """
    header: dict[str, Any] = {"v": VERSION, "stream": stream}
    if next_frame is not None:
        header["frame"] = int(next_frame)
    return [TOPIC_END, _dump(header), b""]


def encode_raw(frames: NDArray[np.floating]) -> list[bytes]:
    """Make the message of the plain mode for ``frames``, (n_neurons, n_frames)."""
    return [TOPIC_DFF, np.ascontiguousarray(frames.T, dtype="<f4").tobytes()]


def _common_header(
    chunk: FrameChunk | SpikeChunk, stream: str, shape: tuple[int, ...], dtype: str, frame_rate_hz: float | None
) -> dict[str, Any]:
    if 0 in shape:
        raise InputError(f"there is no message for an empty array of shape {shape}")
    ids = {} if chunk.ids is None else {"ids": list(chunk.ids)}
    return {
        "v": VERSION,
        "stream": stream,
        "frame": int(chunk.first_frame),
        "shape": [int(n) for n in shape],
        "dtype": dtype,
        "rate": None if frame_rate_hz is None else float(frame_rate_hz),
        **ids,
    }


def _dump(header: dict[str, Any]) -> bytes:
    try:
        data = json.dumps(header, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        raise InputError(f"message header {header} cannot be written as JSON: {error}") from error
    if len(data) > MAX_HEADER_BYTES or len(header["stream"]) > MAX_NAME:
        raise InputError(f"header of {len(data)} bytes: expected a stream name of at most {MAX_NAME} characters")
    return data


# --- reading messages --------------------------------------------------------------------------------------


def decode_message(parts: Sequence[Part], *, t_recv: float | None = None) -> FrameChunk | EndOfStream:
    """Read a message that a source may send: frames, or the end of the stream.

    Raises
    ------
    WireError
        The message does not follow the format; nothing else is ever raised, whatever the bytes.
    """
    if parts and parts[0] == TOPIC_END:
        return decode_end(parts)
    return decode_frames(parts, t_recv=t_recv)


def decode_frames(parts: Sequence[Part], *, t_recv: float | None = None) -> FrameChunk:
    """Read a message of frames.

    Parameters
    ----------
    parts : sequence of bytes
    t_recv : float, optional
        Monotonic time at which it was received (s), stored in the chunk.

    Returns
    -------
    FrameChunk
        Its array may be a read-only view of the payload.

    Raises
    ------
    WireError
    """
    header = read_header(parts, TOPIC_DFF, n_parts=(3,))
    return FrameChunk(
        frames=_array(header, parts[2]),
        first_frame=header["frame"],
        t_source=_time(header, "t"),
        t_recv=t_recv,
        stream=header["stream"],
        frame_rate_hz=header["rate"],
        ids=_ids(header),
    )


def decode_spikes(parts: Sequence[Part]) -> SpikeChunk:
    """Read a message of results; :func:`read_header` gives the stream's name and frame rate.

    Raises
    ------
    WireError
    """
    header = read_header(parts, TOPIC_SPIKES, n_parts=(3, 4))
    prob = _array(header, parts[2])
    lookahead: Any = header.get("lookahead")
    if not is_index(lookahead):
        raise WireError("lookahead", f"lookahead {short(lookahead)}: expected an integer >= 0")
    model, alignment = header.get("model", ""), header.get("alignment", "target")
    if not isinstance(model, str):
        raise WireError("model", f"model {short(model)}: expected a name")
    if alignment not in get_args(Alignment):
        raise WireError("alignment", f"alignment {short(alignment)}: expected 'target' or 'cascade'")
    provisional = header.get("provisional", False)
    if not isinstance(provisional, bool):
        raise WireError("header", f"provisional {short(provisional)}: expected true or false")
    return SpikeChunk(
        spike_prob=prob,
        first_frame=header["frame"],
        valid=_validity(header.get("valid", "finite"), prob, parts),
        lookahead_frames=lookahead,
        provisional=provisional,
        model=model,
        alignment=alignment,
        t_source=_time(header, "t"),
        t_recv=_time(header, "t_recv"),
        t_emit=_time(header, "t_emit"),
        ids=_ids(header, fewer=True),
    )


def decode_event(parts: Sequence[Part]) -> Event:
    """Read the message of an event.

    Raises
    ------
    WireError
    """
    if len(parts) != 3 or parts[0] != TOPIC_EVENT:
        raise WireError("parts", f"event message of {len(parts)} parts: expected [b'event', header, b'']")
    header = _load(parts[1])
    _check_version(header)
    numbers = {name: header.get(name, 0) for name in ("number", "frame", "newest_frame", "lookahead")}
    wrong = next((name for name, value in numbers.items() if not is_index(value)), None)
    if wrong is not None:
        raise WireError("header", f"{wrong} {short(numbers[wrong])}: expected an integer from 0 to 2**53 - 1")
    value, data = header.get("value"), header.get("data", {})
    if not isinstance(data, dict) or isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise WireError("header", f"value {short(value)}, data {short(data)}: expected a number and an object")
    try:
        return Event(
            rule=header.get("rule", ""),
            kind=header.get("kind", ""),
            value=math.nan if value is None else float(value),
            t_source=_time(header, "t_source"),
            t_recv=_time(header, "t_recv"),
            t_emit=_time(header, "t_emit"),
            data=data,
            **numbers,
        )
    except InputError as error:
        raise WireError("header", str(error)) from error


def decode_end(parts: Sequence[Part]) -> EndOfStream:
    """Read the message that closes a stream; the bare topic ``[b"end"]`` is accepted too.

    Raises
    ------
    WireError
    """
    if not 1 <= len(parts) <= 3 or parts[0] != TOPIC_END:
        raise WireError("parts", f"end message of {len(parts)} parts: expected [b'end', header, b'']")
    if len(parts) == 1 or len(parts[1]) == 0:
        return EndOfStream()
    header = _load(parts[1])
    _check_version(header)
    frame = header.get("frame")
    if frame is not None and not is_index(frame):
        raise WireError("frame", f"frame {short(frame)}: expected an integer from 0 to 2**53 - 1")
    return EndOfStream(stream=_name(header), next_frame=frame)


def decode_raw(
    parts: Sequence[Part], *, n_neurons: int, first_frame: int, t_recv: float | None = None
) -> FrameChunk | EndOfStream:
    """Read a message of the plain mode: ``[b"dff", float32 samples]`` or ``[b"end"]``.

    Parameters
    ----------
    parts : sequence of bytes
    n_neurons : int
        Values per frame.
    first_frame : int
        Index to give to the first frame of the message.
    t_recv : float, optional

    Raises
    ------
    WireError
    """
    if parts and parts[0] == TOPIC_END:
        return decode_end(parts)
    if len(parts) != 2:
        raise WireError("parts", f"message of {len(parts)} parts: the plain mode expects [b'dff', float32 samples]")
    _check_topic(parts[0], TOPIC_DFF)
    size, frame_bytes = len(parts[1]), 4 * n_neurons
    if size == 0 or size % frame_bytes or size > MAX_PAYLOAD_BYTES:
        raise WireError("payload", f"{size} bytes: expected whole frames of {n_neurons} float32 = {frame_bytes} bytes")
    frames = np.frombuffer(parts[1], "<f4").reshape(-1, n_neurons).T.astype(np.float32, order="C")
    return FrameChunk(frames=frames, first_frame=first_frame, t_recv=t_recv)


def read_header(parts: Sequence[Part], topic: bytes, *, n_parts: Sequence[int] = (3,)) -> dict[str, Any]:
    """Check topic and header of a message of samples and return the header; defaults are filled in.

    Parameters
    ----------
    parts : sequence of bytes
    topic : bytes
        The topic expected.
    n_parts : sequence of int
        Numbers of parts that are allowed.

    Returns
    -------
    dict
        With ``stream``, ``frame``, ``shape``, ``dtype``, ``rate`` checked, the others as received.

    Raises
    ------
    WireError
    """
    if len(parts) not in n_parts:
        raise WireError("parts", f"message of {len(parts)} parts: expected [topic, header, payload]")
    _check_topic(parts[0], topic)
    header = _load(parts[1])
    _check_version(header)
    header["stream"] = _name(header)
    if not is_index(header.get("frame")):
        raise WireError("frame", f"frame {short(header.get('frame'))}: expected an integer from 0 to 2**53 - 1")
    shape = header.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(is_index(n) and n > 0 for n in shape)):
        raise WireError("shape", f"shape {short(shape)}: expected [n_neurons, n_frames], integers >= 1")
    if shape[0] > MAX_NEURONS or shape[1] > MAX_FRAMES:
        raise WireError("shape", f"shape {shape}: expected at most {MAX_NEURONS} neurons and {MAX_FRAMES} frames")
    dtype = header.get("dtype")
    if not isinstance(dtype, str) or dtype not in _ITEMSIZE:
        raise WireError("dtype", f"dtype {short(dtype)}: expected '<f4' or '<f8'")
    expected = shape[0] * shape[1] * _ITEMSIZE[dtype]
    if expected > MAX_PAYLOAD_BYTES:
        raise WireError("shape", f"shape {shape}: {expected} bytes are more than {MAX_PAYLOAD_BYTES}")
    if len(parts[2]) != expected:
        raise WireError("payload", f"payload of {len(parts[2])} bytes: shape {shape} of {dtype} takes {expected}")
    rate = header.get("rate")
    if rate is not None and (not is_number(rate) or rate <= 0):
        raise WireError("rate", f"rate {short(rate)}: expected a positive number of frames per second, or null")
    header["rate"] = None if rate is None else float(rate)
    return header


def _check_topic(part: Part, expected: bytes) -> None:
    if part != expected:
        raise WireError("topic", f"topic {short(bytes(part[:99]))}: expected {expected!r}")


def _check_version(header: dict[str, Any]) -> None:
    version = header.get("v")
    if isinstance(version, bool) or version != VERSION:
        raise WireError("version", f"version {short(version)}: expected {VERSION}")


def _load(part: Part) -> dict[str, Any]:
    if len(part) > MAX_HEADER_BYTES:
        raise WireError("header", f"header of {len(part)} bytes: expected at most {MAX_HEADER_BYTES}")
    try:
        header = json.loads(bytes(part).decode("utf-8"), parse_constant=_no_constant)
    except RecursionError as error:
        raise WireError("header", "header is nested too deeply: expected one flat JSON object") from error
    except ValueError as error:  # not UTF-8, not JSON, NaN or Infinity, or an integer of thousands of digits
        raise WireError("header", f"header {short(bytes(part[:99]))} is not JSON: {short(error, 99)}") from error
    if not isinstance(header, dict):
        raise WireError("header", f"header is a JSON {type(header).__name__}: expected an object")
    return header


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _name(header: dict[str, Any]) -> str:
    name = header.get("stream", "")
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise WireError("stream", f"stream {short(name)}: expected a printable name of at most {MAX_NAME} characters")
    return name


def _time(header: dict[str, Any], key: str) -> float | None:
    value = header.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise WireError("time", f"{key} {short(value)}: expected seconds or null")
    return float(value)


def _ids(header: dict[str, Any], *, fewer: bool = False) -> tuple[int | str, ...] | None:
    if header.get("ids") is None:
        return None
    try:
        return check_ids(header["ids"], header["shape"][0], fewer=fewer)
    except InputError as error:
        raise WireError("ids", str(error)) from error


def _array(header: dict[str, Any], payload: Part) -> NDArray[np.float32]:
    values: NDArray[Any] = np.frombuffer(payload, header["dtype"]).reshape(header["shape"])
    if header["dtype"] == "<f4" and sys.byteorder == "little":
        return values
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the stream takes as unusable
        return values.astype(np.float32)


def _validity(kind: Any, prob: NDArray[np.float32], parts: Sequence[Part]) -> NDArray[np.bool_]:
    if kind == "finite" and len(parts) == 3:
        return ~np.isnan(prob)
    expected = -(-prob.size // 8)
    if kind != "bits" or len(parts) != 4 or len(parts[3]) != expected:
        raise WireError(
            "valid",
            f"valid {short(kind)} with {len(parts)} parts: expected 'finite' and 3 parts, or 'bits' and a fourth "
            f"part of {expected} bytes",
        )
    bits = np.unpackbits(np.frombuffer(parts[3], np.uint8), count=prob.size)
    return bits.astype(bool).reshape(prob.shape)

"""What server and page say to each other: a binary message for samples, JSON for everything else.

Samples (server to page), little endian::

    header   24 bytes   b"CR", version u8, blocks u8, update u32, epoch u32, seconds f64, 4 bytes unused
    block    16 bytes   kind u8, 1 byte unused, rows u16, frames u32, first frame f64
             then the values, one frame after another, filled up with zeros to a multiple of 8 bytes

Only frames that the page has not got yet are sent, and of ΔF/F and spike probability only the chosen neurons. *update*
counts what the server had for this page: a number that is missing was dropped because the page was slow. *epoch*
grows when frames are counted anew, and the page forgets what it has.

The page sends small JSON objects with a ``type``; :func:`parse_request` knows them all.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["DFF", "PROB", "RASTER", "RATE", "Block", "Update", "decode_update", "encode_update", "parse_request"]

#: Kinds of blocks: ΔF/F, spike probability, population rate (Hz), raster (0: undefined, 1 to 255).
DFF, PROB, RATE, RASTER = 1, 2, 3, 4

MAGIC, VERSION = b"CR", 1
_HEADER = struct.Struct("<2sBBIId4x")
_BLOCK = struct.Struct("<BxHId")
_DTYPES: dict[int, np.dtype[Any]] = {
    DFF: np.dtype("<f4"),
    PROB: np.dtype("<f4"),
    RATE: np.dtype("<f4"),
    RASTER: np.dtype("u1"),
}

#: Neurons that a page may choose at once.
MAX_CHOSEN = 16
MAX_NAME = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Consecutive values of one kind.

    Parameters
    ----------
    kind : int
    first_frame : int
    values : ndarray, (n_frames, n_rows)
    """

    kind: int
    first_frame: int
    values: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What one binary message holds; ``seconds`` is the server's time."""

    number: int
    epoch: int
    seconds: float
    blocks: tuple[Block, ...]


def encode_update(update: Update) -> bytes:
    """Make the binary message of an update."""
    head = _HEADER.pack(MAGIC, VERSION, len(update.blocks), update.number % 2**32, update.epoch % 2**32, update.seconds)
    parts = [head]
    for block in update.blocks:
        n_frames, n_rows = block.values.shape
        data = block.values.astype(_DTYPES[block.kind], copy=False).tobytes("C")
        parts += [_BLOCK.pack(block.kind, n_rows, n_frames, float(block.first_frame)), data, bytes(-len(data) % 8)]
    return b"".join(parts)


def decode_update(data: bytes) -> Update:
    """Read a binary message; the inverse of :func:`encode_update`.

    Raises
    ------
    WireError
    """
    if len(data) < _HEADER.size:
        raise WireError("header", f"update of {len(data)} bytes: expected at least {_HEADER.size}")
    magic, version, n_blocks, number, epoch, seconds = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise WireError("version", f"update starts with {magic!r}, version {version}: expected {MAGIC!r}, {VERSION}")
    blocks, at = [], _HEADER.size
    for _ in range(n_blocks):
        if len(data) < at + _BLOCK.size:
            raise WireError("payload", f"update of {len(data)} bytes ends inside the header of a block")
        kind, n_rows, n_frames, first = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        if kind not in _DTYPES:
            raise WireError("header", f"block of kind {kind}: expected one of {sorted(_DTYPES)}")
        size = n_rows * n_frames * _DTYPES[kind].itemsize
        if len(data) < at + size:
            raise WireError("payload", f"update of {len(data)} bytes ends inside a block of {size} bytes")
        values = np.frombuffer(data, _DTYPES[kind], n_rows * n_frames, at).reshape(n_frames, n_rows)
        blocks.append(Block(kind=kind, first_frame=int(first), values=values))
        at += size + -size % 8
    return Update(number=number, epoch=epoch, seconds=seconds, blocks=tuple(blocks))


def dump(message: dict[str, Any]) -> bytes:
    """JSON for the page; numbers that JSON does not have become null."""
    return json.dumps(_plain(message), allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parse_request(data: bytes, *, n_neurons: int, lookaheads: Sequence[int]) -> dict[str, Any]:
    """Read and check what a page sends.

    Parameters
    ----------
    data : bytes
        ``{"type": "hello", "token": text}``, ``{"type": "select", "neurons": [..], "lookahead": n, "fresh": bool}``,
        ``{"type": "busiest", "count": n}``, ``{"type": "pick", "row": n}`` or
        ``{"type": "control", "rule": name, "action": "arm" | "disarm" | "set", "threshold": value}``.
    n_neurons : int
    lookaheads : sequence of int

    Returns
    -------
    dict
        With exactly the known entries.

    Raises
    ------
    WireError
    """
    try:
        message = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WireError("header", f"message of a page is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise WireError("header", f"message of a page is a {type(message).__name__}: expected an object")
    kind = message.get("type")
    if kind == "hello":
        token = message.get("token", "")
        if not isinstance(token, str) or len(token) > MAX_NAME:
            raise WireError("header", "token: expected a short text")
        return {"type": kind, "token": token}
    if kind == "select":
        neurons = message.get("neurons")
        if not isinstance(neurons, list) or len(neurons) > MAX_CHOSEN:
            raise WireError("header", f"neurons: expected a list of at most {MAX_CHOSEN} numbers")
        chosen = list(dict.fromkeys(_whole("neuron", n, n_neurons) for n in neurons))
        lookahead = message.get("lookahead")
        if lookahead is not None and (isinstance(lookahead, bool) or lookahead not in lookaheads):
            raise WireError("lookahead", f"lookahead: expected one of {list(lookaheads)}")
        return {"type": kind, "neurons": chosen, "lookahead": lookahead, "fresh": message.get("fresh") is True}
    if kind == "busiest":
        return {"type": kind, "count": _whole("count", message.get("count"), MAX_CHOSEN + 1)}
    if kind == "pick":
        return {"type": kind, "row": _whole("row", message.get("row"), 2**16)}
    if kind == "control":
        return {"type": kind, "message": _control(message)}
    raise WireError("header", "type: expected hello, select, busiest, pick or control")


def _control(message: dict[str, Any]) -> dict[str, Any]:
    rule, action = message.get("rule"), message.get("action")
    if not isinstance(rule, str) or not 0 < len(rule) <= MAX_NAME:
        raise WireError("header", "rule: expected the name of a rule")
    if action not in ("arm", "disarm", "set"):
        raise WireError("header", "action: expected arm, disarm or set")
    wanted: dict[str, Any] = {"rule": rule, "action": action}
    if action == "set":
        threshold = message.get("threshold")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not abs(threshold) < 1e9:
            raise WireError("header", "threshold: expected a number")
        wanted["threshold"] = float(threshold)
    return wanted


def _whole(name: str, value: Any, stop: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < stop:
        raise WireError("header", f"{name}: expected a whole number from 0 to {stop - 1}")
    return value


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")

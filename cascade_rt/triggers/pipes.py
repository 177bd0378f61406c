"""Messages of several parts through a pipe: each preceded by the number and the lengths of its parts."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_message", "write_message"]

#: Longer ones are not ours: something else wrote into the pipe.
MAX_PARTS, MAX_BYTES = 16, 1 << 30


def write_message(file: BinaryIO, parts: Sequence[bytes]) -> None:
    """Write one message and flush."""
    lengths = [len(part) for part in parts]
    file.write(struct.pack(f"<{1 + len(parts)}I", len(parts), *lengths) + b"".join(parts))
    file.flush()


def read_message(file: BinaryIO) -> list[bytes] | None:
    """Read one message; None at the end of the pipe, or if what comes is no message."""
    head = file.read(4)
    if len(head) < 4:
        return None
    (n_parts,) = struct.unpack("<I", head)
    if n_parts > MAX_PARTS:
        return None
    lengths = struct.unpack(f"<{n_parts}I", file.read(4 * n_parts).ljust(4 * n_parts, b"\xff"))
    if any(length > MAX_BYTES for length in lengths):
        return None
    parts = [file.read(length) for length in lengths]
    return parts if all(len(part) == length for part, length in zip(parts, lengths, strict=True)) else None

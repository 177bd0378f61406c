"""The part of the WebSocket protocol (RFC 6455) that a server of small messages needs; no sockets in here."""

from __future__ import annotations

import base64
import hashlib
import struct

from cascade_rt.errors import WireError

__all__ = ["BINARY", "CLOSE", "MAX_MESSAGE_BYTES", "PING", "PONG", "TEXT", "FrameReader", "accept_key", "encode_frame"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
#: Longest message that a page may send (bytes).
MAX_MESSAGE_BYTES = 4096

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)


def accept_key(key: str) -> str:
    """Answer to the ``Sec-WebSocket-Key`` of a handshake."""
    digest = hashlib.sha1(key.encode("ascii", "replace") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def encode_frame(opcode: int, payload: bytes, *, mask: bytes = b"") -> bytes:
    """Make a frame; a server sends it without a mask, a client needs one of 4 bytes."""
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, bit | 127, size)
    return head + mask + (_masked(payload, mask) if mask else payload)


class FrameReader:
    """Makes messages of the bytes that a client sends.

    Parameters
    ----------
    limit : int
        Longest message (bytes); a longer one is refused before it has arrived.
    """

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._message = bytearray()
        self._opcode = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes and return the messages (opcode, payload) that are now complete.

        Raises
        ------
        WireError
            The client does not follow the protocol, or wants to send too much.
        """
        self._buffer += data
        messages: list[tuple[int, bytes]] = []
        while True:
            frame = self._next_frame()
            if frame is None:
                return messages
            final, opcode, payload = frame
            if opcode >= CLOSE:
                if not final or len(payload) > 125:
                    raise WireError("header", "WebSocket: a control frame is short and whole")
                messages.append((opcode, payload))
                continue
            if (opcode == CONTINUATION) != bool(self._opcode):
                raise WireError("header", "WebSocket: a continuation without a beginning, or the other way round")
            self._opcode = self._opcode or opcode
            self._message += payload
            if len(self._message) > self._limit:
                raise WireError("payload", f"WebSocket: message of more than {self._limit} bytes")
            if final:
                messages.append((self._opcode, bytes(self._message)))
                self._message.clear()
                self._opcode = 0

    def _next_frame(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        final, opcode, size, at = bool(buffer[0] & 0x80), buffer[0] & 0x0F, buffer[1] & 0x7F, 2
        if buffer[0] & 0x70 or opcode not in _OPCODES or not buffer[1] & 0x80:
            raise WireError("header", "WebSocket: expected a masked frame without extensions")
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(buffer) < at:
                return None
            size = int.from_bytes(buffer[2:at], "big")
        if size > self._limit:
            raise WireError("payload", f"WebSocket: frame of {size} bytes, at most {self._limit} are accepted")
        if len(buffer) < at + 4 + size:
            return None
        payload = _masked(bytes(buffer[at + 4 : at + 4 + size]), bytes(buffer[at : at + 4]))
        del buffer[: at + 4 + size]
        return final, opcode, payload


def _masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))

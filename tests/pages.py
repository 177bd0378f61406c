"""A page as a program: greets a server, asks it for something, reads what comes."""

from __future__ import annotations

import json
import socket

from cascade_rt.monitor.protocol import decode_update
from cascade_rt.monitor.websocket import BINARY, CLOSE, TEXT, encode_frame


class Page:
    """A connection to the server at a port of this machine."""

    def __init__(self, port, token="", *, hello=True):
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        origin = f"127.0.0.1:{port}"
        self._connection.sendall(
            f"GET /live HTTP/1.1\r\nHost: {origin}\r\nOrigin: http://{origin}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        self.file = self._connection.makefile("rb")
        self.status = self.file.readline().split()[1]
        while self.file.readline().strip():
            pass
        if hello and self.status == b"101":
            self.say(type="hello", token=token)

    def say(self, **message):
        self.send(json.dumps(message).encode())

    def say_often(self, times, **message):
        """The same message again and again, in one piece: it must not arrive spread over seconds."""
        frame = encode_frame(TEXT, json.dumps(message).encode(), mask=b"abcd")
        self._connection.sendall(frame * times)

    def send(self, payload, opcode=TEXT):
        self._connection.sendall(encode_frame(opcode, payload, mask=b"abcd"))

    def read(self):
        """One frame: opcode and payload."""
        first, size = self.file.read(2)
        if size >= 126:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
        return first & 15, self.file.read(size)

    def until(self, kind):
        """Next JSON message of a type."""
        while True:
            opcode, payload = self.read()
            assert opcode != CLOSE, f"closed while waiting for {kind}"
            if opcode == TEXT and json.loads(payload)["type"] == kind:
                return json.loads(payload)

    def samples(self):
        """Next update with samples."""
        while True:
            opcode, payload = self.read()
            if opcode == BINARY:
                return decode_update(payload)

    def closed(self):
        """Why, if anything was said, and that it was closed."""
        why = ""
        while True:
            opcode, payload = self.read()
            if opcode == CLOSE:
                return why
            if opcode == TEXT:
                why = json.loads(payload).get("why", why)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        self._connection.close()

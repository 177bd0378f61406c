"""Control of a run from outside: messages over ZeroMQ, each with a token, that arm, disarm and change rules."""

from __future__ import annotations

import hmac
import json
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

import zmq

from cascade_rt.errors import InputError

from . import ZmqEndpoint, parse_endpoint
from .zeromq import ZmqSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ControlServer"]

log = logging.getLogger(__name__)

#: Longest message (bytes), and messages that wait for the run at most.
MAX_BYTES, QUEUE_MESSAGES = 16 * 1024, 256
#: Shortest token that is accepted (characters).
SHORTEST_TOKEN = 8


class ControlServer:
    """Receives control messages in a thread of its own and keeps them until the run asks for them.

    A message is one JSON object: ``{"token": …, "rule": NAME or "*", "action": …}``. A REP socket answers each with
    ``{"ok": true}`` or ``{"ok": false, "error": …}``; ``{"token": …, "action": "status"}`` is answered with the state
    of all rules. A PULL socket answers nothing, and logs what it refuses.

    Parameters
    ----------
    address : str
        ``tcp://127.0.0.1:5600``, with ``?type=rep|pull`` and CURVE keys; beyond this machine only with these.
    token : str
        Every message must have it.
    check : callable
        Says what is wrong with a message, or nothing.
    describe : callable
        Gives the state of the rules.
    """

    def __init__(
        self,
        address: str,
        token: str,
        *,
        check: Callable[[Mapping[str, Any]], str],
        describe: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        endpoint = parse_endpoint(address, "control")
        if not isinstance(endpoint, ZmqEndpoint):
            raise InputError(f"control {address!r}: expected an address such as tcp://127.0.0.1:5600")
        endpoint.check_safe(insecure=False)
        if len(token) < SHORTEST_TOKEN or not token.isascii():
            raise InputError(f"the token for control has {len(token)} characters: expected at least {SHORTEST_TOKEN}")
        self._answers = endpoint.socket_type == "rep"
        self._socket = ZmqSocket(endpoint, linger_ms=200, max_bytes=MAX_BYTES)
        self._token = token.encode()
        self._check = check
        self._describe = describe
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(QUEUE_MESSAGES)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.accepted = self.refused = 0

    @property
    def address(self) -> str:
        return self._socket.address

    def __enter__(self) -> ControlServer:
        self._socket.open()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def take(self) -> list[dict[str, Any]]:
        """Return the messages that have come since the last call; never waits."""
        messages = []
        while True:
            try:
                messages.append(self._queue.get_nowait())
            except queue.Empty:
                return messages

    def _serve(self) -> None:
        socket = self._socket.socket
        while not self._stopping.is_set():
            if not socket.poll(100):
                continue
            answer = self._handle(socket.recv_multipart())
            if answer.get("ok"):
                self.accepted += 1
            else:
                self.refused += 1
                log.warning("control message refused: %s", answer["error"])
            if self._answers:
                try:
                    socket.send(json.dumps(answer).encode(), zmq.NOBLOCK)
                except zmq.Again:  # who asked has gone
                    log.info("nobody took the answer to a control message")

    def _handle(self, parts: Sequence[bytes]) -> dict[str, Any]:
        if len(parts) != 1 or len(parts[0]) > MAX_BYTES:
            return _refused(f"message of {len(parts)} parts: expected one JSON object of at most {MAX_BYTES} bytes")
        try:
            message = json.loads(parts[0].decode())
        except (ValueError, RecursionError):
            return _refused("not JSON: expected one object with token, rule and action")
        if not isinstance(message, dict):
            return _refused("expected one object with token, rule and action")
        if not hmac.compare_digest(str(message.pop("token", "")).encode(errors="replace"), self._token):
            return _refused("wrong token")
        if message.get("action") == "status":
            return {"ok": True, "rules": list(self._describe())}
        problem = self._check(message)
        if problem:
            return _refused(problem)
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            return _refused("too many messages wait for the run")
        return {"ok": True}


def _refused(reason: str) -> dict[str, Any]:
    return {"ok": False, "error": reason}

"""Serves the page and keeps its copies in browsers up to date; one thread, no waiting for anybody.

A page whose connection is full misses updates, and is let go if that does not end. Reading may need the token,
changing anything always does. See :mod:`.http` for what is refused at the door.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import time
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError, WireError

from .collector import Collector, Viewer
from .http import MAX_HEAD_BYTES, Refused, check_request, parse_request_head, response
from .protocol import dump, encode_update, parse_request
from .websocket import BINARY, CLOSE, PING, PONG, TEXT, FrameReader, accept_key, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MonitorServer"]

log = logging.getLogger(__name__)

#: Pages, and connections of any kind, that are served at once.
MAX_PAGES, MAX_CONNECTIONS = 8, 32
#: Time that a browser has for the head of its request, and a page for its greeting (s).
HEAD_S = 5.0
#: Shortest time between two updates of a page, and between two accounts of the run's state (s).
UPDATE_S, STATUS_S = 1 / 45, 0.25
#: How often the server looks for something new (s).
LOOK_S = 1 / 90
#: What may wait to be sent to a page (bytes), and how long it may stay like that (s).
MAX_WAITING_BYTES, STALLED_S = 256 * 1024, 10.0
#: Messages that a page may send within a second.
MAX_REQUESTS = 40
#: Tokens that a connection may try.
MAX_TRIES = 3

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class MonitorServer:
    """Shows a collector to browsers.

    Parameters
    ----------
    collector : Collector
    host, port : str, int
        Where to listen; port 0 lets the system choose.
    token : str
        Secret that allows control, and reading if ``protect``; empty: nobody has it.
    protect : bool
        Reading needs the token too.
    control : callable, optional
        Called with ``{"rule": …, "action": …}`` for what a page with the token asks for. None: nothing can be changed.
    clock : callable
        Monotonic time (s).
    """

    def __init__(
        self,
        collector: Collector,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        protect: bool = False,
        control: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.collector = collector
        self._host, self._port = host, port
        self._token = token.encode()
        self._protect = protect
        self.control = control
        self.clock = clock
        self._files = {
            path: ((files(__package__) / "static" / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }
        self._pages: set[_Page] = set()
        self._connections = 0
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Address of the page, without the token."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    async def start(self) -> None:
        """Listen; raises InputError if the address cannot be had."""
        try:
            self._server = await asyncio.start_server(
                self._connected, self._host, self._port, limit=MAX_HEAD_BYTES, backlog=16
            )
        except OSError as error:
            raise InputError(
                f"the page cannot be served at {self._host}:{self._port}: {error.strerror or error}. "
                "Choose another port, or 0 for any that is free"
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self) -> None:
        """Tell the pages what has happened last, and close."""
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        if self._server is not None:
            self._server.close()
        for page in list(self._pages):
            page.show(status=True)
            page.close(1001)
        await asyncio.sleep(0.1)  # what is written leaves
        for page in list(self._pages):
            page.abort()

    def knows(self, token: str) -> bool:
        """Tell, in a time that does not depend on where they differ, whether a token is the right one."""
        return bool(self._token) and hmac.compare_digest(token.encode(), self._token)

    @property
    def can_control(self) -> bool:
        """Whether anything can be changed at all."""
        return self.control is not None and bool(self._token)

    @property
    def protected(self) -> bool:
        return self._protect

    @property
    def n_pages(self) -> int:
        return len(self._pages)

    # ------------------------------------------------------------------------------------------- connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError, TimeoutError):
            log.debug("a browser has gone")
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._connections > MAX_CONNECTIONS:
                raise Refused(503, "too many connections")
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S)
            except asyncio.LimitOverrunError as error:
                raise Refused(431, "the head of the request is too long") from error
            request = parse_request_head(head)
            check_request(request, self._host)
            if request.path == "/live":
                if not request.is_websocket:
                    raise Refused(426, "expected a WebSocket")
                if len(self._pages) >= MAX_PAGES:
                    raise Refused(503, f"{MAX_PAGES} pages are open already: close one")
                await self._serve_page(request.headers["sec-websocket-key"], reader, writer)
                return
            if request.path not in _FILES:
                raise Refused(404, "not found")
            body, kind = self._files[request.path]
            answer = response(200, body, kind, head=request.method == "HEAD")
        except Refused as refused:
            log.debug("refused: %s", refused.why)
            answer = response(refused.status, refused.why.encode())
        writer.write(answer)
        await asyncio.wait_for(writer.drain(), HEAD_S)

    async def _serve_page(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode("ascii")
        )
        connection = writer.get_extra_info("socket")
        if connection is not None:  # little waits in the system, so that a slow page is noticed and catches up at once
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_WAITING_BYTES)
        page = _Page(self, writer)
        self._pages.add(page)
        try:
            await page.listen(reader)
        finally:
            self._pages.discard(page)

    async def _tick(self) -> None:
        next_status = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            status = self.clock() >= next_status
            if status:
                next_status = self.clock() + STATUS_S
            for page in list(self._pages):
                page.show(status=status)


class _Page:
    """One page in a browser."""

    def __init__(self, server: MonitorServer, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._writer = writer
        self._frames = FrameReader()
        self._viewer = Viewer(server.collector)
        self._greeted = False
        self._trusted = False
        self._tries = 0
        self._epoch = -1
        self._n_events = 0
        self._number = 0
        self._last = 0.0
        self._stalled: float | None = None
        self._requests: tuple[int, int] = (0, 0)

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Do what the page asks for, until it goes."""
        while not self._writer.is_closing():
            if self._greeted:
                data = await reader.read(4096)
            else:
                data = await asyncio.wait_for(reader.read(4096), HEAD_S)
            if not data:
                return
            try:
                for opcode, payload in self._frames.feed(data):
                    if opcode == CLOSE:
                        self.close(1000)
                        return
                    if opcode == PING:
                        self._write(PONG, payload)
                    elif opcode == TEXT:
                        self._obey(payload)
                    elif opcode == BINARY:
                        raise WireError("header", "pages send text")
            except WireError as error:
                log.debug("a page is let go: %s", error)
                self._tell(type="refused", why=str(error)[:200])
                self.close(1008)
                return

    def _obey(self, payload: bytes) -> None:
        second = int(self._server.clock())
        count = self._requests[1] + 1 if self._requests[0] == second else 1
        self._requests = second, count
        if count > MAX_REQUESTS:
            raise WireError("header", f"more than {MAX_REQUESTS} messages in a second")
        collector = self._server.collector
        info = collector.info
        request = parse_request(payload, n_neurons=info.get("n_neurons", 0), lookaheads=info.get("lookaheads", ()))
        kind = request["type"]
        if kind == "hello":
            self._greet(request["token"])
        elif not self._greeted:
            raise WireError("header", "expected hello first")
        elif kind == "select":
            self._viewer.select(request["neurons"], request["lookahead"], fresh=request["fresh"])
            self._tell(type="selected", neurons=request["neurons"], lookahead=self._viewer.lookahead)
        elif kind == "busiest":
            self._tell(type="busiest", neurons=collector.busiest(request["count"]))
        elif kind == "pick":
            self._tell(type="picked", neuron=collector.pick(request["row"]))
        elif not (self._trusted and self._server.can_control):
            self._tell(type="refused", why="this page may only look: control needs the token")
        else:
            assert self._server.control is not None
            self._server.control(request["message"])
            self._tell(type="accepted", **request["message"])

    def _greet(self, token: str) -> None:
        server = self._server
        trusted = server.knows(token)
        if token and not trusted:
            self._tries += 1
        if (server.protected and not trusted and token) or self._tries >= MAX_TRIES:
            raise WireError("header", "wrong token")
        if server.protected and not trusted:
            raise WireError("header", "this page needs the token: open the whole address that was printed")
        self._trusted = self._trusted or trusted
        self._tell(
            type="welcome",
            control=self._trusted and server.can_control,
            control_possible=server.can_control,
            token=("right" if trusted else "wrong") if token else "none",
        )
        self._greeted = True

    def show(self, *, status: bool) -> None:
        """Send what is new, unless the page has not taken what was sent before."""
        if not self._greeted or self._writer.is_closing():
            return
        now, server = self._server.clock(), self._server
        if self._writer.transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            self._stalled = self._stalled or now
            if now - self._last > UPDATE_S:
                self._last = now
                self._number += 1
            if now - self._stalled > STALLED_S:
                log.debug("a page takes nothing any more and is let go")
                self.abort()
            return
        self._stalled = None
        collector = server.collector
        if collector.info and self._epoch != collector.epoch:
            self._epoch = collector.epoch
            self._tell(type="info", **collector.describe())
        if status:
            self._tell(type="status", pages=server.n_pages, **collector.status())
        if self._n_events != collector.n_events:
            with collector.lock:
                new = min(collector.n_events - self._n_events, len(collector.events))
                self._n_events = collector.n_events
                events = list(collector.events)[len(collector.events) - new :]
            self._tell(type="events", events=events[-100:])
        if now - self._last < UPDATE_S:
            return
        update = self._viewer.update(self._number, now)
        if update is not None:
            self._last = now
            self._number += 1
            self._write(BINARY, encode_update(update))

    def close(self, code: int) -> None:
        """Say goodbye."""
        self._write(CLOSE, code.to_bytes(2, "big"))
        self._writer.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    def _tell(self, **message: Any) -> None:
        self._write(TEXT, dump(message))

    def _write(self, opcode: int, payload: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode_frame(opcode, payload))

"""The page's server at its door: who is let in, what is refused, and that nobody is waited for."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time

import numpy as np
import pytest
from pages import Page

from cascade_rt.errors import InputError
from cascade_rt.monitor.collector import Collector
from cascade_rt.monitor.protocol import DFF
from cascade_rt.monitor.server import MAX_PAGES, MonitorServer
from cascade_rt.monitor.starting import check_readers, parse_address, start_monitor

INFO = {
    "stream": "s", "n_neurons": 50, "frame_rate_hz": 30.0, "lookaheads": [2], "model": "m", "noise_range": [1.0, 8.0],
    "integration": [[2, 3, 100.0]], "has_dff": True,
}  # fmt: skip
TOKEN = "correct-horse-battery"


class Served:
    """A server in a thread of its own."""

    def __init__(self, **options):
        self.collector = Collector()
        self.collector.start(INFO)
        self.asked: queue.SimpleQueue = queue.SimpleQueue()
        if options.pop("control", False):
            options["control"] = self.asked.put
        self.server = MonitorServer(self.collector, **options)
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self):
        await self.server.start()
        self._ready.set()
        while not self._stop.is_set():
            await asyncio.sleep(0.01)
        await self.server.stop()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(20)
        self.port = int(self.server.url.rsplit(":", 1)[1].strip("/"))
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def request(self, data):
        """Send bytes; everything that comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            answer = b""
            try:
                while part := connection.recv(65536):
                    answer += part
            except ConnectionResetError:  # closed with bytes of ours unread
                pass
            return answer

    def get(self, path="/", *lines, method="GET", host=None):
        text = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{self.port}'}", *lines, "", ""])
        return self.request(text.encode())


@pytest.fixture(scope="module")
def served():
    with Served(token=TOKEN, control=True) as made:
        yield made


def test_the_page_and_its_parts_are_served(served):
    for path, kind in (("/", b"text/html"), ("/page.js", b"text/javascript"), ("/page.css", b"text/css")):
        answer = served.get(path)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert kind in answer
        assert b"default-src 'none'" in answer
    page = served.get("/")
    assert b"http://" not in page.partition(b"\r\n\r\n")[2]  # nothing is loaded from elsewhere
    assert b"https://" not in page


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/server.py", "/static/page.js", "/page.js/..", "//etc/passwd"]
)
def test_nothing_else_is_served(served, path):
    assert served.get(path).startswith(b"HTTP/1.1 404 ")


def test_foreign_requests_are_refused(served):
    assert served.get(host="evil.example").startswith(b"HTTP/1.1 403 ")
    assert served.get("/page.js", "Origin: http://evil.example").startswith(b"HTTP/1.1 403 ")
    assert served.get("/live", "Upgrade: websocket", "Origin: http://evil.example").startswith(b"HTTP/1.1 403 ")
    assert served.get("/live", "Upgrade: websocket").startswith(b"HTTP/1.1 403 ")
    assert served.get("/live").startswith(b"HTTP/1.1 426 ")


def test_bodies_and_long_heads_are_refused(served):
    assert served.get("/", "Content-Length: 100000000", method="POST").startswith(b"HTTP/1.1 405 ")
    assert served.get("/", "Content-Length: 100000000").startswith(b"HTTP/1.1 413 ")
    assert served.get("/", "X: " + "a" * 20_000)[:13] in (b"HTTP/1.1 431 ", b"")  # b"": reset while we still sent
    assert served.request(b"\x16\x03\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_looking_needs_no_token_and_changes_nothing(served):
    with Page(served.port) as page:
        welcome = page.until("welcome")
        assert (welcome["control"], welcome["control_possible"], welcome["token"]) == (False, True, "none")
        page.say(type="control", rule="a", action="arm")
        assert "token" in page.until("refused")["why"]
    with Page(served.port, TOKEN[:-1]) as page:
        assert page.until("welcome")["token"] == "wrong"
        page.say(type="control", rule="a", action="arm")
        page.until("refused")
    assert served.asked.empty()


def test_with_the_token_plain_messages_arrive(served):
    with Page(served.port, TOKEN) as page:
        assert page.until("welcome")["control"] is True
        page.say(type="control", rule="a", action="set", threshold=2, evil="x")
        page.until("accepted")
    assert served.asked.get(timeout=20) == {"rule": "a", "action": "set", "threshold": 2.0}
    assert served.asked.empty()


def test_tokens_cannot_be_tried_for_long(served):
    with Page(served.port, "wrong-1") as page:
        page.say(type="hello", token="wrong-2")
        page.say(type="hello", token="wrong-3")
        assert page.closed() == "wrong token"


@pytest.mark.parametrize("payload", [b"{", b"[]", b'{"type":"what"}', b'{"type":"select","neurons":[50]}'])
def test_a_page_that_talks_nonsense_is_let_go(served, payload):
    with Page(served.port) as page:
        page.until("welcome")
        page.send(payload)
        assert page.closed()


def test_a_page_must_greet_first_and_not_talk_too_much(served):
    with Page(served.port, hello=False) as page:
        page.say(type="busiest", count=1)
        assert "hello" in page.closed()
    with Page(served.port) as page:
        page.until("welcome")
        page.say_often(90, type="busiest", count=1)  # more than allowed even if a new second begins among them
        assert "second" in page.closed()
    with Page(served.port) as page:
        page.send(b" " * 5000)
        assert page.closed()


def test_samples_reach_the_page(served):
    with Page(served.port) as page:
        page.until("info")
        page.say(type="select", neurons=[7], lookahead=2)
        assert page.until("selected")["neurons"] == [7]
        frames = np.tile(np.arange(50, dtype=np.float32)[:, None], (1, 3))
        served.collector.add_frames(10, frames)
        block = next(block for block in page.samples().blocks if block.kind == DFF)
        assert block.first_frame == 10
        assert block.values.tolist() == [[7.0]] * 3
        served.collector.add_event({"rule": "a", "kind": "sham"})
        assert page.until("events")["events"][-1]["kind"] == "sham"
        assert page.until("status")["noise"]["counts"] is None


def test_so_many_pages_and_no_more(served):
    pages = [Page(served.port) for _ in range(MAX_PAGES)]
    try:
        for page in pages:
            page.until("welcome")
        with Page(served.port) as one_more:
            assert one_more.status == b"503"
    finally:
        for page in pages:
            page.__exit__()


def test_without_a_token_nothing_can_be_controlled():
    with Served(control=True) as served, Page(served.port, "") as page:
        assert page.until("welcome")["control_possible"] is False
        page.say(type="control", rule="a", action="arm")
        page.until("refused")
        assert served.asked.empty()


def test_a_protected_page_shows_nothing_without_the_token():
    with Served(token=TOKEN, protect=True) as served:
        with Page(served.port) as page:
            assert "needs the token" in page.closed()
        with Page(served.port, "wrong") as page:
            assert page.closed() == "wrong token"
        with Page(served.port, TOKEN) as page:
            assert page.until("welcome")["control"] is False
            page.until("info")


def test_a_page_that_takes_nothing_loses_updates_and_holds_up_nobody():
    with Served() as served, Page(served.port) as stalled, Page(served.port) as good:
        for page in (stalled, good):
            page.until("info")
            page.say(type="select", neurons=list(range(16)), lookahead=2)
            page.until("selected")
        deadline, frame = time.monotonic() + 60, 0
        block = np.zeros((50, 300), np.float32)
        while time.monotonic() < deadline:  # until what waits for the stalled one is full
            served.collector.add_frames(frame, block)
            frame += 300
            update = good.samples()
            numbers = [page._number for page in list(served.server._pages)]
            waiting = [page._writer.transport.get_write_buffer_size() for page in list(served.server._pages)]
            if max(waiting, default=0) > 256 * 1024:
                break
        assert max(waiting) < 1024 * 1024, "what waits for a page is bounded"
        assert max(numbers) >= update.number
        for _ in range(20):
            served.collector.add_frames(frame, block)
            frame += 300
            good.samples()
        seen, last = [], None
        while last is None or last < frame - 300:
            update = stalled.samples()
            seen.append(update.number)
            last = max((b.first_frame for b in update.blocks if b.kind == DFF), default=last)
        assert max(seen) + 1 > len(seen), "the numbers tell the page how many updates it missed"


def test_addresses():
    assert parse_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert parse_address(":0") == ("127.0.0.1", 0)
    assert parse_address("localhost") == ("localhost", 8765)
    assert parse_address("[::1]:5") == ("::1", 5)
    for wrong in ("a:b", "http://a:1", "a:70000"):
        with pytest.raises(InputError, match="HOST:PORT"):
            parse_address(wrong)


def test_beyond_this_machine_only_knowingly():
    check_readers("localhost", 1, protect=False, insecure=False)
    check_readers("::1", 1, protect=False, insecure=False)
    check_readers("0.0.0.0", 1, protect=True, insecure=False)
    check_readers("0.0.0.0", 1, protect=False, insecure=True)
    for host in ("0.0.0.0", "192.168.0.1", "rig.example", ""):
        with pytest.raises(InputError, match="token"):
            check_readers(host, 1, protect=False, insecure=False)
    with pytest.raises(InputError, match="token"):
        start_monitor("0.0.0.0:0")
    with pytest.raises(InputError, match="16"):
        start_monitor(token="short")

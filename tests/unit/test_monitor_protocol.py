"""What server and page say to each other: binary updates, requests of pages, WebSocket frames, heads of requests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cascade_rt.errors import WireError
from cascade_rt.monitor.http import Refused, check_request, parse_request_head, response
from cascade_rt.monitor.protocol import (
    DFF,
    RASTER,
    Block,
    Update,
    decode_update,
    dump,
    encode_update,
    parse_request,
)
from cascade_rt.monitor.websocket import BINARY, PING, TEXT, FrameReader, accept_key, encode_frame


def example():
    dff = np.arange(6, dtype=np.float32).reshape(3, 2)
    raster = np.arange(15, dtype=np.uint8).reshape(3, 5)
    return Update(
        number=7, epoch=2, seconds=1.5,
        blocks=(Block(kind=DFF, first_frame=2**40, values=dff), Block(kind=RASTER, first_frame=9, values=raster)),
    )  # fmt: skip


def test_an_update_comes_back_as_it_was():
    update = example()
    data = encode_update(update)
    back = decode_update(data)
    assert (back.number, back.epoch, back.seconds) == (7, 2, 1.5)
    assert [(block.kind, block.first_frame) for block in back.blocks] == [(DFF, 2**40), (RASTER, 9)]
    for sent, got in zip(update.blocks, back.blocks, strict=True):
        np.testing.assert_array_equal(got.values, sent.values)
    assert len(data) == 24 + 16 + 24 + 16 + 16  # values start at multiples of 8, as typed arrays of a page need it


@pytest.mark.parametrize("change", [lambda d: d[:10], lambda d: b"XX" + d[2:], lambda d: d[:30], lambda d: d[:-8]])
def test_a_damaged_update_is_refused(change):
    with pytest.raises(WireError):
        decode_update(change(encode_update(example())))


def test_json_has_no_nan():
    assert json.loads(dump({"a": float("nan"), "b": [np.float64("inf"), np.int64(3)]})) == {"a": None, "b": [None, 3]}


def ask(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return parse_request(data, n_neurons=10, lookaheads=(2, 7))


def test_requests_are_read():
    assert ask({"type": "select", "neurons": [3, 3, 9], "lookahead": 7}) == {
        "type": "select", "neurons": [3, 9], "lookahead": 7, "fresh": False,
    }  # fmt: skip
    assert ask({"type": "control", "rule": "a", "action": "set", "threshold": 1, "more": 1})["message"] == {
        "rule": "a", "action": "set", "threshold": 1.0,
    }  # fmt: skip
    assert ask({"type": "control", "rule": "a", "action": "arm", "threshold": 1})["message"] == {
        "rule": "a", "action": "arm",
    }  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"\xff",
        b"[" * 4000,
        b'{"type": "control", "rule": "a", "action": "set", "threshold": NaN}',
        [],
        {},
        {"type": "eval"},
        {"type": "hello", "token": 5},
        {"type": "hello", "token": "x" * 300},
        {"type": "select", "neurons": [10]},
        {"type": "select", "neurons": [-1]},
        {"type": "select", "neurons": [True]},
        {"type": "select", "neurons": [1.5]},
        {"type": "select", "neurons": list(range(10)) * 2},
        {"type": "select", "neurons": [1], "lookahead": 3},
        {"type": "select", "neurons": [1], "lookahead": [2]},
        {"type": "busiest", "count": 18},
        {"type": "pick", "row": "1"},
        {"type": "control", "rule": "", "action": "arm"},
        {"type": "control", "rule": ["a"], "action": "arm"},
        {"type": "control", "rule": "a", "action": "delete"},
        {"type": "control", "rule": "a", "action": ["arm"]},
        {"type": "control", "rule": "a", "action": "set"},
        {"type": "control", "rule": "a", "action": "set", "threshold": True},
        {"type": "control", "rule": "a", "action": "set", "threshold": 10**400},
        {"type": "control", "rule": "a", "action": "set", "threshold": "1"},
    ],
)
def test_requests_that_make_no_sense_are_refused(message):
    with pytest.raises(WireError):
        ask(message)


def test_the_handshake_of_the_standard():
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


@pytest.mark.parametrize("size", [0, 5, 125, 126, 4096])
def test_frames_arrive_whole_however_they_are_cut(size):
    payload = bytes(range(256)) * 16
    data = encode_frame(TEXT, payload[:size], mask=b"\1\2\3\4") + encode_frame(PING, b"?", mask=b"abcd")
    for step in (1, 3, 1000, 100_000):
        reader, found = FrameReader(), []
        for at in range(0, len(data), step):
            found += reader.feed(data[at : at + step])
        assert found == [(TEXT, payload[:size]), (PING, b"?")]


def test_a_message_in_pieces_is_put_together():
    first = bytearray(encode_frame(TEXT, b"ab", mask=b"\0\0\0\0"))
    first[0] &= 0x7F
    assert FrameReader().feed(bytes(first) + encode_frame(0, b"cd", mask=b"\0\0\0\0")) == [(TEXT, b"abcd")]


def pieces(n):
    part = bytearray(encode_frame(TEXT, bytes(3000), mask=b"\0\0\0\0"))
    part[0] &= 0x7F
    rest = bytearray(encode_frame(0, bytes(3000), mask=b"\0\0\0\0"))
    rest[0] &= 0x7F
    return bytes(part) + bytes(rest) * n


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(TEXT, b"unmasked"),
        encode_frame(BINARY, bytes(5000), mask=b"abcd"),
        encode_frame(TEXT, bytes(70_000), mask=b"abcd")[:14],  # refused before it has come
        b"\x81\xff" + b"\xff" * 8,
        b"\xf1\x80abcd",
        b"\x83\x80abcd",
        b"\x80\x80abcd",
        b"\x09\x80abcd",
        pieces(1),
    ],
)
def test_wrong_frames_are_refused(data):
    with pytest.raises(WireError):
        FrameReader().feed(data)


def head(*lines, first="GET / HTTP/1.1"):
    return parse_request_head("\r\n".join([first, *lines, "", ""]).encode())


def check(*lines, first="GET / HTTP/1.1", host="127.0.0.1"):
    check_request(head(*lines, first=first), host)


SOCKET = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def test_what_our_page_asks_for_is_let_in():
    check("Host: 127.0.0.1:8765")
    check("Host: localhost:9000", "Sec-Fetch-Site: none")
    check("Host: [::1]:80", "Origin: http://[::1]:80", "Sec-Fetch-Site: same-origin")
    check("Host: localhost:1", "Origin: http://localhost:1", *SOCKET, first="GET /live HTTP/1.1")
    check("Host: 192.168.0.9:80", host="0.0.0.0")
    check("Host: localhost:1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (403, ("Host: evil.example",)),
        (403, ("Host: 127.0.0.1.evil.example:8765",)),
        (403, ("Host: 192.168.0.9:8765",)),
        (403, ()),
        (403, ("Host: [",)),
        (403, ("Host: localhost:1", "Origin: http://evil.example")),
        (403, ("Host: localhost:1", "Origin: null")),
        (403, ("Host: localhost:1", "Origin: http://localhost:2")),
        (403, ("Host: localhost:1", "Origin: https://localhost:1")),
        (403, ("Host: localhost:1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")),
        (403, ("Host: localhost:1", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe")),
        (403, ("Host: localhost:1", *SOCKET)),
        (426, ("Host: localhost:1", "Origin: http://localhost:1", *SOCKET[:1])),
        (413, ("Host: localhost:1", "Content-Length: 1000000000")),
        (413, ("Host: localhost:1", "Transfer-Encoding: chunked")),
        (400, ("Host: localhost:1", "Host: evil.example")),
        (400, ("Host : localhost:1",)),
        (400, ("nonsense",)),
    ],
)
def test_what_others_ask_for_is_refused(status, lines):
    with pytest.raises(Refused) as refused:
        check(*lines)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "first", ["POST / HTTP/1.1", "OPTIONS / HTTP/1.1", "CONNECT a:1 HTTP/1.1", "GET /", "", "\0\1"]
)
def test_only_get_is_answered(first):
    with pytest.raises(Refused):
        check("Host: localhost", first=first)


def test_a_name_is_refused_beyond_this_machine_too():
    with pytest.raises(Refused):
        check("Host: rebound.example:8765", host="0.0.0.0")


def test_answers_let_nothing_foreign_in():
    text = response(200, b"x").decode()
    assert "Access-Control" not in text
    for needed in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "nosniff", "no-store"):
        assert needed in text

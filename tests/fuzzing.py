"""Messages that no program should send: random, cut short, with flipped bits, and made to do harm."""

from __future__ import annotations

import json

import numpy as np

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk
from cascade_rt.errors import WireError

HUGE = (2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**18, 10**400)
#: What stands in a header in place of something sensible.
WRONG = (
    None, True, False, -1, 0, 1.5, 1e308, -1e308, 5e-324, "", "x", "<f4", "\x00", "\u2028", [], {}, [[]], [1], [[1, 2]],
    {"v": 1}, list(range(6)), ["a"] * 6, [*"abcdef"], [True, 1, 2, 3, 4, 5], *HUGE, *(-value for value in HUGE),
)  # fmt: skip
DTYPES = (">f4", "<f2", "<f16", "<c8", "O", "|O", "<U4", "V8", "f4", "<M8[ns]", "<i4", "<f4,<f4", "(2,2)<f4", "<f4 ")
SHAPES = (
    [0, 0], [-1, -1], [1], [1, 1, 1], [2**31, 2**31], [2**32, 2**32], [2**62, 4], [2**53 - 1, 1], [1, 2**53 - 1],
    [1_000_000, 1_000_000], [1_000_000, 64], [1_000_001, 1], [1, 1_000_001], [10**400, 1], [1e3, 1], [True, True],
    ["6", "1"], [None, 1], [[6], [1]], {"0": 6, "1": 1}, "6,1", 6,
)  # fmt: skip
RAW_HEADERS = (
    b"", b"{", b"}", b"null", b"1", b'"v"', b"[1]", b"[" * 60_000, b'{"a":' * 12_000,
    b'{"a":' * 9000 + b"1" + b"}" * 9000, b"[" * 30_000 + b"]" * 30_000, b" " * 65_537,
    b'{"v":1,"x":"' + b"y" * 65_600 + b'"}',
    b'{"v":' + b"9" * 60_000 + b"}",
    b'{"v":1,"frame":1e400}', b'{"v":1,"rate":NaN}', b'{"v":1,"t":-Infinity}', b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}",
    b'{"v":1}{"v":1}', b'{"v":1,}', b"{'v':1}", b'{"v":1,"stream":"\\ud800"}', b'{"v":1,"stream":"\\u0000"}',
    b'{"v":1,"v":2}', b"\x00" * 100, b'{"v":1,"shape":[' + b"1," * 20_000 + b"1]}",
    b'{"v":1e0000000000000000000000000000}',
)  # fmt: skip
TOPICS = (
    b"dff",
    b"df",
    b"dff ",
    b"dff\x00",
    b"DFF",
    b"dfff",
    b"spike_prob",
    b"event",
    b"end",
    b"end\n",
    b"",
    b"\xff" * 9,
)


class Fuzzer:
    """Makes messages; the same ones for the same seed.

    Parameters
    ----------
    seed : int
    n_neurons : int
        Neurons of the good messages that are spoilt.
    stream : str
    """

    def __init__(self, seed: int, *, n_neurons: int = 6, stream: str = "test") -> None:
        self._rng = np.random.default_rng(seed)
        self._n_neurons = n_neurons
        self._stream = stream
        self._kinds = (self._noise, self._cut, self._flip, self._header, self._raw_header, self._parts, self._end)

    def message(self) -> list[bytes]:
        """Return the parts of the next message."""
        return self._kinds[self._rng.integers(len(self._kinds))]()

    def good(self) -> list[bytes]:
        n_frames = int(self._rng.integers(1, 4))
        frames = self._rng.normal(0, 0.1, (self._n_neurons, n_frames)).astype(np.float32)
        chunk = FrameChunk(
            frames=frames, first_frame=int(self._rng.integers(2**40)), t_source=1.5, stream=self._stream,
            frame_rate_hz=30.0,
        )  # fmt: skip
        return codec.encode_frames(chunk, dtype=self._pick(("<f4", "<f8")))

    def _pick(self, choices):
        return choices[self._rng.integers(len(choices))]

    def _bytes(self, longest: int = 300) -> bytes:
        return self._rng.bytes(int(self._rng.integers(longest)))

    def _noise(self) -> list[bytes]:
        parts = [self._bytes() for _ in range(self._rng.integers(1, 6))]
        if self._rng.random() < 0.7:
            parts[0] = self._pick(TOPICS)
        return parts

    def _cut(self) -> list[bytes]:
        parts = self.good()
        which = int(self._rng.integers(3))
        parts[which] = parts[which][: self._rng.integers(len(parts[which]))]
        return parts

    def _flip(self) -> list[bytes]:
        parts = self.good()
        for _ in range(self._rng.integers(1, 5)):
            which = int(self._rng.choice(3, p=(0.1, 0.8, 0.1)))
            spoilt = bytearray(parts[which])
            spoilt[self._rng.integers(len(spoilt))] ^= 1 << int(self._rng.integers(8))
            parts[which] = bytes(spoilt)
        return parts

    def _header(self) -> list[bytes]:
        topic, header, payload = self.good()
        values = json.loads(header)
        for _ in range(self._rng.integers(1, 4)):
            name = self._pick([*values, "ids", "lookahead", "valid"])
            values[name] = self._pick({"shape": SHAPES, "dtype": DTYPES}.get(name, WRONG))
        if self._rng.random() < 0.1:
            del values[self._pick(list(values))]
        return [topic, json.dumps(values).encode(), payload]

    def _raw_header(self) -> list[bytes]:
        topic, _, payload = self.good()
        return [topic, self._pick(RAW_HEADERS), payload]

    def _parts(self) -> list[bytes]:
        parts = self.good()
        if self._rng.random() < 0.5:
            return parts[: self._rng.integers(1, 3)]
        return [*parts, *(self._bytes(20) for _ in range(self._rng.integers(1, 40)))]

    def _end(self) -> list[bytes]:
        values = {"v": 1, "stream": self._stream, "frame": 3}
        values[self._pick(list(values))] = self._pick(WRONG)
        return [b"end", self._pick((json.dumps(values).encode(), *RAW_HEADERS[1:])), self._bytes(9)]


def verdict(parts: list[bytes], *, n_neurons: int = 6, stream: str = "test", rate: float = 30.0) -> str:
    """Return why a run must not use a message, or "" if it is a good one after all."""
    try:
        item = codec.decode_message(parts)
    except WireError as error:
        return error.reason
    if not isinstance(item, FrameChunk):
        return "stream" if item.stream not in ("", stream) else ""
    if item.n_neurons != n_neurons:
        return "neurons"
    if item.stream != stream:
        return "stream"
    if item.frame_rate_hz is not None and abs(item.frame_rate_hz / rate - 1) > 0.01:
        return "rate"
    return "" if item.ids is None else "ids"

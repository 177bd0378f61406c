"""Messages of the Open Ephys plugin ZMQ Interface: reading, putting channels together, heartbeat. See openephys.py."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq

from cascade_rt.chunks import FrameChunk
from cascade_rt.codec import MAX_HEADER_BYTES
from cascade_rt.errors import InputError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from cascade_rt.events import Event

__all__ = ["BlockAssembler", "DataBlock", "Heartbeat", "event_message", "parse_channels", "parse_data"]

APPLICATION = "cascade_rt"
#: Seconds between heartbeats; the plugin's pages recommend 2 and call a client gone after 5.
HEARTBEAT_S = 2.0
#: Silence after which the connection is made anew (s).
REPLY_S = 10.0
#: Buffers that wait for their channels at most.
MAX_PENDING = 8
TTL = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class DataBlock:
    """Samples of one message.

    Parameters
    ----------
    channel : int or None
        None: the rows of ``samples`` are all channels from 0.
    first_sample : int
    samples : ndarray, (n_channels or 1, n_samples), float32
    rate_hz : float or None
    stream : str
    """

    channel: int | None
    first_sample: int
    samples: NDArray[np.float32]
    rate_hz: float | None
    stream: str


def parse_channels(text: str, channels: str) -> list[int]:
    """Read ``16`` (0 to 15), ``4-19`` or ``0,2,7``."""
    found: list[int] = []
    if channels.isascii() and channels.isdigit():
        found = list(range(min(int(channels), 100_000)))
    else:
        for part in channels.split(","):
            first, dash, last = part.partition("-")
            last = last if dash else first
            if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
                raise InputError(f"{text!r}: channels={channels}: expected 16, 4-19 or 0,2,7")
            found += range(int(first), min(int(last), int(first) + 100_000) + 1)
    if not found or len(set(found)) < len(found):
        raise InputError(f"{text!r}: channels={channels}: expected at least one, each once")
    return found


def parse_data(parts: Sequence[bytes]) -> DataBlock | None:
    """Read a message; None for events, spikes and parameters.

    Raises
    ------
    WireError
    """
    if len(parts) < 2:
        raise WireError("parts", f"message of {len(parts)} parts: Open Ephys sends [envelope, header, data]")
    envelope = parts[0].rstrip(b"\0").upper()
    if not envelope.startswith(b"DATA"):
        if envelope.startswith((b"EVENT", b"SPIKE", b"PARAM")):
            return None
        raise WireError("topic", f"envelope {parts[0][:40]!r}: expected DATA, EVENT, SPIKE or PARAM")
    if len(parts) != 3:
        raise WireError("parts", f"DATA message of {len(parts)} parts: expected [envelope, header, data]")
    content = _content(parts[1])
    allocated = _integer(content, "num_samples", "n_samples")
    n_samples = _integer(content, "n_real_samples") if "n_real_samples" in content else allocated
    channel = _integer(content, "channel_num") if "channel_num" in content else None
    n_rows = 1 if channel is not None else _integer(content, "n_channels")
    if len(parts[2]) != 4 * n_rows * allocated or n_samples > allocated:
        raise WireError(
            "payload", f"{len(parts[2])} bytes: {n_rows} x {allocated} float32 take {4 * n_rows * allocated}"
        )
    rate = content.get("sample_rate")
    if isinstance(rate, bool) or not isinstance(rate, (int, float, type(None))) or (rate is not None and rate <= 0):
        raise WireError("rate", f"sample_rate {rate!r:.40}: expected a positive number")
    return DataBlock(
        channel=channel,
        first_sample=_integer(content, "sample_num", "timestamp"),
        samples=np.frombuffer(parts[2], "<f4").reshape(n_rows, allocated)[:, :n_samples],
        rate_hz=None if rate is None else float(rate),
        stream=str(content.get("stream", content.get("stream_id", "")))[:200],
    )


def _content(header: bytes) -> dict[str, Any]:
    if len(header) > MAX_HEADER_BYTES:
        raise WireError("header", f"header of {len(header)} bytes: expected at most {MAX_HEADER_BYTES}")
    try:
        values = json.loads(bytes(header).rstrip(b"\0"))
    except (ValueError, RecursionError) as error:
        raise WireError("header", f"header is not JSON: {error}") from error
    content = values.get("content") if isinstance(values, dict) else None
    if not isinstance(content, dict):
        raise WireError("header", f"header {values!s:.60}: expected an object with 'content'")
    return content


def _integer(content: Mapping[str, Any], *names: str) -> int:
    """Return the first entry that is there."""
    name = next((name for name in names if name in content), names[0])
    value = content.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise WireError("header", f"{name} {value!r:.40}: expected an integer from 0")
    return value


class BlockAssembler:
    """Makes frames of all neurons out of messages of one channel each.

    The channels of a buffer may come in any order. A buffer goes on as soon as it is complete. Messages come in the
    order in which they were sent, so what is missing of a buffer when a later one is complete has been lost: it goes on
    with NaN, after a WireError that names the channels.

    Parameters
    ----------
    channels : sequence of int
        ``channel_num`` of each neuron.
    scale : float
        Factor for all samples.
    """

    def __init__(self, channels: Sequence[int], *, scale: float = 1.0) -> None:
        self._channels = list(channels)
        self._row = {channel: row for row, channel in enumerate(channels)}
        self._scale = np.float32(scale)
        self._pending: dict[int, _Pending] = {}
        self._next_sample = 0

    def add(self, block: DataBlock) -> list[FrameChunk | WireError]:
        """Take a message; returns what is ready now, in order.

        Raises
        ------
        WireError
            The message does not fit the others of its buffer.
        """
        if block.channel is None:
            rows = {row: channel for channel, row in self._row.items() if channel < len(block.samples)}
        else:
            row = self._row.get(block.channel)
            rows = {} if row is None else {row: 0}
        n_samples = block.samples.shape[1]
        if not rows or not n_samples:
            return []
        done: list[FrameChunk | WireError] = []
        if block.first_sample < self._next_sample:  # acquisition was started anew
            done += self._flush(None)
            self._next_sample = 0
        pending = self._pending.get(block.first_sample)
        if pending is None:
            pending = self._pending[block.first_sample] = _Pending(block, len(self._channels))
        frames, missing = pending.frames, pending.missing
        if frames.shape[1] != n_samples:
            raise WireError("shape", f"{n_samples} samples at {block.first_sample}: other channels: {frames.shape[1]}")
        if not missing.issuperset(rows):
            raise WireError("channels", f"channel {block.channel} came twice for sample {block.first_sample}")
        for row, there in rows.items():
            frames[row] = block.samples[there]
        missing.difference_update(rows)
        if not missing:
            done += self._flush(block.first_sample)
        elif len(self._pending) > MAX_PENDING:
            done += self._flush(min(self._pending))
        return done

    def _flush(self, last: int | None) -> list[FrameChunk | WireError]:
        """Let go of the buffers up to ``last``, or of all."""
        done: list[FrameChunk | WireError] = []
        for first in sorted(self._pending):
            if last is not None and first > last:
                break
            pending = self._pending.pop(first)
            if pending.missing:
                names = [str(self._channels[row]) for row in sorted(pending.missing)]
                text = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
                done.append(WireError("channels", f"samples from {first}: nothing came of channels {text}"))
            rate = pending.block.rate_hz
            done.append(
                FrameChunk(
                    frames=pending.frames if self._scale == 1 else pending.frames * self._scale,
                    first_frame=first,
                    t_source=None if rate is None else first / rate,
                    stream=pending.block.stream,
                    frame_rate_hz=rate,
                )
            )
            self._next_sample = first + pending.frames.shape[1]
        return done


class _Pending:
    """A buffer whose channels have not all come: its frames, and the rows that are missing."""

    def __init__(self, block: DataBlock, n_rows: int) -> None:
        self.block = block
        self.frames = np.full((n_rows, block.samples.shape[1]), np.nan, np.float32)
        self.missing = set(range(n_rows))


class Heartbeat:
    """Tells the plugin every 2 s that somebody listens; never waits.

    Parameters
    ----------
    context : zmq.Context
    address : str
        The plugin's REP socket.
    clock : callable
        Monotonic time (s).
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._address = address
        self._clock = clock
        self._message = json.dumps(
            {"application": APPLICATION, "uuid": str(uuid.uuid4()), "type": "heartbeat"}
        ).encode()
        self._waiting_since: float | None = None
        self._next = clock()
        self._connect()

    def beat(self) -> None:
        """Send a heartbeat if it is time, and take the reply to the last one."""
        now = self._clock()
        if self._waiting_since is not None:
            if self._socket.poll(0):
                self._socket.recv()
                self._waiting_since = None
            elif now - self._waiting_since > REPLY_S:  # a REQ socket without its reply is of no further use
                self.close()
                self._connect()
                self._waiting_since = None
        if self._waiting_since is None and now >= self._next:
            self._socket.send(self._message)
            self._waiting_since = now
            self._next = now + HEARTBEAT_S

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(0)

    def _connect(self) -> None:
        self._socket = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.ipv6 = "[" in self._address
        self._socket.connect(self._address)


def event_message(event: Event, *, channel: int) -> bytes:
    """Make the message by which a client of ZMQ Interface announces an event."""
    return json.dumps(
        {
            "application": APPLICATION,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, APPLICATION)),
            "type": "event",
            "event": {"type": TTL, "sample_num": event.newest_frame, "event_id": 1, "event_channel": channel},
        }
    ).encode()

"""Bonsai (package Bonsai.ZeroMQ): messages of a topic and raw little-endian numbers, in both directions.

What Bonsai.ZeroMQ sends, by its sources: a Publisher with a Topic sends the topic as a frame of its own (UTF-8, no
NUL) and then the bytes of a ``byte[]``; without a Topic, and from Push, the bytes alone; frames put together by
ToMessage as they are, behind the topic. A Subscriber gives all frames, the topic first. There is no header, no count,
no end.

=============  ==================================================================================================
option         meaning
=============  ==================================================================================================
``neurons``    source: values per frame (needed)
``topic``      topic of the messages; source: ``dff``, empty for messages without one; sink: ``spike_prob``
``index``      ``true``: a frame with the index as 8 bytes (int64, little endian) stands before the values
others         as for ``tcp://``
=============  ==================================================================================================
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.codec import TOPIC_DFF, TOPIC_END, TOPIC_EVENT, TOPIC_SPIKES, decode_raw
from cascade_rt.errors import InputError, WireError
from cascade_rt.ports import EndOfStream

from . import ZMQ_OPTIONS, zmq_endpoint
from .options import Options
from .zeromq import ZmqSink, ZmqSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cascade_rt.chunks import FrameChunk, SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.ports import RunInfo

    from . import Role, ZmqEndpoint

__all__ = ["BonsaiSink", "BonsaiSource"]


class BonsaiSource(ZmqSource):
    """Receives frames from a Publisher or Push node.

    Parameters
    ----------
    endpoint : ZmqEndpoint
    n_neurons : int
    topic : str
        Empty: messages have none.
    indexed : bool
        The frame index stands before the values; otherwise frames are counted here.
    clock : callable
        Monotonic time (s) for ``t_recv``.
    """

    def __init__(
        self,
        endpoint: ZmqEndpoint,
        *,
        n_neurons: int,
        topic: str = "dff",
        indexed: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(endpoint, raw_neurons=n_neurons, clock=clock)
        self._n_neurons = n_neurons
        self._topic = topic.encode()
        self._indexed = indexed
        self._frame = 0

    def open(self) -> None:
        """Bind or connect, and subscribe to the topic."""
        super().open()
        if self._socket.endpoint.socket_type == "sub" and self._topic != TOPIC_DFF:
            self._socket.socket.unsubscribe(TOPIC_DFF)
            self._socket.socket.subscribe(self._topic)

    def _decode(self, parts: Sequence[bytes], t_recv: float) -> FrameChunk | EndOfStream:
        if parts[0] == TOPIC_END and len(parts) <= 3:
            return EndOfStream(next_frame=None if self._indexed else self._frame)
        expected = bool(self._topic) + self._indexed + 1
        if len(parts) != expected:
            raise WireError("parts", f"message of {len(parts)} frames: expected {self._described()}")
        if self._topic and parts[0] != self._topic:
            raise WireError("topic", f"topic {parts[0][:60]!r}: expected {self._topic!r}")
        first_frame = self._index(parts[-2]) if self._indexed else self._frame
        chunk = decode_raw([TOPIC_DFF, parts[-1]], n_neurons=self._n_neurons, first_frame=first_frame, t_recv=t_recv)
        assert not isinstance(chunk, EndOfStream)
        self._frame = first_frame + chunk.n_frames
        return chunk

    def _index(self, part: bytes) -> int:
        value = int.from_bytes(part, "little", signed=True)
        if len(part) != 8 or not 0 <= value < 2**53:
            raise WireError("frame", f"frame index of {len(part)} bytes, {value}: expected int64 from 0 to 2**53 - 1")
        return value

    def _described(self) -> str:
        names = [f"the topic {self._topic.decode()}"] * bool(self._topic) + ["the index (int64)"] * self._indexed
        return ", ".join([*names, f"the values ({self._n_neurons} float32)"])


class BonsaiSink(ZmqSink):
    """Publishes the earliest results as ``[topic, values]``, one message per frame.

    Values are float32, one per neuron, NaN where there is no valid one. Events are ``[b"event", JSON]``, the end is
    ``[b"end", b""]``. Revisions (longer look-aheads) are not sent: nothing would tell them apart.

    Parameters
    ----------
    endpoint : ZmqEndpoint
    topic : str
    indexed : bool
        The index of the described frame stands before the values.
    wait : bool
        A PUSH socket waits for its receiver.
    """

    def __init__(
        self, endpoint: ZmqEndpoint, *, topic: str = "spike_prob", indexed: bool = False, wait: bool = False
    ) -> None:
        super().__init__(endpoint, wait=wait)
        self._topic = topic.encode()
        self._indexed = indexed
        self._lookahead = 0

    def start(self, info: RunInfo) -> None:
        """Learn which results are the earliest."""
        super().start(info)
        self._lookahead = info.lookaheads[0]

    def send(self, chunk: SpikeChunk) -> None:
        """Publish one message per frame."""
        if chunk.lookahead_frames != self._lookahead:
            return
        self._drain_subscriptions()
        values = np.where(chunk.valid, chunk.spike_prob, np.float32("nan")).astype("<f4")
        for column in range(chunk.n_frames):
            index = [(chunk.first_frame + column).to_bytes(8, "little", signed=True)] * self._indexed
            self._send([*[self._topic] * bool(self._topic), *index, values[:, column].tobytes()])

    def send_event(self, event: Event) -> None:
        """Publish what a rule decided, as text."""
        self._send([TOPIC_EVENT, json.dumps(event.to_dict(), allow_nan=False).encode()])

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Say that no more follows."""
        del next_frame, complete, metadata
        self._send([TOPIC_END, b""])


def source_from(text: str, *, insecure: bool) -> BonsaiSource:
    """Make the source of ``bonsai://HOST:PORT?neurons=N``."""
    options, endpoint = _parse(text, "source")
    n_neurons = options.positive("neurons")
    if n_neurons is None:
        raise InputError(f"{text!r}: messages do not tell the number of neurons: add neurons=N")
    endpoint.check_safe(insecure=insecure)
    return BonsaiSource(
        endpoint,
        n_neurons=n_neurons,
        topic=options.text_of("topic", TOPIC_DFF.decode()),
        indexed=options.boolean("index", default=False),
    )


def sink_from(text: str, *, insecure: bool, lossless: bool) -> BonsaiSink:
    """Make the sink of ``bonsai://HOST:PORT``."""
    options, endpoint = _parse(text, "sink")
    endpoint.check_safe(insecure=insecure)
    return BonsaiSink(
        endpoint,
        topic=options.text_of("topic", TOPIC_SPIKES.decode()),
        indexed=options.boolean("index", default=False),
        wait=endpoint.overrun == "wait" or (lossless and endpoint.overrun == ""),
    )


def _parse(text: str, role: Role) -> tuple[Options, ZmqEndpoint]:
    address, _, query = text.partition("?")
    host, colon, port = address.removeprefix("bonsai://").rpartition(":")
    if not address.startswith("bonsai://") or not colon or not host:
        raise InputError(f"{role} {text!r}: expected bonsai://HOST:PORT, optionally with ?neurons=…&topic=…")
    own = ("neurons", "topic", "index") if role == "source" else ("topic", "index")
    options = Options(text, query, (*own, *ZMQ_OPTIONS))
    return options, zmq_endpoint(text, host, port, options, role)

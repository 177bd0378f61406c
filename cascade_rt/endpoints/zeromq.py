"""ZeroMQ sockets as source and sink.

Facts about ZeroMQ that this file relies on: high-water marks count messages per peer; a PUB drops for a peer
whose queue is full, a PUSH blocks; a PUSH that binds has no queue before a peer is there, one that connects has; a
closed socket delivers what it has queued for at most ``LINGER``; a waiting call is interrupted by signals on POSIX
but not on Windows, hence short polls; one socket belongs to one thread.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import zmq

from cascade_rt.codec import (
    MAX_PAYLOAD_BYTES,
    TOPIC_DFF,
    TOPIC_END,
    decode_message,
    decode_raw,
    encode_end,
    encode_event,
    encode_spikes,
)
from cascade_rt.errors import InputError
from cascade_rt.latency import LatencyHistogram
from cascade_rt.ports import EndOfStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from zmq.auth.thread import ThreadAuthenticator

    from cascade_rt.chunks import FrameChunk, SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.ports import RunInfo

    from . import ZmqEndpoint

__all__ = ["ZmqSink", "ZmqSocket", "ZmqSource"]

log = logging.getLogger(__name__)

#: Time that a closing sink gives its last messages to leave (ms).
LINGER_MS = 3000
#: Longest uninterruptible wait (ms).
POLL_MS = 100
#: Parts of a message that are kept; none that is of use has more than four.
MOST_PARTS = 8
#: How long a waiting sink goes on waiting for its receiver once the run is to stop (s).
GIVE_UP_S = 2.0

_TYPES = {"sub": zmq.SUB, "pull": zmq.PULL, "pub": zmq.XPUB, "push": zmq.PUSH, "rep": zmq.REP}


class ZmqSocket:
    """A configured socket with its own context; what source, sink and replay have in common.

    Parameters
    ----------
    endpoint : ZmqEndpoint
    linger_ms : int
        Time that :meth:`close` gives messages to leave.
    immediate : bool
        A socket that connects queues messages only once its peer is there.
    max_bytes : int
        A peer that sends longer messages is cut off.
    """

    def __init__(
        self,
        endpoint: ZmqEndpoint,
        *,
        linger_ms: int = LINGER_MS,
        immediate: bool = False,
        max_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.endpoint = endpoint
        self._max_bytes = max_bytes
        self._immediate = immediate
        self.address = endpoint.address
        self._linger_ms = linger_ms
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._authenticator: ThreadAuthenticator | None = None

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The open socket."""
        if self._socket is None:
            raise RuntimeError(f"{self.address} is not open")
        return self._socket

    def open(self) -> None:
        """Bind or connect; afterwards ``address`` holds the port that was really taken.

        Raises
        ------
        InputError
            The address is in use or does not exist, or a CURVE key cannot be read.
        """
        self._context = zmq.Context()
        try:
            socket = self._socket = self._context.socket(_TYPES[self.endpoint.socket_type])
            socket.set_hwm(self.endpoint.hwm)
            socket.linger = self._linger_ms
            socket.ipv6 = ":" in self.endpoint.host
            socket.maxmsgsize = self._max_bytes
            socket.immediate = self._immediate
            if self.endpoint.socket_type == "sub":
                for topic in (TOPIC_DFF, TOPIC_END):
                    socket.subscribe(topic)
            self._use_curve(socket)
            if self.endpoint.bind:
                socket.bind(self.endpoint.address)
                self.address = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
            else:
                socket.connect(self.endpoint.address)
        except zmq.ZMQError as error:
            self.close()
            verb = "bind to" if self.endpoint.bind else "connect to"
            raise InputError(f"cannot {verb} {self.endpoint.address}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _use_curve(self, socket: zmq.Socket[bytes]) -> None:
        endpoint = self.endpoint
        if endpoint.curve_key is None:
            return
        if not zmq.has("curve"):
            raise InputError(f"{self.address}: this build of ZeroMQ has no CURVE encryption")
        socket.curve_publickey, secret = _read_key(endpoint.curve_key, secret=True)
        socket.curve_secretkey = secret
        if endpoint.curve_server_key is not None:
            socket.curve_serverkey = _read_key(endpoint.curve_server_key, secret=False)[0]
            return
        if endpoint.curve_clients is None or not endpoint.curve_clients.is_dir():
            raise InputError(f"curve_clients={endpoint.curve_clients}: expected a folder of public keys")
        from zmq.auth.thread import ThreadAuthenticator

        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain="*", location=str(endpoint.curve_clients))
        socket.curve_server = True

    def close(self) -> None:
        """Let queued messages leave, at most for the linger time, and free the address."""
        if self._socket is not None:
            self._socket.close(linger=self._linger_ms)
            self._socket = None
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        if self._context is not None:
            self._context.term()
            self._context = None


class ZmqSource:
    """Receives frames from a PUB or PUSH socket.

    Parameters
    ----------
    endpoint : ZmqEndpoint
    raw_neurons : int, optional
        Read the plain mode; frames are then counted here.
    clock : callable
        Monotonic time (s) for ``t_recv``.
    """

    finite = False

    def __init__(
        self, endpoint: ZmqEndpoint, *, raw_neurons: int | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if raw_neurons is not None and raw_neurons < 1:
            raise InputError(f"raw:{raw_neurons}: expected the number of neurons, at least 1")
        self._socket = ZmqSocket(endpoint, linger_ms=0)
        self._raw_neurons = raw_neurons
        self._raw_frame = 0
        self._clock = clock
        self.lossless = endpoint.socket_type == "pull" and endpoint.overrun != "drop"
        #: How long it took to read a message from the socket, and to decode it.
        self.stages = {"receive": LatencyHistogram(), "decode": LatencyHistogram()}

    @property
    def name(self) -> str:
        return self._socket.address

    def open(self) -> None:
        """Bind or connect; raises InputError if that is not possible."""
        self._socket.open()

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return the next message, None if none came in time; WireError if it is malformed."""
        socket = self._socket.socket
        if not socket.poll(int(1000 * timeout_s)):
            return None
        readable = self._clock()
        parts = _receive_parts(socket)
        t_recv = self._clock()
        self.stages["receive"].add(t_recv - readable)
        item = self._decode(parts, t_recv)
        self.stages["decode"].add(self._clock() - t_recv)
        return item

    def _decode(self, parts: Sequence[bytes], t_recv: float) -> FrameChunk | EndOfStream:
        if self._raw_neurons is None:
            return decode_message(parts, t_recv=t_recv)
        item = decode_raw(parts, n_neurons=self._raw_neurons, first_frame=self._raw_frame, t_recv=t_recv)
        if isinstance(item, EndOfStream):
            return EndOfStream(next_frame=self._raw_frame if item.next_frame is None else item.next_frame)
        self._raw_frame += item.n_frames
        return item

    def close(self) -> None:
        """Close the socket; messages not yet received are dropped."""
        self._socket.close()


class ZmqSink:
    """Publishes results on a PUB or PUSH socket.

    Parameters
    ----------
    endpoint : ZmqEndpoint
    wait : bool
        A PUSH socket waits for a receiver that is slow or absent. False: the result is dropped and counted.
    clock : callable
        Monotonic time (s).
    """

    live = True

    def __init__(
        self, endpoint: ZmqEndpoint, *, wait: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._socket = ZmqSocket(endpoint)
        self._is_push = endpoint.socket_type == "push"
        self._wait = wait and self._is_push
        self._clock = clock
        self._stopped: Callable[[], bool] = lambda: False
        self._info: RunInfo | None = None
        self.dropped = 0

    @property
    def name(self) -> str:
        return self._socket.address

    def open(self, stopped: Callable[[], bool]) -> None:
        """Bind or connect; raises InputError if that is not possible."""
        self._stopped = stopped
        self._socket.open()

    def start(self, info: RunInfo) -> None:
        """Learn the stream's name and frame rate."""
        self._info = info

    def send(self, chunk: SpikeChunk) -> None:
        """Publish one result; revisions of the chunk are not sent with it."""
        assert self._info is not None
        self._drain_subscriptions()
        self._send(encode_spikes(chunk, stream=self._info.stream, frame_rate_hz=self._info.frame_rate_hz))

    def send_event(self, event: Event) -> None:
        """Publish what a rule decided."""
        self._send(encode_event(event, stream=self._info.stream if self._info else ""))

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Publish the end of the stream."""
        del complete, metadata
        self._send(encode_end(self._info.stream if self._info else "", next_frame))

    def close(self) -> None:
        """Let the last results leave and close the socket."""
        self._socket.close()

    def _send(self, parts: Sequence[bytes]) -> None:
        socket, since = self._socket.socket, self._clock()
        while True:
            try:
                socket.send_multipart(parts, zmq.NOBLOCK)
                return
            except zmq.Again:
                if self._stopped() and self._clock() - since > GIVE_UP_S:
                    self._wait = False
                if not self._wait:
                    self.dropped += 1
                    return
            socket.poll(POLL_MS, zmq.POLLOUT)

    def _drain_subscriptions(self) -> None:
        """Take the subscription messages that an XPUB socket receives, so that they do not pile up."""
        if self._is_push:
            return
        socket = self._socket.socket
        while socket.poll(0, zmq.POLLIN):
            socket.recv(zmq.NOBLOCK)


def _receive_parts(socket: zmq.Socket[bytes]) -> list[bytes]:
    """Receive a message; of one with far too many parts, only as many are kept as it takes to refuse it."""
    parts: list[bytes] = []
    while True:
        part = socket.recv()
        if len(parts) < MOST_PARTS:
            parts.append(part)
        if not socket.rcvmore:
            return parts


def _read_key(path: Path, *, secret: bool) -> tuple[bytes, bytes | None]:
    import zmq.auth

    try:
        public, private = zmq.auth.load_certificate(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"CURVE key {path} cannot be read: {error}") from error
    if secret and private is None:
        raise InputError(f"CURVE key {path} holds only a public key: expected our own secret key (*.key_secret)")
    return public, private

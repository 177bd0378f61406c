"""Open Ephys GUI: samples from the plugin ZMQ Interface, events back to it or to the plugin Network Events.

Facts, from the sources and pages of the two plugins:

- ZMQ Interface binds a PUB socket (data port, 5556) and a REP socket (data port + 1). Messages are
  ``[envelope, header, data]``. Envelope: ``DATA``, ``EVENT``, ``SPIKE`` or ``PARAM``, with a NUL behind it. Header:
  JSON ``{"message_num", "type": "data", "content": {"stream", "channel_num", "num_samples", "sample_num",
  "sample_rate"}, "data_size"}``. Data: float32 of one channel. All channels of a buffer follow one another.
  Versions before had ``message_no``, ``n_samples``, ``n_real_samples``, ``timestamp``; the oldest sent all channels
  (``n_channels``) in one message. All of them are read.
- A client says that it is there by ``{"application", "uuid", "type": "heartbeat"}`` to the REP socket every 2 s, and
  waits for the reply (text). The same socket takes ``{"type": "event", "event": {"type", "sample_num", "event_id",
  "event_channel"}}``; the plugin acknowledges and logs such an event, but does not put it into its signal chain.
- Network Events binds a REP socket (5556) and takes ``TTL Line=3 State=1`` (lines from 1), which becomes a TTL event.

=============  ==================================================================================================
option         meaning
=============  ==================================================================================================
``channels``   source: the channels that are neurons: ``16`` (0 to 15), ``4-19`` or ``0,2,7`` (needed)
``stream``     source: name of the data stream; without it, that of the first message
``scale``      source: factor that makes ΔF/F as a fraction of the samples (default 1)
``heartbeat``  source: port of the REP socket (default: data port + 1)
``idle_s``     source: silence after which the recording is over (s); without it, never
``plugin``     sink: ``network`` (Network Events, default) or ``zmq`` (ZMQ Interface)
``line``       sink: TTL line (default 1)
``pulse_ms``   sink: time after which the line goes back to 0 (default 5; ``network`` only)
``kinds``      sink: kinds of event that are passed on (default ``stimulate``)
=============  ==================================================================================================
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import zmq

from cascade_rt.codec import MAX_PAYLOAD_BYTES
from cascade_rt.errors import InputError, WireError
from cascade_rt.latency import LatencyHistogram
from cascade_rt.ports import EndOfStream

from . import ZmqEndpoint
from .background import BackgroundSender, EventOnlySink
from .openephys_messages import BlockAssembler, Heartbeat, event_message, parse_channels, parse_data
from .options import Options, port_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascade_rt.chunks import FrameChunk
    from cascade_rt.events import Event

__all__ = ["OpenEphysEventSink", "OpenEphysSource"]

#: How long the receiver of an event may take to answer (ms).
REPLY_MS = 1000


class OpenEphysSource:
    """Receives the samples of some channels of one data stream: a channel is a neuron, a sample a frame.

    Parameters
    ----------
    host : str
    port : int
        Data port of the plugin.
    channels : sequence of int
        ``channel_num`` of each neuron.
    heartbeat_port : int, optional
    stream : str, optional
    scale : float
    idle_s : float
        0: the stream never ends.
    clock : callable
        Monotonic time (s) for ``t_recv``.
    """

    finite = False
    lossless = False

    def __init__(
        self,
        host: str,
        port: int,
        channels: Sequence[int],
        *,
        heartbeat_port: int | None = None,
        stream: str = "",
        scale: float = 1.0,
        idle_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._address = f"tcp://{host}:{port}"
        self._heartbeat_address = f"tcp://{host}:{port + 1 if heartbeat_port is None else heartbeat_port}"
        self._stream = stream
        self._idle_s = idle_s
        self._clock = clock
        self._assembler = BlockAssembler(channels, scale=scale)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._heartbeat: Heartbeat | None = None
        self._ready: deque[FrameChunk | WireError] = deque()
        self._last: float | None = None
        self._next_frame: int | None = None
        #: How long it took to read a message from the socket, and to decode it.
        self.stages = {"receive": LatencyHistogram(), "decode": LatencyHistogram()}

    @property
    def name(self) -> str:
        return self._address.replace("tcp://", "openephys://")

    def open(self) -> None:
        """Connect; the plugin need not be there yet."""
        self._context = zmq.Context()
        socket = self._socket = self._context.socket(zmq.SUB)
        socket.linger = 0
        socket.set_hwm(10_000)
        socket.maxmsgsize = MAX_PAYLOAD_BYTES
        socket.ipv6 = "[" in self._address
        socket.subscribe(b"")
        try:
            socket.connect(self._address)
            self._heartbeat = Heartbeat(self._context, self._heartbeat_address)
        except zmq.ZMQError as error:
            self.close()
            raise InputError(f"cannot connect to {self._address}: {error}") from error

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return the next buffer of samples, None if none came in time.

        Raises
        ------
        WireError
            A message is malformed, or channels of a buffer are missing (reason ``channels``); such a buffer follows,
            with NaN for the missing ones.
        """
        if self._socket is None or self._heartbeat is None:
            raise RuntimeError(f"{self.name} is not open")
        deadline = self._clock() + timeout_s
        while not self._ready:
            self._heartbeat.beat()
            left = deadline - self._clock()
            if not self._socket.poll(max(0, int(1000 * left))):
                return self._end_if_idle()
            readable = self._clock()
            parts = self._socket.recv_multipart()
            t_recv = self._clock()
            self.stages["receive"].add(t_recv - readable)
            self._take(parts, t_recv)
            self.stages["decode"].add(self._clock() - t_recv)
        item = self._ready.popleft()
        if isinstance(item, WireError):
            raise item
        self._next_frame = item.first_frame + item.n_frames
        return item

    def close(self) -> None:
        """Close the sockets."""
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def _take(self, parts: Sequence[bytes], t_recv: float) -> None:
        block = parse_data(parts)
        if block is None:
            return
        if not self._stream:
            self._stream = block.stream
        if block.stream != self._stream:
            return  # another plugin's stream, or one that was not asked for
        self._last = t_recv
        for item in self._assembler.add(block):
            self._ready.append(item if isinstance(item, WireError) else replace(item, t_recv=t_recv))

    def _end_if_idle(self) -> EndOfStream | None:
        if not self._idle_s or self._last is None or self._clock() - self._last < self._idle_s:
            return None
        self._last = None
        return EndOfStream(next_frame=self._next_frame)


class OpenEphysEventSink(EventOnlySink):
    """Turns events of the kind ``stimulate`` into events of Open Ephys; results do not go there.

    The plugin must answer each message, so that a thread of its own waits for it: :meth:`send_event` returns at once.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` of Network Events (its port, 5556) or of ZMQ Interface (data port + 1).
    line : int
        TTL line from 1; ZMQ Interface gets it as ``event_channel``, counted from 0.
    plugin : "network" or "zmq"
    pulse_ms : float
        Network Events: the line goes back to 0 after this time.
    kinds : sequence of str
        Kinds of event that are passed on.
    insecure : bool
        Allow another machine.
    """

    def __init__(
        self,
        address: str,
        *,
        line: int = 1,
        plugin: str = "network",
        pulse_ms: float = 5.0,
        kinds: Sequence[str] = ("stimulate",),
        insecure: bool = False,
    ) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if not address.startswith("tcp://") or not host:
            raise InputError(f"{address!r}: expected tcp://HOST:PORT of the plugin")
        _check_safe(host, port_number(address, port), insecure=insecure)
        if plugin not in ("network", "zmq"):
            raise InputError(f"plugin={plugin!r}: expected 'network' or 'zmq'")
        if not 1 <= line <= 256:
            raise InputError(f"line={line}: Open Ephys has the TTL lines 1 to 256")
        self.name = address
        self._line = line
        self._plugin = plugin
        self._pulse_s = pulse_ms / 1000
        self._kinds = tuple(kinds)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._sender: BackgroundSender[Event] = BackgroundSender(
            "open-ephys-events", self._deliver, end=self._disconnect
        )

    @property
    def dropped(self) -> int:
        """Events that were not acknowledged in time, or found too many waiting."""
        return self._sender.dropped

    @property
    def sent(self) -> int:
        """Events that Open Ephys has acknowledged."""
        return self._sender.sent

    def open(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Begin; the plugin need not be there yet."""
        del stopped
        self._sender.start()

    def send_event(self, event: Event) -> None:
        """Pass an event on, without waiting."""
        if event.kind in self._kinds:
            self._sender.put(event)

    def close(self) -> None:
        """Let the last events leave."""
        self._sender.close()

    # ------------------------------------------------------------------------------ in the thread of the sender

    def _deliver(self, event: Event) -> None:
        if self._plugin == "zmq":
            self._request(event_message(event, channel=self._line - 1))
            return
        self._request(f"TTL Line={self._line} State=1".encode())
        time.sleep(self._pulse_s)
        self._request(f"TTL Line={self._line} State=0".encode())

    def _request(self, message: bytes) -> bytes:
        if self._socket is None:
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.REQ)
            self._socket.linger = 0
            self._socket.connect(self.name)
        self._socket.send(message)
        if not self._socket.poll(REPLY_MS):
            self._disconnect()  # a REQ socket without its reply is of no further use
            raise TimeoutError(f"{self.name} did not answer within {REPLY_MS} ms")
        return self._socket.recv()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None


def source_from(text: str, *, insecure: bool) -> OpenEphysSource:
    """Make the source of ``openephys://HOST:PORT?channels=…``."""
    known = ("channels", "stream", "scale", "heartbeat", "idle_s")
    host, port, options = _parse(text, "source", known)
    if "channels" not in options:
        raise InputError(
            f"source {text!r}: which channels are neurons? add channels=16, channels=4-19 or channels=0,2,7"
        )
    _check_safe(host, port, insecure=insecure)
    heartbeat = options.text_of("heartbeat")
    return OpenEphysSource(
        host,
        port,
        parse_channels(text, options.text_of("channels")),
        heartbeat_port=port_number(text, heartbeat) if heartbeat else None,
        stream=options.text_of("stream"),
        scale=options.number("scale", 1.0, positive=False),
        idle_s=options.number("idle_s", 0.0),
    )


def sink_from(text: str, *, insecure: bool) -> OpenEphysEventSink:
    """Make the receiver of events of ``openephys://HOST:PORT?line=…``."""
    host, port, options = _parse(text, "sink", ("plugin", "line", "pulse_ms", "kinds"))
    return OpenEphysEventSink(
        f"tcp://{host}:{port}",
        line=options.positive("line") or 1,
        plugin=options.choice("plugin", ("network", "zmq"), "network"),
        pulse_ms=options.number("pulse_ms", 5.0),
        kinds=tuple(filter(None, options.text_of("kinds", "stimulate").split(","))),
        insecure=insecure,
    )


def _parse(text: str, role: str, known: tuple[str, ...]) -> tuple[str, int, Options]:
    address, _, query = text.partition("?")
    host, colon, port = address.removeprefix("openephys://").rpartition(":")
    if not address.startswith("openephys://") or not colon or not host:
        raise InputError(f"{role} {text!r}: expected openephys://HOST:PORT?{known[0]}=…")
    return host, port_number(text, port), Options(text, query, known)


def _check_safe(host: str, port: int, *, insecure: bool) -> None:
    """Refuse other machines unless allowed: the plugins know no encryption."""
    bare = host.removeprefix("[").removesuffix("]")
    endpoint = ZmqEndpoint(address=f"tcp://{host}:{port}", host=bare, socket_type="sub", bind=False)
    if not (endpoint.is_loopback or insecure):
        raise InputError(
            f"openephys://{host}:{port} is another machine, and Open Ephys knows no encryption: anybody in that "
            "network could read or send data. Allow it knowingly with --insecure (insecure=True)"
        )

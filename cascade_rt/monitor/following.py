"""A page for a run on another machine, made of what that run publishes: results and events, no ΔF/F."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from cascade_rt.codec import TOPIC_END, TOPIC_EVENT, TOPIC_SPIKES, decode_event, decode_spikes, read_header
from cascade_rt.endpoints.zeromq import ZmqSocket
from cascade_rt.errors import InputError, WireError

from .collector import Collector
from .server import MonitorServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascade_rt.endpoints import ZmqEndpoint

__all__ = ["follow", "take_published"]

log = logging.getLogger(__name__)


def take_published(parts: Sequence[bytes], collector: Collector) -> None:
    """Put a message of a run's sink into a collector; raises WireError if it is malformed."""
    topic = parts[0] if parts else b""
    if topic == TOPIC_EVENT:
        collector.add_event(decode_event(parts).to_dict())
    elif topic == TOPIC_END:
        collector.set_ended()
    elif topic == TOPIC_SPIKES:
        header = read_header(parts, TOPIC_SPIKES, n_parts=(3, 4))
        chunk = decode_spikes(parts)
        rate = header["rate"]
        if rate is None:
            raise WireError("rate", "results without a frame rate cannot be shown")
        known = collector.info
        lookaheads = set(known.get("lookaheads", ())) if known.get("stream") == header["stream"] else set()
        lookaheads |= {chunk.lookahead_frames}
        collector.start(
            {
                "stream": header["stream"],
                "n_neurons": chunk.n_neurons,
                "frame_rate_hz": rate,
                "lookaheads": sorted(lookaheads),
                "model": chunk.model,
                "noise_range": None,
                "integration": [[n, n + 1, 1000 * (n + 1) / rate] for n in sorted(lookaheads)],
                "has_dff": False,
            }
        )
        latency = None if chunk.t_recv is None or chunk.t_emit is None else chunk.t_emit - chunk.t_recv
        collector.add_result(chunk.lookahead_frames, chunk.first_frame, chunk.spike_prob, latency_s=latency)
    else:
        raise WireError("topic", f"topic {topic[:40]!r}: expected results or events")


def follow(
    endpoint: ZmqEndpoint,
    *,
    host: str,
    port: int,
    token: str = "",
    protect: bool = False,
    started: Callable[[str], None],
    stopped: threading.Event,
) -> None:
    """Receive and serve until ``stopped`` is set.

    Parameters
    ----------
    endpoint : ZmqEndpoint
        A sink of the run, to subscribe to.
    host, port : str, int
        Where to serve the page.
    token, protect : str, bool
        As for :class:`MonitorServer`.
    started : callable
        Called with the address of the page.
    stopped : threading.Event
    """
    if endpoint.socket_type != "sub":
        raise InputError(f"{endpoint.address}: a page subscribes (type=sub): a pull socket would take results away")
    collector = Collector()
    source = ZmqSocket(endpoint, linger_ms=0)
    source.open()
    for topic in (TOPIC_SPIKES, TOPIC_EVENT):
        source.socket.subscribe(topic)
    ended = threading.Event()

    def receive() -> None:
        while not ended.is_set():
            if not source.socket.poll(100):
                continue
            try:
                take_published(source.socket.recv_multipart(), collector)
            except WireError as error:
                collector.count_rejected(error.reason)

    async def serve() -> None:
        server = MonitorServer(collector, host=host, port=port, token=token, protect=protect)
        await server.start()
        started(server.url)
        while not stopped.is_set():
            await asyncio.sleep(0.1)
        await server.stop()

    receiving = threading.Thread(target=receive, name="monitor-feed")
    receiving.start()
    try:
        asyncio.run(serve())
    finally:
        ended.set()
        receiving.join()
        source.close()

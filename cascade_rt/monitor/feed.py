"""From the run to the process that serves its page: a sink that never waits, and what reads it at the other end.

The page has a process of its own, so that nothing it does takes the interpreter away from a frame. The two are
joined by a ZeroMQ socket that drops when the page is slow; only the run knows the key that the other end was made
with. Messages, which stay on this machine::

    [b"r", head, values]   results: look-ahead, first frame, neurons, frames, latency (s, NaN: unknown); float32
    [b"f", head, values]   frames, as results
    [b"e", JSON]           an event
    [b"s", JSON, noise]    how the run is and what it is about; noise levels, float32
"""

from __future__ import annotations

import json
import logging
import math
import struct
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq

from .collector import LATENCY_EDGES_S
from .protocol import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.gaps import Piece
    from cascade_rt.ports import RunInfo
    from cascade_rt.runstats import RunStatistics

    from .collector import Collector

__all__ = ["MonitorSink", "describe_run", "describe_state", "take"]

log = logging.getLogger(__name__)

RESULT, FRAMES, EVENT, STATUS = b"r", b"f", b"e", b"s"
#: Messages that may wait for the page's process; further ones are dropped.
WAITING = 64
#: Time between two accounts of the run's state (s).
STATUS_S = 0.25
#: Time that the last messages get to leave (ms).
LINGER_MS = 300

_HEAD = struct.Struct("<iqiid")


class MonitorSink:
    """Hands results, frames and events to the page's process without ever waiting for it.

    It counts as one of the files (``live`` is False): it is served once everybody who waits for a result has it.

    Parameters
    ----------
    address, server_key : str, bytes
        Where the page's process listens, and its public key; no key where ZeroMQ has no encryption.
    name : str
        For messages: address of the page.
    clock : callable
        Monotonic time (s).
    """

    live = False
    #: A picture that was not shown is no result that was lost; what did not pass is counted in ``skipped``.
    dropped = 0

    def __init__(
        self, address: str, server_key: bytes, *, name: str, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._address = address
        self._server_key = server_key
        self._clock = clock
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._info: RunInfo | None = None
        self._next = -math.inf
        self.name = name
        self.skipped = 0
        #: Why the last message of a page could not be obeyed.
        self.control_problem = ""
        #: Set once there is a run to look at.
        self.statistics: RunStatistics | None = None
        #: Tells the state of the rules: rule, armed, threshold, compare, what.
        self.rules: Callable[[], Sequence[Mapping[str, Any]]] | None = None

    def open(self, stopped: Callable[[], bool]) -> None:
        """Connect to the page's process."""
        del stopped
        self._context = zmq.Context()
        socket = self._socket = self._context.socket(zmq.PUSH)
        socket.sndhwm = WAITING
        socket.immediate = True
        socket.linger = LINGER_MS
        if self._server_key:
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.curve_serverkey = self._server_key
        socket.connect(self._address)

    def start(self, info: RunInfo) -> None:
        """Learn what the results will look like."""
        self._info = info
        self._tell_state()

    def send(self, chunk: SpikeChunk) -> None:
        """Pass on one result."""
        latency = math.nan if chunk.t_recv is None or chunk.t_emit is None else chunk.t_emit - chunk.t_recv
        head = _HEAD.pack(chunk.lookahead_frames, chunk.first_frame, chunk.n_neurons, chunk.n_frames, latency)
        self._send([RESULT, head, np.ascontiguousarray(chunk.spike_prob)])
        if self._clock() >= self._next:
            self._tell_state()

    def keep_frames(self, piece: Piece) -> None:
        """Pass on frames that were received."""
        head = _HEAD.pack(0, piece.first_frame, piece.frames.shape[0], piece.n_frames, math.nan)
        self._send([FRAMES, head, np.ascontiguousarray(piece.frames)])

    def send_event(self, event: Event) -> None:
        """Pass on what a rule decided."""
        self._send([EVENT, dump(event.to_dict())])

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Tell the page that the run has ended."""
        del next_frame
        self._tell_state(ended=str(metadata.get("exit_reason", "end")), complete=complete)

    def close(self) -> None:
        """Let the last messages leave and close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def _tell_state(self, **more: Any) -> None:
        self._next = self._clock() + STATUS_S
        statistics, info = self.statistics, self._info
        if info is None or statistics is None:
            return
        rules = None if self.rules is None else [dict(rule) for rule in self.rules()]
        state = describe_state(statistics) | {
            "rules": rules,
            "feed_skipped": self.skipped,
            "control_problem": self.control_problem,
            **more,
        }
        noise = statistics.noise_levels
        values = b"" if noise is None else noise.astype("<f4").tobytes()
        self._send([STATUS, dump({"info": describe_run(info, statistics), "status": state}), values])

    def _send(self, parts: list[Any]) -> None:
        assert self._socket is not None
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            self.skipped += 1


def describe_run(info: RunInfo, statistics: RunStatistics) -> dict[str, Any]:
    """What a page has to know of a run, of plain values."""
    rate = info.frame_rate_hz
    return {
        "stream": info.stream,
        "n_neurons": info.n_neurons,
        "frame_rate_hz": rate,
        "lookaheads": list(info.lookaheads),
        "model": info.spec.name,
        "noise_range": list(info.spec.noise_range),
        "integration": [[lookahead, n, 1000 * n / rate] for lookahead, n in statistics.integration],
        "source": statistics.source,
        "has_dff": True,
    }


def describe_state(statistics: RunStatistics) -> dict[str, Any]:
    """How a run is, of plain values; takes a fraction of a millisecond."""
    latency, elapsed = statistics.latency, statistics.now - (statistics.started or statistics.now)
    return {
        "elapsed_s": elapsed,
        "frames": statistics.counters.to_dict(),
        "rejected": statistics.rejections.to_dict(),
        "queue": statistics.queue_frames,
        "overrun": statistics.overrun,
        "sink_dropped": statistics.sink_dropped,
        "load": statistics.busy_s / elapsed if elapsed > 0 else None,
        "last_frame": statistics.last_frame,
        "calibrating": statistics.calibrating,
        "baseline_filling": statistics.baseline_filling,
        "calibration_progress": statistics.calibration_progress,
        "warnings": list(statistics.warnings)[-5:],
        "stopping": statistics.stopping,
        "ended": statistics.ended,
        "events": dict(statistics.events),
        "latency": {
            "counts": latency.counts(LATENCY_EDGES_S).tolist(),
            "count": latency.count,
            "p50_ms": 1000 * latency.percentile(50),
            "p99_ms": 1000 * latency.percentile(99),
            "max_ms": 1000 * latency.max_s,
            "deadline_ms": None if latency.deadline_s is None else 1000 * latency.deadline_s,
            "deadline_misses": latency.misses,
        },
    }


def take(parts: Sequence[bytes], collector: Collector) -> None:
    """Put a message of a :class:`MonitorSink` into a collector."""
    kind = parts[0]
    if kind in (RESULT, FRAMES):
        lookahead, first, n_neurons, n_frames, latency = _HEAD.unpack(parts[1])
        values = np.frombuffer(parts[2], "<f4").reshape(n_neurons, n_frames)
        if kind == FRAMES:
            collector.add_frames(first, values)
        else:
            known = None if math.isnan(latency) else latency
            collector.add_result(lookahead, first, values, latency_s=known)
    elif kind == EVENT:
        collector.add_event(json.loads(parts[1]))
    elif kind == STATUS:
        told = json.loads(parts[1])
        collector.start(told["info"])
        collector.set_status(told["status"], np.frombuffer(parts[2], "<f4") if parts[2] else None)

"""A fake microscope: sends a recording to a socket as an acquisition program would."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import zmq

from cascade_rt.chunks import FrameChunk
from cascade_rt.codec import TOPIC_DFF, encode_end, encode_frames, encode_raw
from cascade_rt.errors import InputError
from cascade_rt.latency import LatencyHistogram

from .zeromq import POLL_MS, ZmqSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from . import ZmqEndpoint
    from .files import FileSource

__all__ = ["Microscope", "ReplaySummary"]

#: Time that the last messages get to leave: a PUSH socket delivers all of them to a slow receiver.
LINGER_MS = 30_000


@dataclass(frozen=True, kw_only=True)
class ReplaySummary:
    """What was sent.

    Parameters
    ----------
    frames, messages : int
    n_neurons : int
    seconds : float
        From the first to the last message (s).
    stopped : bool
        True if it was stopped before the end of the recording.
    lateness : LatencyHistogram
        How much later than its time each message was handed to the socket; empty without a schedule.
    next_frame : int
        Index that the next frame would have had.
    """

    frames: int
    messages: int
    n_neurons: int
    seconds: float
    stopped: bool
    lateness: LatencyHistogram
    next_frame: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "frames": self.frames,
            "messages": self.messages,
            "n_neurons": self.n_neurons,
            "next_frame": self.next_frame,
            "seconds": round(self.seconds, 4),
            "frames_per_s": round(self.frames / self.seconds, 2) if self.seconds > 0 else None,
            "stopped": self.stopped,
            "lateness": self.lateness.to_dict(),
        }


class Microscope:
    """Sends the frames of a recording on a fixed schedule, then the end of the stream.

    Message ``n`` is sent when the last of its frames would have been acquired, counted from the start: waiting too
    long for one message does not shift the later ones.

    Parameters
    ----------
    source : FileSource
        The recording; its ``chunk_frames`` are the frames of one message. Is opened and closed here.
    endpoint : ZmqEndpoint
        PUB or PUSH.
    frame_rate_hz : float
        Told to the receiver.
    speed : float or None
        1: in real time; None: as fast as the receiver takes it.
    loops : int
        How many times the recording is sent; frames are counted on.
    stream : str
        Name of the recording.
    raw : bool
        Plain messages without a header.
    wait_for_subscriber : bool
        A PUB socket waits for somebody who subscribes; a PUSH socket always waits for a receiver.
    clock, sleep : callable
        Monotonic time (s), and waiting for some.
    """

    def __init__(
        self,
        source: FileSource,
        endpoint: ZmqEndpoint,
        *,
        frame_rate_hz: float,
        speed: float | None = 1.0,
        loops: int = 1,
        stream: str = "",
        raw: bool = False,
        wait_for_subscriber: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if loops < 1 or (speed is not None and not speed > 0) or not frame_rate_hz > 0:
            raise InputError(f"loops={loops}, speed={speed}, frame_rate_hz={frame_rate_hz}: expected positive numbers")
        if endpoint.socket_type not in ("pub", "push"):
            raise InputError(f"{endpoint.address}: type={endpoint.socket_type}: expected pub or push")
        self._source = source
        self._socket = ZmqSocket(endpoint, linger_ms=LINGER_MS, immediate=True)
        self._rate = frame_rate_hz
        self._speed = speed
        self._loops = loops
        self._stream = stream
        self._raw = raw
        self._wait = wait_for_subscriber or endpoint.socket_type == "push"
        self._clock = clock
        self._sleep = sleep
        self._stopped = False
        self._frames = self._messages = 0

    @property
    def address(self) -> str:
        """Where it sends; with the port that was taken, once running."""
        return self._socket.address

    def stop(self) -> None:
        """Send no more frames, only the end of the stream. May be called from a signal handler."""
        self._stopped = True

    def run(self, progress: Callable[[float], None] | None = None) -> ReplaySummary:
        """Send everything.

        Parameters
        ----------
        progress : callable, optional
            Called with the finished fraction.

        Raises
        ------
        InputError, FileFormatError
            The address or the recording cannot be used.
        """
        self._source.open()
        try:
            recording = self._source.recording
            total = self._loops * recording.n_frames
            n_neurons = recording.n_neurons
            self._socket.open()
            try:
                ready = not self._wait or self._wait_for_receiver()
                started = self._clock()
                lateness, next_frame = LatencyHistogram(), 0
                if ready:
                    next_frame = self._send_all(started, lateness, total, progress)
                seconds = self._clock() - started
                self._deliver(encode_end("" if self._raw else self._stream, next_frame), last=True)
            finally:
                self._socket.close()
        finally:
            self._source.close()
        return ReplaySummary(
            frames=self._frames,
            messages=self._messages,
            n_neurons=n_neurons,
            seconds=seconds,
            stopped=self._stopped,
            lateness=lateness,
            next_frame=next_frame,
        )

    def _send_all(
        self, started: float, lateness: LatencyHistogram, total: int, progress: Callable[[float], None] | None
    ) -> int:
        """Send all frames; returns the index that would follow."""
        offset, origin, next_frame = 0, None, 0
        for _ in range(self._loops):
            self._source.rewind()
            while isinstance(chunk := self._source.receive(0), FrameChunk):
                index = offset + chunk.first_frame
                origin = index if origin is None else origin
                due = None
                if self._speed is not None:
                    due = started + (index + chunk.n_frames - origin) / (self._rate * self._speed)
                    self._wait_until(due)
                t_source = (index - origin) / self._rate
                message = replace(
                    chunk, first_frame=index, stream=self._stream, frame_rate_hz=self._rate, t_source=t_source
                )
                parts = encode_raw(chunk.frames) if self._raw else encode_frames(message)
                if self._stopped or not self._deliver(parts):
                    return next_frame
                next_frame = index + chunk.n_frames
                self._frames += chunk.n_frames
                self._messages += 1
                if due is not None:
                    lateness.add(self._clock() - due)
                if progress is not None:
                    progress(self._frames / total)
            offset = next_frame
        return next_frame

    def _wait_until(self, due: float) -> None:
        while not self._stopped and (left := due - self._clock()) > 0:
            self._sleep(min(left, POLL_MS / 1000))

    def _wait_for_receiver(self) -> bool:
        """Wait until somebody receives; False if stopped before."""
        socket = self._socket.socket
        subscribing = self._socket.endpoint.socket_type == "pub"
        while not self._stopped:
            if not socket.poll(POLL_MS, zmq.POLLIN if subscribing else zmq.POLLOUT):
                continue
            if not subscribing:
                return True
            told = socket.recv()
            if told[:1] == b"\1" and TOPIC_DFF.startswith(told[1:]):
                return True
        return False

    def _deliver(self, parts: Sequence[bytes], *, last: bool = False) -> bool:
        """Hand a message to the socket, waiting for room; False if stopped before."""
        socket = self._socket.socket
        while True:
            try:
                socket.send_multipart(parts, zmq.NOBLOCK)
                return True
            except zmq.Again:
                if self._stopped or last:
                    return False
            socket.poll(POLL_MS, zmq.POLLOUT)

"""The receiving side of a run: one thread that takes what the source gives, and the bounded queue behind it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from .chunks import FrameChunk
from .errors import InputError, WireError
from .ports import EndOfStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .ports import Source

__all__ = ["FrameQueue", "Receiver", "Rejections", "Stopped"]

log = logging.getLogger(__name__)

#: Longest wait of the receiving thread before it looks whether it should stop (s).
POLL_S = 0.1


class Stopped:
    """Last item of a receiver that was told to stop."""


class Rejections:
    """Counts messages that were not used, by reason, and logs them at a limited rate. Thread-safe.

    Parameters
    ----------
    interval_s : float
        Each reason is logged at once when it is new, then at most this often (s).
    clock : callable
        Monotonic time (s).
    """

    def __init__(self, *, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[float, int]] = {}

    def add(self, reason: str, message: str) -> None:
        """Count one message."""
        now = self._clock()
        with self._lock:
            self._counts[reason] += 1
            count = self._counts[reason]
            since, before = self._logged.get(reason, (-float("inf"), 0))
            if now - since < self._interval_s:
                return
            self._logged[reason] = now, count
        more = f" ({count - before} such messages since the last report)" if count - before > 1 else ""
        log.warning("message rejected (%s): %s%s", reason, message, more)

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self._counts.values())

    def to_dict(self) -> dict[str, int]:
        """Return the counts by reason."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class FrameQueue:
    """Items between the receiving and the processing thread; bounded in frames.

    Parameters
    ----------
    capacity_frames : int
    """

    def __init__(self, capacity_frames: int) -> None:
        if capacity_frames < 1:
            raise InputError(f"a queue of {capacity_frames} frames: expected at least 1")
        self.capacity_frames = capacity_frames
        self._changed = threading.Condition()
        self._items: deque[FrameChunk | EndOfStream | Stopped | BaseException] = deque()
        self._n_frames = 0
        #: Frames that were dropped because the queue was full.
        self.dropped = 0

    def __len__(self) -> int:
        """Frames waiting."""
        return self._n_frames

    def put(self, item: FrameChunk | EndOfStream | Stopped | BaseException) -> None:
        """Add an item without ever waiting. Where it does not fit, the oldest frames go, down to half of the queue.

        Many at once: one long gap spoils fewer results than many short ones, and the delay is gone at once.
        """
        with self._changed:
            self._append(item)
            if self._n_frames > self.capacity_frames:
                kept: list[FrameChunk | EndOfStream | Stopped | BaseException] = []
                while self._items and self._n_frames > self.capacity_frames // 2:
                    oldest = self._items.popleft()
                    if isinstance(oldest, FrameChunk) and oldest is not item:
                        self._n_frames -= oldest.n_frames
                        self.dropped += oldest.n_frames
                    else:
                        kept.append(oldest)
                        if oldest is item:
                            break
                self._items.extendleft(reversed(kept))
            self._changed.notify_all()

    def put_waiting(self, item: FrameChunk | EndOfStream, stopped: Callable[[], bool]) -> None:
        """Add an item as soon as it fits, or at once when ``stopped()`` becomes true."""
        n_frames = item.n_frames if isinstance(item, FrameChunk) else 0
        with self._changed:
            while self._n_frames and self._n_frames + n_frames > self.capacity_frames and not stopped():
                self._changed.wait(POLL_S)
            self._append(item)
            self._changed.notify_all()

    def take(self, max_frames: int, timeout_s: float) -> list[FrameChunk | EndOfStream | Stopped | BaseException]:
        """Take the first item and those behind it, up to ``max_frames`` frames; empty if none came in time."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout_s)
            taken: list[FrameChunk | EndOfStream | Stopped | BaseException] = []
            n_frames = 0
            while self._items:
                item = self._items[0]
                if isinstance(item, FrameChunk):
                    if taken and n_frames + item.n_frames > max_frames:
                        break
                    n_frames += item.n_frames
                taken.append(self._items.popleft())
            self._n_frames -= n_frames
            self._changed.notify_all()
        return taken

    def _append(self, item: FrameChunk | EndOfStream | Stopped | BaseException) -> None:
        self._items.append(item)
        if isinstance(item, FrameChunk):
            self._n_frames += item.n_frames


class Receiver:
    """The thread that receives. Malformed messages are counted; any other error goes through the queue.

    Parameters
    ----------
    source : Source
        Open; used by this thread only, until :meth:`join`.
    queue : FrameQueue
    rejections : Rejections
    """

    def __init__(self, source: Source, queue: FrameQueue, rejections: Rejections) -> None:
        self._source = source
        self._queue = queue
        self._rejections = rejections
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cascade_rt-receive", daemon=True)
        #: Messages of frames received, rejected ones not counted.
        self.messages = 0

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def stop(self) -> None:
        """Receive no more; what is in the queue stays there."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if self._receive_one():
                    return
            self._queue.put(Stopped())
        except BaseException as error:  # noqa: BLE001 - handed to the processing thread, which raises it
            self._queue.put(error)

    def _receive_one(self) -> bool:
        """Receive one message; True if it was the last."""
        try:
            item = self._source.receive(POLL_S)
        except WireError as error:
            self._rejections.add(error.reason, str(error))
            return False
        if item is None:
            return False
        if isinstance(item, FrameChunk):
            self.messages += 1
        if self._source.lossless:
            self._queue.put_waiting(item, self._stopping.is_set)
        else:
            self._queue.put(item)
        return isinstance(item, EndOfStream) and self._source.finite

"""Sending that may take its time: a thread behind a bounded queue, so that the run never waits for a slow receiver."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.ports import RunInfo

__all__ = ["BackgroundSender", "EventOnlySink"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")

#: Time that what is still waiting gets at the end (s).
LINGER_S = 2.0


class BackgroundSender(Generic[Item]):
    """Hands items to a function in a thread of its own; what does not fit into the queue is dropped and counted.

    Parameters
    ----------
    name : str
        For the thread and for messages.
    deliver : callable
        Called with one item, in the thread. What it raises is logged and counted; the next item is tried.
    begin, end : callable
        Called in the thread before the first and after the last item.
    idle : callable, optional
        Called in the thread about every 0.1 s.
    capacity : int
        Items that may wait.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Item], None],
        *,
        begin: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
        idle: Callable[[], None] = lambda: None,
        capacity: int = 1024,
    ) -> None:
        self._name = name
        self._deliver = deliver
        self._begin = begin
        self._end = end
        self._idle = idle
        self._capacity = capacity
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None
        #: Items that found the queue full, or that could not be delivered.
        self.dropped = 0
        #: Items that were delivered.
        self.sent = 0

    def start(self) -> None:
        """Begin."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"cascade_rt-{self._name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Leave an item to be sent, without waiting; False if it was dropped."""
        with self._changed:
            if self._closing or len(self._items) >= self._capacity:
                self._lose(1, "the queue is full")
                return False
            self._items.append(item)
            self._changed.notify()
            return True

    def close(self, linger_s: float = LINGER_S) -> None:
        """Give what is waiting some time to leave, then end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            deadline = time.monotonic() + linger_s
            while (self._items or self._busy) and time.monotonic() < deadline:
                self._changed.wait(0.05)
            self._closing = True
            if self._items:
                self._lose(len(self._items), "the receiver did not take them before the end")
                self._items.clear()
            self._changed.notify()
        thread.join(linger_s)

    def _run(self) -> None:
        self._attempt(self._begin)
        while True:
            with self._changed:
                if not self._items and not self._closing:
                    self._changed.wait(0.1)
                if self._closing:
                    break
                item = self._items.popleft() if self._items else None
                self._busy = item is not None
            if item is None:
                self._attempt(self._idle)
                continue
            delivered = self._attempt(lambda item=item: self._deliver(item))  # type: ignore[misc]
            with self._changed:
                self._busy = False
                self.sent += delivered
                if not delivered:
                    self._lose(1, "")
                self._changed.notify()
        self._attempt(self._end)

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a receiver outside must never stop the run; it is counted
            log.warning("%s: %s: %s", self._name, type(error).__name__, error)
            return False
        return True

    def _lose(self, count: int, why: str) -> None:
        if why and (self.dropped == 0 or self.dropped % 1000 < count):
            log.warning("%s: dropped (%s); %d so far", self._name, why, self.dropped + count)
        self.dropped += count


class EventOnlySink:
    """The part of a sink that has nothing to do for results: what a run calls on a receiver of events alone."""

    live = True

    def start(self, info: RunInfo) -> None:
        """Nothing to prepare."""

    def send(self, chunk: SpikeChunk) -> None:
        """Results do not go here."""

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Nothing to finish."""

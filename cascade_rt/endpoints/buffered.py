"""A sink with a thread of its own behind a bounded buffer: the run does not wait for a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.errors import CascadeError
from cascade_rt.gaps import Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascade_rt.ports import RunInfo, Sink

__all__ = ["BUFFER_BYTES", "BufferedSink", "Missing"]

log = logging.getLogger(__name__)

#: What may wait to be written (bytes).
BUFFER_BYTES = 256 * 1024**2
#: What one item takes beside its arrays (bytes); a guess on the safe side.
ITEM_BYTES = 1000
#: What a sink may have beyond the port, and is passed on if it does.
HOOKS = (
    "keep_message", "keep_piece", "keep_control", "keep_rows", "keep_noise_levels", "keep_readable", "send_event",
)  # fmt: skip
#: Small and precious: these still get in when frames no longer do.
PRECIOUS = ("keep_control", "keep_rows", "keep_noise_levels", "send_event")
PRECIOUS_BYTES = 16 * 1024**2
#: A disk that is too slow again and again is told this often (s).
WARN_S = 30.0


@dataclass(kw_only=True)
class Missing:
    """What did not fit into the buffer, from when it was full until there was room again.

    Parameters
    ----------
    pieces, frames, filled, resets : int
        Pieces left out, frames that were received, frames that had been filled in, and fresh starts among them.
    first_frame, stop_frame : int or None
        Source's index of the first frame left out, and of the one after the last.
    results : Counter
        Columns of results by look-ahead.
    messages, events, controls : int
    """

    pieces: int = 0
    frames: int = 0
    filled: int = 0
    resets: int = 0
    first_frame: int | None = None
    stop_frame: int | None = None
    results: Counter[int] = field(default_factory=Counter)
    messages: int = 0
    events: int = 0
    controls: int = 0

    def add(self, hook: str, what: Any) -> None:
        """Count one item."""
        if isinstance(what, SpikeChunk):
            self.results[what.lookahead_frames] += what.n_frames
        elif isinstance(what, Piece):
            self.pieces += 1
            self.resets += bool(what.reset)
            if what.touched:
                self.filled += what.n_frames
            else:
                self.frames += what.n_frames
            self.first_frame = what.first_frame if self.first_frame is None else self.first_frame
            self.stop_frame = what.stop_frame
        else:
            self.messages += hook == "keep_message"
            self.events += hook == "send_event"
            self.controls += hook == "keep_control"

    def __bool__(self) -> bool:
        return bool(self.pieces or self.results or self.messages or self.events or self.controls)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "results": {str(n): k for n, k in sorted(self.results.items())}}


class BufferedSink:
    """Hands everything to another sink, in a thread of its own and in order.

    When the buffer is full, frames and results are left out until half of it is free again: one long hole spoils less
    than many short ones. They are counted, and the sink is told by ``note_missing``, if it has that, at the place where
    they are missing. When the sink fails, the run goes on without it, and :meth:`account` says so.

    Parameters
    ----------
    sink : Sink
        A slow one; ``open`` is called directly, everything else in the thread.
    capacity_bytes : int
        What may wait.
    wait : bool
        Wait instead, for a source that can.
    finish_s : float
        Longest wait for the sink at the end (s).
    """

    def __init__(
        self, sink: Sink, *, capacity_bytes: int = BUFFER_BYTES, wait: bool = False, finish_s: float = 60.0
    ) -> None:
        self._sink: Any = sink
        self._capacity = capacity_bytes
        self._wait = wait
        self._finish_s = finish_s
        self._changed = threading.Condition()
        self._items: deque[tuple[str, Callable[[], None], Any, int]] = deque()
        self._bytes = self._most = 0
        self._full = self._closed = self._finished = False
        self._hole = Missing()
        self._missing = Missing()
        self._failure: BaseException | None = None
        self._stopped_by = ""
        self._next_warning = 0.0
        self._thread: threading.Thread | None = None
        for hook in HOOKS:
            if hasattr(sink, hook):
                setattr(self, hook, partial(self._offer, hook))

    @property
    def live(self) -> bool:
        return bool(self._sink.live)

    @property
    def name(self) -> str:
        return str(self._sink.name)

    @property
    def dropped(self) -> int:
        """Columns of results that were left out, and what the sink itself dropped."""
        with self._changed:
            return sum(self._missing.results.values()) + int(self._sink.dropped)

    def account(self) -> dict[str, Any]:
        """Tell what was not written, as plain values."""
        with self._changed:
            return {
                "name": self.name,
                "complete": not (self._stopped_by or self._missing),
                "failure": self._stopped_by or None,
                "missing": self._missing.to_dict() if self._missing else None,
                "buffer_bytes": self._capacity,
                "most_waiting_bytes": self._most,
            }

    def open(self, stopped: Callable[[], bool]) -> None:
        """Check that results can be delivered."""
        self._sink.open(stopped)

    def start(self, info: RunInfo) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="cascade_rt-write", daemon=True)
        self._put("start", partial(self._sink.start, info), None, 0)
        self._thread.start()

    def send(self, chunk: SpikeChunk) -> None:
        """Leave a result to be written."""
        self._offer("send", chunk)

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Wait, for a limited time, until everything is written."""
        thread = self._thread
        if thread is None:
            return
        with self._changed:
            self._note_hole()
        account = self.account()
        what = partial(
            self._sink.finish,
            next_frame,
            complete=complete and account["complete"],
            metadata={**metadata, "recording": account},
        )
        self._put("finish", what, None, 0)
        deadline = time.monotonic() + self._finish_s
        with self._changed:
            while not self._finished and not self._stopped_by and thread.is_alive() and time.monotonic() < deadline:
                self._changed.wait(min(0.1, self._finish_s))
            if not self._finished and not self._stopped_by:
                left = self._give_up(f"{self._bytes / 1e6:.0f} MB were not written within {self._finish_s:g} s")
                log.error("%s: recording ends too early: %s", self.name, left)
        if self._failure is not None and not isinstance(self._failure, (CascadeError, OSError)):
            raise self._failure

    def close(self) -> None:
        """Let go of everything."""
        thread, self._thread = self._thread, None
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if thread is not None:
            # A thread that hangs in the system cannot be helped: it ends with the process.
            thread.join(1.0 if self._stopped_by else self._finish_s)
        if thread is None or not thread.is_alive():
            self._sink.close()

    # ------------------------------------------------------------------------------------ the thread of the run

    def _offer(self, hook: str, *what: Any) -> None:
        """Leave something to be written, or count it as missing."""
        size = ITEM_BYTES + sum(_size(item) for item in what)
        counted = what[0] if what else None
        with self._changed:
            limit = self._capacity + (PRECIOUS_BYTES if hook in PRECIOUS else 0)
            while self._wait and self._items and self._bytes + size > limit and not self._stopped_by:
                self._changed.wait(0.1)
            if hook not in PRECIOUS:
                self._full = self._bytes > self._capacity // 2 if self._full else self._bytes + size > self._capacity
            full = self._bytes + size > limit if hook in PRECIOUS else self._full
            # What is larger than the buffer gets in when there is nothing else.
            if self._stopped_by or (full and self._items):
                self._leave_out(hook, counted)
                return
            self._full = False if hook not in PRECIOUS else self._full
            if hook not in PRECIOUS:
                self._note_hole()
        self._put(hook, partial(getattr(self._sink, hook), *what), counted, size)

    def _put(self, hook: str, action: Callable[[], None], what: Any, size: int) -> None:
        with self._changed:
            self._items.append((hook, action, what, size))
            self._bytes += size
            self._most = max(self._most, self._bytes)
            self._changed.notify_all()

    def _leave_out(self, hook: str, what: Any) -> None:
        now = time.monotonic()
        if not self._hole and not self._stopped_by and now >= self._next_warning:
            self._next_warning = now + WARN_S
            log.warning(
                "%s: cannot be written as fast as frames come; %.0f MB wait, and what comes now is left out",
                self.name, self._bytes / 1e6,
            )  # fmt: skip
        self._hole.add(hook, what)
        self._missing.add(hook, what)

    def _note_hole(self) -> None:
        """Let the sink know, at this place, what is missing."""
        if not self._hole:
            return
        hole, self._hole = self._hole, Missing()
        note = getattr(self._sink, "note_missing", None)
        if note is not None:
            self._put("note_missing", partial(note, hole), None, 0)

    def _give_up(self, why: str) -> str:
        """Write no more; everything that waits is missing."""
        self._stopped_by = why
        for hook, _, what, _ in self._items:
            if what is not None:
                self._missing.add(hook, what)
        self._items.clear()
        self._bytes = 0
        self._changed.notify_all()
        return why

    # ----------------------------------------------------------------------------------------- the own thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._stopped_by:
                    self._changed.wait()
                if self._stopped_by or not self._items:
                    break
                hook, action, what, size = self._items[0]
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - told in the account; others than ours by `finish`, too
                self._fail(error, hook)
                break
            with self._changed:
                if self._stopped_by:
                    break
                self._items.popleft()
                self._bytes -= size
                self._finished = self._finished or hook == "finish"
                self._changed.notify_all()
            del action, what
        if self._stopped_by:
            abandon = getattr(self._sink, "abandon", self._sink.close)
            if abandon == self._sink.close:
                abandon()
            else:
                abandon(self.account())

    def _fail(self, error: BaseException, hook: str) -> None:
        with self._changed:
            self._failure = error
            why = self._give_up(str(error) or type(error).__name__)
        log.error("%s: %s (%s): nothing more is recorded; the run goes on", self.name, why, hook)


def _size(what: Any) -> int:
    """Bytes of the arrays."""
    if isinstance(what, (Piece, FrameChunk)):
        return int(what.frames.nbytes)
    if isinstance(what, SpikeChunk):
        return int(what.spike_prob.nbytes + what.valid.nbytes)
    return int(getattr(what, "nbytes", 0))

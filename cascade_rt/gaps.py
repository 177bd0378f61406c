"""Frames in the order of their index: fills what is missing, drops what came twice or too late.

What the sequencer does with a chunk whose frames are

- the ones expected: they pass.
- further on, by at most ``max_fill`` frames: the missing ones are filled in and marked ``touched``: the last value
  repeated ("hold") or NaN ("nan"). With "stop" any gap ends the run.
- further on than that: nothing is filled in. The piece says ``reset="gap"``: the stream starts afresh at the new
  index, so that an hour without frames costs nothing and results still name the right frames.
- already passed: dropped, and counted as *late* where they had been missing, as *duplicate* otherwise.
- partly passed: the rest is used.
- going back to the start of the count, or back by more than ``max_fill`` frames, in ``confirm_restart``
  consecutive chunks: the source's counter has restarted. Until that is sure the chunks are held back; then they are
  processed, none of them lost, with ``reset="restart"`` on the first. The same holds at once for a chunk that
  overlaps the newest frame and disagrees with it. "stop" ends the run on a restart too.

Frames before the first one received are not a gap: a receiver may join late. They are reported as ``before_start``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from .chunks import FrameChunk, GapPolicy, check_choice
from .errors import InputError, StreamError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["FrameSequencer", "Piece", "SequenceCounters", "coalesce"]

#: Gaps that are remembered to tell late frames from duplicates.
_REMEMBERED_GAPS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Frames that directly follow those of the piece before, unless ``reset`` says otherwise.

    Parameters
    ----------
    frames : ndarray, (n_neurons, n_frames), float32
    first_frame : int
        The source's index of the first column.
    touched : bool
        True for frames that were filled in.
    reset : "", "gap" or "restart"
        Not empty where the stream has to start afresh with this piece.
    t_source : float or None
        The source's time of the last column (s).
    arrivals : tuple of float
        Monotonic time at which each message with some of these frames was received (s).
    """

    frames: NDArray[np.float32]
    first_frame: int
    touched: bool = False
    reset: Literal["", "gap", "restart"] = ""
    t_source: float | None = None
    arrivals: tuple[float, ...] = ()

    @property
    def n_frames(self) -> int:
        return int(self.frames.shape[1])

    @property
    def stop_frame(self) -> int:
        return self.first_frame + self.n_frames


@dataclass(kw_only=True)
class SequenceCounters:
    """Frames, by what became of them.

    ``received = processed + duplicate + late``, and every index from the first received to the last one is either
    processed or lost (``filled + skipped``), unless the source's counter restarted.
    """

    received: int = 0
    processed: int = 0
    filled: int = 0
    skipped: int = 0
    duplicate: int = 0
    late: int = 0
    before_start: int = 0
    after_end: int = 0
    gaps: int = 0
    restarts: int = 0

    @property
    def lost(self) -> int:
        """Frames that the source counted between the first and the last and that were never processed."""
        return self.filled + self.skipped + self.after_end

    def to_dict(self) -> dict[str, int]:
        """Plain values, with ``lost``."""
        return {**asdict(self), "lost": self.lost}


class FrameSequencer:
    """Turns chunks in order of arrival into pieces in order of their index.

    Parameters
    ----------
    policy : "hold", "nan" or "stop"
        What to do with a gap.
    max_fill : int
        Longest gap (frames) that is filled in; the length of the model's window is enough to clear its state.
    confirm_restart : int
        Consecutive chunks that must come from a restarted counter before it is believed.
    """

    def __init__(self, *, policy: GapPolicy = "hold", max_fill: int = 64, confirm_restart: int = 8) -> None:
        check_choice("gap", policy, GapPolicy)
        if max_fill < 0 or confirm_restart < 1:
            raise InputError(f"max_fill={max_fill}, confirm_restart={confirm_restart}: expected >= 0 and >= 1")
        self.policy = policy
        self.max_fill = max_fill
        self.confirm_restart = confirm_restart
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.counters = SequenceCounters()
        self.expected: int | None = None
        self._start = 0
        self._last: NDArray[np.float32] | None = None
        self._missing: list[tuple[int, int]] = []
        self._held_back: list[tuple[FrameChunk, int, int]] = []

    def feed(self, chunk: FrameChunk) -> list[Piece]:
        """Take the next chunk to arrive.

        Parameters
        ----------
        chunk : FrameChunk
            At least one frame.

        Returns
        -------
        list of Piece
            In order; empty where the chunk brought nothing new.

        Raises
        ------
        StreamError
            A gap or a restart under the policy "stop".
        """
        if chunk.n_frames == 0:
            return []
        self.counters.received += chunk.n_frames
        if self.expected is None:
            self.expected = self._start = self.counters.before_start = chunk.first_frame
        if chunk.first_frame + chunk.n_frames <= self.expected:
            return self._old(chunk)
        self._held_back.clear()
        if chunk.first_frame < self.expected:
            if self._disagrees(chunk):
                return self._restart([chunk])
            chunk = self._cut(chunk)
        return self._forward(chunk)

    def finish(self, next_frame: int | None) -> None:
        """Count the frames that the source's end message shows to be missing at the end."""
        if next_frame is None:
            return
        if self.expected is None:
            self.counters.before_start = next_frame
        elif next_frame > self.expected:
            self.counters.after_end += next_frame - self.expected
            self.counters.gaps += 1

    def _forward(self, chunk: FrameChunk, reset: Literal["", "gap", "restart"] = "") -> list[Piece]:
        assert self.expected is not None
        pieces = []
        gap = chunk.first_frame - self.expected
        if gap > 0:
            self._refuse(f"frames {self.expected} to {chunk.first_frame - 1} are missing")
            self.counters.gaps += 1
            self._missing = [*self._missing[1 - _REMEMBERED_GAPS :], (self.expected, chunk.first_frame)]
            if gap <= self.max_fill and self._last is not None:
                self.counters.filled += gap
                pieces.append(Piece(frames=self._filling(gap), first_frame=self.expected, touched=True))
            else:
                self.counters.skipped += gap
                reset = "gap"
        self.counters.processed += chunk.n_frames
        pieces.append(
            Piece(
                frames=chunk.frames,
                first_frame=chunk.first_frame,
                reset=reset,
                t_source=_time_of_last(chunk),
                arrivals=() if chunk.t_recv is None else (chunk.t_recv,),
            )
        )
        self._last = chunk.frames[:, -1].copy()
        self.expected = chunk.first_frame + chunk.n_frames
        return pieces

    def _old(self, chunk: FrameChunk) -> list[Piece]:
        """Take a chunk of frames that have passed: late, twice, or from a counter that restarted."""
        assert self.expected is not None
        late, duplicate = self._count_old(chunk.first_frame, chunk.first_frame + chunk.n_frames)
        if not self._continues_held_back(chunk):
            self._held_back.clear()
            far_back = self.expected - chunk.first_frame > max(self.max_fill, chunk.n_frames)
            if chunk.first_frame != 0 and not far_back:
                return []
        self._held_back.append((chunk, late, duplicate))
        if len(self._held_back) < self.confirm_restart:
            return []
        for _, held_late, held_duplicate in self._held_back:
            self.counters.late -= held_late
            self.counters.duplicate -= held_duplicate
        return self._restart([held for held, _, _ in self._held_back])

    def _continues_held_back(self, chunk: FrameChunk) -> bool:
        if not self._held_back:
            return False
        before = self._held_back[-1][0]
        return before.first_frame + before.n_frames == chunk.first_frame

    def _restart(self, chunks: list[FrameChunk]) -> list[Piece]:
        first = chunks[0].first_frame
        self._refuse(f"the source's frame counter went back from {self.expected} to {first}")
        self.counters.restarts += 1
        self._held_back = []
        self._missing = []
        self.expected = self._start = first
        pieces = self._forward(chunks[0], "restart")
        for chunk in chunks[1:]:
            pieces += self._forward(chunk)
        return pieces

    def _count_old(self, first: int, stop: int) -> tuple[int, int]:
        """Count frames that were missing as late, and forget that they were; the others as duplicate."""
        late = max(0, min(stop, self._start) - first)
        missing = []
        for low, high in self._missing:
            a, b = max(low, first), min(high, stop)
            if a >= b:
                missing.append((low, high))
                continue
            late += b - a
            missing += [(x, y) for x, y in ((low, a), (b, high)) if x < y]
        self._missing = missing
        duplicate = stop - first - late
        self.counters.late += late
        self.counters.duplicate += duplicate
        return late, duplicate

    def _cut(self, chunk: FrameChunk) -> FrameChunk:
        """Leave out of a chunk the frames that have passed."""
        assert self.expected is not None
        old = self.expected - chunk.first_frame
        self._count_old(chunk.first_frame, self.expected)
        t_source = chunk.t_source
        if t_source is not None:
            t_source = t_source + old / chunk.frame_rate_hz if chunk.frame_rate_hz else None
        return replace(chunk, frames=chunk.frames[:, old:], first_frame=self.expected, t_source=t_source)

    def _disagrees(self, chunk: FrameChunk) -> bool:
        """Tell whether the newest frame comes again with other values: then it is another recording."""
        assert self.expected is not None
        if self._last is None:
            return False
        again = chunk.frames[:, self.expected - 1 - chunk.first_frame]
        return not np.array_equal(again, self._last, equal_nan=True)

    def _filling(self, n_frames: int) -> NDArray[np.float32]:
        assert self._last is not None
        if self.policy == "nan":
            return np.full((self._last.size, n_frames), np.nan, np.float32)
        return np.repeat(self._last[:, None], n_frames, axis=1)

    def _refuse(self, what: str) -> None:
        if self.policy == "stop":
            raise StreamError(f"{what}; the run was told to stop at a gap (gap='stop'; 'hold' or 'nan' go on)")


def coalesce(pieces: Iterable[Piece]) -> list[Piece]:
    """Join neighbouring pieces of real frames into one, so that a backlog is processed in few steps."""
    joined: list[list[Piece]] = []
    for piece in pieces:
        if joined and not piece.reset and not piece.touched and not joined[-1][-1].touched:
            joined[-1].append(piece)
        else:
            joined.append([piece])
    return [group[0] if len(group) == 1 else _join(group) for group in joined]


def _join(group: list[Piece]) -> Piece:
    return replace(
        group[0],
        frames=np.concatenate([piece.frames for piece in group], axis=1),
        t_source=group[-1].t_source,
        arrivals=tuple(t for piece in group for t in piece.arrivals),
    )


def _time_of_last(chunk: FrameChunk) -> float | None:
    if chunk.t_source is None or chunk.n_frames == 1:
        return chunk.t_source
    return chunk.t_source + (chunk.n_frames - 1) / chunk.frame_rate_hz if chunk.frame_rate_hz else None

"""Neurons that join and leave during a run: which row is whose, and streams for rows that come later.

A row is a neuron, told apart by the ids that a source may send with its frames. A row, once given, stays: where its
neuron is not in a message, its values are NaN. A new neuron takes the next free row, up to a number of rows that is
fixed when the run starts, so that the shape of results never changes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .chunks import SpikeChunk
from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .chunks import FrameChunk, ModelSpec
    from .ports import LiveStream

__all__ = ["RowMap", "RowStream", "check_ids"]

log = logging.getLogger(__name__)

#: Longest id (characters), and ids of a run altogether as they are told with results (bytes).
MAX_ID, MAX_IDS_BYTES = 64, 48 * 1024
#: Streams of rows that joined, at most; more rows wait until some have finished their calibration.
MAX_GROUPS = 8
#: Streams that have settled are made one when there are so many: that takes longer than a frame, each costs little.
WORTH_JOINING = 4
#: Ids without a row that are remembered to count them.
_REMEMBERED = 10_000


def check_ids(ids: Any, n_rows: int, *, fewer: bool = False) -> tuple[int | str, ...]:
    """Return ids as a tuple.

    Parameters
    ----------
    ids : list or tuple of int and str
    n_rows : int
        How many are expected; at most so many if ``fewer``.

    Raises
    ------
    InputError
    """
    if not isinstance(ids, (list, tuple)) or (len(ids) > n_rows if fewer else len(ids) != n_rows):
        raise InputError(f"ids: expected a list of {n_rows}, one for each neuron of the message")
    for one in ids:
        if isinstance(one, str):
            good = 0 < len(one) <= MAX_ID and one.isprintable()
        else:
            good = isinstance(one, int) and not isinstance(one, bool) and abs(one) < 2**53
        if not good:
            raise InputError(f"ids: expected integers, or printable text of 1 to {MAX_ID} characters")
    if len(set(ids)) < len(ids):
        raise InputError("ids: one is there twice")
    return tuple(ids)


class RowMap:
    """Gives each id a row.

    Parameters
    ----------
    ids : sequence of int and str
        Of the first message.
    capacity : int
        Rows altogether.
    """

    def __init__(self, ids: tuple[int | str, ...], capacity: int) -> None:
        self.n_first = len(ids)
        self.capacity = max(capacity, self.n_first)
        self._rows = {one: row for row, one in enumerate(check_ids(ids, self.n_first))}
        self._last: tuple[int | str, ...] = ids
        self._places: NDArray[np.intp] = np.arange(self.n_first)
        self._used: NDArray[np.intp] = np.arange(self.n_first)
        self._bytes = _size(ids)
        self._without_row: set[int | str] = set()
        #: Goes up with every change of the rows.
        self.version = 1

    @property
    def ids(self) -> tuple[int | str, ...]:
        """Ids of the rows that are taken, in order."""
        return tuple(self._rows)

    def learn(self, ids: tuple[int | str, ...]) -> None:
        """Give rows to those of these neurons that have none yet, in this order, as far as there are rows."""
        for one in ids:
            if one not in self._rows:
                self._give_row(one)

    def arrange(self, chunk: FrameChunk) -> FrameChunk:
        """Put the neurons of a chunk into their rows.

        Parameters
        ----------
        chunk : FrameChunk
            With ids.

        Returns
        -------
        FrameChunk
            (capacity, n_frames); NaN where a neuron is not in the chunk, or a row not taken yet.
        """
        assert chunk.ids is not None
        if chunk.ids != self._last:
            self._find_places(chunk.ids)
        if chunk.n_neurons == self.capacity and np.array_equal(self._places, np.arange(self.capacity)):
            return replace(chunk, ids=None)
        frames = np.full((self.capacity, chunk.n_frames), np.nan, np.float32)
        frames[self._places] = chunk.frames[self._used]
        return replace(chunk, frames=frames, ids=None)

    def _find_places(self, ids: tuple[int | str, ...]) -> None:
        self.learn(ids)
        used = [number for number, one in enumerate(ids) if one in self._rows]
        places = [self._rows[ids[number]] for number in used]
        self._places, self._used, self._last = np.array(places, np.intp), np.array(used, np.intp), ids

    def _give_row(self, one: int | str) -> None:
        size = _size((one,))
        if len(self._rows) >= self.capacity or self._bytes + size > MAX_IDS_BYTES:
            if not self._without_row:
                log.warning(
                    "neuron %r has joined, but all %d rows are taken: it is left out; start the run with room for more "
                    "(--max-neurons, max_neurons)", one, self.capacity,
                )  # fmt: skip
            if len(self._without_row) < _REMEMBERED:
                self._without_row.add(one)
            return
        self._rows[one] = len(self._rows)
        self._bytes += size
        self.version += 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a summary."""
        return {
            "ids": list(self._rows),
            "at_start": self.n_first,
            "capacity": self.capacity,
            "joined": len(self._rows) - self.n_first,
            "without_row": len(self._without_row),
        }


def _size(ids: tuple[int | str, ...]) -> int:
    return len(json.dumps(ids, ensure_ascii=False).encode())


class RowStream:
    """A live stream whose rows may start later, each with a calibration of its own that disturbs no other row.

    Rows of the first message form one stream; those that bring their first values together later form another. What a
    row gives is exactly what it would give in a stream of its own, begun with its first value. Until its noise level is
    measured, ``valid`` is False in such a row.

    Parameters
    ----------
    first : SpikeStream
        Of the rows at the start, at its frame 0.
    make : callable
        Called with a number of rows; makes a stream that calibrates itself.
    rows : RowMap
    frame_rate_hz : float
    """

    def __init__(
        self, first: LiveStream, make: Callable[[int], LiveStream], rows: RowMap, *, frame_rate_hz: float
    ) -> None:
        self._first = first
        self._make = make
        self._row_map = rows
        self.n_neurons = rows.capacity
        self.spec: ModelSpec = first.spec
        self._rate = frame_rate_hz
        self._groups: list[tuple[NDArray[np.intp], LiveStream]] = [(np.arange(rows.n_first), first)]
        self._waiting = np.ones(rows.capacity, np.bool_)
        self._waiting[: rows.n_first] = False
        self._told: dict[int, tuple[int, int]] = {}

    @property
    def lookahead_frames(self) -> tuple[int, ...]:
        """Look-aheads that are published."""
        return self._first.lookahead_frames

    @property
    def delay_frames(self) -> int:
        """Frames that an output waits beyond its look-ahead."""
        return self._first.delay_frames

    @property
    def frame(self) -> int:
        """Index of the next frame expected."""
        return self._first.frame

    @property
    def noise_levels(self) -> NDArray[np.float64]:
        """ν in use, (capacity,), % · Hz^-½; NaN where not known."""
        levels = np.full(self.n_neurons, np.nan)
        for rows, stream in self._groups:
            levels[rows] = stream.noise_levels
        return levels

    @property
    def calibrating(self) -> bool:
        """True until ν of the first rows is frozen."""
        return self._first.calibrating

    @property
    def calibration_progress(self) -> float:
        """Fraction of that calibration that is done."""
        return self._first.calibration_progress

    def set_noise_levels(self, noise_levels: Any) -> None:
        """Use these noise levels, (capacity,), in the rows of the first message; rows that joined keep their own."""
        self._first.set_noise_levels(np.asarray(noise_levels)[: self._row_map.n_first])

    def push(self, frames: Any, *, touched: bool = False) -> SpikeChunk:
        """Take in frames, (capacity, k); see :meth:`cascade_rt.SpikeStream.push`."""
        frames = np.asarray(frames, np.float32)
        pieces, start = [], 0
        while start < frames.shape[1]:
            stop = frames.shape[1]
            if not touched and len(self._groups) <= MAX_GROUPS and self._waiting.any():
                arrived = np.isfinite(frames[self._waiting, start:]).any(axis=0)
                if arrived.any():
                    stop = start + int(np.argmax(arrived))
                    if stop == start:
                        self._join(np.flatnonzero(self._waiting & np.isfinite(frames[:, start])))
                        continue
            part = frames[:, start:stop]
            pieces.append(self._together([(rows, one.push(part[rows], touched=touched)) for rows, one in self._groups]))
            start = stop
        return self._tell_ids(_one_after_another(pieces))

    def prepare(self) -> None:
        """Do now what the next frame would otherwise wait for, and bring rows together that have settled."""
        for _, stream in self._groups:
            stream.prepare()
        settled: list[tuple[NDArray[np.intp], Any]] = [
            group for group in self._groups[1:] if getattr(group[1], "settled", False)
        ]
        if len(settled) >= WORTH_JOINING:
            rows = np.concatenate([group[0] for group in settled])
            joined = type(settled[0][1]).joined([group[1] for group in settled])
            self._groups = [group for group in self._groups if not any(group is one for one in settled)]
            self._groups.insert(1, (rows, joined))

    def skip(self, n_frames: int) -> SpikeChunk:
        """Go on after a gap; see :meth:`cascade_rt.SpikeStream.skip`."""
        return self._together([(rows, stream.skip(n_frames)) for rows, stream in self._groups])

    def flush(self) -> SpikeChunk:
        """End the recording; see :meth:`cascade_rt.SpikeStream.flush`."""
        return self._together([(rows, stream.flush()) for rows, stream in self._groups])

    def _join(self, rows: NDArray[np.intp]) -> None:
        stream = self._make(rows.size)
        stream.skip(self.frame)
        self._groups.append((rows, stream))
        self._waiting[rows] = False
        log.info("%d neurons have joined at frame %d of the run", rows.size, self.frame)

    def _together(self, parts: list[tuple[NDArray[np.intp], SpikeChunk]]) -> SpikeChunk:
        """Put the rows of all streams into one chunk for each look-ahead."""
        lookaheads = self.lookahead_frames
        chunks = []
        for number, lookahead in enumerate(lookaheads):
            own = [(rows, chunk if number == 0 else chunk.revisions[lookahead]) for rows, chunk in parts]
            first = own[0][1]
            prob = np.full((self.n_neurons, first.n_frames), np.nan, np.float32)
            valid = np.zeros(prob.shape, np.bool_)
            for rows, chunk in own:
                # A stream that began later has less to say: its frames are the last ones.
                columns = slice(first.n_frames - chunk.n_frames, first.n_frames)
                prob[rows, columns] = chunk.spike_prob
                if chunk is first or not chunk.provisional:
                    valid[rows, columns] = chunk.valid
            chunks.append(replace(first, spike_prob=prob, valid=valid, revisions=MappingProxyType({})))
        return replace(chunks[0], revisions=MappingProxyType(dict(zip(lookaheads[1:], chunks[1:], strict=True))))

    def _tell_ids(self, chunk: SpikeChunk) -> SpikeChunk:
        """Give the ids along where the rows have changed, and once a second for those who subscribe later."""
        every = max(1, round(self._rate))

        def told(one: SpikeChunk) -> SpikeChunk:
            version, frame = self._told.get(one.lookahead_frames, (0, -every))
            now = self._row_map.version
            if not one.n_frames or (version == now and one.first_frame - frame < every):
                return one
            self._told[one.lookahead_frames] = now, one.first_frame
            ids = self._row_map.ids
            return replace(one, ids=ids) if _size(ids) <= MAX_IDS_BYTES else one

        return replace(told(chunk), revisions=MappingProxyType({k: told(v) for k, v in chunk.revisions.items()}))


def _one_after_another(pieces: list[SpikeChunk]) -> SpikeChunk:
    """Join chunks that follow each other, in every look-ahead."""
    if len(pieces) == 1:
        return pieces[0]

    def join(some: list[SpikeChunk]) -> SpikeChunk:
        return replace(
            some[0],
            spike_prob=np.concatenate([chunk.spike_prob for chunk in some], axis=1),
            valid=np.concatenate([chunk.valid for chunk in some], axis=1),
            first_frame=next((chunk.first_frame for chunk in some if chunk.n_frames), some[0].first_frame),
            provisional=any(chunk.provisional for chunk in some if chunk.n_frames),
        )

    revisions = {k: join([piece.revisions[k] for piece in pieces]) for k in pieces[0].revisions}
    return replace(join(pieces), revisions=MappingProxyType(revisions))

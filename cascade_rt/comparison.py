"""How what a rerun gives compares with what was recorded: value by value, and event by event."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .recorded import unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from .chunks import SpikeChunk
    from .events import Event
    from .ports import RunInfo
    from .recorded import RecordedResults, RecordedRun

__all__ = ["ComparingSink", "EventMatch", "LookaheadComparison", "match_events", "same_events"]

#: Events of the two runs this far apart can be the same one, earlier or later (s).
SAME_EVENT_S = 1.0
DECISIONS = ("stimulate", "sham", "suppressed")


@dataclass(kw_only=True)
class LookaheadComparison:
    """Results of one look-ahead against the recorded ones.

    Parameters
    ----------
    lookahead_frames : int
    frames : int
        Columns that both have, outside of holes in the recording.
    only_recorded, only_rerun : int
        Columns that one of them has.
    near_holes : int
        Columns not compared: the recording lacks frames that they depend on.
    different : int
        Values that are not bit for bit the same.
    largest_difference : float
        Expected spikes per frame.
    nan_pattern_equal, valid_equal, provisional_equal : bool
    recorded_spikes, rerun_spikes : float
        Expected spikes of all neurons, where both are defined.
    correlation : float
        Median over neurons; NaN where there is none.
    """

    lookahead_frames: int
    frames: int = 0
    only_recorded: int = 0
    only_rerun: int = 0
    near_holes: int = 0
    different: int = 0
    largest_difference: float = 0.0
    nan_pattern_equal: bool = True
    valid_equal: bool = True
    provisional_equal: bool = True
    recorded_spikes: float = 0.0
    rerun_spikes: float = 0.0
    correlation: float = float("nan")

    def agrees(self, tolerance: float = 0.0) -> bool:
        """Tell whether everything that both have is the same, values to within ``tolerance``."""
        same = self.nan_pattern_equal and self.valid_equal and self.provisional_equal
        return same and (not self.different or self.largest_difference <= tolerance)


class _Track:
    """Walks along the recorded results of a look-ahead."""

    def __init__(self, lookahead: int, results: RecordedResults, holes: Sequence[tuple[int, int]]) -> None:
        self.results = results
        self.keys = unwrapped(results.frame, once=True)
        self.near_hole = np.zeros(self.keys.size, np.bool_)
        for low, high in holes:
            self.near_hole |= (self.keys >= low - lookahead) & (self.keys < high)
        self.seen = 0
        self.epoch = 0
        self.last = -1
        n = results.spike_prob.shape[0]
        self.sums: NDArray[np.float64] = np.zeros((6, n))
        self.comparison = LookaheadComparison(lookahead_frames=lookahead)

    def compare(self, chunk: SpikeChunk) -> None:
        self.epoch += chunk.first_frame <= self.last
        self.last = chunk.first_frame + chunk.n_frames - 1
        keys = np.arange(chunk.first_frame, self.last + 1, dtype=np.int64) + (self.epoch << 42)
        at = np.searchsorted(self.keys, keys)
        there = at < self.keys.size
        there[there] = self.keys[at[there]] == keys[there]
        told = self.comparison
        told.only_rerun += int((~there).sum())
        self.seen += int(there.sum())
        clear = there.copy()
        clear[there] = ~self.near_hole[at[there]]
        told.near_holes += int(there.sum() - clear.sum())
        if clear.any():
            self._compare_columns(chunk, np.flatnonzero(clear), at[clear])

    def _compare_columns(self, chunk: SpikeChunk, new: NDArray[np.intp], old: NDArray[np.intp]) -> None:
        told = self.comparison
        a, b = self.results.spike_prob[:, old], chunk.spike_prob[:, new]
        both = ~np.isnan(a) & ~np.isnan(b)
        told.frames += int(new.size)
        told.nan_pattern_equal &= bool((np.isnan(a) == np.isnan(b)).all())
        told.valid_equal &= bool((self.results.valid[:, old] == chunk.valid[:, new]).all())
        told.provisional_equal &= bool((self.results.provisional[old] == chunk.provisional).all())
        told.different += int((both & (a != b)).sum())
        x, y = np.where(both, a, 0).astype(np.float64), np.where(both, b, 0).astype(np.float64)
        told.largest_difference = max(told.largest_difference, float(np.abs(x - y).max(initial=0)))
        for total, values in zip(self.sums, (both, x, y, x * x, y * y, x * y), strict=True):
            total += values.sum(axis=1)

    def finish(self) -> LookaheadComparison:
        n, x, y, xx, yy, xy = self.sums
        with np.errstate(divide="ignore", invalid="ignore"):
            r = (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))
        told = self.comparison
        told.only_recorded = int(self.keys.size) - self.seen
        told.recorded_spikes, told.rerun_spikes = float(x.sum()), float(y.sum())
        told.correlation = float(np.median(r[np.isfinite(r)])) if np.isfinite(r).any() else float("nan")
        return told


class ComparingSink:
    """Compares results with recorded ones as they come, so that the length of the recording does not matter.

    Parameters
    ----------
    recorded : RecordedRun
    settle_frames : callable
        Called with the RunInfo: frames around a hole in the recording whose results depend on what is missing.
    """

    live = False
    dropped = 0
    name = "comparison"

    def __init__(self, recorded: RecordedRun, settle_frames: Callable[[RunInfo], int]) -> None:
        self._recorded = recorded
        self._settle_frames = settle_frames
        self._tracks: dict[int, _Track] = {}
        #: Events of the rerun.
        self.events: list[dict[str, Any]] = []
        #: Filled by :meth:`finish`.
        self.comparisons: list[LookaheadComparison] = []

    def open(self, stopped: Callable[[], bool]) -> None:
        """Nothing to check."""

    def start(self, info: RunInfo) -> None:
        """Find the recorded results."""
        holes = _hole_ranges(self._recorded, self._settle_frames(info))
        for lookahead in set(info.lookaheads) & set(self._recorded.lookaheads):
            self._tracks[lookahead] = _Track(lookahead, self._recorded.results(lookahead), holes)

    def send(self, chunk: SpikeChunk) -> None:
        """Compare one result."""
        if chunk.lookahead_frames in self._tracks:
            self._tracks[chunk.lookahead_frames].compare(chunk)

    def send_event(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event.to_dict())

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Make the account."""
        del next_frame, complete, metadata
        self.comparisons = [self._tracks[n].finish() for n in sorted(self._tracks)]

    def close(self) -> None:
        """Let go of the files."""
        self._tracks.clear()


def _hole_ranges(recorded: RecordedRun, settle_frames: int) -> list[tuple[int, int]]:
    """First and last frame, ascending over restarts, whose results depend on frames that were not recorded."""
    if not recorded.missing:
        return []
    ranges = []
    epoch, expected, open_at = 0, None, None
    for step in recorded.steps():
        piece = step.piece
        if expected is not None and piece.first_frame < expected:
            epoch += 1
        if not step.recorded or (piece.reset and expected is not None and open_at is None):
            open_at = (epoch << 42) + (piece.first_frame if not step.recorded or expected is None else expected)
        if step.recorded and not piece.touched and open_at is not None:
            ranges.append((open_at - settle_frames, (epoch << 42) + piece.first_frame + settle_frames))
            open_at = None
        expected = piece.stop_frame
    return ranges


# ---------------------------------------------------------------------------------------------------- events


@dataclass(kw_only=True)
class EventMatch:
    """Decisions of one rule in the rerun against the recorded ones.

    Parameters
    ----------
    rule : str
    recorded, rerun : int
        Decisions: stimulate, sham, suppressed.
    matched : int
        At the same frame.
    same_kind : int
        Of these, decided the same way.
    earlier, later : int
        Within a second of a recorded one, before or after it.
    shifts : list of int
        Of the latter (frames).
    missing, extra : int
        Recorded ones without a counterpart, and the other way round.
    """

    rule: str
    recorded: int = 0
    rerun: int = 0
    matched: int = 0
    same_kind: int = 0
    earlier: int = 0
    later: int = 0
    shifts: list[int] = field(default_factory=list)
    missing: int = 0
    extra: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of the shifts, the median."""
        median = float(np.median(self.shifts)) if self.shifts else None
        return {**{k: v for k, v in vars(self).items() if k != "shifts"}, "median_shift_frames": median}


def match_events(
    recorded: Sequence[Mapping[str, Any]], rerun: Sequence[Mapping[str, Any]], frame_rate_hz: float
) -> list[EventMatch]:
    """Find the counterpart of each decision: at the same frame, or the nearest within a second.

    Parameters
    ----------
    recorded, rerun : sequence of mapping
        Events as plain values.
    frame_rate_hz : float
    """
    sides = [defaultdict(list), defaultdict(list)]  # type: list[defaultdict[str, list[tuple[int, str]]]]
    for events, side in zip((recorded, rerun), sides, strict=True):
        for event in events:
            if event["kind"] in DECISIONS:
                side[str(event["rule"])].append((int(event["frame"]), str(event["kind"])))
    return [_match_rule(rule, sides[0][rule], sides[1][rule], frame_rate_hz) for rule in sorted({*sides[0], *sides[1]})]


def _match_rule(rule: str, old: list[tuple[int, str]], new: list[tuple[int, str]], rate: float) -> EventMatch:
    match = EventMatch(rule=rule, recorded=len(old), rerun=len(new))
    a, b = unwrapped([frame for frame, _ in old]), unwrapped([frame for frame, _ in new])
    common, in_a, in_b = np.intersect1d(a, b, return_indices=True)
    match.matched = int(common.size)
    match.same_kind = sum(old[i][1] == new[j][1] for i, j in zip(in_a, in_b, strict=True))
    left, right = np.setdiff1d(a, b), np.setdiff1d(b, a)
    i = j = 0
    limit = SAME_EVENT_S * rate
    while i < left.size and j < right.size:
        shift = int(right[j] - left[i])
        if abs(shift) > limit:
            i, j = (i, j + 1) if shift < 0 else (i + 1, j)
            continue
        match.shifts.append(shift)
        match.earlier += shift < 0
        match.later += shift > 0
        i, j = i + 1, j + 1
    match.missing = match.recorded - match.matched - len(match.shifts)
    match.extra = match.rerun - match.matched - len(match.shifts)
    return match


#: What of an event differs from run to run.
_OF_THE_MOMENT = ("number", "t_emit", "t_recv")
#: And of a fault: when a plug-in's failure is noticed depends on the machine.
_WHEN = ("frame", "newest_frame", "lookahead", "t_source")


def same_events(
    recorded: Sequence[Mapping[str, Any]], rerun: Sequence[Mapping[str, Any]], *, ended: bool
) -> tuple[int, str]:
    """Tell how many events are the same, and what the first difference is.

    Parameters
    ----------
    recorded, rerun : sequence of mapping
    ended : bool
        The recording has an end. Otherwise one of them may know more events, at its end.

    Returns
    -------
    int
        Events of each rule that agree, from the first to the first difference.
    str
        The first difference; empty if there is none.
    """
    sides = [_by_rule(events) for events in (recorded, rerun)]
    same, difference = 0, ""
    for rule in sorted({*sides[0], *sides[1]}):
        old, new = sides[0][rule], sides[1][rule]
        for a, b in zip(old, new, strict=False):
            if a != b:
                difference = difference or f"rule {rule}: recorded {a}, now {b}"
                break
            same += 1
        else:
            if ended and len(old) != len(new):
                difference = difference or f"rule {rule}: {len(old)} events were recorded, now there are {len(new)}"
    return same, difference


def _by_rule(events: Sequence[Mapping[str, Any]]) -> defaultdict[str, list[dict[str, Any]]]:
    rules: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if not str(event["rule"]).startswith("output "):  # a serial line that failed then does not fail again
            left_out = _OF_THE_MOMENT if event["kind"] != "fault" else (*_OF_THE_MOMENT, *_WHEN)
            rules[str(event["rule"])].append({k: v for k, v in event.items() if k not in left_out})
    return rules


def count_kinds(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count events by kind."""
    return dict(sorted(Counter(str(event["kind"]) for event in events).items()))

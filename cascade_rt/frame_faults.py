"""Frames that are bad for all neurons at once: lost, repeated, interpolated, dark, lit or moved.

Only some neurons are read, spread over the recording, but all of their frames: what the microscope or an earlier
program did to a frame shows in every neuron.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["FrameFaults", "Runs", "find_frame_faults", "runs_of"]

Runs = tuple[tuple[int, int], ...]

#: Neurons looked at: at least, at most. Fewer in long recordings, so that as many values are held at a time.
ROWS = (8, 64)
VALUES = 4_000_000
#: Frames worked on at a time.
PIECE = 16_384
#: Frames, at the start, in the middle and at the end, in which the noise of a neuron is measured.
PROBE = 1024

#: Part of the neurons that must agree, for frames without a value and for frames that were made up. By chance, at most
#: 0.08 of the neurons of the example recordings agree in a frame, and 0.5 of five neurons of the ground truth.
LOST, MADE_UP = 0.9, 0.95
#: Differences smaller than this part of a neuron's median difference count as none: ΔF/F of frames that were equal, or
#: on a line, is not exactly so if the baseline moves. Of white noise, 0.3 % of the differences are that small, and
#: 0.6 % of the deviations from a line. Few neurons need an exact match and longer runs.
NOTHING, NOTHING_OF_FEW = 0.01, 1e-5
FEW = 5
#: Probability, for one frame and neurons that are independent, at which agreement is no coincidence.
COINCIDENCE = 1e-9
#: Shortest run of interpolated or repeated frames of few neurons.
SHORTEST_OF_FEW = 3

#: A jump of a neuron, in median differences (its noise makes one frame in 20,000 jump); neurons that must do.
JUMP, TOGETHER = 6.0, 0.8
#: Neurons needed to speak of "together".
ENOUGH = 8
#: Part of the neurons that must jump up, and part that must sink far below rest, for a movement: what activity makes
#: rise falls back to rest only.
EACH_WAY = 0.15
#: A flash: height in median differences, what may be left of it afterwards (in median differences, and as a part of
#: it), its longest duration (s), and the frame rate (Hz) from which no indicator decays within a frame. Simulated
#: populations in which all neurons fire the same spikes (all indicators, ν of 0.3 to 2, 4 to 100 Hz) raise no alarm.
FLASH, LEFT, LEFT_PART, LONGEST_S, FLASH_RATE_HZ = 20.0, 2.0, 0.1, 0.5, 15.0
#: Height above the resting level, in median differences, from which it must begin in most neurons.
NEAR_REST, MOST = 4.0, 0.6
#: Part of its height that must be left in its last frame, which may have been lit in part.
STAYS = 0.4
LONGEST_FRAMES = 256


@dataclass(frozen=True, eq=False)
class FrameFaults:
    """What was found; masks are (n_frames,), bool.

    Parameters
    ----------
    rows : ndarray, (k,), int
        The neurons looked at which have noise.
    lost : ndarray
        No value in at least 90 % of them.
    held : ndarray
        Equal to the frame before.
    linear : ndarray
        On a line between the frame before and after, and not held.
    dark, flash, moved : ndarray
        All neurons fall far below their rest and come back; rise far and come back within a time in which no indicator
        decays; jump, some up and some down.
    partly_lost : tuple of int
        Neurons that lack values in other frames than all.
    infinite : tuple of int
        Neurons with values that are infinite.
    """

    rows: NDArray[np.intp]
    lost: NDArray[np.bool_]
    held: NDArray[np.bool_]
    linear: NDArray[np.bool_]
    dark: NDArray[np.bool_]
    flash: NDArray[np.bool_]
    moved: NDArray[np.bool_]
    partly_lost: tuple[int, ...]
    infinite: tuple[int, ...]


def find_frame_faults(matrix: Any, *, frame_rate_hz: float) -> FrameFaults | None:
    """Look through all frames of some neurons.

    Parameters
    ----------
    matrix : Matrix, (n_neurons, n_frames)
        ΔF/F or fluorescence. Not modified.
    frame_rate_hz : float
        Frames per second.

    Returns
    -------
    FrameFaults or None
        None if none of the neurons has noise.
    """
    n_neurons, n_frames = matrix.shape
    if n_frames < 4 or not n_neurons:
        return None
    chosen = _spread(n_neurons, n_frames)
    rows = np.arange(n_neurons)[chosen]
    typical, rest = _probe(matrix, chosen)
    alive = np.isfinite(typical) & (typical > 0)
    if not alive.any():
        return None
    width = min(LONGEST_FRAMES, max(2, round(LONGEST_S * frame_rate_hz)))
    counts = _Counts(n_frames, int(alive.sum()))
    partly, infinite = np.zeros(rows.size, bool), np.zeros(rows.size, bool)
    for first, start, stop, values in _pieces(matrix, chosen, rows.size, width + 2):
        infinite |= np.isinf(values).any(axis=1)
        piece = np.where(np.isfinite(values), values, np.nan)[alive]
        lost = counts.add(first, start, stop, piece, typical[alive])
        here = np.isnan(values[:, start - first : stop - first])
        partly |= (here & ~lost).any(axis=1) & alive
        if alive.sum() >= ENOUGH:
            _find_jumps(counts, first, start, stop, piece, typical[alive], rest[alive], width, frame_rate_hz)
    held = _no_coincidence(counts.held, counts)
    linear = _no_coincidence(counts.linear, counts) & ~held
    return FrameFaults(
        rows=rows[alive],
        lost=counts.lost,
        held=held,
        linear=linear,
        dark=counts.dark,
        flash=counts.flash,
        moved=counts.moved & ~counts.dark & ~counts.flash,
        partly_lost=tuple(rows[partly].tolist()),
        infinite=tuple(rows[infinite].tolist()),
    )


def runs_of(mask: NDArray[np.bool_], shortest: int = 1) -> Runs:
    """Runs (start, stop) of True, of at least ``shortest`` frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    pairs = edges.reshape(-1, 2)
    return tuple((int(a), int(b)) for a, b in pairs[pairs[:, 1] - pairs[:, 0] >= shortest])


class _Counts:
    """What is known of each frame so far."""

    def __init__(self, n_frames: int, n_rows: int) -> None:
        self.n_rows = n_rows
        self.few = n_rows < FEW
        self.lost, self.dark, self.flash, self.moved = (np.zeros(n_frames, bool) for _ in range(4))
        # Parts of the neurons.
        self.held, self.linear = np.zeros(n_frames, np.float32), np.zeros(n_frames, np.float32)

    def add(
        self, first: int, start: int, stop: int, piece: NDArray[np.float64], typical: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Take in the frames from ``start`` to ``stop`` of a piece that begins with ``first``; tell which are lost."""
        inside = slice(start - first, stop - first)
        nothing = (NOTHING_OF_FEW if self.few else NOTHING) * typical[:, None]
        known = ~np.isnan(piece)
        self.lost[start:stop] = known[:, inside].mean(axis=0) <= 1 - LOST
        difference = np.abs(np.diff(piece, axis=1, prepend=np.nan))
        self.held[start:stop] = _part(difference <= nothing, ~np.isnan(difference))[inside]
        bend = np.full(piece.shape, np.nan)
        bend[:, 1:-1] = np.abs(piece[:, 1:-1] - 0.5 * (piece[:, :-2] + piece[:, 2:]))
        self.linear[start:stop] = _part(bend <= nothing, ~np.isnan(bend))[inside]
        return self.lost[start:stop]


def _part(true: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Part of the known rows in which something is true; 0 where less than half of the rows are known."""
    n_known = known.sum(axis=0)
    part = true.sum(axis=0) / np.maximum(n_known, 1)
    return np.where(2 * n_known >= known.shape[0], part, 0.0).astype(np.float32)


def _no_coincidence(part: NDArray[np.float32], counts: _Counts) -> NDArray[np.bool_]:
    """Frames in which the neurons agree, unless they do by chance, as values in steps or mostly zero would."""
    agreed = part >= MADE_UP
    if not agreed.any():
        return agreed
    if counts.few:
        # A few neurons agree now and then; too few frames are left if most agree.
        usual = float(part.mean())
        shortest = SHORTEST_OF_FEW
        chance = usual ** (shortest * counts.n_rows)
    else:
        usual = float(part[~agreed].mean()) if not agreed.all() else 0.0
        shortest = 1
        chance = usual ** (MADE_UP * counts.n_rows)
    if chance > COINCIDENCE and not (counts.few and usual < 0.05):
        return np.zeros(part.size, bool)
    out = np.zeros(part.size, bool)
    for start, stop in runs_of(agreed, shortest):
        out[start:stop] = True
    return out


def _find_jumps(
    counts: _Counts,
    first: int,
    start: int,
    stop: int,
    piece: NDArray[np.float64],
    typical: NDArray[np.float64],
    rest: NDArray[np.float64],
    width: int,
    frame_rate_hz: float,
) -> None:
    step = np.diff(piece, axis=1, prepend=np.nan)
    below_rest = (rest - 0.5 * JUMP * typical)[:, None]
    with np.errstate(invalid="ignore"):
        up = (step > JUMP * typical[:, None]).mean(axis=0)
        falls = step < -JUMP * typical[:, None]
        down, sinks = falls.mean(axis=0), (falls & (piece < below_rest)).mean(axis=0)
    both = (up + down >= TOGETHER) & (np.minimum(up, sinks) >= EACH_WAY)
    counts.moved[start:stop] |= both[start - first : stop - first]
    for goes, returns, mask, sign in ((up, down, counts.flash, 1), (down, up, counts.dark, -1)):
        if sign > 0 and frame_rate_hz < FLASH_RATE_HZ:
            continue
        ends = np.flatnonzero(returns >= TOGETHER)
        for begin in np.flatnonzero(goes >= TOGETHER):
            if not start <= first + begin < stop:
                continue
            before = piece[:, begin - 1]
            for end in ends[(ends > begin) & (ends - begin <= width)]:
                height, last = np.abs(piece[:, begin] - before), np.abs(piece[:, end - 1] - before)
                # The tail of a decay falls back too, from a small part of the height.
                back = np.abs(piece[:, end] - before) <= LEFT * typical + LEFT_PART * last
                back &= last >= STAYS * height
                if sign > 0:
                    far = height >= FLASH * typical
                    # Bursts upon the decay of others come back to where they began, too.
                    if (before <= rest + NEAR_REST * typical).mean() < MOST:
                        break
                else:
                    far = piece[:, begin] < below_rest[:, 0]
                if (back & far).mean() >= TOGETHER:
                    mask[first + begin : first + end] = True
                    break


def _spread(n_neurons: int, n_frames: int) -> slice:
    wanted = min(ROWS[1], max(ROWS[0], VALUES // n_frames))
    return slice(0, n_neurons, math.ceil(n_neurons / wanted))


def _probe(matrix: Any, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median size of the differences that are not 0, and the 5th percentile of the values, (k,); NaN if unknown."""
    n_frames = matrix.shape[1]
    starts = sorted({0, max(0, (n_frames - PROBE) // 2), max(0, n_frames - PROBE)})
    parts = [np.array(matrix[rows, start : start + PROBE], np.float64) for start in starts]
    differences = np.abs(np.concatenate([np.diff(_finite(part), axis=1) for part in parts], axis=1))
    differences[differences == 0] = np.nan
    values = _finite(np.concatenate(parts, axis=1))
    typical, rest = np.full(values.shape[0], np.nan), np.full(values.shape[0], np.nan)
    known = ~np.isnan(differences).all(axis=1)
    typical[known] = np.nanmedian(differences[known], axis=1)
    rest[known] = np.nanpercentile(values[known], 5, axis=1)
    return typical, rest


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _pieces(matrix: Any, rows: slice, n_rows: int, margin: int) -> Iterator[tuple[int, int, int, NDArray[np.float64]]]:
    """Frames from ``start`` to ``stop``, read with a margin from ``first`` on: (first, start, stop, values)."""
    n_frames = matrix.shape[1]
    together = max(PIECE, VALUES // n_rows)
    for begin in range(0, n_frames, together):
        end = min(begin + together, n_frames)
        origin = max(0, begin - margin)
        read = np.asarray(matrix[rows, origin : min(n_frames, end + margin)])
        for start in range(begin, end, PIECE):
            stop = min(start + PIECE, end)
            first = max(0, start - margin)
            yield first, start, stop, np.array(read[:, first - origin : stop + margin - origin], np.float64)

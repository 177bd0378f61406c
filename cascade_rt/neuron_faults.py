"""Neurons that are not traces of a neuron, or not to their end: constant, copied, padded, without a positive baseline.

All neurons are looked at, in a few frames at the start, in the middle and at the end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .frame_faults import Runs

__all__ = ["NeuronFaults", "find_neuron_faults"]

#: Frames in each of the three places.
STRIP = 64
#: Neurons read at a time.
BLOCK_ROWS = 256
#: Values that may have to be read at most, where a file keeps all frames of a neuron in one piece; and the neurons that
#: are looked at in any case.
MOST_VALUES, FEWEST_ROWS = 128_000_000, 256
#: Equal values at an end of a trace that are no coincidence. No trace of the ground truth and of the example recordings
#: has more than 2, except for those with dark frames.
PADDING = 8
#: Values that padding with zeros leads to: in fluorescence, and in ΔF/F. One frame of these is enough if several
#: neurons have it: planes of a recording often differ by one frame.
ZERO, MINUS_ONE, EXACT = 0.0, -1.0, 1e-6
SEVERAL = 3
#: Part of equal neighbours in the middle from which equal values say nothing: steps, or values cut off at 0.
STEPS = 0.2
#: Percentile that must be positive for a baseline to be.
LOW = 10


@dataclass(frozen=True, eq=False)
class NeuronFaults:
    """What was found; tuples of rows.

    Parameters
    ----------
    n_looked_at : int
        Neurons.
    constant, undefined : tuple of int
        Neurons whose values do not change, or that have none (in the frames looked at).
    copies : tuple of (int, int)
        Neurons, and an earlier one that is equal.
    padded : tuple of int
        Neurons that end or begin with equal values.
    padded_frames : tuple of (start, stop)
        The longest such run at either end.
    padding_value : float
        NaN if there is none.
    not_positive : tuple of int
        Neurons of which more than 10 % of the values are 0 or negative.
    """

    n_looked_at: int
    constant: tuple[int, ...]
    undefined: tuple[int, ...]
    copies: tuple[tuple[int, int], ...]
    padded: tuple[int, ...]
    padded_frames: Runs
    padding_value: float
    not_positive: tuple[int, ...]


def find_neuron_faults(matrix: Any) -> NeuronFaults:
    """Look at all neurons of a recording.

    Parameters
    ----------
    matrix : Matrix, (n_neurons, n_frames)
        ΔF/F or fluorescence. Not modified.

    Returns
    -------
    NeuronFaults
    """
    n_neurons, n_frames = matrix.shape
    wanted = max(FEWEST_ROWS, MOST_VALUES // max(1, n_frames))
    rows = np.arange(0, n_neurons, max(1, -(-n_neurons // wanted)))
    strips = _read_strips(matrix, rows)
    joined = np.concatenate(strips, axis=1)
    known = np.isfinite(joined)
    undefined = ~known.any(axis=1)
    shown = np.where(known, joined, np.nan)
    low, high = (
        np.where(undefined, 0.0, f(np.where(known, shown, fill), axis=1))
        for f, fill in ((np.min, np.inf), (np.max, -np.inf))
    )
    constant = ~undefined & (low == high)
    usable = ~undefined & ~constant
    runs, values = _padding(strips, usable)
    padded = (runs > 0).any(axis=1)
    not_positive = np.zeros(rows.size, bool)
    judged = usable & ~padded
    not_positive[judged] = np.nanpercentile(shown[judged], LOW, axis=1) <= 0 if judged.any() else False
    return NeuronFaults(
        n_looked_at=int(rows.size),
        constant=tuple(rows[constant].tolist()),
        undefined=tuple(rows[undefined].tolist()),
        copies=_copies(joined, rows, usable),
        padded=tuple(rows[padded].tolist()),
        padded_frames=_padded_frames(matrix, rows, runs),
        padding_value=float(np.median(values[runs > 0])) if padded.any() else float("nan"),
        not_positive=tuple(rows[not_positive].tolist()),
    )


def _read_strips(matrix: Any, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], ...]:
    """Values at the start, in the middle and at the end, each (k, up to 64)."""
    n_frames = matrix.shape[1]
    step = int(rows[1] - rows[0]) if rows.size > 1 else 1
    places = [slice(start, start + STRIP) for start in (0, max(0, (n_frames - STRIP) // 2), max(0, n_frames - STRIP))]
    parts: list[list[NDArray[np.float64]]] = [[], [], []]
    for first in range(0, rows.size, BLOCK_ROWS):
        block = rows[first : first + BLOCK_ROWS]
        chosen = slice(int(block[0]), int(block[-1]) + 1, step)
        for part, place in zip(parts, places, strict=True):
            part.append(np.array(matrix[chosen, place], np.float64))
    return tuple(np.concatenate(part) if part else np.empty((0, 0)) for part in parts)


def _padding(
    strips: tuple[NDArray[np.float64], ...], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Frames of padding at the start and at the end of each neuron, and the value there, both (k, 2)."""
    head, middle, tail = strips
    runs, values = np.zeros((usable.size, 2), np.intp), np.full((usable.size, 2), np.nan)
    if middle.shape[1] < 2:
        return runs, values
    steps = (np.diff(middle, axis=1) == 0).mean(axis=1) >= STEPS
    for side, strip in enumerate((head, tail[:, ::-1])):
        value = strip[:, 0]
        equal = strip == value[:, None]
        run = np.where(equal.all(axis=1), strip.shape[1], np.argmin(equal, axis=1))
        special = (value == ZERO) | (np.abs(value - MINUS_ONE) < EXACT)
        special &= ~(middle == value[:, None]).any(axis=1)
        short = usable & special & (run > 0)
        if short.sum() < min(SEVERAL, usable.size):
            short[:] = False
        found = short | (usable & ~steps & (run >= PADDING))
        runs[found, side], values[found, side] = run[found], value[found]
    return runs, values


def _padded_frames(matrix: Any, rows: NDArray[np.intp], runs: NDArray[np.intp]) -> Runs:
    n_frames = matrix.shape[1]
    out = []
    for side in (0, 1):
        longest = int(runs[:, side].max(initial=0))
        if longest >= STRIP:
            # Of those that fill what was read, one tells how far it goes.
            row = int(rows[np.argmax(runs[:, side])])
            trace = np.asarray(matrix[row : row + 1, 0:n_frames])[0]
            trace = trace[::-1] if side else trace
            differs = trace != trace[0]
            longest = int(np.argmax(differs)) if differs.any() else n_frames
        if longest:
            out.append((n_frames - longest, n_frames) if side else (0, longest))
    return tuple(out)


def _copies(
    joined: NDArray[np.float64], rows: NDArray[np.intp], usable: NDArray[np.bool_]
) -> tuple[tuple[int, int], ...]:
    first: dict[bytes, int] = {}
    copies = []
    for row, values, use in zip(rows.tolist(), joined, usable, strict=True):
        if use:
            key = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
            earlier = first.setdefault(key, row)
            if earlier != row:
                copies.append((row, earlier))
    return tuple(copies)

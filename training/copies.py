"""Find neurons in different files that hold the same recording, by what the files hold.

The same measurement can be in a database twice: under two names, with another time base, or with another correction of
its fluorescence. Compared are runs of successive fluorescence values and runs of successive intervals between spikes,
wherever in a recording they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .recordings import Recording

__all__ = ["shared_recordings"]

#: Successive fluorescence values that are compared as one, and the part of all such runs that is looked at. It is the
#: values that choose them, so that copies agree on which.
VALUES, SHARE = 8, 8
#: Successive intervals between spikes that are compared as one (0.1 ms each); shorter runs recur by chance in bursts.
INTERVALS, TICKS_PER_SECOND = 12, 1e4
#: Runs in common that make two recordings one.
MATCHES = 4


def shared_recordings(recordings: Sequence[Recording]) -> dict[tuple[str, str], tuple[str, str]]:
    """Find neurons that hold a recording of another one.

    Parameters
    ----------
    recordings : sequence of Recording

    Returns
    -------
    dict of (dataset, neuron) to (dataset, neuron)
        For each neuron that shares a recording with earlier ones, the first of them; empty if there is none.
    """
    neurons = list(dict.fromkeys((r.dataset, r.neuron) for r in recordings))
    place = {neuron: n for n, neuron in enumerate(neurons)}
    first = list(range(len(neurons)))
    for fingerprints in (_fluorescence, _intervals):
        runs = [fingerprints(recording) for recording in recordings]
        owners = [np.full(r.size, place[s.dataset, s.neuron]) for r, s in zip(runs, recordings, strict=True)]
        for one, other in _pairs(runs, owners):
            low, high = sorted((_root(first, one), _root(first, other)))
            first[high] = low
    return {neuron: neurons[_root(first, n)] for n, neuron in enumerate(neurons) if _root(first, n) != n}


def _fluorescence(recording: Recording) -> NDArray[np.uint64]:
    hashes = _runs(recording.dff.view(np.uint32), VALUES)
    return np.unique(hashes[hashes % np.uint64(SHARE) == 0])


def _intervals(recording: Recording) -> NDArray[np.uint64]:
    ticks = np.round(np.diff(recording.spike_times_s) * TICKS_PER_SECOND)
    return np.unique(_runs(ticks.astype(np.int64).astype(np.uint32), INTERVALS))


def _runs(values: NDArray[np.uint32], length: int) -> NDArray[np.uint64]:
    """Hashes (FNV-1a, by whole values) of all runs without equal neighbours: flat stretches are no sign of a copy."""
    n = values.size - length + 1
    if n < 1:
        return np.zeros(0, np.uint64)
    hashes = np.full(n, 0xCBF29CE484222325, np.uint64)
    for k in range(length):
        hashes = (hashes ^ values[k : k + n]) * np.uint64(0x100000001B3)
    changes = np.concatenate([[0], np.cumsum(np.diff(values) != 0)])
    varied = changes[length - 1 :] - changes[:n] == length - 1
    hashes = hashes[varied]
    return np.asarray(hashes ^ (hashes >> np.uint64(32)))


def _pairs(runs: Sequence[NDArray[np.uint64]], owners: Sequence[NDArray[np.intp]]) -> list[tuple[int, int]]:
    """Pairs of neurons with enough runs in common."""
    if not runs:
        return []
    hashes, owner = np.concatenate(runs), np.concatenate(owners)
    order = np.lexsort((owner, hashes))
    hashes, owner = hashes[order], owner[order]
    equal = (hashes[1:] == hashes[:-1]) & (owner[1:] != owner[:-1])
    pairs, counts = np.unique(np.stack([owner[:-1][equal], owner[1:][equal]], axis=1), axis=0, return_counts=True)
    return [(int(one), int(other)) for one, other in pairs[counts >= MATCHES]]


def _root(first: list[int], n: int) -> int:
    while first[n] != n:
        n = first[n]
    return n

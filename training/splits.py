"""Splits of the ground truth in which a neuron is never on both sides.

What is split are neurons, not recordings: whatever carries the name of a neuron (its recordings, their pieces, and the
versions made of them by resampling) follows it. Files that hold the same recording count as one neuron
(:mod:`training.copies`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cascade_rt.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .recordings import Source

__all__ = ["leave_one_dataset_out", "split_neurons"]


def split_neurons(items: Iterable[Source], folds: int, seed: int) -> list[set[tuple[str, str]]]:
    """Split the neurons into folds, each dataset spread evenly over them.

    Parameters
    ----------
    items : iterable of Recording or Trace
    folds : int
    seed : int

    Returns
    -------
    list of set of (dataset, neuron)
        Disjoint; together all neurons. Neurons that share a recording are in one fold.

    Raises
    ------
    TrainingError
        There are fewer neurons than folds, or fewer than two folds are asked for.
    """
    names = _names(items)
    cells = sorted(names)
    if not 2 <= folds <= len(cells):
        raise TrainingError(f"{folds} folds of {len(cells)} neurons: expected between 2 and the number of neurons")
    rng = np.random.default_rng([seed, folds])
    out: list[set[tuple[str, str]]] = [set() for _ in range(folds)]
    turn = 0
    for dataset in sorted({d for d, _ in cells}):
        members = [cell for cell in cells if cell[0] == dataset]
        for index in rng.permutation(len(members)):
            out[turn % folds] |= names[members[index]]
            turn += 1
    return out


def leave_one_dataset_out(items: Iterable[Source]) -> Iterator[tuple[str, set[tuple[str, str]]]]:
    """Leave each dataset out in turn.

    Parameters
    ----------
    items : iterable of Recording or Trace

    Yields
    ------
    dataset : str
        The one to score on; in the order of the names.
    left_out : set of (dataset, neuron)
        What a model scored on it must not learn from: the neurons of the dataset, and those of other datasets that
        share a recording with one of them.

    Raises
    ------
    TrainingError
        There are fewer than two datasets.
    """
    names = _names(items)
    datasets = sorted({dataset for members in names.values() for dataset, _ in members})
    if len(datasets) < 2:
        raise TrainingError(f"one dataset left out of {len(datasets)}: expected at least two, to learn from the others")
    for left in datasets:
        yield left, {name for members in names.values() if any(d == left for d, _ in members) for name in members}


def _names(items: Iterable[Source]) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """All names, (dataset, neuron), of each neuron."""
    out: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for item in items:
        out.setdefault(item.cell, set()).add((item.dataset, item.neuron))
    return out

"""Splits: a neuron is never on both sides, whatever was made of its recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_rt.errors import TrainingError
from training.ground_truth import resample
from training.recordings import Recording, Trace
from training.splits import leave_one_dataset_out, split_neurons

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _recording(dataset: str, cell: int, number: int, same_as: tuple[str, str] | None = None) -> Recording:
    rng = np.random.default_rng([cell, number])
    return Recording(
        dataset=dataset,
        neuron=f"cell{cell}",
        number=number,
        same_as=same_as,
        dff=rng.standard_normal(80).astype(np.float32),
        frame_times_s=np.arange(80) / (60.0 + 20 * (number % 2)),
        spike_times_s=np.array([0.3, 0.9]),
    )


def _versions(recordings: Sequence[Recording]) -> list[Trace]:
    """What training makes of recordings: other rates, starts of the frame grid, and ways of resampling."""
    made = [
        resample(r, rate, method=method, phase=phase)
        for r in recordings
        for rate, method, phase in ((30.0, "average", 0.0), (30.0, "average", 0.5), (25.0, "fourier", 0.25))
    ]
    return [trace for trace in made if trace is not None]


@st.composite
def databases(draw: Callable[..., Any]) -> list[Recording]:
    """Datasets of neurons with several recordings, some of which are in the database under another name too."""
    recordings: list[Recording] = []
    cells: list[tuple[str, str]] = []
    for dataset in range(draw(st.integers(2, 4))):
        for cell in range(draw(st.integers(1, 5))):
            copied = draw(st.none() | st.sampled_from(cells)) if cells else None
            name = (f"DS{dataset}", f"cell{cell}")
            if copied is None:
                cells.append(name)
            numbers = range(draw(st.integers(1, 3)))
            recordings += [_recording(name[0], cell, n, copied) for n in numbers]
    return list(draw(st.permutations(recordings)))


def _key(item: Recording | Trace) -> tuple[str, str]:
    return item.dataset, item.neuron


@given(databases(), st.integers(2, 5), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_folds_part_neurons_and_all_that_is_made_of_them(recordings: list[Recording], folds: int, seed: int) -> None:
    cells = {r.cell for r in recordings}
    if len(cells) < folds:
        with pytest.raises(TrainingError, match=rf"{folds} folds of {len(cells)} neurons"):
            split_neurons(recordings, folds, seed)
        return
    split = split_neurons(recordings, folds, seed)
    assert len(split) == folds
    assert sorted(name for fold in split for name in fold) == sorted({_key(r) for r in recordings})
    for item_kind in (recordings, _versions(recordings)):
        for fold in split:
            test = {item.cell for item in item_kind if _key(item) in fold}
            learnt = {item.cell for item in item_kind if _key(item) not in fold}
            assert test
            assert not test & learnt
    assert split_neurons(_versions(recordings), folds, seed) == split
    assert split_neurons(recordings[::-1], folds, seed) == split


@given(databases())
@settings(deadline=None, max_examples=60)
def test_a_dataset_left_out_takes_all_its_neurons_along(recordings: list[Recording]) -> None:
    parts = list(leave_one_dataset_out(recordings))
    assert [dataset for dataset, _ in parts] == sorted({r.dataset for r in recordings})
    for dataset, left_out in parts:
        for items in (recordings, _versions(recordings)):
            tested = {item.cell for item in items if item.dataset == dataset}
            learnt = {item.cell for item in items if _key(item) not in left_out}
            assert tested
            assert not tested & learnt
            # Nothing is left out without need.
            assert {item.cell for item in items if _key(item) in left_out} == tested
    assert list(leave_one_dataset_out(_versions(recordings))) == parts


def test_a_dataset_is_spread_evenly_over_the_folds() -> None:
    recordings = [
        _recording(d, cell, n) for d, cells in (("A", 7), ("B", 4)) for cell in range(cells) for n in range(3)
    ]
    folds = split_neurons(recordings, 4, seed=0)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for fold in folds:
        assert sum(d == "B" for d, _ in fold) == 1
    assert folds != split_neurons(recordings, 4, seed=1)


def test_one_dataset_cannot_be_left_out() -> None:
    with pytest.raises(TrainingError, match="left out of 1: expected at least two"):
        next(leave_one_dataset_out([_recording("A", 0, 0), _recording("A", 1, 0)]))

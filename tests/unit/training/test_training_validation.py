"""Neurons held out to stop early by: never on both sides, from each dataset its share."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training.ground_truth import Trace
from training.validation import hold_out


def _trace(dataset: str, neuron: str, number: int = 0, same_as: tuple[str, str] | None = None) -> Trace:
    zeros = np.zeros(10, np.float32)
    return Trace(
        dataset=dataset,
        neuron=neuron,
        number=number,
        same_as=same_as,
        dff=zeros,
        spike_counts=zeros,
        frame_rate_hz=30.0,
        noise_level=0,
    )


def _neurons(traces: list[Trace]) -> set[tuple[str, str]]:
    return {(t.dataset, t.neuron) for t in traces}


#: Two datasets in which neurons have the same names; several traces of each neuron.
TRACES = [
    _trace(dataset, f"{neuron}", number)
    for dataset, n in (("A", 30), ("B", 10))
    for neuron in range(n)
    for number in range(3)
]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_a_neuron_is_on_one_side_with_all_of_its_traces(share: float, seed: int) -> None:
    learnt, held_out = hold_out(TRACES, share, seed)
    assert _neurons(learnt) & _neurons(held_out) == set()
    assert len(learnt) + len(held_out) == len(TRACES)
    assert len(_neurons(held_out)) == max(round(share * 40), 1)


@pytest.mark.parametrize("seed", range(5))
def test_each_dataset_gives_its_share(seed: int) -> None:
    _, held_out = hold_out(TRACES, 0.2, seed)
    counts = [sum(dataset == name for dataset, _ in _neurons(held_out)) for name in ("A", "B")]
    assert counts in ([5, 3], [6, 2], [7, 1])


def test_the_seed_decides_and_the_order_of_traces_does_not() -> None:
    _, first = hold_out(TRACES, 0.2, 1)
    _, again = hold_out(TRACES[::-1], 0.2, 1)
    assert _neurons(first) == _neurons(again)
    assert len({frozenset(_neurons(hold_out(TRACES, 0.2, seed)[1])) for seed in range(5)}) > 1


@pytest.mark.parametrize("seed", range(5))
def test_files_with_the_same_recording_are_on_one_side_and_count_once(seed: int) -> None:
    copies = [_trace("C", f"{neuron}", same_as=("B", f"{neuron}")) for neuron in range(10)]
    learnt, held_out = hold_out([*TRACES, *copies], 0.5, seed)
    assert {t.cell for t in learnt} & {t.cell for t in held_out} == set()
    assert len({t.cell for t in held_out}) == 20
    assert any(t in held_out for t in copies)


def test_none_and_all() -> None:
    assert hold_out(TRACES, 0.0, 0) == (TRACES, [])
    with pytest.raises(TrainingError, match=r"validation_share 0\.5 of 1 neurons"):
        hold_out([_trace("A", "1"), _trace("A", "1", 1)], 0.5, 0)

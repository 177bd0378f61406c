"""Neurons that a fit does not learn from, and the loss on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .ground_truth import Trace
    from .segments import Block

__all__ = ["held_out_loss", "hold_out"]


def hold_out(traces: Sequence[Trace], share: float, seed: int) -> tuple[list[Trace], list[Trace]]:
    """Set neurons aside, from each dataset in proportion; a neuron is on one side with all of its traces.

    Files that hold the same recording count as one neuron.

    Parameters
    ----------
    traces : sequence of Trace
    share : float
        Part of the neurons to hold out, at least one; 0 for none.
    seed : int

    Returns
    -------
    learnt, held_out : list of Trace

    Raises
    ------
    TrainingError
        No neuron would be left to learn from.
    """
    if share <= 0:
        return list(traces), []
    neurons = sorted({t.cell for t in traces})
    n_held = max(round(share * len(neurons)), 1)
    if n_held >= len(neurons):
        raise TrainingError(
            f"validation_share {share:g} of {len(neurons)} neurons holds out {n_held} and leaves none to learn from: "
            "set it lower, or to 0 to hold out none"
        )
    rng = np.random.default_rng([seed, len(neurons)])
    places: list[tuple[float, float, tuple[str, str]]] = []
    for dataset in sorted({d for d, _ in neurons}):
        members = [n for n in neurons if n[0] == dataset]
        # Evenly spaced places between 0 and 1, from a random start: each dataset gives its share of the first ones.
        start = rng.random()
        for place, index in enumerate(rng.permutation(len(members))):
            places.append(((place + start) / len(members), rng.random(), members[index]))
    held = {neuron for *_, neuron in sorted(places)[:n_held]}
    learnt: list[Trace] = []
    held_out: list[Trace] = []
    for trace in traces:
        (held_out if trace.cell in held else learnt).append(trace)
    return learnt, held_out


def held_out_loss(model: Any, weights: Sequence[NDArray[np.float32]], block: Block) -> float:
    """Mean loss of the model with other weights on the segments of a block; its own weights are put back.

    Parameters
    ----------
    model : keras.Model
        Compiled.
    weights : sequence of ndarray
        As ``model.get_weights()`` gives them.
    block : Block
    """
    own = model.get_weights()
    model.set_weights(weights)
    losses = [
        model.test_on_batch([dff, nu], target, sample_weight=weight)
        for dff, nu, target, weight in zip(block.dff, block.nu, block.target, block.weight, strict=True)
    ]
    model.set_weights(own)
    return float(np.mean(losses))

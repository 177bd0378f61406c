"""Scores made up for tests of what sums them up and shows them."""

from __future__ import annotations

from training.evaluate import Score, Scores
from training.summary import Table
from training.timing import Timing

NO_TIMING = Timing(float("nan"), float("nan"), float("nan"), float("nan"), 0)


def made_up(
    dataset: str, neuron: str, correlation: float, *, lookahead: int = 1, level: float = 2.0, timing: Timing = NO_TIMING
) -> Score:
    return Score(
        dataset=dataset,
        neuron=neuron,
        noise_level=level,
        lookahead=lookahead,
        scores=Scores(correlation, 1.0, -0.5),
        timing=timing,
    )


def table(*scores: Score, rival: bool = False, test: str = "unseen", title: str = "", model: str = "ours") -> Table:
    lookaheads = tuple(sorted({s.lookahead for s in scores}))
    name = "theirs" if rival and model == "ours" else model
    return Table(
        title=title or f"{name} in a test", test=test, model=name, lookaheads=lookaheads, scores=scores, rival=rival
    )

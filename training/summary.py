"""Scores of neurons summed up: medians with intervals, and differences between two models on the same neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_rt.chunks import LIVE_LOOKAHEAD

from .bootstrap import Interval, median_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from .evaluate import Score

    #: (dataset or ALL, noise level, look-ahead)
    Group = tuple[str, float, int]
    #: measure → median and interval, by group.
    Summary = dict[Group, dict[str, Interval]]

__all__ = [
    "ALL",
    "COMPARED",
    "MEASURES",
    "Compared",
    "Comparison",
    "Measure",
    "Table",
    "comparisons",
    "matched",
    "opponent_of",
    "short_lookahead",
    "summarise",
]

#: In the place of a dataset: the neurons of all datasets together.
ALL = ""


class Measure(NamedTuple):
    """One number of a :class:`~training.evaluate.Score`.

    Parameters
    ----------
    label : str
        With the unit that it is shown in.
    value : callable
        Score → number, in the unit shown.
    style : str
        Format of the number.
    better : str
        What is better: "higher", "lower" or "nearer 0".
    """

    label: str
    value: Callable[[Score], float]
    style: str
    better: str


MEASURES: dict[str, Measure] = {
    "correlation": Measure("correlation", lambda s: s.scores.correlation, ".3f", "higher"),
    "error": Measure("error", lambda s: s.scores.error, ".2f", "lower"),
    "bias": Measure("bias", lambda s: s.scores.bias, "+.2f", "nearer 0"),
    "timing_error_ms": Measure("timing error (ms)", lambda s: 1e3 * s.timing.absolute_error_s, ".0f", "lower"),
    "delay_ms": Measure("signed timing error (ms)", lambda s: 1e3 * s.timing.signed_error_s, "+.0f", "nearer 0"),
    "detected_percent": Measure("detected (%)", lambda s: 100 * s.timing.detected, ".0f", "higher"),
    "false_per_min": Measure("false events per minute", lambda s: s.timing.false_per_min, ".1f", "lower"),
}
#: What two models are compared by.
COMPARED: dict[str, Measure] = {
    "correlation": MEASURES["correlation"],
    "error": MEASURES["error"],
    "bias": MEASURES["bias"],
    "size_of_bias": Measure("size of the bias", lambda s: abs(s.scores.bias), ".2f", "lower"),
    "timing_error_ms": MEASURES["timing_error_ms"],
    "detected_percent": MEASURES["detected_percent"],
    "false_per_min": MEASURES["false_per_min"],
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores of one model in one test.

    Parameters
    ----------
    title : str
        What was tested on what.
    test : str
        Tables of the same test are about the same recordings with the same noise.
    model : str
    lookaheads : tuple of int
    scores : tuple of Score
        Per neuron.
    rival : bool
        The model is one that the evaluated model is compared with.
    """

    title: str
    test: str
    model: str
    lookaheads: tuple[int, ...]
    scores: tuple[Score, ...]
    rival: bool = False


class Compared(NamedTuple):
    """One measure of a model and of its rival over the same neurons, and the difference neuron by neuron."""

    ours: Interval
    theirs: Interval
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model and its rival.

    Parameters
    ----------
    test, title : str
        Of the rival's table.
    rival : str
        Its name.
    lookaheads : tuple of (int, int)
        Each look-ahead of the model, and the rival's that it is compared with.
    summary : dict
        (dataset or ALL, noise level, the model's look-ahead) → measure → medians and intervals.
    """

    test: str
    title: str
    rival: str
    lookaheads: tuple[tuple[int, int], ...]
    summary: dict[Group, dict[str, Compared]]


def summarise(scores: Iterable[Score]) -> Summary:
    """Medians over neurons with bootstrap intervals, for each dataset and for all neurons together.

    Returns
    -------
    dict
        (dataset or ALL, noise level, look-ahead) → measure → median, interval and number of neurons for which it is
        defined. Datasets in order, ALL last.
    """
    items = list(scores)
    columns = {name: _column(measure, items) for name, measure in MEASURES.items()}
    return {
        group: {name: median_interval(column[rows]) for name, column in columns.items()}
        for group, rows in _groups(items).items()
    }


def comparisons(tables: Sequence[Table]) -> list[Comparison]:
    """Compare each rival with the model that was scored in the same test.

    Each look-ahead of the model is compared with the rival's shortest that is not shorter, or else with the
    rival's longest; the neurons are those for which both have a score.
    """
    pairs = ((opponent_of(rival, tables), rival) for rival in tables if rival.rival)
    return [_comparison(ours, rival) for ours, rival in pairs if ours is not None]


def opponent_of(rival: Table, tables: Sequence[Table]) -> Table | None:
    """Table of the evaluated model in the test of a rival's table."""
    return next((t for t in tables if t.test == rival.test and not t.rival), None)


def matched(ours: Table, rival: Table) -> list[tuple[Score, Score]]:
    """Scores of a model, each with the rival's of the same neuron, noise level and corresponding look-ahead."""
    lookahead = _lookahead_pairs(ours, rival)
    theirs = {(s.dataset, s.neuron, s.noise_level, s.lookahead): s for s in rival.scores}
    pairs = ((s, theirs.get((s.dataset, s.neuron, s.noise_level, lookahead[s.lookahead]))) for s in ours.scores)
    return [(s, other) for s, other in pairs if other is not None]


def short_lookahead(lookaheads: Sequence[int]) -> int:
    """Of ascending look-aheads, the one that a live run takes if it is not told which."""
    return max((k for k in lookaheads if k <= LIVE_LOOKAHEAD), default=lookaheads[0])


def _comparison(ours: Table, rival: Table) -> Comparison:
    pairs = matched(ours, rival)
    columns = {
        name: (_column(measure, [s for s, _ in pairs]), _column(measure, [other for _, other in pairs]))
        for name, measure in COMPARED.items()
    }
    return Comparison(
        test=rival.test,
        title=rival.title,
        rival=rival.model,
        lookaheads=tuple(_lookahead_pairs(ours, rival).items()),
        summary={
            group: {name: _compared(mine[rows], theirs[rows]) for name, (mine, theirs) in columns.items()}
            for group, rows in _groups([s for s, _ in pairs]).items()
        },
    )


def _compared(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Compared:
    both = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[both], theirs[both]
    return Compared(median_interval(ours), median_interval(theirs), median_interval(ours - theirs))


def _lookahead_pairs(ours: Table, rival: Table) -> dict[int, int]:
    return {k: min((r for r in rival.lookaheads if r >= k), default=rival.lookaheads[-1]) for k in ours.lookaheads}


def _column(measure: Measure, scores: Sequence[Score]) -> NDArray[np.float64]:
    return np.array([measure.value(s) for s in scores], np.float64)


def _groups(scores: Sequence[Score]) -> dict[Group, list[int]]:
    """Places of the scores of each dataset, then of all, by noise level and look-ahead."""
    groups: dict[Group, list[int]] = {}
    for dataset in (*sorted({s.dataset for s in scores}), ALL):
        for place, s in enumerate(scores):
            if dataset in (s.dataset, ALL):
                groups.setdefault((dataset, s.noise_level, s.lookahead), []).append(place)
    return groups

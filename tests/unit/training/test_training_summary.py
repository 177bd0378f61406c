"""Medians with intervals by dataset, and comparisons neuron by neuron."""

from __future__ import annotations

import numpy as np
import pytest
from scores import made_up, table

from training.bootstrap import median_interval
from training.evaluate import Scores
from training.summary import ALL, comparisons, matched, short_lookahead, summarise
from training.timing import Timing


def test_medians_of_each_dataset_and_of_all_neurons() -> None:
    values = {"A": [0.5, 0.7, np.nan], "B": [0.9]}
    scores = [made_up(d, str(i), c) for d, row in values.items() for i, c in enumerate(row)]
    found = summarise(scores)
    assert list(found) == [("A", 2.0, 1), ("B", 2.0, 1), (ALL, 2.0, 1)]
    assert found["A", 2.0, 1]["correlation"] == median_interval([0.5, 0.7])
    assert found["B", 2.0, 1]["correlation"][:1] == (0.9,)
    assert found[ALL, 2.0, 1]["correlation"] == median_interval([0.5, 0.7, 0.9])
    assert found[ALL, 2.0, 1]["bias"] == (-0.5, -0.5, -0.5, 4)
    assert found[ALL, 2.0, 1]["timing_error_ms"].n == 0


def test_timing_is_shown_in_milliseconds_and_percent() -> None:
    found = summarise([made_up("A", "0", 0.5, timing=Timing(0.02, -0.01, 0.75, 1.5, 12))])[ALL, 2.0, 1]
    shown = [found[name].median for name in ("timing_error_ms", "delay_ms", "detected_percent", "false_per_min")]
    assert shown == pytest.approx([20, -10, 75, 1.5])


def test_the_difference_is_taken_neuron_by_neuron() -> None:
    """Neurons differ much more than the models do: only pairing shows which is better."""
    level = np.linspace(0.2, 0.9, 9)
    ours = table(*(made_up("A", str(i), c + 0.01) for i, c in enumerate(level)))
    theirs = table(*(made_up("A", str(i), c) for i, c in enumerate([*level, 0.99])), rival=True)
    (found,) = comparisons([ours, theirs])
    cell = found.summary[ALL, 2.0, 1]["correlation"]
    assert cell.difference.median == pytest.approx(0.01)
    assert cell.difference.low == pytest.approx(0.01)
    assert cell.difference.n == 9
    assert cell.ours == median_interval(level + 0.01)
    assert cell.theirs == median_interval(level)
    assert cell.ours.low < cell.theirs.high
    assert (found.rival, found.test) == ("theirs", "unseen")


def test_a_neuron_that_only_one_of_both_has_a_score_for_is_left_out() -> None:
    ours = table(made_up("A", "0", 0.5), made_up("A", "1", 0.7), made_up("A", "2", 0.1))
    theirs = table(made_up("A", "0", 0.4), made_up("A", "1", float("nan")), rival=True)
    cell = comparisons([ours, theirs])[0].summary[ALL, 2.0, 1]["correlation"]
    assert (cell.ours.median, cell.theirs.median, cell.difference.n) == (0.5, 0.4, 1)


def test_which_lookaheads_are_compared() -> None:
    """The rival's shortest that is not shorter, else its longest."""
    ours = table(*(made_up("A", "0", 0.5, lookahead=k) for k in (0, 2, 7, 31)))
    theirs = table(*(made_up("A", "0", 0.4, lookahead=k) for k in (1, 7)), rival=True)
    assert comparisons([ours, theirs])[0].lookaheads == ((0, 1), (2, 7), (7, 7), (31, 7))
    assert [(s.lookahead, r.lookahead) for s, r in matched(ours, theirs)] == [(0, 1), (2, 7), (7, 7), (31, 7)]


def test_rivals_are_compared_within_their_test_only() -> None:
    one = table(made_up("A", "0", 0.5))
    other = table(made_up("B", "0", 0.6), test="seen")
    rival = table(made_up("B", "0", 0.2), test="seen", rival=True)
    (found,) = comparisons([one, other, rival])
    assert found.summary[ALL, 2.0, 1]["correlation"].difference.median == pytest.approx(0.4)
    assert comparisons([one, rival]) == []


def test_size_of_the_bias_is_compared_too() -> None:
    ours, theirs = made_up("A", "0", 0.5), made_up("A", "0", 0.5)
    object.__setattr__(theirs, "scores", Scores(0.5, 1.0, 0.2))
    cell = comparisons([table(ours), table(theirs, rival=True)])[0].summary[ALL, 2.0, 1]
    assert cell["bias"].difference.median == pytest.approx(-0.7)
    assert cell["size_of_bias"].difference.median == pytest.approx(0.3)


def test_short_lookahead() -> None:
    assert short_lookahead((0, 1, 2, 3, 31)) == 2
    assert short_lookahead((0, 1, 31)) == 1
    assert short_lookahead((15, 31)) == 15

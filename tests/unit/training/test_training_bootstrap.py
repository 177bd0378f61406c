"""Bootstrap intervals of medians."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.bootstrap import Interval, median_interval


def _binomial_tail(n: int, p: float, least: int) -> float:
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1))


@pytest.mark.parametrize("n", [9, 21, 101])
def test_interval_of_known_data(n: int) -> None:
    """The bootstrap distribution of the median of n different values is known: it needs no drawing."""
    values = np.random.default_rng(1).permutation(n).astype(float)
    found = median_interval(values, resamples=20_000)
    # The median of a resample is at most k if more than half of its n values are.
    at_most = np.array([_binomial_tail(n, (k + 1) / n, n // 2 + 1) for k in range(n)])
    low, high = np.searchsorted(at_most, [0.025, 0.975])
    assert found.median == n // 2
    assert abs(found.low - low) <= 1
    assert abs(found.high - high) <= 1
    assert found.low < found.median < found.high


def test_the_same_input_gives_the_same_interval_and_the_seed_matters() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert median_interval(values) == median_interval(list(values))
    assert median_interval(values, seed=1) != median_interval(values)
    narrow = median_interval(values, confidence=0.5)
    assert median_interval(values).low < narrow.low < narrow.high < median_interval(values).high


def test_undefined_values_are_left_out() -> None:
    assert median_interval([np.nan, 2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 3)
    assert median_interval([1.0, np.nan, 2.0]) == median_interval([1.0, 2.0])
    single, none = median_interval([4.0, np.nan]), median_interval([np.nan])
    assert (single.median, single.n) == (4.0, 1)
    assert math.isnan(single.low)
    assert none.n == 0
    assert math.isnan(none.median)

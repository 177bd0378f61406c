"""Medians with bootstrap intervals."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["CONFIDENCE", "RESAMPLES", "Interval", "median_interval"]

RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A median, the interval in which it lies, and the number of values it is the median of."""

    median: float
    low: float
    high: float
    n: int


def median_interval(
    values: ArrayLike, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Median with its percentile bootstrap interval.

    Parameters
    ----------
    values : array_like, (n,)
        One for each neuron; NaN is left out.
    resamples : int
        Samples of n values, drawn with replacement, whose medians are looked at.
    confidence : float
        Share of those medians that the interval holds, the same number being left out on either side.
    seed : int
        The resamples follow from it and from n: equal input gives equal intervals.

    Returns
    -------
    Interval
        NaN where undefined: the interval of fewer than two values, everything without any.

    Notes
    -----
    Efron, Annals of Statistics 7, 1-26 (1979). With few values the interval is rough: it cannot reach beyond them.
    """
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if array.size < 2:
        return Interval(float(array[0]) if array.size else np.nan, np.nan, np.nan, array.size)
    medians = np.median(array[_draws(array.size, resamples, seed)], axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(medians, [tail, 100 - tail])
    return Interval(float(np.median(array)), float(low), float(high), array.size)


@lru_cache(maxsize=32)
def _draws(n: int, resamples: int, seed: int) -> NDArray[np.int32]:
    """Which values each resample holds, (resamples, n)."""
    return np.random.default_rng([seed, n]).integers(0, n, (resamples, n), dtype=np.int32)

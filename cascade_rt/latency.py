"""Latencies of a run of any length, in fixed memory: a histogram with logarithmic bins, one per cent wide."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LatencyHistogram"]

_LOWEST_S = 1e-7
_HIGHEST_S = 1e4
_WIDTH = math.log(1.01)
_N_BINS = math.ceil(math.log(_HIGHEST_S / _LOWEST_S) / _WIDTH) + 2


class LatencyHistogram:
    """Counts durations and tells their percentiles to within one per cent.

    Durations below 0.1 µs share the first bin, those above 10,000 s the last; the largest, the sum and the number
    of missed deadlines are exact.

    Parameters
    ----------
    deadline_s : float, optional
        A duration longer than this is a miss (s).
    """

    def __init__(self, deadline_s: float | None = None) -> None:
        if deadline_s is not None and not deadline_s > 0:
            raise InputError(f"deadline_s={deadline_s}: expected a positive time")
        self.deadline_s = deadline_s
        self.reset()

    def reset(self) -> None:
        """Forget all durations."""
        self._counts: NDArray[np.int64] = np.zeros(_N_BINS, np.int64)
        self.count = 0
        self.misses = 0
        self.total_s = 0.0
        self.max_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one duration (s); a clock that went back counts as 0."""
        duration_s = max(duration_s, 0.0)
        self._counts[_bin(duration_s)] += 1
        self.count += 1
        self.total_s += duration_s
        self.max_s = max(self.max_s, duration_s)
        if self.deadline_s is not None and duration_s > self.deadline_s:
            self.misses += 1

    def merge(self, other: LatencyHistogram) -> None:
        """Take over the durations of another histogram."""
        self._counts += other._counts
        self.count += other.count
        self.misses += other.misses
        self.total_s += other.total_s
        self.max_s = max(self.max_s, other.max_s)

    def percentile(self, q: float) -> float:
        """Duration (s) that ``q`` per cent of the durations do not exceed; NaN without any.

        The value is the geometric middle of its bin, never more than the largest duration.
        """
        if not 0 <= q <= 100:
            raise InputError(f"percentile {q}: expected 0 to 100")
        if self.count == 0:
            return math.nan
        rank = max(1, math.ceil(self.count * q / 100))
        if rank == self.count:
            return self.max_s
        number = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_LOWEST_S * math.exp((number - 0.5) * _WIDTH) if number else _LOWEST_S, self.max_s)

    def counts(self, edges_s: NDArray[np.floating]) -> NDArray[np.int64]:
        """Count the durations between edges, to within one per cent of them.

        Parameters
        ----------
        edges_s : ndarray, (n,)
            Ascending (s).

        Returns
        -------
        ndarray, (n + 1,)
            The first is what lies below the lowest edge, the last what lies above the highest.
        """
        bins = np.array([_bin(float(edge)) for edge in edges_s])
        before = np.concatenate([[0], np.cumsum(self._counts)])
        counts: NDArray[np.int64] = np.diff(before[np.concatenate([[0], bins, [_N_BINS]])])
        return counts

    @property
    def mean_s(self) -> float:
        """Mean duration (s); NaN without any."""
        return self.total_s / self.count if self.count else math.nan

    def to_dict(self) -> dict[str, float | int | None]:
        """Count, misses, and percentiles in milliseconds (None without durations), for JSON."""
        values = {
            "mean": self.mean_s,
            "p50": self.percentile(50),
            "p90": self.percentile(90),
            "p99": self.percentile(99),
            "p99.9": self.percentile(99.9),
            "max": self.max_s if self.count else math.nan,
        }
        deadline = math.nan if self.deadline_s is None else self.deadline_s
        return {
            "count": self.count,
            **{f"{name}_ms": _milliseconds(value) for name, value in values.items()},
            "deadline_ms": _milliseconds(deadline),
            "deadline_misses": self.misses,
        }


def _bin(duration_s: float) -> int:
    """Bin 0 ends at the lowest duration; bin ``i`` covers ``lowest * 1.01 ** (i - 1)`` to ``lowest * 1.01 ** i``."""
    if duration_s <= _LOWEST_S:
        return 0
    if not duration_s < _HIGHEST_S:
        return _N_BINS - 1
    return 1 + int(math.log(duration_s / _LOWEST_S) / _WIDTH)


def _milliseconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(1000 * seconds, 4)

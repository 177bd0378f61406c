"""The histogram against exact percentiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_rt.errors import InputError
from cascade_rt.latency import LatencyHistogram


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(2e-7, 9e3), min_size=1, max_size=200), st.floats(0, 100))
def test_percentiles_are_right_to_one_per_cent(durations, q):
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(duration)
    exact = np.percentile(durations, q, method="inverted_cdf")
    assert histogram.percentile(q) == pytest.approx(exact, rel=0.01)
    assert histogram.max_s == max(durations)
    assert histogram.mean_s == pytest.approx(np.mean(durations))


def test_misses_are_exact():
    histogram = LatencyHistogram(deadline_s=0.01)
    for duration in (0.009, 0.01, 0.0100001, 5.0):
        histogram.add(duration)
    assert histogram.misses == 2
    answer = histogram.to_dict()
    assert answer["deadline_misses"] == 2
    assert answer["deadline_ms"] == 10
    assert answer["max_ms"] == 5000


def test_extremes_do_not_break_it():
    histogram = LatencyHistogram()
    for duration in (-1.0, 0.0, 1e-12, 1e9):
        histogram.add(duration)
    assert histogram.count == 4
    assert histogram.percentile(0) <= 1e-7
    assert histogram.percentile(100) == 1e9


def test_empty():
    histogram = LatencyHistogram()
    assert math.isnan(histogram.percentile(50))
    assert histogram.to_dict()["p99_ms"] is None
    assert histogram.to_dict()["deadline_ms"] is None


def test_merge_and_reset():
    a, b, both = LatencyHistogram(0.5), LatencyHistogram(0.5), LatencyHistogram(0.5)
    for number in range(1, 100):
        (a if number % 3 else b).add(number / 100)
        both.add(number / 100)
    a.merge(b)
    merged, expected = a.to_dict(), both.to_dict()
    assert merged.pop("mean_ms") == pytest.approx(expected.pop("mean_ms"))
    assert merged == expected
    a.reset()
    assert a.to_dict() == LatencyHistogram(0.5).to_dict()


def test_memory_is_fixed():
    histogram = LatencyHistogram()
    assert histogram._counts.nbytes < 50_000


def test_wrong_arguments():
    with pytest.raises(InputError):
        LatencyHistogram(deadline_s=0)
    with pytest.raises(InputError):
        LatencyHistogram().percentile(101)

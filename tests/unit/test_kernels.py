"""Each compiled kernel against a slow twin; and the spreading of rows over cores."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest

from cascade_rt import _kernels
from cascade_rt._kernels import compiling
from cascade_rt.discretization import _options, discretize


def test_median_of_what_is_known() -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_cauchy((40, 31))).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[3] = np.nan
    values[4, 1:] = np.nan
    values[5] = 0.5  # ties
    values[6, :15] = 0
    values[7, :20] = 1e-42  # smaller than normal numbers
    out = np.empty(40)
    _kernels.median_rows(values, out)
    expected = [np.median(known) if known.size else np.nan for known in (row[~np.isnan(row)] for row in values)]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_absolute_differences_continue_over_chunks() -> None:
    frames = np.random.default_rng(0).normal(size=(3, 20))
    frames[1, 4] = np.nan
    last, whole = np.full(3, np.nan), np.empty((3, 20), np.float32)
    _kernels.absolute_differences(frames[:, :7].copy(), last, whole[:, :7])
    _kernels.absolute_differences(frames[:, 7:].copy(), last, whole[:, 7:])
    expected = np.abs(np.diff(frames, axis=1, prepend=np.nan)).astype(np.float32)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(last, frames[:, -1])


def test_smoothing_is_a_sum_of_kernels() -> None:
    counts = np.random.default_rng(0).poisson(0.2, (2, 25)).astype(float)
    kernel, origin = np.array([0.5, 0.2, 0.2, 0.1]), 1
    out = np.zeros_like(counts)
    _kernels.smooth_rows(counts, out, kernel, origin)
    expected = np.zeros((2, 35))
    for i, s in np.argwhere(counts):
        expected[i, 5 + s - origin : 5 + s - origin + 4] += counts[i, s] * kernel
    np.testing.assert_allclose(out, expected[:, 5:-5], atol=1e-12)


@pytest.mark.parametrize("unknown_to_zero", [False, True])
@pytest.mark.parametrize("reach", [0, 1, 3, 30])
def test_threshold_keeps_neighbours(reach: int, unknown_to_zero: bool) -> None:
    prob = np.random.default_rng(reach).normal(0.0, 0.5, (4, 30)).astype(np.float32)
    prob[:, 10:12] = np.nan
    out = np.empty_like(prob)
    _kernels.threshold_rows(prob, out, 0.6, reach, unknown_to_zero)
    for row, values in zip(out, prob, strict=True):
        above = np.flatnonzero(values > 0.6)
        for t, value in enumerate(values):
            kept = (np.abs(above - t) <= reach).any()
            if np.isnan(value):
                assert np.isnan(row[t]) if kept or not unknown_to_zero else row[t] == 0
            else:
                assert row[t] == (max(value, 0) if kept else 0)


def test_fluorescence_is_a_function_of_summed_decays() -> None:
    times = np.array([0.11, 0.3, 0.31, 0.05])
    starts, stops = np.array([0, 3, 4]), np.array([3, 4, 4])
    rise, decays, weights, hill, half = 0.02, (0.1, 0.4), (0.9, 0.3), 1.4, 3.0
    out = np.empty((3, 12))
    _kernels.fluorescence_rows(
        out, starts, stops, np.array([2.0, 3.0, 1.0]), times, 0.1, 5, rise, decays, weights, hill, half
    )
    now = (np.arange(60) + 0.5) * 0.02
    for row, start, stop, gain in zip(out, starts, stops, (2.0, 3.0, 1.0), strict=True):
        since = np.maximum(now[:, None] - times[start:stop], 0)
        c = (1 - np.exp(-since / rise)) * sum(w * np.exp(-since / d) for w, d in zip(weights, decays, strict=True))
        c = c.sum(axis=1)
        expected = gain * (c**hill / (c**hill + half)).reshape(12, 5).mean(axis=1)
        np.testing.assert_allclose(row, expected, atol=1e-9)


# --------------------------------------------------------------------------------------- search for spikes


def objective(prob: np.ndarray, spikes: list[int], kernel: np.ndarray, origin: int, weight: float) -> float:
    """Summed absolute difference, and the weighted error of the number of spikes."""
    counts = np.bincount(spikes, minlength=prob.size).astype(float)
    explained = np.convolve(counts, kernel)[origin : origin + prob.size]
    return float(np.abs(prob - explained).sum() + weight * abs(prob.sum() - len(spikes)))


@pytest.mark.parametrize("causal", [False, True])
def test_small_events_are_solved_as_well_as_by_trying_everything(causal: bool) -> None:
    rng = np.random.default_rng(1)
    condition = {"smoothing_s": 0.04, "frame_rate_hz": 30.0, "causal_kernel": causal}
    options = _options(None, 0.04, 30.0, causal, 0.3)
    events = []
    for n_spikes in (1, 2, 3) * 4:
        prob = np.zeros(50)
        for s in rng.integers(22, 27, n_spikes):
            prob[s - options.origin : s - options.origin + options.kernel.size] += options.kernel * rng.uniform(
                0.6, 1.3
            )
        events.append(np.maximum(prob + (prob > 0.02) * rng.normal(0, 0.03, 50), 0))
    found = discretize(np.array(events), count_weight=0.3, **condition)
    gaps = []
    for prob, spikes in zip(np.array(events, np.float32).astype(float), found, strict=True):
        best = min(
            objective(prob, list(choice), options.kernel, options.origin, 0.3)
            for n in range(5)
            for choice in combinations_with_replacement(range(20, 29), n)
        )
        gaps.append(objective(prob, spikes.tolist(), options.kernel, options.origin, 0.3) - best)
    # 0.05 spikes of misfit is far below what the noise of the events leaves.
    assert np.median(gaps) < 1e-6
    assert max(gaps) < 0.05


def test_no_single_change_improves_the_fit() -> None:
    rng = np.random.default_rng(2)
    options = _options(None, 0.05, 30.0, False, 0.0)
    prob = np.zeros((6, 140))
    for row in prob:
        for s in rng.integers(15, 125, 5):
            row[s - options.origin : s - options.origin + options.kernel.size] += options.kernel * rng.uniform(0.7, 1.4)
    prob = prob.astype(np.float32).astype(float)
    for row, spikes in zip(prob, discretize(prob, smoothing_s=0.05, frame_rate_hz=30.0, causal_kernel=False,
                                            count_weight=0.0), strict=True):  # fmt: skip
        assert spikes.size
        reached = objective(row, spikes.tolist(), options.kernel, options.origin, 0.0)
        for i, s in enumerate(spikes):
            others = np.delete(spikes, i).tolist()
            for changed in (others, *([*others, s + d] for d in (-2, -1, 1, 2)), [*others, s, s]):
                assert objective(row, changed, options.kernel, options.origin, 0.0) >= reached - 1e-6


# ------------------------------------------------------------------------------------------ rows over cores


def double(rows: np.ndarray, out: np.ndarray, factor: float) -> None:
    out[:] = factor * rows


def test_rows_are_spread_and_come_back_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "SMALL", 0)
    monkeypatch.setattr(compiling, "_THREADS", 3)
    monkeypatch.setattr(compiling, "_INTERPRETED", False)
    for n_rows in (0, 1, 2, 5, 100):
        rows = np.arange(3.0 * n_rows).reshape(n_rows, 3)
        out = np.zeros_like(rows)
        _kernels.over_rows(double, (rows, out), (2.0,))
        np.testing.assert_array_equal(out, 2 * rows)


def test_errors_in_threads_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "SMALL", 0)
    monkeypatch.setattr(compiling, "_THREADS", 2)

    def broken(rows: np.ndarray) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _kernels.over_rows(broken, (np.zeros((8, 2)),))

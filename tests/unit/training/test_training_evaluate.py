"""Scores: the definitions, and alignment of a loaded model's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training.evaluate import Score, Scores, medians, metrics, score
from training.ground_truth import Trace
from training.tables import Table, median_rows, to_markdown
from training.targets import smooth_spikes


def test_definitions() -> None:
    truth = np.array([0.0, 1.0, 0.0, 3.0])
    result = metrics(np.array([0.5, 1.0, 0.0, 2.0]), truth)
    assert result.error == pytest.approx((0.5 + 1.0) / 4)
    assert result.bias == pytest.approx((0.5 - 1.0) / 4)
    assert result.correlation == pytest.approx(np.corrcoef([0.5, 1, 0, 2], truth)[0, 1])
    assert metrics(2 * truth, truth) == pytest.approx(Scores(1.0, 1.0, 1.0))
    assert metrics(truth, truth) == pytest.approx(Scores(1.0, 0.0, 0.0))


def test_only_frames_where_both_are_defined_count() -> None:
    truth = np.array([5.0, 1.0, 0.0, 3.0, np.nan])
    assert metrics(np.array([np.nan, 1.0, 0.0, 3.0, 9.0]), truth) == pytest.approx(Scores(1.0, 0.0, 0.0))


def test_undefined_scores_are_nan() -> None:
    assert np.isnan(metrics(np.ones(3), np.zeros(3))).all()
    assert np.isnan(metrics(np.zeros(3), np.array([0.0, 1, 0])).correlation)
    assert metrics(np.zeros(3), np.array([0.0, 1, 0])).bias == -1
    assert np.isnan(metrics(np.full(3, np.nan), np.ones(3))).all()
    with pytest.raises(TrainingError, match="expected equal"):
        metrics(np.zeros(3), np.zeros(4))


def _traces() -> list[Trace]:
    rng = np.random.default_rng(0)
    out = []
    for neuron, own in (("quiet", 0.02), ("noisy", 0.5)):
        counts = (rng.random(2000) < 0.05).astype(np.float32)
        dff = (counts + own * rng.standard_normal(2000)).astype(np.float32)
        out.append(
            Trace(
                dataset="D", neuron=neuron, number=0, dff=dff, spike_counts=counts, frame_rate_hz=30.0, noise_level=0.0
            )
        )
    return out


def test_a_perfect_and_a_shifted_prediction() -> None:
    """The truth scores 1 and without error; a frame too early is seen."""
    quiet = _traces()[:1]
    truth = smooth_spikes(quiet[0].spike_counts, smoothing_s=0.05, frame_rate_hz=30.0)
    predictions = np.stack([truth, np.roll(truth, -1), -truth])
    found = score(quiet, lambda dff, nu: predictions, lookaheads=(0, 1, 2), smoothing_s=0.05, noise_levels=(4.0,))
    assert [s.lookahead for s in found] == [0, 1, 2]
    assert found[0].scores == pytest.approx(Scores(1, 0, 0))
    assert found[1].scores.correlation < 0.95
    assert found[2].scores.bias == -1  # negative values count as 0


def test_recordings_noisier_than_the_level_are_left_out_and_noise_is_shared() -> None:
    seen: list[tuple[float, np.ndarray]] = []

    def predict(dff: np.ndarray, nu: float) -> np.ndarray:
        seen.append((nu, dff))
        return dff[None]

    found = score(_traces(), predict, lookaheads=(0,), smoothing_s=0.05, noise_levels=(2.0, 100.0))
    assert [(s.neuron, s.noise_level) for s in found] == [("noisy", 100.0), ("quiet", 2.0), ("quiet", 100.0)]
    again = list(seen)
    seen.clear()
    score(_traces(), predict, lookaheads=(0,), smoothing_s=0.05, noise_levels=(2.0, 100.0))
    for (nu_a, a), (nu_b, b) in zip(again, seen, strict=True):
        assert nu_a == nu_b
        np.testing.assert_array_equal(a, b)


def test_medians_and_tables() -> None:
    values = [("A", 0.5), ("A", 0.7), ("A", float("nan")), ("B", 0.9)]
    scores = tuple(
        Score(dataset=d, neuron=str(i), noise_level=2.0, lookahead=1, scores=Scores(c, 1.0, -0.5))
        for i, (d, c) in enumerate(values)
    )
    assert medians(scores)["A", 2.0, 1][0].correlation == pytest.approx(0.6)
    table = Table(title="a test", lookaheads=(1,), scores=scores)
    rows = median_rows(table)
    assert [(d, n) for d, _, _, n in rows] == [("A", 3), ("B", 1), ("", 4)]
    text = to_markdown([table])
    assert "| A | 2 | 3 | 0.600 |" in text
    assert "| **all** | 2 | 4 | -0.50 |" in text

"""Scores: the definitions, and what a model is scored on."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training.evaluate import Kernel, Scores, metrics, score
from training.ground_truth import Trace
from training.noised import NoisedTraces
from training.targets import smooth_spikes

GAUSSIAN = Kernel(0.05)


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


def _trace(neuron: str, own: float, number: int = 0) -> Trace:
    rng = np.random.default_rng(number)
    counts = (rng.random(2000) < 0.01).astype(np.float32)
    dff = (counts + own * rng.standard_normal(2000)).astype(np.float32)
    return Trace(
        dataset="D", neuron=neuron, number=number, dff=dff, spike_counts=counts, frame_rate_hz=30.0, noise_level=0.0
    )


def test_a_perfect_and_a_shifted_prediction() -> None:
    """The truth scores 1 without any error; a frame too early is seen in every score that it touches."""
    trace = _trace("quiet", 0.02)
    truth = smooth_spikes(trace.spike_counts, smoothing_s=0.05, frame_rate_hz=30.0)
    predictions = np.stack([truth, np.roll(truth, -1), -truth])
    (found,) = score(
        NoisedTraces([trace], noise_levels=(4.0,)),
        lambda dff, nu: predictions,
        lookaheads=(0, 1, 2),
        kernels=[GAUSSIAN],
    )
    perfect, early, negative = found
    assert [s.lookahead for s in found] == [0, 1, 2]
    assert perfect.scores == pytest.approx(Scores(1, 0, 0))
    assert perfect.timing[:4] == pytest.approx((0, 0, 1, 0))
    assert early.scores.correlation < 0.95
    assert early.timing.signed_error_s == pytest.approx(-1 / 30)
    assert negative.scores.bias == -1  # negative values count as 0
    assert negative.timing.detected == 0


def test_each_kernel_has_its_own_truth_and_predictions_are_made_once() -> None:
    trace, causal = _trace("quiet", 0.02), Kernel(0.05, causal=True)
    truth = smooth_spikes(trace.spike_counts, smoothing_s=0.05, frame_rate_hz=30.0, causal_kernel=True)
    calls = []

    def predict(dff: np.ndarray, nu: float) -> np.ndarray:
        calls.append(nu)
        return truth[None]

    tests = NoisedTraces([trace], noise_levels=(4.0,))
    (against_gaussian,), (against_own,) = score(tests, predict, lookaheads=(0,), kernels=[GAUSSIAN, causal])
    assert calls == [4.0]
    assert against_own.scores == pytest.approx(Scores(1, 0, 0))
    assert against_own.timing.absolute_error_s == 0
    assert against_gaussian.scores.correlation < 0.95
    assert str(GAUSSIAN) == "Gaussian of 50 ms"
    assert str(causal) == "causal kernel of 50 ms"


def test_recordings_noisier_than_the_level_are_left_out_and_all_others_count() -> None:
    """Two recordings of a neuron are scored as one."""
    traces = [_trace("noisy", 0.5), _trace("quiet", 0.02), _trace("quiet", 0.02, number=1)]
    done: list[float] = []
    (found,) = score(
        NoisedTraces(traces, noise_levels=(2.0, 100.0)),
        lambda dff, nu: dff[None],
        lookaheads=(0,),
        kernels=[GAUSSIAN],
        progress=done.append,
    )
    assert [(s.neuron, s.noise_level) for s in found] == [("noisy", 100.0), ("quiet", 2.0), ("quiet", 100.0)]
    assert done == [0.5, 1.0]
    tests = NoisedTraces(traces, noise_levels=(2.0,))
    lifted = np.concatenate([x for x in tests.lifted(("D", "quiet"), 2.0) if x is not None])
    truth = np.concatenate([smooth_spikes(t.spike_counts, smoothing_s=0.05, frame_rate_hz=30.0) for t in traces[1:]])
    assert found[1].scores == pytest.approx(metrics(np.maximum(lifted, 0), truth))

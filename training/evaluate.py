"""Score predictions against known spikes: correlation, error and bias (Rupprecht et al. 2021), and timing.

Scores are taken per neuron, over all its recordings that can be brought to the noise level asked for; a
recording that is noisier than that by itself is left out of that level. Timing: :mod:`training.timing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.errors import TrainingError

from .targets import smooth_spikes
from .timing import Timing, timing, trace_timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec

    from .ground_truth import Trace
    from .noised import NoisedTraces

    #: (dff (n_frames,), ν) → (n_lookaheads, n_frames), NaN where undefined, each aligned to the frame it describes.
    Predictor = Callable[[NDArray[np.float32], float], NDArray[np.float32]]

__all__ = ["Kernel", "Score", "Scores", "engine_predictor", "metrics", "score"]


class Kernel(NamedTuple):
    """What the true spikes are smoothed with.

    Parameters
    ----------
    smoothing_s : float
    causal : bool
        See :func:`cascade_rt.smoothing.spike_kernel`.
    """

    smoothing_s: float
    causal: bool = False

    @classmethod
    def of(cls, spec: ModelSpec) -> Kernel:
        """Kernel that a model was trained with."""
        return cls(spec.smoothing_s, spec.causal_kernel)

    def __str__(self) -> str:
        return f"{'causal kernel' if self.causal else 'Gaussian'} of {1000 * self.smoothing_s:g} ms"


class Scores(NamedTuple):
    """Correlation, error and bias of one prediction."""

    correlation: float
    error: float
    bias: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one neuron at one noise level and look-ahead (frames)."""

    dataset: str
    neuron: str
    noise_level: float
    lookahead: int
    scores: Scores
    timing: Timing


def metrics(prediction: NDArray[np.floating], truth: NDArray[np.floating]) -> Scores:
    """Compare a prediction with smoothed true spikes over the frames where both are defined.

    With positive and negative differences d = prediction - truth: error = (Σd⁺ + Σ|d⁻|) / Σtruth and
    bias = (Σd⁺ - Σ|d⁻|) / Σtruth; correlation is Pearson's.

    Parameters
    ----------
    prediction, truth : ndarray, (n_frames,)
        Expected spikes per frame; NaN where undefined.

    Returns
    -------
    Scores
        NaN where not defined: no correlation with a constant, no error without spikes.
    """
    if prediction.shape != truth.shape or truth.ndim != 1:
        raise TrainingError(f"prediction {prediction.shape} and truth {truth.shape}: expected equal, one dimension")
    both = np.isfinite(prediction) & np.isfinite(truth)
    p, t = np.asarray(prediction[both], np.float64), np.asarray(truth[both], np.float64)
    correlation = error = bias = float("nan")
    if p.size > 1 and p.std() > 0 and t.std() > 0:
        correlation = float(np.corrcoef(p, t)[0, 1])
    if p.size and t.sum() > 0:
        difference = p - t
        above, below = difference[difference > 0].sum(), -difference[difference < 0].sum()
        error, bias = float((above + below) / t.sum()), float((above - below) / t.sum())
    return Scores(correlation, error, bias)


def score(
    tests: NoisedTraces,
    predict: Predictor,
    *,
    lookaheads: Sequence[int],
    kernels: Sequence[Kernel],
    progress: Callable[[float], None] | None = None,
) -> list[list[Score]]:
    """Score a model on traces with known spikes.

    Parameters
    ----------
    tests : NoisedTraces
        At the model's frame rate.
    predict : callable
        (dff (n_frames,), ν) → (n_lookaheads, n_frames).
    lookaheads : sequence of int
        Of the rows that ``predict`` returns.
    kernels : sequence of Kernel
        To smooth the true spikes with; the model is scored against each.
    progress : callable, optional
        Called with the share of the neurons that are done.

    Returns
    -------
    list of list of Score
        For each kernel. Negative predictions count as 0, as in the default of ``cascade_rt.predict``.
    """
    out: list[list[Score]] = [[] for _ in kernels]
    for done, (neuron, traces) in enumerate(tests.neurons()):
        smoothed = [[_smooth(trace, kernel) for trace in traces] for kernel in kernels]
        for level in tests.noise_levels:
            lifted = tests.lifted(neuron, level)
            used = [
                (n, np.maximum(predict(dff, level), np.float32(0))) for n, dff in enumerate(lifted) if dff is not None
            ]
            if not used:
                continue
            for scores, kernel, truths in zip(out, kernels, smoothed, strict=True):
                parts = [(traces[n], prediction, truths[n]) for n, prediction in used]
                scores += [
                    Score(
                        dataset=neuron[0],
                        neuron=neuron[1],
                        noise_level=level,
                        lookahead=lookahead,
                        scores=values,
                        timing=times,
                    )
                    for lookahead, values, times in zip(lookaheads, *_neuron_scores(parts, kernel), strict=True)
                ]
        if progress is not None:
            progress((done + 1) / len(tests))
    return out


def _neuron_scores(
    parts: Sequence[tuple[Trace, NDArray[np.float32], NDArray[np.float32]]], kernel: Kernel
) -> tuple[list[Scores], list[Timing]]:
    """Scores for each look-ahead from (trace, prediction, truth) of one neuron."""
    together = np.concatenate([prediction for _, prediction, _ in parts], axis=1)
    truth = np.concatenate([truth for _, _, truth in parts])
    times = [
        trace_timing(
            prediction,
            truth,
            trace.spike_counts,
            frame_rate_hz=trace.frame_rate_hz,
            smoothing_s=kernel.smoothing_s,
            causal_kernel=kernel.causal,
        )
        for trace, prediction, truth in parts
    ]
    return [metrics(row, truth) for row in together], timing(times)


def _smooth(trace: Trace, kernel: Kernel) -> NDArray[np.float32]:
    return smooth_spikes(
        trace.spike_counts,
        smoothing_s=kernel.smoothing_s,
        frame_rate_hz=trace.frame_rate_hz,
        causal_kernel=kernel.causal,
    )


def engine_predictor(model: Any) -> Predictor:
    """Make the predictor of a loaded model (:func:`cascade_rt.load_model`).

    Each output is placed on the frame that its training target described (``alignment="target"``).
    """
    spec = model.spec

    def predict(dff: NDArray[np.float32], nu: float) -> NDArray[np.float32]:
        out = np.full((len(spec.lookaheads), dff.size), np.nan, np.float32)
        if dff.size < spec.windowsize:
            return out
        levels = np.array([nu])
        values = model.run_dense(model.network_keys(levels)[0], np.ascontiguousarray(dff[None], np.float32), levels)[0]
        for row, lookahead in enumerate(spec.lookaheads):
            out[row, spec.windowsize - 1 - lookahead : dff.size - lookahead] = values[row]
        return out

    return predict

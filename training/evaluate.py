"""Score predictions against known spikes: correlation, error and bias, as Rupprecht et al. 2021 define them.

Scores are taken per neuron, over all its recordings that can be brought to the noise level asked for; a
recording that is noisier than that by itself is left out of that level. Reported is the median over neurons.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.errors import TrainingError

from .noising import add_noise
from .targets import smooth_spikes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from .ground_truth import Trace

    #: (dff (n_frames,), ν) → (n_lookaheads, n_frames), NaN where undefined, each aligned to the frame it describes.
    Predictor = Callable[[NDArray[np.float32], float], NDArray[np.float32]]

__all__ = ["Score", "Scores", "engine_predictor", "medians", "metrics", "score"]


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
    traces: Iterable[Trace],
    predict: Predictor,
    *,
    lookaheads: Sequence[int],
    smoothing_s: float,
    causal_kernel: bool = False,
    noise_levels: Sequence[float] = (2.0, 4.0, 8.0),
    seed: int = 0,
) -> list[Score]:
    """Score a model on traces with known spikes.

    Parameters
    ----------
    traces : iterable of Trace
        At the model's frame rate.
    predict : callable
        (dff (n_frames,), ν) → (n_lookaheads, n_frames).
    lookaheads : sequence of int
        Of the rows that ``predict`` returns.
    smoothing_s : float
    causal_kernel : bool
        Kernel that the model was trained with.
    noise_levels : sequence of float
        % Hz^-1/2. Noise is seeded by the recording: every model meets the same.
    seed : int

    Returns
    -------
    list of Score
        Negative predictions count as 0, as in the default of ``cascade_rt.predict``.
    """
    neurons: dict[tuple[str, str], list[Trace]] = {}
    for trace in traces:
        neurons.setdefault((trace.dataset, trace.neuron), []).append(trace)
    out: list[Score] = []
    for (dataset, neuron), own in sorted(neurons.items()):
        for level in noise_levels:
            predictions: list[NDArray[np.float32]] = []
            truths: list[NDArray[np.float32]] = []
            for trace in own:
                key = zlib.crc32(f"{dataset}/{neuron}/{trace.number}/{trace.n_frames}".encode())
                noised = add_noise(trace.dff, trace.frame_rate_hz, level, np.random.default_rng([seed, key]))
                if noised is None:
                    continue
                predictions.append(np.maximum(predict(noised, level), np.float32(0)))
                truths.append(
                    smooth_spikes(
                        trace.spike_counts,
                        smoothing_s=smoothing_s,
                        frame_rate_hz=trace.frame_rate_hz,
                        causal_kernel=causal_kernel,
                    )
                )
            if not predictions:
                continue
            together, truth = np.concatenate(predictions, axis=1), np.concatenate(truths)
            out += [
                Score(
                    dataset=dataset,
                    neuron=neuron,
                    noise_level=float(level),
                    lookahead=lookahead,
                    scores=metrics(row, truth),
                )
                for lookahead, row in zip(lookaheads, together, strict=True)
            ]
    return out


def medians(scores: Iterable[Score], *, per_dataset: bool = True) -> dict[tuple[str, float, int], tuple[Scores, int]]:
    """Median over neurons for each dataset (or for all, named ""), noise level and look-ahead.

    Returns
    -------
    dict
        (dataset, noise level, look-ahead) → (median scores, number of neurons). Undefined scores are left out.
    """
    groups: dict[tuple[str, float, int], list[Scores]] = {}
    for item in scores:
        key = (item.dataset if per_dataset else "", item.noise_level, item.lookahead)
        groups.setdefault(key, []).append(item.scores)
    out: dict[tuple[str, float, int], tuple[Scores, int]] = {}
    for key, values in groups.items():
        table = np.array(values, np.float64)
        middle = [float(np.median(c[np.isfinite(c)])) if np.isfinite(c).any() else float("nan") for c in table.T]
        out[key] = (Scores(*middle), len(values))
    return out


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

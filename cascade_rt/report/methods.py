"""A paragraph for the methods section of a paper, with the numbers of this run, and what it cites."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_rt.catalogue import fits_frame_rate, parse_indicator, training_data
from cascade_rt.errors import InputError

from .literature import CASCADE, GCAMP8, PIPELINES, Paper, ground_truth_papers, unknown_datasets
from .wording import all_levels, count, defined, duration, mean_rate, number, series, spread

if TYPE_CHECKING:
    from cascade_rt.chunks import ModelSpec
    from cascade_rt.session import Inference

__all__ = ["Methods", "methods", "resampled_to"]

_EXTRACTED = {
    "suite2p": "Regions of interest and their fluorescence were extracted with Suite2p",
    "caiman": "Neurons and their fluorescence were extracted with CaImAn",
    "minian": "Neurons and their fluorescence were extracted with Minian",
    "nwb": "Traces were read from a file in the format Neurodata Without Borders",
}
_THRESHOLDS = {
    "zero": " Negative estimates were set to 0.",
    "noise_floor": (
        " Estimates below 1/e of the height that a single spike gives, and not next to larger ones, were set to 0."
    ),
    "none": " Negative estimates were kept.",
}


class Methods(NamedTuple):
    """What to paste into a paper.

    Parameters
    ----------
    text : str
        One paragraph, in the past tense.
    papers : tuple of Paper
        What it cites.
    not_known : tuple of str
        Datasets of the model whose papers are not listed.
    """

    text: str
    papers: tuple[Paper, ...]
    not_known: tuple[str, ...]


def methods(inference: Inference) -> Methods:
    """Describe what was done."""
    spec = inference.spec
    learnt = ground_truth_papers(spec)
    pipeline = PIPELINES.get(inference.format)
    text = " ".join(
        [
            _recording(inference),
            *([f"{_EXTRACTED[inference.format]} ({pipeline.short})."] if pipeline else []),
            _delta_f(inference),
            _noise(inference),
            _model(inference, learnt),
            _estimates(inference),
            _software(inference),
        ]
    )
    papers = [CASCADE, *learnt, *([pipeline] if pipeline else [])]
    return Methods(text, tuple(dict.fromkeys(papers)), tuple(unknown_datasets(spec.training_datasets)))


def resampled_to(inference: Inference) -> float | None:
    """Frame rate (Hz) to which the recording was resampled for the model; None if it was not."""
    rate, own = inference.planes[0].frame_rate_hz, inference.spec.frame_rate_hz
    if fits_frame_rate(own, rate) or (inference.options.model and inference.options.allow_rate_mismatch):
        return None
    return own


def _recording(inference: Inference) -> str:
    planes = inference.planes
    n_cells = sum(plane.n_cells for plane in planes)
    lengths = {plane.n_frames / plane.frame_rate_hz for plane in planes}
    seconds = max(lengths)
    named = inference.indicator
    indicator = f" of {_indicator_name(named)}" if named else ""
    where = f" in {len(planes)} imaging planes" if len(planes) > 1 else ""
    rate = f"at {planes[0].frame_rate_hz:.4g} Hz" + (" per plane" if len(planes) > 1 else "")
    frames = max(plane.n_frames for plane in planes)
    up_to = "up to " if len(lengths) > 1 else ""
    return (
        f"Calcium signals{indicator} were recorded from {count(n_cells, 'neuron')}{where} {rate} for {up_to}"
        f"{duration(seconds)} ({count(frames, 'frame')})."
    )


def _indicator_name(text: str) -> str:
    try:
        return parse_indicator(text).name
    except InputError:
        return text


def _delta_f(inference: Inference) -> str:
    told = list(dict.fromkeys(plane.dff_description for plane in inference.planes))
    if all(plane.kind == "dff" for plane in inference.planes):
        percent = ", divided by 100 to give a fraction" if inference.options.percent else ""
        text = f"ΔF/F was taken as it was stored{percent}."
    else:
        text = f"ΔF/F was computed for each neuron as (F − F0)/F0 ({'; or '.join(told)})."
    if inference.options.fill_gaps:
        text += f" Gaps of up to {count(inference.options.fill_gaps, 'frame')} were filled with the last value before."
    rate = resampled_to(inference)
    if rate is not None:
        text += f" For inference, ΔF/F was resampled to {rate:g} Hz, and the estimates brought back to the frames."
    return text


def _noise(inference: Inference) -> str:
    levels = all_levels(inference.planes)
    if not levels.size:
        return "Noise levels could not be determined."
    median, low, high = spread(levels)
    below, above = inference.spec.noise_range
    outside = int(((levels < below) | (levels > above)).sum())
    beyond = f"; {outside} of {count(levels.size, 'neuron')} outside of the range that the model was trained for"
    return (
        f"The standardized noise level ν (median absolute difference of ΔF/F, in %, between neighbouring frames, "
        f"divided by the square root of the frame rate) was {number(median)} % Hz^-1/2 (median over neurons; range "
        f"{number(low)} to {number(high)}{beyond if outside else ''})."
    )


def _model(inference: Inference, learnt: list[Paper]) -> str:
    spec = inference.spec
    data = training_data(spec.training_datasets)
    # GCaMP8 models have a paper of their own beside that of the method.
    method = [CASCADE.short] + ([GCAMP8.short] if GCAMP8 in learnt else [])
    others = [paper.short for paper in learnt if paper is not GCAMP8]
    sources = f"; {'; '.join(others)}" if others else ""
    network = (
        f"{count(spec.ensemble_size, 'network')} for each of {len(spec.noise_levels)} noise levels"
        if spec.family == "binned"
        else "one network that was told the noise level"
    )
    return (
        f"Spike probabilities, that is expected numbers of spikes per frame, were inferred with the supervised method "
        f"CASCADE ({'; '.join(method)}) and the model {spec.name} ({network}), trained for {spec.frame_rate_hz:g} Hz "
        f"and ν from {spec.noise_range[0]:g} to {spec.noise_range[1]:g} % Hz^-1/2 on simultaneous calcium imaging and "
        f"electrophysiology of {data.cells} neurons ({data.brief}{sources}), with true spikes smoothed with "
        f"{_kernel(spec)}."
    )


def _kernel(spec: ModelSpec) -> str:
    width = f"{1000 * spec.smoothing_s:g} ms"
    if spec.causal_kernel:
        return f"a causal inverse Gaussian kernel of {width}"
    return f"a Gaussian of {width} standard deviation"


def _estimates(inference: Inference) -> str:
    ahead, options, planes = inference.lookahead_frames, inference.options, inference.planes
    wait = f"{1000 * ahead / inference.spec.frame_rate_hz:.0f} ms"
    text = f"Each estimate made use of {count(ahead, 'frame')} ({wait}) after the one described."
    if options.alignment == "cascade":
        text += " Estimates were placed on frames as the published CASCADE software does."
    text += _THRESHOLDS[options.threshold]
    reasons = Counter(why for plane in planes for why in plane.why_undefined if why and why != "not accepted as a cell")
    if reasons:
        told = series(f"{n} ({why})" for why, n in reasons.most_common())
        text += f" Neurons without estimate were left out: {told}."
    rate = mean_rate(inference)
    if np.isfinite(rate):
        n = sum(defined(plane) for plane in planes)
        text += f" The mean inferred spike rate was {number(rate)} Hz per neuron ({count(n, 'neuron')})."
    if all(plane.n_discrete is not None for plane in planes):
        total = sum(plane.n_discrete or 0 for plane in planes)
        text += f" Single spikes ({total:,}) were placed such that their smoothed sum fitted the spike probabilities."
    return text


def _software(inference: Inference) -> str:
    known = inference.versions
    others = [f"{'Python' if name == 'python' else name} {known[name]}" for name in known if name != "cascade_rt"]
    using = f" with {series(others)}" if others else ""
    return f"Inference was run with cascade_rt {known.get('cascade_rt', '(version unknown)')}{using}."

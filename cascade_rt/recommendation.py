"""Choosing a model: which one fits a recording, why, what to look at, and what to do where none fits.

Everything is derived from the models' own descriptions. A model fits if its frame rate is within 5 %, its training
data are of the indicator or near enough, and its earliest result is early enough. Among those that fit, the better
training data decide, then kernel and smoothing, noise levels, and what a live run needs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import explanations
from .catalogue import Species, fits_frame_rate, installed_models, parse_indicator, rate_distance
from .checks import check_matrix, check_noise_levels
from .chunks import RATE_TOLERANCE, check_choice
from .errors import InputError
from .noise import check_dff
from .noise import noise_levels as measured_noise_levels
from .suitability import UNSUITABLE, Question

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .catalogue import InstalledModel

__all__ = ["Advice", "Alternative", "NoiseSummary", "Recommendation", "recommend"]

#: Most alternatives named.
ALTERNATIVES = 5

#: Published models, from frame rate (Hz) to smoothing (ms): those with the usual one. Their look-ahead is 31 frames.
PUBLISHED_GLOBAL = {
    1: 1000, 2: 500, 3: 400, 4.25: 300, 5: 200, 6: 200, 7: 200, 7.5: 200, 10: 200, 12.5: 100, 15: 100, 17.5: 100,
    20: 100, 25: 50, 30: 50, 40: 50,
}  # fmt: skip
PUBLISHED_GCAMP8 = {3: 250, 5: 400, 7.5: 100, 10: 75, 15: 50, 20: 30, 30: 25, 40: 15}


class Alternative(NamedTuple):
    """Another model, and when it would be the one to take."""

    name: str
    reason: str


class Advice(NamedTuple):
    """What to do, and the command that does it."""

    text: str
    command: str


@dataclass(frozen=True, kw_only=True)
class NoiseSummary:
    """Noise levels ν (% · Hz^-½) of a recording, beside those that the model was trained for.

    Parameters
    ----------
    n_neurons : int
    n_unknown : int
        Neurons without a noise level: no values.
    median, low, high : float
        Median, 5th and 95th percentile; NaN if no neuron has a noise level.
    trained_range : (float, float) or None
        Lowest and highest trained ν of the recommended model.
    n_below, n_above : int
        Neurons outside of that range.
    """

    n_neurons: int
    n_unknown: int
    median: float
    low: float
    high: float
    trained_range: tuple[float, float] | None = None
    n_below: int = 0
    n_above: int = 0


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A model for a recording.

    Parameters
    ----------
    model : str or None
        Name for :func:`cascade_rt.load_model`; None if no installed model fits.
    lookahead_frames : int or None
        For a live run. For a finished recording the model's longest is best, and the default.
    integration_time_ms : float or None
        From the start of a frame to the moment at which a live run knows it.
    reasons : tuple of str
        Why this model; if there is none, why not.
    warnings : tuple of str
        What to look at before the results are trusted.
    advice : tuple of Advice
        What to do if no model fits.
    alternatives : tuple of Alternative
        Other models, each with a reason.
    noise_levels : NoiseSummary or None
        None if neither a recording nor noise levels were given.
    """

    model: str | None
    lookahead_frames: int | None
    integration_time_ms: float | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    noise_levels: NoiseSummary | None = None

    @property
    def offline_reasons(self) -> tuple[str, ...]:
        """The reasons that matter for a finished recording."""
        return _without_live(self.reasons)

    @property
    def offline_warnings(self) -> tuple[str, ...]:
        """The warnings that matter for a finished recording."""
        return _without_live(self.warnings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        advice = [item._asdict() for item in self.advice]
        return {**asdict(self), "advice": advice, "alternatives": [item._asdict() for item in self.alternatives]}


def _without_live(sentences: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sentence for sentence in sentences if not sentence.startswith("live,"))


def recommend(
    dff: Any = None,
    *,
    frame_rate_hz: float,
    indicator: str | None = None,
    species: Species | None = None,
    noise_levels: Any = None,
    max_delay_ms: float | None = None,
    smoothing_ms: float | None = None,
    causal: bool = False,
) -> Recommendation:
    """Recommend one of the installed models.

    Parameters
    ----------
    dff : array_like, (n_neurons, n_frames), optional
        ΔF/F as a fraction: its noise levels are measured, and it is searched for the usual mistakes. Not modified.
    frame_rate_hz : float
        Imaging frames per second.
    indicator : str, optional
        Such as ``"GCaMP8s"`` or ``"OGB-1"``; capitals, hyphens and a leading j do not matter.
    species : "mouse" or "zebrafish", optional
    noise_levels : array_like, (n_neurons,), optional
        ν, % · Hz^-½, if they are known already.
    max_delay_ms : float, optional
        Longest time from the start of a frame to its result in a live run (ms). Default: a look-ahead of 2 frames.
    smoothing_ms : float, optional
        Smoothing wanted (ms). Default: what is usual for the frame rate and the indicator.
    causal : bool
        Prefer a model whose training spikes were smoothed with a causal kernel.

    Returns
    -------
    Recommendation
        With ``model=None`` if no installed model fits.

    Raises
    ------
    InputError
        If an argument is out of range, or the values cannot be ΔF/F as a fraction.
    """
    numbers = {"frame_rate_hz": frame_rate_hz, "max_delay_ms": max_delay_ms, "smoothing_ms": smoothing_ms}
    for name, value in numbers.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}={value!r}: expected a positive number")
    if species is not None:
        check_choice("species", species, Species)
    nu, faults = _noise_levels(dff, noise_levels, float(frame_rate_hz))
    question = Question(
        rate=float(frame_rate_hz),
        indicator=None if indicator is None else parse_indicator(indicator),
        species=species,
        max_delay_ms=max_delay_ms,
        smoothing_ms=smoothing_ms,
        causal=causal,
        nu=nu,
    )
    models, problems = installed_models()
    faults += [f"a model was left out: {problem}" for problem in problems]
    at_rate = sorted((m for m in models if fits_frame_rate(m.spec.frame_rate_hz, question.rate)), key=question.order)
    for model in at_rate:
        lookahead = question.lookahead(model)
        if lookahead is not None and question.suits(model) < UNSUITABLE:
            others = [m for m in at_rate if m is not model]
            return _found(question, model, lookahead, others, faults, noise=len(faults) == len(problems))
    return _nothing(question, models, at_rate, faults)


def _noise_levels(dff: Any, known: Any, rate: float) -> tuple[NDArray[np.float64] | None, list[str]]:
    """Noise levels of the neurons, and what is odd in the recording."""
    if dff is None:
        if known is None:
            return None, []
        levels = np.atleast_1d(np.asarray(known))
        return check_noise_levels(levels, levels.shape[0]), []
    array = check_matrix(dff, "dff")
    levels = measured_noise_levels(array, frame_rate_hz=rate) if known is None else known
    nu = check_noise_levels(levels, array.shape[0])
    return nu, check_dff(array, nu, frame_rate_hz=rate)


def _found(
    question: Question,
    best: InstalledModel,
    lookahead: int,
    others: list[InstalledModel],
    faults: list[str],
    *,
    noise: bool,
) -> Recommendation:
    return Recommendation(
        model=best.name,
        lookahead_frames=lookahead,
        integration_time_ms=question.delay_ms(lookahead),
        reasons=tuple(explanations.reasons(question, best, lookahead)),
        warnings=(*faults, *explanations.warnings(question, best, others, lookahead, noise=noise)),
        alternatives=_alternatives(Alternative(m.name, explanations.why_else(question, m, best)) for m in others),
        noise_levels=_summary(question, best),
    )


def _alternatives(all_of_them: Iterable[Alternative]) -> tuple[Alternative, ...]:
    """Keep the first for each reason."""
    by_reason: dict[str, Alternative] = {}
    for item in all_of_them:
        by_reason.setdefault(item.reason, item)
    return tuple(by_reason.values())[:ALTERNATIVES]


def _summary(question: Question, best: InstalledModel | None) -> NoiseSummary | None:
    if question.nu is None:
        return None
    known = question.nu[np.isfinite(question.nu)]
    low, median, high = map(float, np.percentile(known, (5, 50, 95))) if known.size else (math.nan,) * 3
    below, above = (0, 0) if best is None else question.outside(best)
    return NoiseSummary(
        n_neurons=question.nu.size,
        n_unknown=question.nu.size - known.size,
        median=median,
        low=low,
        high=high,
        trained_range=None if best is None else best.spec.noise_range,
        n_below=below,
        n_above=above,
    )


# ------------------------------------------------------------------------------------------------------ nothing fits


def _nothing(
    question: Question, models: list[InstalledModel], at_rate: list[InstalledModel], faults: list[str]
) -> Recommendation:
    wanted = question.indicator
    suitable = sorted((m for m in models if question.suits(m) < UNSUITABLE), key=lambda m: _nearness(question, m))
    late = [m for m in suitable if m in at_rate]
    if late:
        reason, advice, others = _too_late(question, late)
    else:
        reason, advice, others = _unsuitable(question, at_rate, suitable)
    unknown = wanted is not None and not wanted.known and not any(m.training.has(wanted) for m in models)
    return Recommendation(
        model=None,
        lookahead_frames=None,
        integration_time_ms=None,
        reasons=(reason,),
        warnings=(*faults, explanations.unknown_indicator(wanted)) if wanted and unknown else tuple(faults),
        advice=tuple(advice),
        alternatives=_alternatives(others),
        noise_levels=_summary(question, None),
    )


def _nearness(question: Question, model: InstalledModel) -> tuple[Any, ...]:
    """Sort models by their frame rate's distance, then from the best to the worst."""
    return rate_distance(model.spec.frame_rate_hz, question.rate), *question.order(model)


def _too_late(question: Question, late: list[InstalledModel]) -> tuple[str, list[Advice], list[Alternative]]:
    delays = {m.name: question.delay_ms(m.spec.lookaheads[0]) for m in late}
    earliest = min(delays.values())
    reason = (
        f"no result comes within {question.max_delay_ms:g} ms of a frame's start: at {question.rate:g} Hz a frame "
        f"takes {question.delay_ms(0):.0f} ms, and the earliest result of a model that suits {earliest:.0f} ms"
    )
    advice = Advice("allow more delay, or image faster", f"--max-delay-ms {math.ceil(earliest)}")
    return reason, [advice], [Alternative(name, f"{delay:.0f} ms at the earliest") for name, delay in delays.items()]


def _unsuitable(
    question: Question, at_rate: list[InstalledModel], elsewhere: list[InstalledModel]
) -> tuple[str, list[Advice], list[Alternative]]:
    wanted, rate = question.indicator, question.rate
    if not at_rate:
        reason = f"no installed model was made for {rate:g} Hz, give or take {100 * RATE_TOLERANCE:g} %"
    elif wanted is None:
        reason = f"each model for {rate:g} Hz is made for one kind of indicator: name yours (--indicator, indicator=)"
    else:
        reason = f"no model for {rate:g} Hz was trained on {wanted.name} or on anything near it"
    by_rate: dict[float, InstalledModel] = {}
    for model in elsewhere:
        by_rate.setdefault(model.spec.frame_rate_hz, model)
    resampled = [
        Alternative(m.name, f"after resampling to {own:g} Hz; trained on {m.training.brief}")
        for own, m in list(by_rate.items())[:2]
    ]
    others = [Alternative(m.name, explanations.why_else(question, m, None)) for m in at_rate]
    return reason, _advice(question, at_rate, elsewhere), resampled + others


def _advice(question: Question, at_rate: list[InstalledModel], elsewhere: list[InstalledModel]) -> list[Advice]:
    rate, told = question.rate, []
    if elsewhere:
        command = f"cascade-rt predict RECORDING --frame-rate {rate:g} --model {elsewhere[0].name} --resample"
        told.append(Advice("resample, if the recording is finished", command))
    told += [
        Advice(f"import a published model {kind}, for finished recordings", f"cascade-rt import --download {name}")
        for published_rate, name, kind in _published(question)
        if fits_frame_rate(published_rate, rate)
    ]
    # Training starts from a conditioned model of the same frame rate only.
    start = next((f" --from {m.name}" for m in at_rate if m.spec.family == "conditioned"), "")
    told.append(Advice("train one on ground truth of your own", f"python -m training fit CONFIG.yaml{start}"))
    return told


def _published(question: Question) -> list[tuple[float, str, str]]:
    """Published models that suit the indicator, the best first: frame rate (Hz), name, what they are for."""
    fast = question.indicator is not None and question.indicator.fast
    special = [
        (hz, f"GC8_EXC_{hz:g}Hz_smoothing{ms}ms_high_noise", "trained on GCaMP8") for hz, ms in PUBLISHED_GCAMP8.items()
    ]
    general = [
        (hz, f"Global_EXC_{hz:g}Hz_smoothing{ms}ms", "trained on many indicators")
        for hz, ms in PUBLISHED_GLOBAL.items()
    ]
    return [*(special if fast else []), *general]

"""How numbers, durations and lists read in the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from cascade_rt.session import Inference, PlaneSummary

__all__ = [
    "all_levels",
    "count",
    "defined",
    "duration",
    "mean_rate",
    "number",
    "plural",
    "sentence",
    "series",
    "spread",
]


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, large ones in full: ``12,345``; a dash if it is not finite."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def count(n: int, noun: str) -> str:
    """Write a number with what is counted: ``1 neuron``, ``2,000 neurons``."""
    return f"{n:,} {plural(n, noun)}"


def plural(n: int, noun: str) -> str:
    """Noun for ``n`` of it."""
    return noun if n == 1 else f"{noun}s"


def duration(seconds: float) -> str:
    """Write a duration: ``12.5 s``, ``10 min 5 s``, ``1 h 40 min``."""
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def series(words: Iterable[str]) -> str:
    """Join words: ``a``, ``a and b``, ``a, b and c``."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def sentence(text: str) -> str:
    """Begin with a capital, if the first letter is a plain one, and end with a full stop."""
    text = text.strip()
    if text[:1].isascii():
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def all_levels(planes: Sequence[PlaneSummary]) -> NDArray[np.float64]:
    """Noise levels that are known, of all planes, % · Hz^-½."""
    known: list[NDArray[np.float64]] = [plane.noise_levels[np.isfinite(plane.noise_levels)] for plane in planes]
    return np.concatenate(known or [np.empty(0)])


def spread(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median, lowest and highest; NaN if there are none."""
    if not values.size:
        return (math.nan,) * 3
    return float(np.median(values)), float(values.min()), float(values.max())


def defined(plane: PlaneSummary) -> int:
    """Neurons that have any value."""
    return int(np.isfinite(plane.rates_hz).sum())


def mean_rate(inference: Inference) -> float:
    """Mean spike rate (Hz) over all planes, by the neurons that have values; NaN if none has."""
    weights = [defined(plane) if math.isfinite(plane.mean_rate_hz) else 0 for plane in inference.planes]
    if not sum(weights):
        return math.nan
    rates = [plane.mean_rate_hz if weight else 0.0 for plane, weight in zip(inference.planes, weights, strict=True)]
    return float(np.average(rates, weights=weights))

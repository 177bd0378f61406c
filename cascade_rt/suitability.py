"""The rules of choosing: how well a model's training data, delay, smoothing and noise levels suit what was asked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import read_card
from .catalogue import Indicator, InstalledModel, Species, rate_distance, training_data
from .chunks import LIVE_LOOKAHEAD, LONGEST_LIVE_LOOKAHEAD
from .errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Question", "delay_accuracy"]

#: Share of neurons outside of the trained noise levels from which that is worth a warning.
MANY_OUTSIDE = 0.2
#: Smoothing (frames) that is taken unless another is asked for: fast indicators resolve more.
SMOOTHING_FRAMES = {True: 0.75, False: 1.5}

#: How well training data suit an indicator, from the best to the worst.
ALONE, AMONG, OTHER_SPECIES, RELATED, GENERAL, UNSUITABLE = range(6)


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What was asked, and how a model answers it.

    Parameters
    ----------
    rate : float
        Frame rate of the recording (Hz).
    indicator : Indicator or None
    species : "mouse", "zebrafish" or None
    max_delay_ms, smoothing_ms : float or None
        Longest delay of a live run and smoothing wanted (ms); None for the usual ones.
    causal : bool
        A causal kernel is preferred.
    nu : ndarray, (n_neurons,), or None
        Noise levels, % · Hz^-½; NaN where unknown.
    """

    rate: float
    indicator: Indicator | None
    species: Species | None
    max_delay_ms: float | None
    smoothing_ms: float | None
    causal: bool
    nu: NDArray[np.float64] | None

    def suits(self, model: InstalledModel) -> int:
        """How well a model's training data suit the indicator, ALONE to UNSUITABLE."""
        data, wanted = model.training, self.indicator
        if data.cells != "excitatory" or not data.indicators:
            return UNSUITABLE
        if len(data.families) > 1:
            return AMONG if wanted is not None and data.has(wanted) else GENERAL
        if wanted is None:
            return UNSUITABLE
        if data.has(wanted):
            other = self.species is not None and data.species and self.species not in data.species
            return OTHER_SPECIES if other else ALONE
        family = data.families[0]
        # Measured on GCaMP7f, XCaMPgf and jRGECO1a: networks for GCaMP8 do better than global ones.
        return RELATED if family == wanted.family or (wanted.fast and family == "GCaMP8") else UNSUITABLE

    def delay_ms(self, lookahead: int) -> float:
        """From the start of a frame to the end of the last one that its result needs (ms)."""
        return 1000 * (lookahead + 1) / self.rate

    def lookahead(self, model: InstalledModel) -> int | None:
        """Look-ahead for a live run; None if every result would be too late."""
        offered = model.spec.lookaheads
        if self.max_delay_ms is not None:
            return max((n for n in offered if self.delay_ms(n) <= self.max_delay_ms), default=None)
        return max((n for n in offered if n <= LIVE_LOOKAHEAD), default=offered[0])

    def smoothing_distance(self, model: InstalledModel) -> float:
        """How far a model's smoothing is from the one wanted or usual, as the logarithm of their ratio."""
        fast = self.indicator is not None and self.indicator.fast
        usual = SMOOTHING_FRAMES[fast] / model.spec.frame_rate_hz
        wanted = usual if self.smoothing_ms is None else self.smoothing_ms / 1000
        return abs(math.log(max(model.spec.smoothing_s, 1e-4) / wanted))

    def outside(self, model: InstalledModel) -> tuple[int, int]:
        """Neurons with a noise level below and above what the model was trained for."""
        if self.nu is None:
            return 0, 0
        low, high = model.spec.noise_range
        return int((self.nu < low).sum()), int((self.nu > high).sum())

    @property
    def n_known(self) -> int:
        """Neurons that have a noise level."""
        return 0 if self.nu is None else int(np.isfinite(self.nu).sum())

    def order(self, model: InstalledModel) -> tuple[Any, ...]:
        """Sorts models from the best to the worst."""
        spec = model.spec
        below, above = self.outside(model)
        return (
            self.suits(model),
            spec.causal_kernel != self.causal,
            round(self.smoothing_distance(model), 2),
            above > MANY_OUTSIDE * self.n_known,
            spec.lookaheads[0] > LONGEST_LIVE_LOOKAHEAD,
            spec.family != "conditioned",
            below + above,
            round(rate_distance(spec.frame_rate_hz, self.rate), 3),
            model.name,
        )


def delay_accuracy(model: InstalledModel, wanted: Indicator, nu: NDArray[np.float64] | None) -> dict[int, float]:
    """Correlation by look-ahead that a model's card tells for an indicator; empty if it tells none.

    Parameters
    ----------
    model : InstalledModel
    wanted : Indicator
    nu : ndarray, (n_neurons,), or None
        Noise levels, % · Hz^-½; those rows of the card count that are nearest to their median, or to 2.

    Returns
    -------
    dict of int to float
        Mean over the datasets of that indicator.
    """
    try:
        rows = _correlations(read_card(model.folder).splitlines())
    except ModelError:
        return {}
    own = {key: row for key, row in rows.items() if training_data((key[0],)).has(wanted)}
    if not own:
        return {}
    known = np.empty(0) if nu is None else nu[np.isfinite(nu) & (nu > 0)]
    typical = float(np.median(known)) if known.size else 2.0
    level = min({level for _, level in own}, key=lambda level: abs(math.log(level / typical)))
    chosen = [row for (_, row_level), row in own.items() if row_level == level]
    frames = [n for n in model.spec.lookaheads if all(n in row for row in chosen)]
    return {n: float(np.mean([row[n] for row in chosen])) for n in frames}


def _correlations(card: list[str]) -> dict[tuple[str, float], dict[int, float]]:
    """Read a card's tables: from dataset and ν to the correlation for each look-ahead.

    The tables have a row for each dataset and ν. A column is a look-ahead, under a line that speaks of correlation,
    or is headed ``correlation, LOOK-AHEAD``. The model's own table comes first; later ones compare with other models.
    """
    rows: dict[tuple[str, float], dict[int, float]] = {}
    columns: dict[int, int] = {}
    for number, line in enumerate(card):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            columns = {}
        elif cells[:2] == ["dataset", "ν"]:
            about = next((text for text in reversed(card[:number]) if text.strip()), "")
            heading = r"(?:correlation, )?(\d+)" if "correlation" in about else r"correlation, (\d+)"
            found = {place: re.fullmatch(heading, cell) for place, cell in enumerate(cells)}
            columns = {place: int(match[1]) for place, match in found.items() if match is not None}
        elif columns and len(cells) > max(columns) and _is_number(cells[1]):
            values = {n: float(cells[place]) for place, n in columns.items() if _is_number(cells[place])}
            rows.setdefault((cells[0], float(cells[1])), values)
    return rows


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None

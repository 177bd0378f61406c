"""What a model's card says about its accuracy, for one indicator."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_rt.bundle import find_bundle, read_card
from cascade_rt.catalogue import Indicator, InstalledModel, parse_indicator, training_data
from cascade_rt.errors import InputError, ModelError
from cascade_rt.suitability import delay_accuracy

from .wording import all_levels

if TYPE_CHECKING:
    from cascade_rt.session import Inference

__all__ = ["Accuracy", "Row", "expected_accuracy"]

#: Measures shown, as the cards name their columns.
_WANTED = ("correlation", "error", "bias", "timing error (ms)", "detected (%)")


class Row(NamedTuple):
    """A dataset at one noise level.

    Parameters
    ----------
    dataset : str
    level : float
        ν, % · Hz^-½.
    neurons : str
    values : dict of str to str
        As the card has them, by measure.
    """

    dataset: str
    level: float
    neurons: str
    values: dict[str, str]


class Accuracy(NamedTuple):
    """What to expect.

    Parameters
    ----------
    indicator : Indicator
    correlation : float
        For the look-ahead used, mean of the medians of the datasets of that indicator.
    about : str
        Heading of the card's section, which says how it was measured.
    rows : tuple of Row
        The datasets; empty if the card has none for that look-ahead.
    """

    indicator: Indicator
    correlation: float
    about: str
    rows: tuple[Row, ...]


def expected_accuracy(inference: Inference) -> Accuracy | None:
    """Accuracy by the model's card; None if no indicator is known, or the card tells nothing about it.

    Parameters
    ----------
    inference : Inference
    """
    named = inference.indicator
    if not named:
        return None
    spec = inference.spec
    try:
        indicator = parse_indicator(named)
        folder = find_bundle(inference.options.model or spec.name)
        card = read_card(folder)
    except (ModelError, InputError):
        return None
    model = InstalledModel(name=spec.name, folder=folder, spec=spec, training=training_data(spec.training_datasets))
    # Levels are compared by their logarithm, and may be 0.
    levels = np.maximum(all_levels(inference.planes), 1e-3)
    correlations = delay_accuracy(model, indicator, levels)
    if inference.lookahead_frames not in correlations:
        return None
    about, rows = _rows(card.splitlines(), inference.lookahead_frames)
    own = [row for row in rows if training_data((row.dataset,)).has(indicator)]
    typical = float(np.median(levels)) if levels.size else 2.0
    nearest = min({row.level for row in own}, key=lambda level: abs(math.log(level / typical)), default=None)
    chosen = tuple(row for row in own if row.level == nearest)
    return Accuracy(indicator, correlations[inference.lookahead_frames], about, chosen)


def _rows(card: list[str], lookahead: int) -> tuple[str, list[Row]]:
    """Rows of the first table of datasets that has measures for a look-ahead, and the heading above it."""
    heading = ""
    columns: dict[str, int] = {}
    rows: list[Row] = []
    for line in card:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("#"):
            if rows:
                break
            heading = line.lstrip("# ").strip()
        elif not line.startswith("|"):
            columns = {}
        elif cells[:2] == ["dataset", "ν"]:
            places = {cell: place for place, cell in enumerate(cells)}
            named = {name: places.get(f"{name}, {lookahead}") for name in _WANTED}
            columns = {name: place for name, place in named.items() if place is not None}
        elif columns and len(cells) > max(columns.values()) and re.fullmatch(r"\d+(\.\d+)?", cells[1]):
            values = {name: cells[place] for name, place in columns.items()}
            rows.append(Row(cells[0], float(cells[1]), cells[2], values))
    return heading, rows

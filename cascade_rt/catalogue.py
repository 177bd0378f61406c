"""What models are installed, for which frame rate, and what each was trained on: read from their descriptions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .bundle import find_bundle, list_models, read_spec
from .chunks import RATE_TOLERANCE
from .errors import InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .chunks import ModelSpec

__all__ = [
    "Indicator",
    "InstalledModel",
    "Species",
    "TrainingData",
    "fits_frame_rate",
    "installed_models",
    "parse_indicator",
    "rate_distance",
    "training_data",
]

Species = Literal["mouse", "zebrafish"]

DYES = "synthetic dyes"

#: Pattern in lower-case letters and digits, family, fast, spelling. The family of a GCaMP is its generation; from the
#: seventh on they are fast.
_INDICATORS = (
    (r"(?:gcamp|^gc)([2-9])([a-z]?)", "GCaMP{0}", None, "GCaMP{0}{1}"),
    (r"xcamp([a-z]{0,2})", "XCaMP", True, "XCaMP{0}"),
    (r"(?:jr?|r|^)geco1?([ab]?)", "R-GECO", True, "jRGECO1{0}"),
    (r"jrcamp1?([ab]?)", "R-CaMP", False, "jRCaMP1{0}"),
    (r"rcamp", "R-CaMP", False, "R-CaMP"),
    (r"ogb|oregongreen", DYES, False, "OGB-1"),
    (r"cal(\d{3})", DYES, False, "Cal-{0}"),
    (r"fluo([2-8])", DYES, False, "Fluo-{0}"),
    (r"rhod2", DYES, False, "Rhod-2"),
)
_SPECIES: dict[str, Species] = {"m": "mouse", "mouse": "mouse", "zf": "zebrafish", "zebrafish": "zebrafish"}


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """A calcium indicator.

    Parameters
    ----------
    name : str
        In its usual spelling, such as ``GCaMP8s``; as given, if it is not a known one.
    family : str
        Such as ``GCaMP8``; the name, if the indicator is not a known one.
    fast : bool
        Rises within a few milliseconds, as GCaMP8 does, or is of a generation that was made to.
    known : bool
        Its name was recognised.
    """

    name: str
    family: str
    fast: bool = False
    known: bool = True

    @property
    def whole_family(self) -> bool:
        """Only the family was named, such as ``GCaMP8``."""
        return self.name == self.family


def parse_indicator(text: str) -> Indicator:
    """Recognise an indicator, however it is spelt: ``jGCaMP8s``, ``gcamp8s``, ``GC8s``; ``OGB1``, ``OGB-1``.

    Parameters
    ----------
    text : str

    Returns
    -------
    Indicator

    Raises
    ------
    InputError
        If there is no letter in ``text``.
    """
    plain = _plain(text)
    if not re.search("[a-z]", plain):
        raise InputError(f"indicator={text!r}: expected a name such as GCaMP8s, GCaMP6f, jRGECO1a, OGB-1, Cal-520")
    for pattern, family, fast, spelling in _INDICATORS:
        found = re.search(pattern, plain)
        if found is not None:
            groups = found.groups()
            return Indicator(
                name=spelling.format(*groups),
                family=family.format(*groups),
                fast=int(groups[0]) >= 7 if fast is None else fast,
            )
    name = text.strip()
    return Indicator(name=name, family=name, known=False)


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


# ------------------------------------------------------------------------------------------------- training data


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a model was trained on, as far as the names of its datasets tell.

    Parameters
    ----------
    indicators : tuple of Indicator
        Each once; empty if the model does not state its datasets.
    species : frozenset of str
        ``mouse``, ``zebrafish``; empty if not told.
    cells : str
        ``excitatory``, ``interneurons`` or ``spinal cord``.
    """

    indicators: tuple[Indicator, ...]
    species: frozenset[Species]
    cells: str

    @property
    def families(self) -> tuple[str, ...]:
        """Families of the indicators, each once."""
        return tuple(dict.fromkeys(indicator.family for indicator in self.indicators))

    def has(self, wanted: Indicator) -> bool:
        """Whether this indicator (or, if only a family was named, one of that family) was trained on."""
        if wanted.whole_family and wanted.known:
            return wanted.family in self.families
        return _plain(wanted.name) in {_plain(indicator.name) for indicator in self.indicators}

    @property
    def brief(self) -> str:
        """In a few words: ``GCaMP8f/m/s``; ``GCaMP5/6, R-CaMP, dyes``; ``OGB-1, Cal-520, zebrafish``."""
        if not self.indicators:
            return "not stated"
        names = [indicator.name for indicator in self.indicators]
        if len(self.families) > 1:
            names = ["dyes" if family == DYES else family for family in self.families]
        words = _merged(names)
        if self.species == {"zebrafish"}:
            words.append("zebrafish")
        if self.cells != "excitatory":
            words.append(self.cells)
        return ", ".join(words)


def training_data(datasets: Iterable[str]) -> TrainingData:
    """Read the names of datasets, such as ``DS30-GCaMP8f-m-V1``: number, indicator, species, place.

    Parameters
    ----------
    datasets : iterable of str
        :attr:`ModelSpec.training_datasets`.
    """
    indicators: dict[str, Indicator] = {}
    species: set[Species] = set()
    cells = {"excitatory": 0, "interneurons": 0, "spinal cord": 0}
    for dataset in datasets:
        parts = [part for part in dataset.split("-") if part and not re.fullmatch(r"X|DS\d+", part)]
        place = next((n for n, part in enumerate(parts) if part in _SPECIES), None)
        if place is not None:
            species.add(_SPECIES[parts[place]])
        named = "-".join(parts[:place]) if place else dataset
        if re.search("[a-z]", _plain(named)) and "interneuron" not in named.lower():
            indicator = parse_indicator(named)
            indicators.setdefault(_plain(indicator.name), indicator)
        cells[_cells(dataset)] += 1
    return TrainingData(
        indicators=tuple(indicators.values()),
        species=frozenset(species),
        cells=max(cells, key=lambda kind: cells[kind]),
    )


def _cells(dataset: str) -> str:
    if "spinal" in dataset.lower():
        return "spinal cord"
    inhibitory = re.search(r"-(PV|SST|VIP)(-|$)|interneuron|inhibitory", dataset, re.IGNORECASE)
    return "interneurons" if inhibitory else "excitatory"


def _merged(names: list[str]) -> list[str]:
    """Merge names that differ in their last letter alone: GCaMP8f, GCaMP8m → GCaMP8f/m; dyes come last."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (name == "dyes", not name.startswith("GCaMP"))):
        stem, last = (name[:-1], name[-1]) if name.startswith("GCaMP") else (name, "")
        groups.setdefault(stem, []).append(last)
    return [stem + "/".join(sorted(set(lasts))) for stem, lasts in groups.items()]


# ------------------------------------------------------------------------------------------------ installed models


@dataclass(frozen=True, kw_only=True)
class InstalledModel:
    """A model that :func:`cascade_rt.load_model` finds under ``name``."""

    name: str
    folder: Path
    spec: ModelSpec
    training: TrainingData


def installed_models() -> tuple[list[InstalledModel], list[str]]:
    """Models that came with the package or were installed by the user, and what is wrong with damaged ones.

    Returns
    -------
    models : list of InstalledModel
        By name.
    problems : list of str
        A sentence for each model whose description cannot be read.
    """
    models, problems = [], []
    for name in list_models():
        try:
            folder = find_bundle(name)
            spec = read_spec(folder)
        except ModelError as error:
            problems.append(str(error))
            continue
        data = training_data(spec.training_datasets)
        models.append(InstalledModel(name=name, folder=folder, spec=spec, training=data))
    return models, problems


def fits_frame_rate(model_rate_hz: float, frame_rate_hz: float) -> bool:
    """Whether a model made for one frame rate (Hz) may be used at another: they differ by at most 5 %."""
    return abs(frame_rate_hz - model_rate_hz) <= RATE_TOLERANCE * model_rate_hz


def rate_distance(model_rate_hz: float, frame_rate_hz: float) -> float:
    """How far a model's frame rate (Hz) is from another: the logarithm of their ratio."""
    return abs(math.log(model_rate_hz / frame_rate_hz))

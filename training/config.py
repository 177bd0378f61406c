"""The configuration of one training run, read from YAML and checked once."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cascade_rt.errors import TrainingError

from .architecture import ConditionedShape

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FitOptions", "TrainingConfig", "load_config"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to train.

    Parameters
    ----------
    target_frames : int
        Frames to learn from in all, counted with repetition.
    segment_frames, batch : int
        Frames of a segment; segments of a step.
    learning_rate : float
        Reached after ``warmup_steps``, then falling to 0 as a cosine.
    clip_norm : float
        Largest norm of the gradient of all weights together.
    average_share, average_momentum : float
        The weights kept are a running average over the blocks of this last share of the training.
    balance : float
        See :class:`training.segments.SegmentSource`.
    amplitude_sd : float
        Likewise.
    phases : int
        Each recording that is brought to a lower frame rate is used with this many starts of the frame grid.
    stretches : tuple of float
        Factors on the time axis: with 1.25, recordings are also used as if the indicator were 1.25 times slower.
    methods : tuple of str
        Ways of resampling (:func:`training.ground_truth.resample`) to learn from.
    seed : int
    block_steps : int
        Steps whose data are drawn at once.
    checkpoint_blocks : int
        A checkpoint is written after so many blocks.
    jit : bool
        Compile the training step.
    """

    target_frames: int = 40_000_000
    segment_frames: int = 191
    batch: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    clip_norm: float = 1.0
    average_share: float = 0.2
    average_momentum: float = 0.95
    balance: float = 0.5
    amplitude_sd: float = 0.0
    phases: int = 4
    stretches: tuple[float, ...] = (1.0,)
    methods: tuple[str, ...] = ("average", "fourier")
    seed: int = 0
    block_steps: int = 100
    checkpoint_blocks: int = 20
    jit: bool = True

    def __post_init__(self) -> None:
        positive = ("target_frames", "segment_frames", "batch", "learning_rate", "clip_norm", "phases")
        bad = [n for n in (*positive, "block_steps", "checkpoint_blocks") if not getattr(self, n) > 0]
        if bad:
            raise TrainingError(f"{', '.join(bad)}: expected positive numbers")
        if not (0 <= self.average_share <= 1 and 0 <= self.average_momentum < 1):
            raise TrainingError("average_share: expected 0 to 1; average_momentum: expected 0 to below 1")
        if not self.stretches or not all(0.25 <= s <= 4 for s in self.stretches):
            raise TrainingError(f"stretches {list(self.stretches)}: expected factors from 0.25 to 4")
        unknown = set(self.methods) - {"average", "fourier"}
        if unknown or not self.methods:
            raise TrainingError(f"methods {list(self.methods)}: expected 'average', 'fourier' or both")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A model to train.

    Parameters
    ----------
    name : str
    frame_rate_hz, smoothing_s : float
    causal_kernel : bool
    datasets : tuple of str
        Names or numbers ("DS30") of the ground-truth datasets.
    test_datasets : tuple of str
        Scored after training; none of them in ``datasets``.
    folds : int
        0, or the folds of a cross-validation over the neurons of ``datasets``.
    reference : str
        Published CASCADE folder to score beside it, or "".
    network : ConditionedShape
    fit : FitOptions
    notes : str
        Caveats for the card.
    """

    name: str
    frame_rate_hz: float
    smoothing_s: float
    datasets: tuple[str, ...]
    causal_kernel: bool = False
    test_datasets: tuple[str, ...] = ()
    folds: int = 0
    reference: str = ""
    network: ConditionedShape = field(default_factory=ConditionedShape)
    fit: FitOptions = field(default_factory=FitOptions)
    notes: str = ""

    def __post_init__(self) -> None:
        for name in ("frame_rate_hz", "smoothing_s"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} is {value!r}: expected a positive number")
        if not self.datasets:
            raise TrainingError("datasets: expected at least one")
        both = set(self.datasets) & set(self.test_datasets)
        if both:
            raise TrainingError(
                f"{', '.join(sorted(both))}: in datasets and in test_datasets; a model is not tested "
                "on what it was trained on"
            )
        if self.folds == 1 or self.folds < 0:
            raise TrainingError(f"folds is {self.folds}: expected 0 (none) or at least 2")

    def digest(self) -> str:
        """Hash of everything that decides the weights."""
        values = asdict(self)
        for name in ("name", "test_datasets", "folds", "reference", "notes"):
            del values[name]
        del values["fit"]["checkpoint_blocks"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def n_steps(self) -> int:
        """Training steps, a whole number of blocks."""
        per_step = self.fit.batch * (self.fit.segment_frames - self.network.receptive_field + 1)
        blocks = max(round(self.fit.target_frames / (per_step * self.fit.block_steps)), 1)
        return blocks * self.fit.block_steps


def load_config(path: str | Path) -> TrainingConfig:
    """Read a training configuration.

    Raises
    ------
    TrainingError
        The file is not readable, or has an unknown or unusable entry; names file and entry.
    """
    import yaml

    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path}: not readable as YAML ({error})") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: expected a mapping with name, frame_rate_hz, smoothing_s, datasets, …")
    try:
        values["network"] = _build(ConditionedShape, values.get("network") or {})
        values["fit"] = _build(FitOptions, values.get("fit") or {})
        return _build(TrainingConfig, values)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error


def _build(cls: type[T], values: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = set(values) - known
    if unknown:
        raise TrainingError(
            f"unknown entry {', '.join(sorted(map(str, unknown)))}; known are {', '.join(sorted(known))}"
        )
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise TrainingError(str(error)) from error

"""The configuration of one training run, read from YAML and checked once."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cascade_rt.errors import CascadeError, TrainingError

from .architecture import ConditionedShape
from .cascade_config import CASCADE_KEYS, translate, what_is_used_instead

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["FitOptions", "TrainingConfig", "load_config"]

logger = logging.getLogger(__name__)

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
    validation_share : float
        Part of the neurons that are held out to stop early by; 0 for none. With it, weights are averaged from the
        start, and those are kept that do best on the held-out neurons.
    validation_blocks, patience : int
        The held-out neurons are scored after every so many blocks; training stops when so many scores in a row did
        not improve.
    balance : float
        See :class:`training.segments.SegmentSource`.
    amplitude_sd, activity_balance : float
        Likewise.
    absolute_error : float
        Weight of the absolute error besides the square error (:func:`training.fit.loss_function`).
    phases : int
        Each recording that is brought to a lower frame rate is used with this many starts of the frame grid.
    stretches : tuple of float
        Factors on the time axis: with 1.25, recordings are also used as if the indicator were 1.25 times slower.
    quicken_s : tuple of float
        Recordings are also used with a rise that is faster by these time constants
        (:func:`training.augment.quickened`).
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
    segment_frames: int = 447
    batch: int = 4
    learning_rate: float = 2e-3
    warmup_steps: int = 500
    clip_norm: float = 1.0
    average_share: float = 0.3
    average_momentum: float = 0.95
    validation_share: float = 0.0
    validation_blocks: int = 20
    patience: int = 5
    balance: float = 0.5
    amplitude_sd: float = 0.0
    activity_balance: float = 0.25
    absolute_error: float = 0.03
    phases: int = 4
    stretches: tuple[float, ...] = (1.0,)
    quicken_s: tuple[float, ...] = ()
    methods: tuple[str, ...] = ("average", "fourier")
    seed: int = 0
    block_steps: int = 100
    checkpoint_blocks: int = 20
    jit: bool = True

    def __post_init__(self) -> None:
        _check_types(self)
        positive = ("target_frames", "segment_frames", "batch", "learning_rate", "clip_norm", "phases", "patience")
        bad = [
            n for n in (*positive, "block_steps", "checkpoint_blocks", "validation_blocks") if not getattr(self, n) > 0
        ]
        if bad:
            raise TrainingError(f"{', '.join(bad)}: expected positive numbers")
        if not (0 <= self.average_share <= 1 and 0 <= self.average_momentum < 1):
            raise TrainingError("average_share: expected 0 to 1; average_momentum: expected 0 to below 1")
        if not 0 <= self.validation_share < 1:
            raise TrainingError(f"validation_share is {self.validation_share:g}: expected 0 to below 1")
        if not self.stretches or not all(0.25 <= s <= 4 for s in self.stretches):
            raise TrainingError(f"stretches {list(self.stretches)}: expected factors from 0.25 to 4")
        if not all(0 < q <= 1 for q in self.quicken_s):
            raise TrainingError(f"quicken_s {list(self.quicken_s)}: expected times above 0 and at most 1 s")
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
    from_model : str
        Name or path of the bundle whose weights training starts from, or "" (:mod:`training.transfer`).
    lags_s : mapping
        By how much (s) the fluorescence of a dataset is late, beyond its indicator's own delay: dataset → time taken
        off its frame times before training. What a model is scored on stays as it is.
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
    from_model: str = ""
    lags_s: dict[str, float] = field(default_factory=dict)
    network: ConditionedShape = field(default_factory=ConditionedShape)
    fit: FitOptions = field(default_factory=FitOptions)
    notes: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        if not isinstance(self.name, str) or not self.name or Path(self.name).name != self.name:
            raise TrainingError(f"name is {self.name!r}: expected a name that a folder can have")
        for name in ("frame_rate_hz", "smoothing_s"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} is {value!r}: expected a positive number")
        if not self.datasets or not all(isinstance(d, str) for d in self.datasets):
            raise TrainingError(f"datasets is {list(self.datasets)}: expected names of datasets, at least one")
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
        for part, name in ((values, "lags_s"), (values["fit"], "quicken_s")):
            if not part[name]:  # they came later: what was trained without them keeps its hash
                del part[name]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def block_frames(self) -> int:
        """Target frames of a block of steps."""
        return self.fit.block_steps * self.fit.batch * (self.fit.segment_frames - self.network.receptive_field + 1)

    @property
    def n_steps(self) -> int:
        """Training steps, a whole number of blocks."""
        return max(round(self.fit.target_frames / self.block_frames), 1) * self.fit.block_steps


def load_config(
    path: str | Path, *, from_model: str | None = None, ground_truth: str | Path | None = None
) -> TrainingConfig:
    """Read a training configuration, or a CASCADE ``config.yaml`` (:mod:`training.cascade_config`).

    Parameters
    ----------
    path : str or Path
        YAML file.
    from_model : str, optional
        Model whose weights training starts from; overrides the entry ``from_model``.
    ground_truth : path, optional
        Folder of the datasets; needed where ``datasets`` is "all", which stands for all those in it that are not
        in ``test_datasets``.

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
        config = _config(translate(values), from_model, ground_truth)
    except CascadeError as error:
        raise TrainingError(f"{path}: {error}") from error
    lines = what_is_used_instead(values, config)
    if lines:
        logger.warning("%s: settings of CASCADE that are other here:\n  %s", path, "\n  ".join(lines))
    return config


def _config(values: dict[str, Any], from_model: str | None, ground_truth: str | Path | None) -> TrainingConfig:
    """Build the configuration from entries under our names."""
    if from_model:
        values["from_model"] = from_model
    _check_known(TrainingConfig, values, also=CASCADE_KEYS)
    if isinstance(values.get("datasets"), str):
        values["datasets"] = _datasets(values["datasets"], values.get("test_datasets") or (), ground_truth)
    if values.get("from_model"):
        from .transfer import with_start

        values = with_start(values)
    values["network"] = _build(ConditionedShape, values.get("network") or {})
    values["fit"] = _build(FitOptions, values.get("fit") or {})
    return _build(TrainingConfig, values)


def _datasets(name: str, test_datasets: Collection[str], ground_truth: str | Path | None) -> list[str]:
    """One dataset, or "all"."""
    if name != "all":
        return [name]
    if ground_truth is None:
        raise TrainingError("datasets is 'all': expected names, because no folder of ground truth was given")
    from .ground_truth import dataset_folders, find_dataset

    tested = {find_dataset(ground_truth, test).name for test in test_datasets}
    return [found for found in dataset_folders(ground_truth) if found not in tested]


def _check_known(cls: type[Any], values: Mapping[str, Any], also: Collection[str] = ()) -> None:
    known = {f.name for f in fields(cls)}
    for name in sorted(map(str, set(values) - known)):
        near = difflib.get_close_matches(name, known | set(also), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise TrainingError(f"unknown entry {name}; {hint}known are {', '.join(sorted(known))}")


def _build(cls: type[T], values: Any) -> T:
    if not isinstance(values, dict):
        raise TrainingError(f"found {values!r}: expected entries such as {', '.join(f.name for f in fields(cls))}")  # type: ignore[arg-type]
    _check_known(cls, values)
    missing = [
        f.name
        for f in fields(cls)  # type: ignore[arg-type]
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values
    ]
    if missing:
        raise TrainingError(f"lacks {', '.join(missing)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _check_types(options: Any) -> None:
    """Refuse values of another type than the default's; a whole number may stand for any number."""
    for entry in fields(options):
        value, default = getattr(options, entry.name), entry.default
        if default is MISSING:
            continue
        wanted = (int, float) if type(default) is float else (type(default),)
        if not isinstance(value, wanted) or (isinstance(value, bool) and type(default) is not bool):
            raise TrainingError(f"{entry.name} is {value!r}: expected something like {_yaml_like(default)}")


def _yaml_like(value: Any) -> str:
    """Write a default as it would stand in the file."""
    import yaml

    shown = list(value) if isinstance(value, tuple) else value or "text" if isinstance(value, str) else value
    return str(yaml.safe_dump(shown, default_flow_style=True)).split("\n")[0]

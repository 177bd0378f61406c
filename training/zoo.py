"""The models of the zoo: their configurations, the parts of their training, and what of it is done."""

from __future__ import annotations

import csv
import fnmatch
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.bundle import CONFIG, MANIFEST, read_spec
from cascade_rt.errors import BundleError, TrainingError

from .checkpoint import CHECKPOINT
from .config import load_config
from .export import weights_sha256
from .fit import TABLE, read_record
from .run import ALL, SCORES, Run
from .tables import read_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .config import TrainingConfig

__all__ = ["STUDIES", "Entry", "Places", "read_zoo"]

#: Subfolder of configurations that are trained and scored, but not exported.
STUDIES = "studies"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders that the making of the zoo reads and writes.

    Parameters
    ----------
    ground_truth : Path
        Datasets.
    published : Path
        Published CASCADE models, for comparison.
    runs : Path
        Checkpoints, logs and scores.
    target : Path
        Bundles.
    """

    ground_truth: Path
    published: Path
    runs: Path
    target: Path


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the zoo.

    Parameters
    ----------
    config : TrainingConfig
    path : Path
        File of the configuration.
    places : Places
    """

    config: TrainingConfig
    path: Path
    places: Places

    @property
    def name(self) -> str:
        """Of the model."""
        return self.config.name

    @property
    def exports(self) -> bool:
        """A bundle is made of it; otherwise it is a study."""
        return self.path.parent.name != STUDIES

    @property
    def folder(self) -> Path:
        """Of its checkpoints, logs and scores."""
        return self.places.runs / self.name

    @property
    def parts(self) -> tuple[str, ...]:
        """Fits: on all neurons, where that is exported or scored, and on those of each fold."""
        folds = tuple(f"fold{number}" for number in range(self.config.folds))
        return (ALL, *folds) if self.exports or self.config.test_datasets or not folds else folds

    @property
    def fit_frames(self) -> int:
        """Frames that pass through the network in one fit: what its duration is in proportion to."""
        return self.config.n_steps * self.config.fit.batch * self.config.fit.segment_frames

    @cached_property
    def run(self) -> Run:
        """What trains, scores and exports it."""
        places = self.places
        return Run(self.config, ground_truth=places.ground_truth, folder=self.folder, published=places.published)

    def left_out(self, part: str) -> set[tuple[str, str]]:
        """Neurons, (dataset, neuron), that a part does not learn from."""
        return set() if part == ALL else self.run.folds()[int(part.removeprefix("fold"))]

    def fraction(self, part: str) -> float:
        """How much of a fit is done, 0 to 1; 1 only if it finished with this very configuration."""
        folder = self.folder / part
        try:
            if read_record(folder)["configuration_sha256"] == self.config.digest() == self._checkpoint_of(folder):
                return 1.0
            return 0.0
        except (TrainingError, KeyError):
            return min(_last_step(folder / TABLE) / self.config.n_steps, 0.99)

    @property
    def fitted(self) -> bool:
        """All its fits have finished."""
        return all(self.fraction(part) == 1.0 for part in self.parts)

    @property
    def scored(self) -> bool:
        """There are scores of this configuration that are not older than the fits."""
        path = self.folder / SCORES
        records = [self.folder / part / CHECKPOINT for part in self.parts]
        try:
            scored_s = path.stat().st_mtime
            if any(record.stat().st_mtime > scored_s for record in records):
                return False
            return bool(read_document(path).get("digest") == self.config.digest())
        except (OSError, TrainingError):
            return False

    @property
    def exported(self) -> bool:
        """There is a bundle of this configuration and these weights that is not older than the scores."""
        bundle = self.places.target / self.name
        try:
            if (bundle / MANIFEST).stat().st_mtime < (self.folder / SCORES).stat().st_mtime:
                return False
            return (
                read_spec(bundle).source_sha256 == _kept_sha256(self.folder / ALL / CHECKPOINT)
                and _configuration_sha256(bundle) == self.config.digest()
            )
        except (OSError, BundleError, TrainingError):
            return False

    @property
    def finished(self) -> bool:
        """Nothing is left to be done."""
        return self.fitted and self.scored and (self.exported or not self.exports)

    def finish(self) -> list[str]:
        """Score and export, as far as that is not done.

        Returns
        -------
        list of str
            What was done, in words.

        Raises
        ------
        TrainingError
            A fit belongs to other data, or the bundle does not give what Keras gives.
        """
        done = []
        if not self.scored:
            self.run.evaluate()
            done.append("scored")
        if self.exports and not self.exported:
            bundle, difference = self.run.export(self.places.target / self.name, overwrite=True)
            done.append(f"exported to {bundle}, largest difference to Keras {difference:.2g}")
        return done

    def _checkpoint_of(self, folder: Path) -> str:
        """Digest of the configuration that the checkpoint in this folder is of."""
        return str(_arrays(folder / CHECKPOINT, "run")["run"])[: len(self.config.digest())]


def read_zoo(folder: Path, places: Places, only: Sequence[str] = ()) -> list[Entry]:
    """Read the configurations of a folder, and of its subfolder ``studies``.

    Parameters
    ----------
    folder : Path
    places : Places
    only : sequence of str
        Names, in which ``*`` stands for any text; all if empty.

    Returns
    -------
    list of Entry
        Models first, then studies, by name.

    Raises
    ------
    TrainingError
        A configuration is not usable, two have one name, or one of the names is of none.
    """
    paths = [*sorted(folder.glob("*.yaml")), *sorted((folder / STUDIES).glob("*.yaml"))]
    entries = [read_entry(path, places) for path in paths]
    if not entries:
        raise TrainingError(f"{folder}: found no configuration (*.yaml)")
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TrainingError(f"{folder}: more than one configuration has the name {', '.join(twice)}")
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise TrainingError(f"no model {pattern!r} in the zoo: it has {', '.join(names)}")
    return [e for e in entries if not only or any(fnmatch.fnmatchcase(e.name, pattern) for pattern in only)]


def read_entry(path: Path, places: Places) -> Entry:
    """Read one configuration of the zoo."""
    return Entry(config=load_config(path, ground_truth=places.ground_truth), path=path, places=places)


# ── what is in files ──


def _arrays(checkpoint: Path, *prefixes: str) -> dict[str, NDArray[Any]]:
    """Arrays of a checkpoint whose names begin so, in their order; the others are not read."""
    try:
        with np.load(checkpoint, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files if name.startswith(prefixes)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{checkpoint}: checkpoint not readable ({error}); delete it to start again") from error


def _kept_sha256(checkpoint: Path) -> str:
    """Hash of the weights that a finished fit gives, read without Keras."""
    arrays = _arrays(checkpoint, "best_", "average_", "weight_")
    for kind in ("best_", "average_", "weight_"):
        weights = [value for name, value in arrays.items() if name.startswith(kind)]
        if weights:
            return weights_sha256([_Kept(weights)])
    raise TrainingError(f"{checkpoint}: holds no weights; delete it to start again")


@dataclass(frozen=True, eq=False)
class _Kept:
    """Stands for a Keras model where only its weights are asked for."""

    weights: list[NDArray[np.float32]]

    def get_weights(self) -> list[NDArray[np.float32]]:
        return self.weights


def _configuration_sha256(bundle: Path) -> str:
    """Digest of the configuration that a bundle was made of."""
    import yaml

    try:
        values = yaml.safe_load((bundle / CONFIG).read_text(encoding="utf-8"))
        return str(values["cascade_rt"]["configuration_sha256"])
    except (UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise TrainingError(f"{bundle / CONFIG}: names no configuration ({error})") from error


def _last_step(table: Path) -> int:
    """Training steps that a loss curve has; 0 if there is none."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except (OSError, ValueError, KeyError):
        return 0

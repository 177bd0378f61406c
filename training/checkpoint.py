"""What a fit must remember to go on after a kill, and files that are whole or not there at all."""

from __future__ import annotations

import os
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import TrainingError

from .loss_curve import LossCurve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    Weights = list[NDArray[np.float32]]

__all__ = ["CHECKPOINT", "Checkpoint", "FitState", "replaced"]

CHECKPOINT = "checkpoint.npz"


@dataclass(kw_only=True)
class FitState:
    """Where a fit is, besides the weights of the network and what its optimizer remembers.

    Parameters
    ----------
    step : int
        Training steps done.
    average : list of ndarray or None
        Running average of the weights; None before it begins.
    best : list of ndarray or None
        The averaged weights that did best on the held-out neurons.
    curve : LossCurve
    backend : str
        Keras backend that did the steps; "" for none yet.
    """

    step: int = 0
    average: Weights | None = None
    best: Weights | None = None
    curve: LossCurve = field(default_factory=LossCurve)
    backend: str = ""


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Checkpoint:
    """The checkpoint of one run.

    Parameters
    ----------
    path : Path
    run : str
        Hash of all that decides the weights; a checkpoint of another run is refused.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run

    def save(self, model: Any, state: FitState) -> None:
        """Write the network, its optimizer and the state of the fit."""
        from keras import ops

        arrays = {f"weight_{i}": w for i, w in enumerate(model.get_weights())}
        arrays |= {f"optimizer_{i}": ops.convert_to_numpy(v) for i, v in enumerate(model.optimizer.variables)}
        arrays |= {f"average_{i}": w for i, w in enumerate(state.average or [])}
        arrays |= {f"best_{i}": w for i, w in enumerate(state.best or [])}
        arrays |= state.curve.to_arrays()
        arrays |= {"run": np.array(self.run), "step": np.array(state.step), "backend": np.array(state.backend)}
        with replaced(self.path) as file:
            np.savez(file, **arrays)

    def restore(self, model: Any) -> FitState:
        """Load the checkpoint into the network and its optimizer; a fresh state if there is none.

        Raises
        ------
        TrainingError
            It is not readable, or of another run.
        """
        if not self.path.exists():
            return FitState()
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            run = str(arrays["run"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingError(f"{self.path}: checkpoint not readable ({error}); delete it to start again") from error
        if run != self.run:
            raise TrainingError(
                f"{self.path} belongs to another configuration or other data; use another folder, "
                "or delete it to start again"
            )
        weights = _numbered(arrays, "weight")
        if weights is not None:
            model.set_weights(weights)
        for variable, value in zip(model.optimizer.variables, _numbered(arrays, "optimizer") or [], strict=True):
            variable.assign(value)
        return FitState(
            step=int(arrays["step"]),
            average=_numbered(arrays, "average"),
            best=_numbered(arrays, "best"),
            curve=LossCurve.from_arrays(arrays),
            backend=str(arrays["backend"]),
        )


def _numbered(arrays: dict[str, Any], name: str) -> Weights | None:
    """Arrays ``name_0``, ``name_1``, … in order; None if there is none."""
    found: Weights = []
    while f"{name}_{len(found)}" in arrays:
        found.append(arrays[f"{name}_{len(found)}"])
    return found or None

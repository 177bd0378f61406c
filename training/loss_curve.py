"""The loss in the course of a fit: kept in the checkpoint, written as a table, drawn as a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["LossCurve"]


@dataclass(kw_only=True)
class LossCurve:
    """Losses by block of training steps.

    Parameters
    ----------
    training : list of float
        Mean loss of each block, on fresh segments of the neurons that are learnt from.
    validation : list of (int, float)
        Blocks done, and the loss of the averaged weights on the held-out neurons.
    """

    training: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)

    @property
    def best(self) -> tuple[int, float] | None:
        """Blocks done at the first of the lowest validation losses, and that loss; None without validation."""
        return min(self.validation, key=lambda point: point[1], default=None)

    @property
    def without_improvement(self) -> int:
        """Validations since the best one."""
        best = self.best
        return sum(blocks > best[0] for blocks, _ in self.validation) if best else 0

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the curve as arrays, to be kept."""
        return {
            "curve_training": np.array(self.training, np.float64),
            "curve_validation": np.array(self.validation, np.float64).reshape(-1, 2),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> LossCurve:
        """Inverse of :meth:`to_arrays`."""
        return cls(
            training=[float(x) for x in arrays["curve_training"]],
            validation=[(int(blocks), float(loss)) for blocks, loss in arrays["curve_validation"]],
        )

    def write_csv(self, file: BinaryIO, *, block_steps: int, block_frames: int) -> None:
        """Write one row for each block: step, frames, training_loss, validation_loss (empty where not measured)."""
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = csv.writer(text)
        table.writerow(["step", "frames", "training_loss", "validation_loss"])
        measured = dict(self.validation)
        for blocks, loss in enumerate(self.training, start=1):
            table.writerow([blocks * block_steps, blocks * block_frames, f"{loss:.7g}", _cell(measured.get(blocks))])
        text.detach()

    def draw(self, file: BinaryIO, *, title: str, block_frames: int) -> None:
        """Draw the curve as PNG.

        Parameters
        ----------
        file : binary file
        title : str
        block_frames : int
            Target frames of a block.
        """
        from matplotlib.figure import Figure

        from cascade_rt.plots import FINAL, IMMEDIATE, TRACE

        million = block_frames / 1e6
        training = np.array(self.training)
        frames = million * (np.arange(training.size) + 1)
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(frames, training, color=TRACE, alpha=0.35, linewidth=0.8, label="each block")
        axes.plot(frames, _running_median(training), color=IMMEDIATE, linewidth=1.6, label="running median")
        best = self.best
        if best is not None:
            blocks, losses = np.array(self.validation).T
            axes.plot(
                million * blocks, losses, "o-", color=FINAL, linewidth=1.2, markersize=3.5, label="held-out neurons"
            )
            axes.axvline(million * best[0], color=FINAL, linewidth=0.9, linestyle=":", label="weights kept")
        axes.set_ylim(*_limits([*training[training.size // 50 :], *(loss for _, loss in self.validation)]))
        axes.set_xlim(0.0, 1.02 * max(float(frames[-1]), million))
        axes.set_xlabel("target frames learnt from (million)")
        axes.set_ylabel("loss")
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(file, format="png", dpi=130)


def _cell(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.7g}"


def _running_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over a twentieth of the blocks around each one (at least 9)."""
    half = max(values.size // 40, 4)
    return np.array([np.median(values[max(i - half, 0) : i + half + 1]) for i in range(values.size)])


def _limits(losses: list[float]) -> tuple[float, float]:
    """From just below the lowest loss to just above all but the highest, which are the very first blocks."""
    low, high = np.percentile(losses, [0, 99])
    margin = 0.06 * max(high - low, 1e-3 * abs(high), 1e-9)
    return float(low - margin), float(high + 2 * margin)

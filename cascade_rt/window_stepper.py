"""One frame at a time on a GPU: the whole window through the dense graph.

Activations are not kept on the device: the dense graph is simple there, and has yet to be timed on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine import Model

__all__ = ["WindowStepper"]


class WindowStepper:
    """The same interface and results as :class:`cascade_rt.stepper.Stepper`."""

    def __init__(self, model: Model, rows: dict[float | None, NDArray[np.intp]], nu: NDArray[np.float64]) -> None:
        self._model, self._rows, self._nu = model, rows, nu
        self._window = np.zeros((nu.size, model.spec.windowsize), np.float32)
        self._y = np.full((nu.size, len(model.spec.lookaheads)), np.nan, np.float32)

    def step(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """Take in one frame, (n_neurons,); returns (n_neurons, n_outputs)."""
        self._window[:, :-1] = self._window[:, 1:]
        self._window[:, -1] = x
        for key, rows in self._rows.items():
            self._y[rows] = self._model.run_dense(key, self._window[rows], self._nu[rows])[:, :, 0]
        return self._y

    def prepare(self) -> None:
        """Nothing can be done before the frame arrives."""

    def reset(self) -> None:
        """Forget every frame."""
        self._window[:] = 0

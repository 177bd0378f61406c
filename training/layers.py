"""Keras layers of the conditioned network (importing this module imports Keras)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["LogNoise", "Modulate", "PoolBack"]


class LogNoise(keras.layers.Layer):  # type: ignore[misc]
    """Logarithm of ν (batch, 1), clipped to the trained noise levels."""

    def __init__(self, lowest: float, highest: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lowest, self.highest = float(lowest), float(highest)

    def call(self, nu: Any) -> Any:
        """Return log(clip(nu))."""
        return ops.log(ops.clip(nu, self.lowest, self.highest))


class Modulate(keras.layers.Layer):  # type: ignore[misc]
    """relu((1 + scale) * x + offset), scale and offset (batch, channels) for x (batch, frames, channels)."""

    def call(self, inputs: Any) -> Any:
        """Return the modulated, rectified activations."""
        x, scale, offset = inputs
        return ops.relu((1.0 + scale[:, None, :]) * x + offset[:, None, :])


class PoolBack(keras.layers.Layer):  # type: ignore[misc]
    """Maximum of each frame and the one ``distance`` frames before it; the first ``distance`` frames go."""

    def __init__(self, distance: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.distance = int(distance)

    def call(self, x: Any) -> Any:
        """Return max(x[t - distance], x[t])."""
        return ops.maximum(x[:, : -self.distance], x[:, self.distance :])

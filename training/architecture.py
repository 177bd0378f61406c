"""Keras networks: the conditioned multi-look-ahead network, and CASCADE's windowed network.

Both compute exactly what :class:`cascade_rt.network.Network` describes, so that their weights can be moved
there without loss. Only ``keras.ops`` is used: the networks run on any Keras backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ConditionedShape", "LayerShape", "WindowedShape", "build_conditioned", "build_windowed"]


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Shape of one dilated convolution: taps, channels out, frames between taps, distance of the pooled frame."""

    taps: int
    channels: int
    dilation: int = 1
    pool: int = 0

    @property
    def reach(self) -> int:
        """Frames before the newest one that the layer looks at."""
        return (self.taps - 1) * self.dilation + self.pool


@dataclass(frozen=True, kw_only=True)
class ConditionedShape:
    """Sizes of the conditioned network: CASCADE's trunk made dense in time, with one output per look-ahead.

    Parameters
    ----------
    filter_sizes, filter_numbers : tuple of int, 3 each
        Taps and channels of the three convolutions.
    dense_expansion : int
        Channels of the layer before the outputs.
    head_taps : int
        Taps of the output layer, 4 frames apart.
    dilation : int
        Factor on all distances in time after the first convolution: at high frame rates the network then sees a
        longer time at the same cost.
    lookahead_frames : tuple of int
        Output ``k`` at newest frame ``j`` describes frame ``j - lookahead_frames[k]``.
    noise_hidden : int
        Width of the dense layer on log ν.
    noise_range : (float, float)
        Noise levels to which ν is clipped, % Hz^-1/2.
    """

    filter_sizes: tuple[int, ...] = (31, 19, 5)
    filter_numbers: tuple[int, ...] = (30, 40, 50)
    dense_expansion: int = 30
    head_taps: int = 2
    dilation: int = 1
    lookahead_frames: tuple[int, ...] = (0, 1, 2, 3, 5, 7, 15, 31)
    noise_hidden: int = 32
    noise_range: tuple[float, float] = (1.0, 10.0)

    def __post_init__(self) -> None:
        _three(self.filter_sizes, self.filter_numbers)
        if self.dilation < 1:
            raise TrainingError(f"dilation {self.dilation}: expected at least 1")
        if not self.lookahead_frames or list(self.lookahead_frames) != sorted(set(self.lookahead_frames)):
            raise TrainingError(f"lookahead_frames {self.lookahead_frames}: expected increasing frame counts")
        if not 0 <= self.lookahead_frames[0] <= self.lookahead_frames[-1] < self.receptive_field:
            raise TrainingError(
                f"lookahead_frames {self.lookahead_frames}: expected between 0 and {self.receptive_field - 1}, "
                "the frames that the network sees before the newest one"
            )
        if not 0 < self.noise_range[0] < self.noise_range[1]:
            raise TrainingError(f"noise_range {self.noise_range}: expected 0 < lowest < highest")

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """Shapes of all layers, the output layer last."""
        (size0, size1, size2), (n0, n1, n2) = self.filter_sizes, self.filter_numbers
        far = self.dilation
        return (
            LayerShape(taps=size0, channels=n0),
            LayerShape(taps=size1, channels=n1, dilation=far, pool=far),
            LayerShape(taps=size2, channels=n2, dilation=2 * far, pool=2 * far),
            LayerShape(taps=1, channels=self.dense_expansion),
            LayerShape(taps=self.head_taps, channels=len(self.lookahead_frames), dilation=4 * far),
        )

    @property
    def receptive_field(self) -> int:
        """Frames that one output depends on."""
        return 1 + sum(layer.reach for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class WindowedShape:
    """Sizes of CASCADE's windowed network, one output per window.

    Parameters
    ----------
    windowsize : int
        Frames of the window.
    filter_sizes, filter_numbers : tuple of int, 3 each
    dense_expansion : int
        Units of the dense layer before the output.
    """

    windowsize: int = 64
    filter_sizes: tuple[int, ...] = (31, 19, 5)
    filter_numbers: tuple[int, ...] = (30, 40, 50)
    dense_expansion: int = 10

    def __post_init__(self) -> None:
        _three(self.filter_sizes, self.filter_numbers)
        if self.columns < 1:
            raise TrainingError(
                f"windowsize {self.windowsize} is too small for filters {self.filter_sizes} and two poolings by 2"
            )

    @property
    def columns(self) -> int:
        """Columns left after the second pooling, which the output layer takes flattened."""
        size0, size1, size2 = self.filter_sizes
        pooled = (self.windowsize - size0 - size1 + 2) // 2
        return (pooled - size2 + 1) // 2


def build_conditioned(shape: ConditionedShape, *, seed: int = 0) -> Any:
    """Build the conditioned network on dense segments.

    Parameters
    ----------
    shape : ConditionedShape
    seed : int
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        Inputs ``dff`` (batch, n_frames, 1) and ``nu`` (batch, 1), % Hz^-1/2; output
        (batch, n_frames - receptive_field + 1, n_lookaheads), expected spikes per frame.
    """
    import keras

    from .layers import LogNoise, Modulate, PoolBack

    names = iter(range(1000))

    def glorot() -> Any:
        return keras.initializers.GlorotUniform(seed=seed * 1000 + next(names))

    dff = keras.Input((None, 1), name="dff")
    nu = keras.Input((1,), name="nu")
    hidden = keras.layers.Dense(shape.noise_hidden, activation="relu", kernel_initializer=glorot(), name="noise_hidden")
    g = hidden(LogNoise(*shape.noise_range, name="log_noise")(nu))
    x = dff
    for number, layer in enumerate(shape.layers):
        last = number == len(shape.layers) - 1
        x = keras.layers.Conv1D(
            layer.channels, layer.taps, dilation_rate=layer.dilation, kernel_initializer=glorot(), name=f"conv_{number}"
        )(x)
        if last:
            break
        scale = keras.layers.Dense(layer.channels, kernel_initializer="zeros", name=f"scale_{number}")(g)
        offset = keras.layers.Dense(layer.channels, kernel_initializer="zeros", name=f"offset_{number}")(g)
        x = Modulate(name=f"modulate_{number}")([x, scale, offset])
        if layer.pool:
            x = PoolBack(layer.pool, name=f"pool_{number}")(x)
    return keras.Model([dff, nu], x, name="conditioned")


def build_windowed(shape: WindowedShape, *, seed: int = 0) -> Any:
    """Build CASCADE's windowed network.

    Returns
    -------
    keras.Model
        Input ``window`` (batch, windowsize, 1); output (batch, 1), expected spikes in the described frame.
    """
    import keras

    def glorot(number: int) -> Any:
        return keras.initializers.GlorotUniform(seed=seed * 1000 + number)

    window = keras.Input((shape.windowsize, 1), name="window")
    x = window
    for number, (taps, channels) in enumerate(zip(shape.filter_sizes, shape.filter_numbers, strict=True)):
        x = keras.layers.Conv1D(
            channels, taps, activation="relu", kernel_initializer=glorot(number), name=f"conv_{number}"
        )(x)
        if number > 0:
            x = keras.layers.MaxPooling1D(2, name=f"pool_{number}")(x)
    x = keras.layers.Dense(shape.dense_expansion, activation="relu", kernel_initializer=glorot(3), name="dense")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    out = keras.layers.Dense(1, kernel_initializer=glorot(4), name="out")(x)
    return keras.Model(window, out, name="windowed")


def _three(sizes: Sequence[int], numbers: Sequence[int]) -> None:
    if len(sizes) != 3 or len(numbers) != 3 or min(*sizes, *numbers) < 1:
        raise TrainingError(f"filter_sizes {sizes} and filter_numbers {numbers}: expected three positive numbers each")

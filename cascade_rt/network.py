"""The weights of a network as plain arrays, and the arithmetic that they stand for.

Every network that this project runs, published or its own, is a stack of dilated convolutions over time.
CASCADE's windowed network (convolutions, max-pooling by 2, a dense layer, a flattened linear output) is
rewritten without loss: pooling keeps stride 1, whatever follows it is dilated by 2, the flattened output
layer is one more dilated convolution. This module knows neither ONNX nor onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Conditioning", "Layer", "Network"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One dilated convolution over time, its activation and the pooling after it.

    Parameters
    ----------
    kernel : ndarray, (members, taps, channels_in, channels_out), float32
        Tap 0 is the oldest frame. The first layer has ``channels_in`` 1.
    bias : ndarray, (members, channels_out), float32
    dilation : int
        Frames between neighbouring taps; 1 or even.
    relu : bool
        Rectify the output; the last layer is linear.
    pool : int
        0, or the distance in frames of the column with which the maximum is taken after the activation:
        ``out[t] = max(h[t - pool], h[t])``.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    dilation: int = 1
    relu: bool = True
    pool: int = 0

    def __post_init__(self) -> None:
        if self.kernel.ndim != 4 or self.bias.shape != (self.kernel.shape[0], self.kernel.shape[3]):
            raise ModelError(
                f"layer with kernel {self.kernel.shape} and bias {self.bias.shape}: expected "
                "(members, taps, channels_in, channels_out) and (members, channels_out)"
            )
        if self.dilation < 1 or (self.dilation > 1 and self.dilation % 2) or self.pool < 0:
            raise ModelError(
                f"layer with dilation {self.dilation} and pool {self.pool}: expected a dilation of 1 or an even one, "
                "and a pool of 0 or more"
            )

    @property
    def taps(self) -> int:
        return int(self.kernel.shape[1])

    @property
    def channels_in(self) -> int:
        return int(self.kernel.shape[2])

    @property
    def channels_out(self) -> int:
        return int(self.kernel.shape[3])

    @property
    def reach(self) -> int:
        """Frames before the newest one that this layer looks at."""
        return (self.taps - 1) * self.dilation + self.pool


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """How the noise level modulates each layer (FiLM: a scale and an offset per channel).

    With ``g = relu(log(clip(nu, *noise_range)) * hidden_kernel + hidden_bias)``, layer ``l`` computes
    ``relu(scale * (conv(x) + bias) + offset)`` where ``scale = 1 + g @ scale_kernels[l] + scale_biases[l]``
    and ``offset = g @ offset_kernels[l] + offset_biases[l]``. The last (linear) layer is not modulated.

    Parameters
    ----------
    hidden_kernel, hidden_bias : ndarray, (hidden,), float32
    scale_kernels, offset_kernels : tuple of ndarray, (hidden, channels_out), float32
        One for each layer but the last.
    scale_biases, offset_biases : tuple of ndarray, (channels_out,), float32
    noise_range : (float, float)
        Trained noise levels, % Hz^-1/2.
    """

    hidden_kernel: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    scale_kernels: tuple[NDArray[np.float32], ...]
    scale_biases: tuple[NDArray[np.float32], ...]
    offset_kernels: tuple[NDArray[np.float32], ...]
    offset_biases: tuple[NDArray[np.float32], ...]
    noise_range: tuple[float, float]

    def modulation(self, nu: NDArray[np.floating]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Scale and offset, each (n_neurons, channels_out), for each layer but the last.

        Parameters
        ----------
        nu : ndarray, (n_neurons,)
            Noise levels, % Hz^-1/2; clipped to ``noise_range``.
        """
        u = np.log(np.clip(np.asarray(nu, np.float32), *self.noise_range)).astype(np.float32)
        g = np.maximum(u[:, None] * self.hidden_kernel + self.hidden_bias, np.float32(0))
        return [
            (np.float32(1) + g @ sk + sb, g @ ok + ob)
            for sk, sb, ok, ob in zip(
                self.scale_kernels, self.scale_biases, self.offset_kernels, self.offset_biases, strict=True
            )
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A stack of layers for one or several ensemble members, whose outputs are averaged.

    Parameters
    ----------
    layers : tuple of Layer
        The last is linear, with one channel for each output (look-ahead).
    conditioning : Conditioning or None
        None for a network trained at one noise level.
    """

    layers: tuple[Layer, ...]
    conditioning: Conditioning | None = None

    def __post_init__(self) -> None:
        channels, members = 1, self.members
        for number, layer in enumerate(self.layers):
            if layer.channels_in != channels or layer.kernel.shape[0] != members:
                raise ModelError(
                    f"layer {number} has {layer.kernel.shape[0]} members and takes {layer.channels_in} channels; "
                    f"expected {members} and {channels}"
                )
            channels = layer.channels_out
        if self.layers[0].dilation != 1:
            raise ModelError(f"the first layer has dilation {self.layers[0].dilation}: expected 1")
        if self.layers[-1].relu or self.layers[-1].pool:
            raise ModelError("the last layer must be linear and without pooling")

    @property
    def members(self) -> int:
        return int(self.layers[0].kernel.shape[0])

    @property
    def n_outputs(self) -> int:
        return self.layers[-1].channels_out

    @property
    def receptive_field(self) -> int:
        """Frames that one output depends on."""
        return 1 + sum(layer.reach for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per neuron and frame, all members."""
        return sum(int(layer.kernel.size) for layer in self.layers)

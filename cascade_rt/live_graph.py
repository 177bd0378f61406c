"""ONNX graphs for one frame at a time.

Two kinds of graph alternate, so that little stands between a frame and its spike probability:

* *prepare* sums, for every layer that looks back, what the frames that have arrived contribute to the next two
  frames. It holds nearly all of the arithmetic and runs before the first of the two arrives.
* *step* adds the new frame itself (and, in the second of the two, the first).

Serving two frames at once halves how often the activations of the past are fetched from memory, which is what
limits ensembles. Neurons are divided into blocks of which one half is prepared before even frames and the other
before odd ones, so that every frame costs the same.

All blocks and ensemble members of a stream are in one graph. Arrays are (neurons, channels). In the names, ``b``
numbers the block, ``k`` its network, ``m`` the member, ``l`` the layer and ``r`` the frame of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .graph import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .network import Layer, Network

    Array = NDArray[np.float32]

__all__ = ["BlockShape", "first_layer_weights", "past_weights", "prepare_model", "step_model"]


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Neurons that share a network and are prepared together.

    Parameters
    ----------
    network : int
        Which of the stream's networks.
    n : int
        Neurons.
    parity : int
        0 if prepared before even frames, 1 before odd ones.
    """

    network: int
    n: int
    parity: int


def step_model(networks: Sequence[Network], blocks: Sequence[BlockShape], parity: int) -> Any:
    """ONNX model for what one new frame adds, for frames of one parity.

    Inputs: ``x{b}`` and ``x{b}.before`` (n, 1), this frame and the one before; ``scale{b}.{l}``; ``pre{b}.{m}.{l}``,
    what was prepared; ``old{b}.{m}.{l}``, what pooling compares with; ``before{b}.{m}.{l}``, the layer's output one
    frame ago. Outputs: ``raw{b}.{m}.{l}`` before pooling, ``column{b}.{m}.{l}`` after it, ``y{b}`` (n, outputs).
    """
    g = GraphBuilder()
    for b, block in enumerate(blocks):
        network = networks[block.network]
        second = (parity + block.parity) % 2 == 1
        g.input(f"x{b}", block.n, 1)
        if second and network.layers[0].taps > 1:
            g.input(f"x{b}.before", block.n, 1)
        if network.conditioning is not None:
            for i, layer in enumerate(network.layers[:-1]):
                g.input(f"scale{b}.{i}", block.n, layer.channels_out)
        means = [_member(g, network, block, b, m, second) for m in range(network.members)]
        g.node("Mean", means, g.output(f"y{b}", block.n, network.n_outputs))
    return g.model("step")


def _member(g: GraphBuilder, network: Network, block: BlockShape, b: int, m: int, second: bool) -> str:
    """Add one ensemble member of one block; returns the name of its output."""
    x, before = f"x{b}", f"x{b}.before"
    last = len(network.layers) - 1
    for i, layer in enumerate(network.layers):
        name = f"{b}.{m}.{i}"
        scale = f"scale{b}.{i}" if network.conditioning is not None and i < last else None
        in_pair = second and layer.dilation == 1 and layer.taps > 1
        x = _new_frames(g, layer, name, f"{block.network}.{m}.{i}", m, block.n, (x, before if in_pair else None), scale)
        if i == last:
            break
        column = g.output(f"column{name}", block.n, layer.channels_out)
        raw = g.output(f"raw{name}", block.n, layer.channels_out) if layer.pool else column
        x = g.node("Relu" if layer.relu else "Identity", [x], raw)
        if layer.pool:
            x = g.node("Max", [x, g.input(f"old{name}", block.n, layer.channels_out)], column)
        following = network.layers[i + 1]
        before = f"before{name}"
        if second and following.dilation == 1 and following.taps > 1:
            g.input(before, block.n, layer.channels_out)
    return x


def _new_frames(
    g: GraphBuilder,
    layer: Layer,
    name: str,
    shared: str,
    member: int,
    n: int,
    columns: tuple[str, str | None],
    scale: str | None,
) -> str:
    """Add the product of the new frame (and the one before, if it is of the pair) to what was prepared."""
    x, before = columns
    newest = g.shared_constant(f"w{shared}", layer.kernel[member, -1])
    if layer.taps > 1 or scale is not None:
        base = g.input(f"pre{name}", n, layer.channels_out)
    else:
        base = g.shared_constant(f"bias{shared}", layer.bias[member])
    if scale is None:
        total = g.node("Gemm", [x, newest, base], f"new{name}")
        if before is not None:
            second = g.shared_constant(f"v{shared}", layer.kernel[member, -2])
            total = g.node("Gemm", [before, second, total], f"pair{name}")
        return total
    total = g.node("MatMul", [x, newest], f"new{name}")
    if before is not None:
        second = g.shared_constant(f"v{shared}", layer.kernel[member, -2])
        total = g.node("Gemm", [before, second, total], f"pair{name}")
    return g.node("Add", [g.node("Mul", [total, scale], f"scaled{name}"), base], f"sum{name}")


def prepare_model(networks: Sequence[Network], blocks: Sequence[BlockShape], parity: int) -> Any:
    """ONNX model that sums what the past contributes to the next two frames, for the blocks of one parity.

    Inputs: for the first layer ``ring{b}`` (n, taps - 1) and ``w{k}`` (:func:`first_layer_weights`); for the other
    layers ``ring{b}.{m}.{l}`` and ``w{k}.{m}.{l}`` (:func:`past_weights`), the rows of which follow the order of the
    ring. A dilated layer looks at different columns in the two frames: its ring has 2 * n rows, the first frame's
    first. For modulated layers ``scale{b}.{l}`` and ``offset{b}.{m}.{l}``, the bias included, with as many rows as
    the ring. Outputs: ``pre{b}.{m}.{l}.{r}`` (n, channels_out), or ``pre{b}.{m}.{l}`` (2 * n, channels_out) for a
    dilated layer.
    """
    g = GraphBuilder()
    for b, block in enumerate(blocks):
        if block.parity != parity:
            continue
        network = networks[block.network]
        for i, layer in enumerate(network.layers):
            if layer.taps == 1:
                continue
            modulated = network.conditioning is not None and i < len(network.layers) - 1
            if modulated:
                g.input(f"scale{b}.{i}", block.n * _frames_at_once(layer), layer.channels_out)
            if i == 0:
                _prepare_first(g, network, block, b, modulated)
            else:
                for m in range(network.members):
                    _prepare_layer(g, layer, block, (b, m, i), modulated)
    return g.model("prepare")


def _frames_at_once(layer: Layer) -> int:
    """Rows of a ring per neuron."""
    return 1 if layer.dilation == 1 else 2


def _prepare_first(g: GraphBuilder, network: Network, block: BlockShape, b: int, modulated: bool) -> None:
    """All members share the first layer's ring: one product for all of them and both frames."""
    layer, members = network.layers[0], range(network.members)
    ring = g.input(f"ring{b}", block.n, layer.taps - 1)
    weights = g.shared_input(f"w{block.network}", layer.taps - 1, 2 * layer.bias.size)
    names = [f"{b}.{m}.0.{r}" for m in members for r in (0, 1)]
    if modulated:
        g.split(g.node("MatMul", [ring, weights], f"past{b}"), [f"past{name}" for name in names])
        for m in members:
            g.input(f"offset{b}.{m}.0", block.n, layer.channels_out)
            for r in (0, 1):
                _modulate(
                    g,
                    f"past{b}.{m}.0.{r}",
                    f"{b}.0",
                    f"{b}.{m}.0",
                    g.output(f"pre{b}.{m}.0.{r}", block.n, layer.channels_out),
                )
        return
    bias = g.shared_constant(f"bias{block.network}", np.repeat(layer.bias, 2, axis=0).ravel())
    g.split(
        g.node("Gemm", [ring, weights, bias], f"past{b}"),
        [g.output(f"pre{name}", block.n, layer.channels_out) for name in names],
    )


def _prepare_layer(
    g: GraphBuilder, layer: Layer, block: BlockShape, where: tuple[int, int, int], modulated: bool
) -> None:
    b, m, i = where
    name, shared = f"{b}.{m}.{i}", f"{block.network}.{m}.{i}"
    rows, channels = block.n * _frames_at_once(layer), layer.channels_out
    in_pairs = layer.dilation == 1
    depth = (layer.taps - 1) * layer.channels_in
    ring = g.input(f"ring{name}", rows, depth)
    weights = g.shared_input(f"w{shared}", depth, channels * (2 if in_pairs else 1))
    outputs = [f"{name}.0", f"{name}.1"] if in_pairs else [name]
    for output in outputs:
        g.output(f"pre{output}", rows, channels)
    if modulated:
        g.input(f"offset{name}", rows, channels)
        product = g.node("MatMul", [ring, weights], f"product{name}")
        if in_pairs:
            g.split(product, [f"product{output}" for output in outputs])
        for output in outputs:
            _modulate(g, f"product{output}", f"{b}.{i}", name, f"pre{output}")
        return
    bias = g.shared_constant(f"bias{shared}", np.tile(layer.bias[m], len(outputs)))
    if in_pairs:
        g.split(g.node("Gemm", [ring, weights, bias], f"product{name}"), [f"pre{output}" for output in outputs])
    else:
        g.node("Gemm", [ring, weights, bias], f"pre{name}")


def _modulate(g: GraphBuilder, product: str, scale: str, offset: str, output: str) -> None:
    scaled = g.node("Mul", [product, f"scale{scale}"], f"scaled.{output}")
    g.node("Add", [scaled, f"offset{offset}"], output)


def _doubled(layer: Layer, members: slice, r: int) -> Array:
    """Weights of the past for frame ``r`` of a pair, (members, 2 * slots, channels_in, channels_out).

    Rows ``slots - u`` to ``2 * slots - u`` belong to the slots of a ring in their order, when the column of the
    pair's first frame will go to slot ``u``. A column too old for the second frame gets weights of zero.
    """
    slots = layer.taps - 1
    kernel = layer.kernel[members]
    out = np.zeros((kernel.shape[0], 2 * slots, *kernel.shape[2:]), np.float32)
    for row in range(2 * slots):
        tap = layer.taps - 1 - ((-row - 1) % slots + 1 + r)
        if tap >= 0:
            out[:, row] = kernel[:, tap]
    return out


def past_weights(layer: Layer, member: int) -> Array:
    """Doubled weights of one member, (2 * slots, channels_in, channels_out, or twice that for a pair).

    A layer of dilation 1 has the columns of both frames of a pair side by side.
    """
    both = [_doubled(layer, slice(member, member + 1), r)[0] for r in ((0, 1) if layer.dilation == 1 else (0,))]
    return np.concatenate(both, axis=-1)


def first_layer_weights(layer: Layer) -> Array:
    """Doubled weights of all members for both frames of a pair, (2 * slots, members * 2 * channels_out)."""
    both = np.stack([_doubled(layer, slice(None), r)[:, :, 0] for r in (0, 1)], axis=1)  # members, 2, rows, channels
    return np.ascontiguousarray(both.transpose(2, 0, 1, 3).reshape(both.shape[2], -1))

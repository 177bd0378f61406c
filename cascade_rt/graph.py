"""A network as the ONNX graph that bundles store, and back.

The graph is *dense*: it describes every frame of a piece of recording in one pass. It is written with
two-dimensional convolutions of height 1, a branch for each ensemble member: onnxruntime then runs them in its
blocked layout, without the copies that it makes for one-dimensional ones. :mod:`cascade_rt.live_graph` has the
graphs for one frame at a time.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .chunks import ModelSpec
from .errors import ModelError
from .network import Conditioning, Layer, Network

__all__ = ["GraphBuilder", "dense_model", "read_model"]

#: onnxruntime's blocked layout works on channels in multiples of 16 (AVX-512) or 8.
CHANNEL_BLOCK = 16
OPSET = 17
METADATA_KEY = "cascade_rt"

Array = NDArray[np.float32]


class GraphBuilder:
    """Collects nodes, initializers, inputs and outputs of a graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._names: set[str] = set()

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._names.add(name)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def shared_constant(self, name: str, value: NDArray[Any]) -> str:
        """Like :meth:`constant`, for a name that several nodes use."""
        return name if name in self._names else self.constant(name, value)

    def shared_input(self, name: str, *shape: int | str) -> str:
        """Like :meth:`input`, for a name that several nodes use."""
        return name if name in self._names else self.input(name, *shape)

    def split(self, x: str, outputs: list[str]) -> None:
        """Split the columns of ``x`` evenly."""
        self.nodes.append(helper.make_node("Split", [x], outputs, axis=1))

    def input(self, name: str, *shape: int | str) -> str:
        self._names.add(name)
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, *shape: int | str) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def model(self, name: str, metadata: dict[str, Any] | None = None) -> Any:
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="cascade_rt"
        )
        if metadata is not None:
            helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})
        return model


# ---------------------------------------------------------------------------------------------------- dense


def dense_model(
    network: Network, spec: ModelSpec | None = None, *, noise_level: float | None = None, padded: bool = False
) -> Any:
    """ONNX model that maps pieces of recordings to spike probabilities.

    Inputs are ``dff`` (rows, frames) and, for a conditioned network, ``noise_level`` (rows,); the output
    ``spike_prob`` is (rows, outputs, frames - receptive_field + 1): column ``c`` has frame
    ``c + receptive_field - 1`` as its newest.

    Parameters
    ----------
    network : Network
    spec : ModelSpec, optional
        Stored in the metadata with the structure of the network; :func:`read_model` needs it.
    noise_level : float, optional
        The level that this network of a binned model was trained for, % Hz^-1/2; stored in the metadata.
    padded : bool
        Pad channels with zeros to multiples of 16, for speed; such a graph is not for storing.
    """
    g = GraphBuilder()
    g.input("dff", "rows", "frames")
    g.constant("image_shape", np.array([0, 1, 1, -1], np.int64))
    g.node("Reshape", ["dff", "image_shape"], "image")
    modulation = _dense_modulation(g, network, padded) if network.conditioning else []
    outputs = []
    for m in range(network.members):
        x = "image"
        for number, layer in enumerate(network.layers):
            last = number == len(network.layers) - 1
            x = _dense_layer(g, f"member{m}.layer{number}", layer, m, x, (padded and number > 0, padded and not last))
            if not last and modulation:
                scale, offset = modulation[number]
                x = g.node("Mul", [x, scale], f"{x}.scaled")
                x = g.node("Add", [x, offset], f"{x}.offset")
            if layer.relu:
                x = g.node("Relu", [x], f"{x}.relu")
            if layer.pool:
                x = g.node("MaxPool", [x], f"{x}.pool", kernel_shape=[1, 2], dilations=[1, layer.pool])
        outputs.append(x)
    mean = g.node("Mean", outputs, "mean") if len(outputs) > 1 else outputs[0]
    g.constant("output_shape", np.array([0, network.n_outputs, -1], np.int64))
    g.node("Reshape", [mean, "output_shape"], "spike_prob")
    g.output("spike_prob", "rows", network.n_outputs, "described_frames")
    if spec is None:
        return g.model("dense")
    metadata = {"format": 1, "spec": spec.to_dict(), "noise_level": noise_level, "network": _structure(network)}
    return g.model("dense", metadata)


def _padded(channels: int) -> int:
    return -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK


def _dense_layer(g: GraphBuilder, name: str, layer: Layer, member: int, x: str, pad: tuple[bool, bool]) -> str:
    """Add one member's convolution; kernels are stored as (channels_out, channels_in, 1, taps).

    ``pad`` says whether to pad the channels that come in and those that go out.
    """
    kernel = layer.kernel[member].transpose(2, 1, 0)[:, :, None, :]
    bias = layer.bias[member]
    extra_in = _padded(layer.channels_in) - layer.channels_in if pad[0] else 0
    extra_out = _padded(layer.channels_out) - layer.channels_out if pad[1] else 0
    if extra_out or extra_in:
        kernel = np.pad(kernel, ((0, extra_out), (0, extra_in), (0, 0), (0, 0)))
        bias = np.pad(bias, (0, extra_out))
    g.constant(f"{name}.kernel", kernel)
    g.constant(f"{name}.bias", bias)
    return g.node(
        "Conv",
        [x, f"{name}.kernel", f"{name}.bias"],
        f"{name}.conv",
        kernel_shape=[1, layer.taps],
        dilations=[1, layer.dilation],
    )


def _dense_modulation(g: GraphBuilder, network: Network, padded: bool) -> list[tuple[str, str]]:
    """Add the small network on log ν; returns the names of (scale, offset) for each modulated layer."""
    c = network.conditioning
    assert c is not None
    g.input("noise_level", "rows")
    g.constant("noise_lowest", np.float32(c.noise_range[0]))
    g.constant("noise_highest", np.float32(c.noise_range[1]))
    g.node("Clip", ["noise_level", "noise_lowest", "noise_highest"], "noise_clipped")
    g.node("Log", ["noise_clipped"], "noise_log")
    g.constant("column", np.array([-1, 1], np.int64))
    g.node("Reshape", ["noise_log", "column"], "noise_column")
    g.constant("condition.hidden.kernel", c.hidden_kernel[None, :])
    g.constant("condition.hidden.bias", c.hidden_bias)
    g.node("Gemm", ["noise_column", "condition.hidden.kernel", "condition.hidden.bias"], "hidden")
    g.node("Relu", ["hidden"], "hidden.relu")
    g.constant("one", np.float32(1))
    names = []
    for number in range(len(network.layers) - 1):
        channels = c.scale_biases[number].size
        extra = _padded(channels) - channels if padded else 0
        g.constant(f"condition.layer{number}.shape", np.array([0, channels + extra, 1, 1], np.int64))
        pair = []
        for what, kernel, bias in (
            ("scale", c.scale_kernels[number], c.scale_biases[number]),
            ("offset", c.offset_kernels[number], c.offset_biases[number]),
        ):
            name = f"condition.layer{number}.{what}"
            g.constant(f"{name}.kernel", np.pad(kernel, ((0, 0), (0, extra))))
            g.constant(f"{name}.bias", np.pad(bias, (0, extra)))
            x = g.node("Gemm", ["hidden.relu", f"{name}.kernel", f"{name}.bias"], f"{name}.gemm")
            if what == "scale":
                x = g.node("Add", [x, "one"], f"{name}.plus_one")
            pair.append(g.node("Reshape", [x, f"condition.layer{number}.shape"], name))
        names.append((pair[0], pair[1]))
    return names


# ---------------------------------------------------------------------------------------------- reading back


def _structure(network: Network) -> dict[str, Any]:
    return {
        "members": network.members,
        "layers": [{"dilation": x.dilation, "relu": x.relu, "pool": x.pool} for x in network.layers],
        "noise_range": list(network.conditioning.noise_range) if network.conditioning else None,
    }


def read_model(data: bytes, origin: str) -> tuple[Network, ModelSpec, float | None]:
    """Weights and description out of a stored dense graph.

    Parameters
    ----------
    data : bytes
        An ONNX file written by :func:`dense_model` with ``padded=False``.
    origin : str
        Named in errors.

    Returns
    -------
    (Network, ModelSpec, noise level or None)

    Raises
    ------
    ModelError
        If this is not such a file.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{origin}: not a readable ONNX file ({error})") from error
    properties = {p.key: p.value for p in model.metadata_props}
    if METADATA_KEY not in properties:
        raise ModelError(f"{origin}: has no {METADATA_KEY!r} metadata; only graphs written by cascade_rt can be used")
    metadata = json.loads(properties[METADATA_KEY])
    if metadata.get("format") != 1:
        raise ModelError(f"{origin}: metadata format {metadata.get('format')!r}; this version reads format 1")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    try:
        structure, level = metadata["network"], metadata["noise_level"]
        spec = ModelSpec.from_dict(metadata["spec"])
        layers = tuple(
            Layer(
                kernel=np.stack(
                    [values[f"member{m}.layer{n}.kernel"][:, :, 0, :].transpose(2, 1, 0) for m in _members(structure)]
                ),
                bias=np.stack([values[f"member{m}.layer{n}.bias"] for m in _members(structure)]),
                **shape,
            )
            for n, shape in enumerate(structure["layers"])
        )
        conditioning = _read_conditioning(values, structure) if structure["noise_range"] else None
    except KeyError as error:
        raise ModelError(f"{origin}: {error} is missing") from error
    return Network(layers=layers, conditioning=conditioning), spec, level


def _members(structure: dict[str, Any]) -> range:
    return range(int(structure["members"]))


def _read_conditioning(values: dict[str, Array], structure: dict[str, Any]) -> Conditioning:
    def every(what: str) -> tuple[Array, ...]:
        return tuple(values[f"condition.layer{n}.{what}"] for n in range(len(structure["layers"]) - 1))

    lowest, highest = structure["noise_range"]
    return Conditioning(
        hidden_kernel=values["condition.hidden.kernel"][0],
        hidden_bias=values["condition.hidden.bias"],
        scale_kernels=every("scale.kernel"),
        scale_biases=every("scale.bias"),
        offset_kernels=every("offset.kernel"),
        offset_biases=every("offset.bias"),
        noise_range=(float(lowest), float(highest)),
    )

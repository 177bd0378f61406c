"""From Keras to a bundle: tf2onnx writes each network as an ONNX graph, and the weights are read from there.

The graph that tf2onnx writes is exact but slow; the bundle holds the same weights in cascade_rt's own graph,
the members of an ensemble merged. Nothing is written unless the Keras model, the tf2onnx graph and the bundle's
graph give the same output.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.bundle import write_bundle
from cascade_rt.chunks import ModelSpec
from cascade_rt.errors import TrainingError
from cascade_rt.network import Conditioning, Layer, Network

from .architecture import ConditionedShape, WindowedShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["TOLERANCE", "check_parity", "conditioned_spec", "export_bundle", "keras_to_onnx", "network_from_onnx"]

logger = logging.getLogger(__name__)

#: Largest difference allowed between the outputs of one network in its three forms.
TOLERANCE = 1e-5
OPSET = 17


def keras_to_onnx(model: Any) -> Any:
    """Convert a Keras model with tf2onnx.

    Parameters
    ----------
    model : keras.Model
        Built by :mod:`training.architecture`, running on TensorFlow.

    Returns
    -------
    onnx.ModelProto
        Inputs and weights as in the Keras model.

    Raises
    ------
    TrainingError
        Keras does not run on TensorFlow, or tf2onnx is missing.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise TrainingError(
            f"Keras runs on {keras.backend.backend()}; export needs TensorFlow: set KERAS_BACKEND=tensorflow"
        )
    try:
        import tensorflow as tf
        import tf2onnx
    except ImportError as error:
        raise TrainingError(f"{error}; install the extra: pip install 'cascade-rt[train]'") from error

    signature = [tf.TensorSpec((None, *i.shape[1:]), tf.float32, name=i.name) for i in model.inputs]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run(*inputs: Any) -> Any:
        return model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    graph, _ = tf2onnx.convert.from_function(run, input_signature=signature, opset=OPSET)
    return graph


def network_from_onnx(graphs: Sequence[Any], shape: ConditionedShape | WindowedShape) -> Network:
    """Read the weights out of tf2onnx graphs, merging the members of an ensemble.

    Parameters
    ----------
    graphs : sequence of onnx.ModelProto
        One for each member; a conditioned network has one.
    shape : ConditionedShape or WindowedShape
        What the graphs were built with.

    Returns
    -------
    Network
        CASCADE's windowed network is rewritten as dilated convolutions: pooling keeps stride 1, what follows
        it is dilated, the flattened output layer becomes a convolution, and frames at the end of the window
        that its poolings drop get weights of zero.

    Raises
    ------
    TrainingError
        A graph lacks the weights of a layer, or has them in another shape.
    """
    if isinstance(shape, ConditionedShape):
        if len(graphs) != 1:
            raise TrainingError(f"{len(graphs)} conditioned networks: expected one")
        weights = _Weights(graphs[0])
        layers = tuple(
            Layer(
                kernel=weights.kernel(f"conv_{n}")[None],
                bias=weights.bias(f"conv_{n}", layer.channels)[None],
                dilation=layer.dilation,
                relu=n < len(shape.layers) - 1,
                pool=layer.pool,
            )
            for n, layer in enumerate(shape.layers)
        )
        return _checked(Network(layers=layers, conditioning=_conditioning(weights, shape)), shape.receptive_field)
    members = [_windowed_layers(_Weights(graph), shape) for graph in graphs]
    merged = tuple(
        Layer(
            kernel=np.stack([m[n][0] for m in members]),
            bias=np.stack([m[n][1] for m in members]),
            dilation=dilation,
            relu=n < 4,
            pool=pool,
        )
        for n, (dilation, pool) in enumerate([(1, 0), (1, 1), (2, 2), (4, 0), (4, 0)])
    )
    return _checked(Network(layers=merged), shape.windowsize)


def check_parity(
    models: Sequence[Any], graphs: Sequence[Any], network: Network, *, key: float | None, spec: ModelSpec, seed: int = 0
) -> float:
    """Compare the Keras models, their tf2onnx graphs and the graph of the bundle on random recordings.

    The tf2onnx graphs are run by the reference evaluator of ONNX, the bundle by the engine that users run.

    Parameters
    ----------
    models, graphs : sequence
        The members.
    network : Network
        Made from ``graphs``.
    key : float or None
        Noise level of a binned network.
    spec : ModelSpec
    seed : int

    Returns
    -------
    float
        Largest difference.

    Raises
    ------
    TrainingError
        It is above 1e-5.
    """
    from cascade_rt.engine import load_model

    rng = np.random.default_rng(seed)
    window, rows = spec.windowsize, 4
    dff = _recordings(rng, rows, window + 40)
    nu = rng.uniform(*spec.noise_range, rows).astype(np.float32) if key is None else np.full(rows, key, np.float32)
    if key is None:
        columns = dff[:, :, None], nu[:, None]
        keras_out = np.asarray(models[0](list(columns), training=False)).transpose(0, 2, 1)
        graph_out = _run_graph(graphs[0], {"dff": columns[0], "nu": columns[1]}).transpose(0, 2, 1)
    else:
        windows = np.lib.stride_tricks.sliding_window_view(dff, window, axis=1).reshape(-1, window, 1).copy()
        members = [np.asarray(model(windows, training=False)) for model in models]
        graph_members = [_run_graph(graph, {"window": windows}) for graph in graphs]
        keras_out = np.mean(members, axis=0).reshape(rows, 1, -1)
        graph_out = np.mean(graph_members, axis=0).reshape(rows, 1, -1)
    with tempfile.TemporaryDirectory() as folder:
        keys: list[float | None] = [None] if key is None else list(spec.noise_levels)
        path = write_bundle(Path(folder) / spec.name, spec, dict.fromkeys(keys, network), card="", config={})
        bundle_out = load_model(path, threads=1).run_dense(key, dff, nu)
    worst = 0.0
    for name, out in (("tf2onnx graph", graph_out), ("bundle's graph", bundle_out)):
        if out.shape != keras_out.shape:
            raise TrainingError(f"export of {spec.name}: the {name} gives {out.shape}, Keras {keras_out.shape}")
        difference = float(np.abs(out - keras_out).max())
        if not difference <= TOLERANCE:
            raise TrainingError(
                f"export of {spec.name}: the {name} differs from Keras by {difference:.3g}; allowed is {TOLERANCE:g}"
            )
        worst = max(worst, difference)
    return worst


def conditioned_spec(
    name: str,
    shape: ConditionedShape,
    *,
    frame_rate_hz: float,
    smoothing_s: float,
    causal_kernel: bool,
    training_datasets: Sequence[str],
    model: Any,
) -> ModelSpec:
    """Describe a conditioned model; its weights are hashed into ``source_sha256``."""
    return ModelSpec(
        name=name,
        family="conditioned",
        frame_rate_hz=float(frame_rate_hz),
        windowsize=shape.receptive_field,
        lookaheads=shape.lookahead_frames,
        smoothing_s=float(smoothing_s),
        causal_kernel=causal_kernel,
        noise_levels=shape.noise_range,
        training_datasets=tuple(training_datasets),
        source_sha256=weights_sha256([model]),
    )


def weights_sha256(models: Sequence[Any]) -> str:
    """Hash of the weights of Keras models, in their order."""
    digest = hashlib.sha256()
    for model in models:
        for weight in model.get_weights():
            digest.update(np.ascontiguousarray(weight, "<f4").tobytes())
    return digest.hexdigest()


def export_bundle(
    folder: str | Path,
    models: Mapping[float | None, Sequence[Any]],
    shape: ConditionedShape | WindowedShape,
    spec: ModelSpec,
    *,
    card: str,
    config: Mapping[str, Any],
    overwrite: bool = False,
) -> tuple[Path, float]:
    """Write a bundle, after checking that it computes what Keras computes.

    Parameters
    ----------
    folder : path
    models : mapping
        From noise level (None for a conditioned network) to the Keras models of the ensemble.
    shape : ConditionedShape or WindowedShape
    spec : ModelSpec
    card : str
        Text of CARD.md.
    config : mapping
        config.yaml.
    overwrite : bool

    Returns
    -------
    (Path, float)
        The bundle, and the largest difference found between its graph and Keras.

    Raises
    ------
    TrainingError
        The forms of a network differ by more than 1e-5; nothing is written.
    """
    networks: dict[float | None, Network] = {}
    worst = 0.0
    for key, members in models.items():
        graphs = [keras_to_onnx(model) for model in members]
        networks[key] = network_from_onnx(graphs, shape)
        worst = max(worst, check_parity(members, graphs, networks[key], key=key, spec=spec))
    logger.info("%s: largest difference between Keras and the exported graphs %.2g", spec.name, worst)
    return write_bundle(folder, spec, networks, card=card, config=config, overwrite=overwrite), worst


def _run_graph(graph: Any, feed: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    from onnx.reference import ReferenceEvaluator

    outputs: Any = ReferenceEvaluator(graph).run(None, feed)
    return np.asarray(outputs[0])


class _Weights:
    """Kernels and biases of a tf2onnx graph, by the name of their Keras layer."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self._nodes = list(model.graph.node)

    def _named(self, layer: str, kinds: tuple[str, ...]) -> list[Any]:
        pattern = re.compile(rf"(^|/){re.escape(layer)}(_\d+)?/")
        return [node for node in self._nodes if node.op_type in kinds and pattern.search(node.name)]

    def kernel(self, layer: str) -> NDArray[np.float32]:
        """(taps, channels in, channels out) of a convolution, (channels in, channels out) of a dense layer."""
        for node in self._named(layer, ("Conv", "MatMul", "Gemm")):
            value = self._values.get(node.input[1])
            if value is None:
                continue
            if node.op_type != "Conv":
                return np.asarray(value, np.float32)
            return np.asarray(value[:, :, 0, :].transpose(2, 1, 0), np.float32)
        raise TrainingError(f"the tf2onnx graph has no weights for layer {layer!r}")

    def bias(self, layer: str, channels: int) -> NDArray[np.float32]:
        """(channels,); zeros where tf2onnx dropped a bias of zeros."""
        for node in self._named(layer, ("Conv", "Gemm", "Add")):
            for name in node.input if node.op_type == "Add" else node.input[2:]:
                value = self._values.get(name)
                if value is not None and value.size == channels:
                    return np.asarray(value, np.float32).reshape(channels)
        return np.zeros(channels, np.float32)


def _conditioning(weights: _Weights, shape: ConditionedShape) -> Conditioning:
    channels = [layer.channels for layer in shape.layers[:-1]]
    return Conditioning(
        hidden_kernel=weights.kernel("noise_hidden")[0],
        hidden_bias=weights.bias("noise_hidden", shape.noise_hidden),
        scale_kernels=tuple(weights.kernel(f"scale_{n}") for n in range(len(channels))),
        scale_biases=tuple(weights.bias(f"scale_{n}", c) for n, c in enumerate(channels)),
        offset_kernels=tuple(weights.kernel(f"offset_{n}") for n in range(len(channels))),
        offset_biases=tuple(weights.bias(f"offset_{n}", c) for n, c in enumerate(channels)),
        noise_range=shape.noise_range,
    )


def _windowed_layers(weights: _Weights, shape: WindowedShape) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Kernel (taps, channels in, channels out) and bias of each layer of one windowed network."""
    layers = [(weights.kernel(f"conv_{n}"), weights.bias(f"conv_{n}", c)) for n, c in enumerate(shape.filter_numbers)]
    layers.append((weights.kernel("dense")[None], weights.bias("dense", shape.dense_expansion)))
    layers.append((weights.kernel("out").reshape(shape.columns, shape.dense_expansion, 1), weights.bias("out", 1)))
    size0, size1, size2 = shape.filter_sizes
    reach = (size0 - 1) + (size1 - 1 + 1) + ((size2 - 1) * 2 + 2) + (shape.columns - 1) * 4
    kernel, bias = layers[0]
    layers[0] = (np.pad(kernel, ((0, shape.windowsize - 1 - reach), (0, 0), (0, 0))), bias)
    return layers


def _checked(network: Network, receptive_field: int) -> Network:
    if network.receptive_field != receptive_field:
        raise TrainingError(f"the exported network sees {network.receptive_field} frames, expected {receptive_field}")
    return network


def _recordings(rng: np.random.Generator, rows: int, frames: int) -> NDArray[np.float32]:
    """Random ΔF/F with transients, for comparing outputs."""
    spikes = (rng.random((rows, frames)) < 0.05) * rng.uniform(0.2, 1.5, (rows, frames))
    kernel = np.exp(-np.arange(30) / 8.0)
    clean = np.stack([np.convolve(row, kernel)[:frames] for row in spikes])
    return (clean + 0.1 * rng.standard_normal((rows, frames))).astype(np.float32)

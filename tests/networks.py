"""Small random models for tests: published CASCADE folders, bundles, and slow twins of their arithmetic.

Nothing here needs TensorFlow or reference data. A published network is a list of :class:`KerasLayer`, which
:func:`write_weights` stores as Keras 2 does and :func:`windowed` computes window by window, as CASCADE does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import yaml
from recordings import recording

from cascade_rt.bundle import Bundle, write_bundle
from cascade_rt.chunks import ModelSpec
from cascade_rt.engine import Model
from cascade_rt.network import Conditioning, Layer, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# --------------------------------------------------------------------------------------------- published models


class KerasLayer(NamedTuple):
    kind: str
    config: dict[str, Any]
    weights: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Shape:
    """What CASCADE's configuration lets vary in a network."""

    window: int = 64
    filter_sizes: tuple[int, int, int] = (31, 19, 5)
    filter_numbers: tuple[int, int, int] = (4, 5, 6)
    dense_expansion: int = 4


def input_layer(window: int) -> KerasLayer:
    return KerasLayer("InputLayer", {"name": "input_1", "batch_input_shape": [None, window, 1], "dtype": "float32"})


def conv(name: str, kernel: np.ndarray, bias: np.ndarray, **changes: Any) -> KerasLayer:
    config = {
        "name": name,
        "filters": kernel.shape[2],
        "kernel_size": [kernel.shape[0]],
        "strides": [1],
        "padding": "valid",
        "dilation_rate": [1],
        "activation": "relu",
        "use_bias": True,
    }
    return KerasLayer("Conv1D", config | changes, (kernel.astype(np.float32), bias.astype(np.float32)))


def pool(name: str, **changes: Any) -> KerasLayer:
    return KerasLayer("MaxPooling1D", {"name": name, "pool_size": [2], "strides": [2], "padding": "valid"} | changes)


def dense(name: str, kernel: np.ndarray, bias: np.ndarray, activation: str) -> KerasLayer:
    config = {"name": name, "units": kernel.shape[1], "activation": activation, "use_bias": True}
    return KerasLayer("Dense", config, (kernel.astype(np.float32), bias.astype(np.float32)))


def flatten(name: str = "flatten_1") -> KerasLayer:
    return KerasLayer("Flatten", {"name": name, "data_format": "channels_last"})


def cascade_layers(rng: np.random.Generator, shape: Shape = Shape()) -> list[KerasLayer]:
    """CASCADE's network with random weights; its outputs have a spread of about 0.15."""
    k, c, d = shape.filter_sizes, shape.filter_numbers, shape.dense_expansion
    after_conv = shape.window - k[0] - k[1] + 2
    positions = (after_conv // 2 - k[2] + 1) // 2

    def weights(*size: int) -> tuple[np.ndarray, np.ndarray]:
        fan_in = int(np.prod(size[:-1]))
        return rng.normal(0, np.sqrt(2 / fan_in), size), rng.normal(0, 0.1, size[-1])

    while True:
        layers = [
            input_layer(shape.window),
            conv("conv1d_1", *weights(k[0], 1, c[0])),
            conv("conv1d_2", *weights(k[1], c[0], c[1])),
            pool("max_pooling1d_1"),
            conv("conv1d_3", *weights(k[2], c[1], c[2])),
            pool("max_pooling1d_2"),
            dense("dense_1", *weights(c[2], d), "relu"),
            flatten(),
        ]
        kernel, bias = weights(positions * d, 1)
        typical = recording(rng, 200, 2 * shape.window)[:, shape.window :]
        raw = windowed([*layers, dense("dense_2", kernel, bias, "linear")], typical)
        # Few filters may all be dead.
        if raw.std() > 0.02:
            scale = 0.15 / raw.std()
            return [*layers, dense("dense_2", kernel * scale, np.array([0.05 - raw.mean() * scale]), "linear")]


def picking_layers(window: int, position: int) -> list[KerasLayer]:
    """A network whose output is frame ``position`` of its window, for values that are not negative."""
    one = np.zeros((window, 2, 1))
    one[position, 0] = 1
    return [
        input_layer(window),
        conv("conv1d_1", np.array([1.0, 0.5]).reshape(1, 1, 2), np.zeros(2)),
        flatten(),
        dense("dense_1", one.reshape(-1, 1), np.zeros(1), "linear"),
    ]


def windowed(layers: list[KerasLayer], windows: np.ndarray) -> np.ndarray:
    """Outputs (n,) for windows (n, frames), layer by layer as CASCADE's network is defined."""
    x = np.asarray(windows, np.float64)[:, :, None]
    for kind, config, weights in layers:
        if kind == "Conv1D":
            kernel, bias = weights
            places = range(x.shape[1] - len(kernel) + 1)
            x = np.stack([np.einsum("nkc,kcd->nd", x[:, p : p + len(kernel)], kernel) for p in places], axis=1) + bias
        elif kind == "MaxPooling1D":
            x = np.stack([np.maximum(x[:, 2 * q], x[:, 2 * q + 1]) for q in range(x.shape[1] // 2)], axis=1)
        elif kind == "Flatten":
            x = x.reshape(len(x), -1)
        elif kind == "Dense":
            x = x @ weights[0] + weights[1]
        if config.get("activation") == "relu":
            x = np.maximum(x, 0)
    return x[:, 0]


def write_weights(
    path: Path, layers: list[KerasLayer], *, sequential: bool = False, attributes: dict[str, Any] | None = None
) -> None:
    """Store a network as Keras 2 does; ``attributes`` replace or (None) remove those of the file."""
    described = [{"class_name": kind, "name": config["name"], "config": config} for kind, config, _ in layers]
    model: dict[str, Any] = {"class_name": "Model", "config": {"name": "model_1", "layers": described}}
    if sequential:
        model = {"class_name": "Sequential", "config": described}
    with h5py.File(path, "w") as file:
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "2.1.6"
        file.attrs["model_config"] = json.dumps(model)
        for key, value in (attributes or {}).items():
            if value is None:
                del file.attrs[key]
            else:
                file.attrs[key] = value
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = np.array([config["name"].encode() for _, config, _ in layers])
        for _, config, weights in layers:
            name = config["name"]
            group = top.create_group(name)
            names = [f"{name}/kernel:0", f"{name}/bias:0"][: len(weights)]
            group.attrs["weight_names"] = np.array([n.encode() for n in names])
            for key, value in zip(names, weights, strict=True):
                group[key] = value


def write_published(
    folder: Path,
    *,
    make: Callable[[np.random.Generator], list[KerasLayer]] | None = None,
    shape: Shape = Shape(),
    levels: Iterable[float] = (2, 4),
    members: int = 2,
    seed: int = 0,
    **changes: Any,
) -> dict[float, list[list[KerasLayer]]]:
    """Write a folder as CASCADE publishes them; returns its networks by noise level.

    ``changes`` replace or (None) remove entries of config.yaml.
    """
    rng = np.random.default_rng(seed)
    levels = list(levels)
    folder.mkdir(parents=True, exist_ok=True)
    networks = {}
    for level in levels:
        networks[level] = [(make or (lambda r: cascade_layers(r, shape)))(rng) for _ in range(members)]
        for m, layers in enumerate(networks[level]):
            write_weights(folder / f"Model_NoiseLevel_{level:g}_Ensemble_{m}.h5", layers)
    config = {
        "model_name": folder.name,
        "sampling_rate": 30,
        "training_datasets": ["DS09-GCaMP6f-m-V1", "DS13-GCaMP6s-m-V1"],
        "placeholder_1": 0,
        "noise_levels": levels,
        "smoothing": 0.05,
        "causal_kernel": 0,
        "windowsize": shape.window,
        "before_frac": 0.5,
        "filter_sizes": list(shape.filter_sizes),
        "filter_numbers": list(shape.filter_numbers),
        "dense_expansion": shape.dense_expansion,
        "ensemble_size": members,
        "training_finished": "Yes",
    }
    config = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return networks


# ------------------------------------------------------------------------------------------------------ our own


class Stage(NamedTuple):
    """One layer: taps, channels, dilation, pooling."""

    taps: int
    channels: int
    dilation: int = 1
    pool: int = 0


#: Pools of different distance, dilations of which none divides all others, and a layer that does not look back.
STAGES = (Stage(5, 6), Stage(3, 7, 1, 1), Stage(3, 6, 2, 2), Stage(1, 8), Stage(3, 5, 6))
LAST = Stage(2, 0, 4)


def random_network(
    rng: np.random.Generator,
    *,
    outputs: int = 1,
    members: int = 1,
    stages: tuple[Stage, ...] = STAGES,
    last: Stage = LAST,
    noise_range: tuple[float, float] | None = None,
) -> Network:
    """A dilated network with random weights, conditioned if ``noise_range`` is given; outputs spread by 0.15."""
    while True:
        network = _random_network(rng, (*stages, last._replace(channels=outputs)), members, noise_range)
        raw = forward(network, recording(rng, 8, 200), np.geomspace(0.5, 20, 8))
        # Few channels may all be dead.
        if raw.std(axis=(0, 2)).min() > 0.02:
            break
    spread = (0.15 / raw.std(axis=(0, 2))).astype(np.float32)
    top = network.layers[-1]
    bias = (top.bias - raw.mean(axis=(0, 2)).astype(np.float32)) * spread + np.float32(0.05)
    top = Layer(kernel=top.kernel * spread, bias=bias, dilation=top.dilation, relu=False)
    return Network(layers=(*network.layers[:-1], top), conditioning=network.conditioning)


def _random_network(
    rng: np.random.Generator, stages: tuple[Stage, ...], members: int, noise_range: tuple[float, float] | None
) -> Network:
    layers, channels = [], 1
    for number, stage in enumerate(stages):
        size = (members, stage.taps, channels, stage.channels)
        layers.append(
            Layer(
                kernel=rng.normal(0, np.sqrt(2 / (stage.taps * channels)), size).astype(np.float32),
                bias=rng.normal(0, 0.1, (members, stage.channels)).astype(np.float32),
                dilation=stage.dilation,
                relu=number < len(stages) - 1,
                pool=stage.pool,
            )
        )
        channels = stage.channels
    if noise_range is None:
        return Network(layers=tuple(layers))
    hidden, wide = 5, [stage.channels for stage in stages[:-1]]

    def normal(*size: int) -> np.ndarray:
        return rng.normal(0, 0.3, size).astype(np.float32)

    conditioning = Conditioning(
        hidden_kernel=normal(hidden),
        hidden_bias=normal(hidden) + np.float32(0.3),
        scale_kernels=tuple(normal(hidden, c) for c in wide),
        scale_biases=tuple(normal(c) for c in wide),
        offset_kernels=tuple(normal(hidden, c) for c in wide),
        offset_biases=tuple(normal(c) for c in wide),
        noise_range=noise_range,
    )
    return Network(layers=tuple(layers), conditioning=conditioning)


def forward(network: Network, x: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Slow twin of a network: outputs (n, outputs, frames - receptive_field + 1) for x (n, frames)."""
    n, frames = x.shape
    condition, total = network.conditioning, 0.0
    for m in range(network.members):
        h = np.asarray(x, np.float64)[:, :, None]
        for number, layer in enumerate(network.layers):
            span = (layer.taps - 1) * layer.dilation
            out = np.zeros((n, h.shape[1] - span, layer.channels_out))
            for tap in range(layer.taps):
                start = tap * layer.dilation
                out += h[:, start : start + out.shape[1]] @ layer.kernel[m, tap].astype(np.float64)
            h = out + layer.bias[m]
            if condition is not None and number < len(network.layers) - 1:
                u = np.log(np.clip(nu, *condition.noise_range))
                g = np.maximum(np.outer(u, condition.hidden_kernel) + condition.hidden_bias, 0)
                scale = 1 + g @ condition.scale_kernels[number] + condition.scale_biases[number]
                offset = g @ condition.offset_kernels[number] + condition.offset_biases[number]
                h = h * scale[:, None, :] + offset[:, None, :]
            if layer.relu:
                h = np.maximum(h, 0)
            if layer.pool:
                h = np.maximum(h[:, layer.pool :], h[:, : h.shape[1] - layer.pool])
        total = total + h
    assert h.shape[1] == frames - network.receptive_field + 1
    return np.asarray(total).transpose(0, 2, 1) / network.members


def spec_for(network: Network, lookaheads: tuple[int, ...], **changes: Any) -> ModelSpec:
    """A description that fits ``network``: conditioned, or binned for the levels 1, 3 and 6."""
    conditioned = network.conditioning is not None
    window = network.receptive_field
    values: dict[str, Any] = {
        "name": "small",
        "family": "conditioned" if conditioned else "binned",
        "frame_rate_hz": 30.0,
        "windowsize": window,
        "lookaheads": lookaheads,
        "smoothing_s": 0.05,
        "causal_kernel": False,
        "noise_levels": network.conditioning.noise_range if network.conditioning else (1.0, 3.0, 6.0),
        "ensemble_size": network.members,
        "before_frac": None if conditioned else (window - 1 - lookaheads[0]) / window,
    }
    return ModelSpec(**(values | changes))


def write_conditioned(
    folder: Path,
    *,
    lookaheads: tuple[int, ...] = (0, 1, 2, 3, 7, 15),
    noise_range: tuple[float, float] = (1.0, 8.0),
    seed: int = 0,
    network: Network | None = None,
    **changes: Any,
) -> Path:
    """Write a bundle with a conditioned network."""
    if network is None:
        rng = np.random.default_rng(seed)
        network = random_network(rng, outputs=len(lookaheads), noise_range=noise_range)
    spec = spec_for(network, lookaheads, **({"name": folder.name} | changes))
    return write_bundle(folder, spec, {None: network}, card="# A test model\n", config={"model_name": spec.name})


def picking_network(window: int, lookaheads: tuple[int, ...], noise_range: tuple[float, float] = (1.0, 8.0)) -> Network:
    """A conditioned network whose outputs are frames of its window, for values that are not negative."""
    kernel = np.zeros((1, window, 2, len(lookaheads)), np.float32)
    for output, lookahead in enumerate(lookaheads):
        kernel[0, window - 1 - lookahead, 0, output] = 1
    through = Layer(kernel=np.array([1.0, 0.5], np.float32).reshape(1, 1, 1, 2), bias=np.zeros((1, 2), np.float32))
    pick = Layer(kernel=kernel, bias=np.zeros((1, len(lookaheads)), np.float32), relu=False)
    nothing = (np.zeros((3, 2), np.float32),), (np.zeros(2, np.float32),)
    conditioning = Conditioning(
        hidden_kernel=np.ones(3, np.float32),
        hidden_bias=np.ones(3, np.float32),
        scale_kernels=nothing[0],
        scale_biases=nothing[1],
        offset_kernels=nothing[0],
        offset_biases=nothing[1],
        noise_range=noise_range,
    )
    return Network(layers=(through, pick), conditioning=conditioning)


def loaded(
    networks: Network | dict[float, Network],
    lookaheads: tuple[int, ...] | None = None,
    *,
    threads: int = 1,
    **changes: Any,
) -> Model:
    """A model of networks that were never stored: one conditioned, or binned ones by noise level."""
    by_level: dict[float | None, Network] = {None: networks} if isinstance(networks, Network) else {**networks}
    one = next(iter(by_level.values()))
    values: dict[str, Any] = {} if one.conditioning else {"noise_levels": tuple(sorted(by_level))}
    spec = spec_for(one, lookaheads or tuple(range(one.n_outputs)), **(values | changes))
    return Model(Bundle(folder=Path("never stored"), spec=spec, networks=by_level), threads=threads)


def on_a_gpu(model: Model) -> Model:
    """The same model as if on a GPU: live it takes whole windows; its dense graphs run on the CPU."""
    levels = [None] if model.spec.family == "conditioned" else list(model.spec.noise_levels)
    for key in levels:
        model.run_dense(key, np.zeros((1, model.spec.windowsize), np.float32), np.ones(1))
    twin = object.__new__(Model)
    twin.__dict__.update(model.__dict__)
    twin.device = "cuda"
    return twin

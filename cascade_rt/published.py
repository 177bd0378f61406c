"""Read model folders as CASCADE publishes them: ``config.yaml`` and Keras 2 weight files, with h5py alone.

The layers are taken from the description inside each weight file, so filter sizes, filter numbers, the window
and the dense layer may differ from CASCADE's defaults.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import yaml

from .chunks import ModelSpec
from .errors import BundleError, ModelError
from .network import Layer, Network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["expected_files", "read_config", "read_published"]

#: Entries that are needed to run a model, each with its lowest value and a bound.
_RANGES = {
    "sampling_rate": (1e-3, 1e6),
    "noise_levels": (1e-3, 1e4),
    "smoothing": (0.0, 1e3),
    "windowsize": (1, 1e5),
    "before_frac": (0.0, 1.0),
    "ensemble_size": (1, 1e3),
}


def read_config(text: str, origin: str) -> dict[str, Any]:
    """Parse a published ``config.yaml``.

    Raises
    ------
    BundleError
        If it is not YAML or lacks an entry that is needed to run the model.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BundleError(f"{origin}: not readable as YAML ({error})") from error
    if not isinstance(config, dict):
        raise BundleError(f"{origin}: expected a list of named settings, found {type(config).__name__}")
    missing = [key for key in _RANGES if config.get(key) is None]
    if missing:
        raise BundleError(f"{origin}: lacks {', '.join(missing)}")
    levels = config["noise_levels"]
    if not isinstance(levels, list) or not levels:
        raise BundleError(f"{origin}: noise_levels is {levels!r}; expected a list of levels")
    for key, (lowest, below) in _RANGES.items():
        for value in levels if key == "noise_levels" else [config[key]]:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value < below:
                raise BundleError(f"{origin}: {key} is {value!r}; expected a number from {lowest:g} to below {below:g}")
    for key in ("windowsize", "ensemble_size"):
        if config[key] != int(config[key]):
            raise BundleError(f"{origin}: {key} is {config[key]!r}; expected a whole number")
    return config


def expected_files(config: Mapping[str, Any]) -> dict[float, list[str]]:
    """Names of the weight files that a configuration stands for, by noise level."""
    members = range(int(config["ensemble_size"]))
    return {
        float(level): [f"Model_NoiseLevel_{level:g}_Ensemble_{m}.h5" for m in members]
        for level in sorted(config["noise_levels"])
    }


def read_published(
    folder: Path, name: str | None = None
) -> tuple[ModelSpec, dict[float | None, Network], dict[str, Any], str]:
    """Read a published folder.

    Returns
    -------
    (ModelSpec, networks by noise level, configuration, card)

    Raises
    ------
    BundleError
        Naming the folder and the file.
    """
    path = folder / "config.yaml"
    try:
        config = read_config(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{folder}: no readable config.yaml ({error}); is this a CASCADE model folder?") from error
    files = expected_files(config)
    missing = [f for names in files.values() for f in names if not (folder / f).is_file()]
    if missing:
        total = sum(map(len, files.values()))
        raise BundleError(
            f"{folder}: {len(missing)} of the {total} networks that config.yaml names are missing, "
            f"first {missing[0]}; download the model again"
        )
    window = int(config["windowsize"])
    digest = hashlib.sha256()
    networks: dict[float | None, Network] = {}
    for level, names in files.items():
        members = [_read_member(folder / n, window, digest) for n in names]
        networks[level] = _merge(members, f"{folder.name}, noise level {level:g}")
    before = float(config["before_frac"]) * window
    spec = ModelSpec(
        name=name or str(config.get("model_name") or folder.name),
        family="binned",
        frame_rate_hz=float(config["sampling_rate"]),
        windowsize=window,
        before_frac=float(config["before_frac"]),
        lookaheads=(window - 1 - round(before),),
        smoothing_s=float(config["smoothing"]),
        causal_kernel=bool(config.get("causal_kernel", 0)),
        noise_levels=tuple(files),
        ensemble_size=int(config["ensemble_size"]),
        training_datasets=tuple(map(str, config.get("training_datasets") or ())),
        source_sha256=digest.hexdigest(),
    )
    return spec, networks, config, _card(spec)


def _merge(members: list[tuple[Layer, ...]], origin: str) -> Network:
    shapes = {tuple((x.kernel.shape, x.dilation, x.pool, x.relu) for x in layers) for layers in members}
    if len(shapes) > 1:
        raise BundleError(f"{origin}: the members of the ensemble have different layers")
    merged = tuple(
        Layer(
            kernel=np.concatenate([x.kernel for x in same]),
            bias=np.concatenate([x.bias for x in same]),
            dilation=same[0].dilation,
            relu=same[0].relu,
            pool=same[0].pool,
        )
        for same in zip(*members, strict=True)
    )
    return Network(layers=merged)


def _read_member(path: Path, window: int, digest: Any) -> tuple[Layer, ...]:
    """Layers of one weight file, as dilated convolutions."""
    try:
        digest.update(path.read_bytes())
        with h5py.File(path, "r") as file:
            described = file.attrs["model_config"]
            config = json.loads(described if isinstance(described, str) else described.decode("utf-8"))["config"]
            layers = config["layers"] if isinstance(config, dict) else config
            weights = {name: _weights(group) for name, group in file["model_weights"].items()}
            made = _as_convolutions(layers, weights, window)
            if Network(layers=made).n_outputs != 1:
                raise ValueError(f"has {made[-1].channels_out} outputs, expected 1")
            return made
    except (OSError, KeyError, ValueError, TypeError, AttributeError, ModelError) as error:
        raise BundleError(f"{path.parent.name}: {path.name} is not a usable Keras weight file ({error})") from error


def _weights(group: Any) -> list[Any]:
    names = [n if isinstance(n, str) else n.decode() for n in group.attrs.get("weight_names", ())]
    return [np.asarray(group[n], np.float32) for n in names]


def _as_convolutions(described: list[dict[str, Any]], weights: dict[str, list[Any]], window: int) -> tuple[Layer, ...]:
    """Rewrite the windowed network for whole recordings.

    Dropping the stride of the pooling multiplies the dilation of all that follows by 2; the flattened output
    layer becomes a convolution over the positions that the pooling left.
    """
    layers: list[dict[str, Any]] = []
    dilation, positions, flat = 1, window, False
    for entry in described:
        kind, config = entry["class_name"], entry["config"]
        shape = config.get("batch_input_shape") or config.get("batch_shape")
        if shape and shape[1] != window:
            raise ValueError(f"takes windows of {shape[1]} frames, config.yaml says {window}")
        if kind in ("InputLayer", "Dropout"):
            continue
        if kind == "Conv1D" and not flat:
            kernel, bias = weights[config["name"]]
            if config["strides"] != [1] or config["padding"] != "valid" or config.get("dilation_rate", [1]) != [1]:
                raise ValueError(f"layer {config['name']}: strides, padding or dilation are not supported")
            layers.append(_layer(kernel, bias, dilation, config))
            positions -= kernel.shape[0] - 1
        elif kind == "MaxPooling1D" and layers and not layers[-1]["pool"] and not flat:
            if config["pool_size"] != [2] or config["strides"] != [2] or config["padding"] != "valid":
                raise ValueError(f"layer {config['name']}: only pooling by 2 is supported")
            layers[-1]["pool"] = dilation
            positions, dilation = positions // 2, dilation * 2
        elif kind == "Dense":
            kernel, bias = weights[config["name"]]
            taps = positions if flat else 1
            layers.append(_layer(kernel.reshape(taps, -1, kernel.shape[1]), bias, dilation, config))
            if flat:
                positions = 1
        elif kind == "Flatten":
            flat = True
        else:
            raise ValueError(f"layer of kind {kind} is not supported")
    if not flat or positions != 1:
        raise ValueError("does not end in a flattened output layer")
    _fill_window(layers, window)
    return tuple(Layer(**layer) for layer in layers)


def _layer(kernel: Any, bias: Any, dilation: int, config: dict[str, Any]) -> dict[str, Any]:
    if config["activation"] not in ("relu", "linear"):
        raise ValueError(f"layer {config['name']}: activation {config['activation']} is not supported")
    relu = config["activation"] == "relu"
    return {"kernel": kernel[None], "bias": bias[None], "dilation": dilation, "relu": relu, "pool": 0}


def _fill_window(layers: list[dict[str, Any]], window: int) -> None:
    """Let the first layer span the frames that pooling cut off the window's end, with weights of zero."""
    reach = sum((x["kernel"].shape[1] - 1) * x["dilation"] + x["pool"] for x in layers)
    unused = window - 1 - reach
    if unused < 0:
        raise ValueError(f"the layers need {1 - unused} frames more than the window of {window} frames")
    layers[0]["kernel"] = np.pad(layers[0]["kernel"], ((0, 0), (0, unused), (0, 0), (0, 0)))


def _card(spec: ModelSpec) -> str:
    lookahead = spec.lookaheads[0]
    kernel = "causal" if spec.causal_kernel else "Gaussian"
    levels = ", ".join(f"{x:g}" for x in spec.noise_levels)
    integration_ms = 1000 * spec.integration_time_s(lookahead)
    return f"""# {spec.name}

A model published by the CASCADE project, imported unchanged. Cite Rupprecht et al., Nature Neuroscience 2021
(doi:10.1038/s41593-021-00895-5), and the papers of the datasets below.

- frame rate {spec.frame_rate_hz:g} Hz, window {spec.windowsize} frames, before_frac {spec.before_frac:g}
- look-ahead {lookahead} frames: integration time {integration_ms:.0f} ms
- smoothing {1000 * spec.smoothing_s:g} ms ({kernel} kernel)
- noise levels {levels} (unit % Hz^-1/2), ensembles of {spec.ensemble_size}
- trained on {", ".join(spec.training_datasets) or "datasets that its configuration does not name"}
- sha256 of the weights {spec.source_sha256}

Its outputs are placed on the frame that the training target described. CASCADE itself stores them
{spec.cascade_shift} frame{"" if spec.cascade_shift == 1 else "s"} earlier; `alignment="cascade"` reproduces that.
"""

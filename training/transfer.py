"""Go on training a model that exists, on other ground truth: what a laboratory with its own indicator does."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cascade_rt.bundle import find_bundle, read_bundle
from cascade_rt.errors import TrainingError

from .architecture import ConditionedShape, LayerShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.network import Network

__all__ = ["FIT_DEFAULTS", "Start", "read_start", "set_weights", "with_start"]

logger = logging.getLogger(__name__)

#: Options of the fit that are other than usual when it starts from a model: half the learning rate, and few frames,
#: which keep what the model knows. The held-out neurons, if any, are scored more often.
FIT_DEFAULTS = {"target_frames": 4_000_000, "learning_rate": 1e-3, "warmup_steps": 100, "validation_blocks": 2}

#: Entries that the data must share with the model: name in the configuration and in the model, unit.
_SAME = (("frame_rate_hz", " Hz"), ("smoothing_s", " s"), ("causal_kernel", ""))


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """A model to start from.

    Parameters
    ----------
    spec : ModelSpec
    network : Network
    shape : ConditionedShape
        Of the network.
    """

    spec: ModelSpec
    network: Network
    shape: ConditionedShape


def read_start(name: str) -> Start:
    """Read the model to start from.

    Parameters
    ----------
    name : str
        Of an installed or shipped model, or the path of a bundle.

    Raises
    ------
    TrainingError
        It is not one conditioned network, or not of the structure that is trained here.
    """
    bundle = read_bundle(find_bundle(name))
    if bundle.spec.family != "conditioned":
        raise TrainingError(
            f"{name} is a {bundle.spec.family} model, with networks of their own for each noise level; training can "
            "start from a conditioned model only, such as those that this project ships"
        )
    network = bundle.networks[None]
    return Start(spec=bundle.spec, network=network, shape=_shape(network, bundle.spec))


def with_start(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the entries of a configuration from the model that ``from_model`` names.

    Frame rate, smoothing and kernel are the model's, and so is the network; given ones must be equal. Options of
    the fit that are not given are :data:`FIT_DEFAULTS`.

    Parameters
    ----------
    values : mapping
        Entries of a configuration.

    Raises
    ------
    TrainingError
        A given entry differs from the model's; names both.
    """
    name = str(values["from_model"])
    start = read_start(name)
    out = dict(values)
    for entry, unit in _SAME:
        own = getattr(start.spec, entry)
        given = out.setdefault(entry, own)
        if not _equal(given, own):
            raise TrainingError(
                f"{entry} is {given}{unit}, but {name} was trained with {own}{unit}: start from another model, or "
                f"leave {entry} out"
            )
    network = asdict(start.shape)
    for entry, given in (out.get("network") or {}).items():
        if entry in network and not _equal(given, network[entry]):
            raise TrainingError(
                f"network.{entry} is {given}, but {name} has {network[entry]}: a fit that starts from a model "
                "keeps its network; leave the entry out"
            )
    out["network"] = {**(out.get("network") or {}), **network}
    out["fit"] = {**FIT_DEFAULTS, **(out.get("fit") or {})}
    scored = [*(out.get("test_datasets") or ()), *((out.get("datasets") or ()) if out.get("folds") else ())]
    known = _among(scored, start.spec.training_datasets)
    if known:
        logger.warning(
            "%s was itself trained on %s: scores on neurons of these datasets will be too good", name, ", ".join(known)
        )
    return out


def set_weights(model: Any, network: Network) -> None:
    """Give a Keras model the weights of a network; the inverse of :func:`training.export.network_from_onnx`.

    Parameters
    ----------
    model : keras.Model
        Made by :func:`training.architecture.build_conditioned` in the shape of the network.
    network : Network
        Conditioned, of one member.
    """
    for name, kernel, bias in _weights(network):
        model.get_layer(name).set_weights([kernel, bias])


def _weights(network: Network) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Keras layer, kernel and bias."""
    for number, layer in enumerate(network.layers):
        yield f"conv_{number}", layer.kernel[0], layer.bias[0]
    modulation = network.conditioning
    if modulation is None:
        raise TrainingError("a network without conditioning: expected one that is told the noise level")
    yield "noise_hidden", modulation.hidden_kernel[None], modulation.hidden_bias
    for kind, kernels, biases in (
        ("scale", modulation.scale_kernels, modulation.scale_biases),
        ("offset", modulation.offset_kernels, modulation.offset_biases),
    ):
        for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            yield f"{kind}_{number}", kernel, bias


def _shape(network: Network, spec: ModelSpec) -> ConditionedShape:
    """Sizes with which :func:`training.architecture.build_conditioned` builds this network."""
    seen = tuple(
        LayerShape(taps=layer.taps, channels=layer.channels_out, dilation=layer.dilation, pool=layer.pool)
        for layer in network.layers
    )
    conditioning = network.conditioning
    if len(seen) == 5 and conditioning is not None and network.members == 1:
        low, high = spec.noise_range
        shape = ConditionedShape(
            filter_sizes=tuple(layer.taps for layer in seen[:3]),
            filter_numbers=tuple(layer.channels for layer in seen[:3]),
            dense_expansion=seen[3].channels,
            head_taps=seen[4].taps,
            dilation=seen[1].dilation,
            lookahead_frames=spec.lookaheads,
            noise_hidden=int(conditioning.hidden_bias.size),
            noise_range=(low, high),
        )
        if shape.layers == seen:
            return shape
    raise TrainingError(
        f"{spec.name} has layers {list(seen)} and {network.members} member(s); training can start from single networks "
        "of the structure of training.architecture only"
    )


def _among(datasets: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of the datasets, given by name or number, that are among others given by name."""
    names = {name for other in others for name in (other, other.split("-")[0])}
    return sorted(set(datasets) & names)


def _equal(given: Any, own: Any) -> bool:
    if isinstance(own, (tuple, list)):
        return isinstance(given, (tuple, list)) and len(given) == len(own) and all(map(_equal, given, own))
    if isinstance(own, bool) or isinstance(given, bool) or not isinstance(given, (int, float)):
        return bool(given == own) and isinstance(given, type(own))
    return math.isclose(given, own, rel_tol=1e-6)

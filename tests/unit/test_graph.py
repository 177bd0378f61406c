"""The dense ONNX graph computes what the arrays stand for, and gives the arrays back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from networks import Stage, forward, picking_network, random_network, spec_for

from cascade_rt.errors import ModelError
from cascade_rt.graph import METADATA_KEY, dense_model, read_model
from cascade_rt.network import Network

NU = np.array([0.1, 1.0, 2.2, 4.0, 8.0, 40.0], np.float32)


def _networks() -> dict[str, Network]:
    rng = np.random.default_rng(3)
    return {
        "plain": random_network(rng),
        "ensemble": random_network(rng, members=3),
        "many channels": random_network(rng, stages=(Stage(3, 17), Stage(2, 33, 2, 1)), last=Stage(3, 0)),
        "one channel": random_network(rng, stages=(Stage(3, 1), Stage(2, 1, 2)), last=Stage(3, 0)),
        "one layer": random_network(rng, stages=(), last=Stage(9, 0)),
        "several outputs": random_network(rng, outputs=4),
        "conditioned": random_network(rng, outputs=3, noise_range=(1.0, 8.0)),
        "conditioned ensemble": random_network(rng, outputs=2, members=2, noise_range=(1.0, 8.0)),
    }


NETWORKS = _networks()


def _run(model: Any, network: Network, x: np.ndarray, nu: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"dff": x} | ({"noise_level": nu} if network.conditioning else {})
    (out,) = session.run(None, feed)
    return np.asarray(out)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_dense_graph_equals_the_slow_twin(name: str, padded: bool) -> None:
    network = NETWORKS[name]
    field = network.receptive_field
    for frames in (field, field + 1, field + 57):
        x = np.random.default_rng(frames).normal(0, 0.5, (NU.size, frames)).astype(np.float32)
        seen = _run(dense_model(network, padded=padded), network, x, NU)
        assert seen.shape == (NU.size, network.n_outputs, frames - field + 1)
        np.testing.assert_allclose(seen, forward(network, x, NU), atol=2e-6)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "several outputs"])
def test_a_stored_graph_gives_the_same_network_back(name: str) -> None:
    network = NETWORKS[name]
    lookaheads = tuple(range(network.n_outputs))
    spec = spec_for(network, lookaheads)
    data = dense_model(network, spec, noise_level=3.0).SerializeToString()
    again, described, _ = read_model(data, "x.onnx")
    assert described == spec
    assert len(again.layers) == len(network.layers)
    for one, other in zip(again.layers, network.layers, strict=True):
        assert (one.dilation, one.relu, one.pool) == (other.dilation, other.relu, other.pool)
        np.testing.assert_array_equal(one.kernel, other.kernel)
        np.testing.assert_array_equal(one.bias, other.bias)
    assert (again.conditioning is None) == (network.conditioning is None)
    if network.conditioning is not None and again.conditioning is not None:
        for (a, b), (c, d) in zip(again.conditioning.modulation(NU), network.conditioning.modulation(NU), strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)


def test_a_stored_graph_is_usable_without_this_package() -> None:
    network = picking_network(12, (0, 3))
    data = dense_model(network, spec_for(network, (0, 3))).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["dff", "noise_level"]
    assert [o.name for o in session.get_outputs()] == ["spike_prob"]
    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    np.testing.assert_array_equal(session.run(None, {"dff": x, "noise_level": NU[:2]})[0][:, :, 0], x[:, [11, 8]])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert metadata["spec"]["lookaheads"] == [0, 3]
    assert metadata["spec"]["windowsize"] == 12


def _stored() -> Any:
    network = NETWORKS["plain"]
    return dense_model(network, spec_for(network, (2,)), noise_level=1.0)


def _metadata(model: Any, change: dict[str, Any]) -> bytes:
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    entry.value = json.dumps(json.loads(entry.value) | change)
    return bytes(model.SerializeToString())


def test_foreign_and_damaged_files_are_refused_by_name() -> None:
    whole = _stored().SerializeToString()
    foreign = _stored()
    del foreign.metadata_props[:]
    for data in (b"", b"not an ONNX file", whole[: len(whole) // 2], foreign.SerializeToString()):
        with pytest.raises(ModelError, match=r"bundle/x\.onnx"):
            read_model(data, "bundle/x.onnx")


def test_metadata_of_another_version_is_refused() -> None:
    with pytest.raises(ModelError, match=r"x\.onnx.*format 2.*reads format 1"):
        read_model(_metadata(_stored(), {"format": 2}), "x.onnx")


@pytest.mark.parametrize("missing", ["member0.layer1.kernel", "member0.layer0.bias"])
def test_missing_weights_are_named(missing: str) -> None:
    model = _stored()
    kept = [t for t in model.graph.initializer if t.name != missing]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(ModelError, match=rf"x\.onnx.*{missing}"):
        read_model(model.SerializeToString(), "x.onnx")


@pytest.mark.parametrize("entry", ["spec", "network"])
def test_metadata_that_lacks_an_entry_is_refused(entry: str) -> None:
    model = _stored()
    properties = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    metadata = json.loads(properties.value)
    del metadata[entry]
    properties.value = json.dumps(metadata)
    with pytest.raises(ModelError, match=r"x\.onnx"):
        read_model(model.SerializeToString(), "x.onnx")

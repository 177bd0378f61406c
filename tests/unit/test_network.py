"""Networks as arrays: shapes that must fit, receptive fields, and the modulation by ν."""

from __future__ import annotations

import numpy as np
import pytest
from networks import STAGES, Stage, forward, random_network

from cascade_rt.errors import ModelError
from cascade_rt.network import Layer, Network


def _layer(taps: int = 3, channels_in: int = 1, channels_out: int = 1, members: int = 1, **changes: object) -> Layer:
    kernel = np.zeros((members, taps, channels_in, channels_out), np.float32)
    return Layer(kernel=kernel, bias=np.zeros((members, channels_out), np.float32), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernel", "bias"), [((3, 1, 2), (1, 2)), ((1, 3, 1, 2), (1, 3)), ((2, 3, 1, 2), (1, 2)), ((1, 3, 1, 2), (2,))]
)
def test_a_bias_that_does_not_fit_its_kernel_is_refused(kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="expected"):
        Layer(kernel=np.zeros(kernel, np.float32), bias=np.zeros(bias, np.float32))


@pytest.mark.parametrize("changes", [{"dilation": 0}, {"dilation": 3}, {"pool": -1}])
def test_impossible_distances_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=r"dilation .* and pool"):
        _layer(**changes)


def test_layers_must_follow_each_other() -> None:
    with pytest.raises(ModelError, match=r"layer 1 .* takes 3 channels; expected 1 and 2"):
        Network(layers=(_layer(channels_out=2), _layer(channels_in=3, relu=False)))
    with pytest.raises(ModelError, match="layer 1 has 2 members"):
        Network(layers=(_layer(), _layer(members=2, relu=False)))
    with pytest.raises(ModelError, match=r"layer 0 .* takes 2 channels"):
        Network(layers=(_layer(channels_in=2, relu=False),))


@pytest.mark.parametrize("changes", [{"relu": True}, {"relu": False, "pool": 1}])
def test_the_last_layer_is_linear(changes: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="last layer must be linear"):
        Network(layers=(_layer(), _layer(**changes)))


@pytest.mark.parametrize("members", [1, 3])
def test_receptive_field_is_what_outputs_depend_on(members: int) -> None:
    rng = np.random.default_rng(1)
    network = random_network(rng, members=members)
    field = network.receptive_field
    assert field == 1 + 4 + (2 + 1) + (4 + 2) + 0 + 12 + 4
    # The network is piecewise linear: over many windows, each frame of the field moves some output, no other does.
    x = rng.normal(size=(40, field + 2))
    base, nu = forward(network, x, np.ones(40))[:, 0, 1], np.ones(40)
    for frame in range(field + 2):
        changed = x.copy()
        changed[:, frame] += 1
        moved = not np.allclose(forward(network, changed, nu)[:, 0, 1], base, atol=1e-12)
        assert moved == (1 <= frame <= field), frame


def test_multiply_adds_count_every_weight_once() -> None:
    stages = (Stage(5, 6), Stage(3, 7, 1, 1))
    network = random_network(np.random.default_rng(0), stages=stages, last=Stage(2, 0), outputs=3, members=2)
    assert network.multiply_adds == 2 * (5 * 6 + 3 * 6 * 7 + 2 * 7 * 3)
    assert (network.n_outputs, network.members) == (3, 2)


def test_modulation_follows_its_formula_and_stops_at_the_trained_range() -> None:
    network = random_network(np.random.default_rng(2), noise_range=(1.0, 8.0))
    c = network.conditioning
    assert c is not None
    nu = np.array([0.01, 1.0, 2.5, 8.0, 300.0])
    pairs = c.modulation(nu)
    assert len(pairs) == len(STAGES)
    for layer, (scale, offset) in enumerate(pairs):
        for row, level in enumerate((1.0, 1.0, 2.5, 8.0, 8.0)):
            g = np.maximum(np.log(level) * c.hidden_kernel + c.hidden_bias, 0)
            np.testing.assert_allclose(scale[row], 1 + g @ c.scale_kernels[layer] + c.scale_biases[layer], atol=1e-5)
            np.testing.assert_allclose(offset[row], g @ c.offset_kernels[layer] + c.offset_biases[layer], atol=1e-5)
        assert scale.dtype == offset.dtype == np.float32

"""One frame at a time: the live state gives what the network gives for the window that ends there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from networks import STAGES, Stage, forward, loaded, on_a_gpu, picking_network, random_network
from recordings import ramp

from cascade_rt import stepper
from cascade_rt.window_stepper import WindowStepper

if TYPE_CHECKING:
    from cascade_rt.network import Network
    from cascade_rt.stepper import Stepper

LEVELS = (1.0, 3.0, 6.0)


def _binned(**kwargs: object) -> dict[float, Network]:
    rng = np.random.default_rng(7)
    return {level: random_network(rng, **kwargs) for level in LEVELS}  # type: ignore[arg-type]


def _work(networks: Network | dict[float, Network]) -> int:
    return min(one.multiply_adds for one in (networks.values() if isinstance(networks, dict) else [networks]))


def _conditioned(**kwargs: object) -> Network:
    return random_network(np.random.default_rng(8), noise_range=(1.0, 8.0), **kwargs)  # type: ignore[arg-type]


#: Every layer may be first, last, alone, without a past, dilated or pooled.
NETWORKS = {
    "binned": _binned(),
    "ensembles": _binned(members=3),
    "one layer": _binned(stages=(), last=Stage(9, 0)),
    "first layer without a past": _binned(stages=(Stage(1, 4), Stage(5, 3))),
    "last layer without a past": _binned(stages=(Stage(5, 4), Stage(3, 3, 2)), last=Stage(1, 0)),
    "dilated more, then less": _binned(stages=(Stage(3, 4), Stage(3, 4, 4), Stage(2, 3, 2)), last=Stage(2, 0)),
    "two taps": _binned(stages=(Stage(2, 4, 1, 1), Stage(2, 3, 1, 2)), last=Stage(2, 0, 8)),
    "pools before the only past": _binned(stages=(Stage(1, 3, 1, 3), Stage(1, 2, 1, 4)), last=Stage(3, 0, 2)),
    "one channel": _binned(stages=(Stage(3, 1, 1, 1), Stage(3, 1, 2, 2)), last=Stage(2, 0, 4)),
    "conditioned": _conditioned(outputs=4),
    "conditioned ensemble": _conditioned(outputs=2, members=2, stages=STAGES[:3]),
    "conditioned, dilated": _conditioned(
        outputs=2, stages=(Stage(3, 4), Stage(3, 5, 2), Stage(3, 4, 4, 2)), last=Stage(3, 0, 8)
    ),
}


def _expected(networks: Network | dict[float, Network], x: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Outputs (n, outputs, frames - window + 1), each neuron through the network nearest to its ν; NaN without ν."""
    rows = []
    for trace, level in zip(x, nu, strict=True):
        net = networks if not isinstance(networks, dict) else networks[min(LEVELS, key=lambda v: abs(v - level))]
        row = forward(net, trace[None], np.array([1.0 if np.isnan(level) else level]))
        rows.append(row * np.nan if np.isnan(level) else row)
    return np.concatenate(rows)


def _run(stepper: Stepper | WindowStepper, x: np.ndarray) -> np.ndarray:
    """All outputs, (n, outputs, frames)."""
    return np.stack([stepper.step(column).copy() for column in x.T], axis=-1)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_frame_equals_the_window_that_ends_there(name: str) -> None:
    networks = NETWORKS[name]
    rng = np.random.default_rng(5)
    model = loaded(networks)
    window = model.spec.windowsize
    nu = np.array([0.3, 1.0, 2.9, np.nan, 5.0, 7.0, 2.0, 30.0, 1.2])
    x = rng.normal(0, 0.5, (nu.size, window + 61)).astype(np.float32)
    seen = _run(model.stepper(nu), x)[:, :, window - 1 :]
    np.testing.assert_allclose(seen, _expected(networks, x, nu), atol=3e-6)


@pytest.mark.parametrize("name", ["binned", "ensembles", "conditioned"])
@pytest.mark.parametrize(("n", "threads"), [(1, 1), (2, 4), (255, 1), (255, 2), (600, 1), (601, 3)])
def test_any_number_of_neurons_and_threads(name: str, n: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = NETWORKS[name]
    monkeypatch.setattr(stepper, "SMALLEST_TEAM", 100 * _work(networks))
    rng = np.random.default_rng(n)
    model = loaded(networks, threads=threads)
    window = model.spec.windowsize
    nu = rng.permutation(np.resize([0.5, 1.1, 1.2, 0.9, 1.0, 1.4, 3.2, 9.0], n))
    x = rng.normal(0, 0.5, (n, window + 9)).astype(np.float32)
    seen = _run(model.stepper(nu), x)[:, :, window - 1 :]
    dense = np.concatenate([model.run_dense(k, x[[i]], nu[[i]]) for i, k in enumerate(model.network_keys(nu))])
    np.testing.assert_allclose(seen, dense, atol=3e-6)


def test_small_work_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(NETWORKS["conditioned"], threads=4)
    work = model.network(None).multiply_adds
    for per_team, n, teams in ((10 * work, 19, 1), (10 * work, 20, 2), (10 * work, 39, 3), (work, 9, 4)):
        monkeypatch.setattr(stepper, "SMALLEST_TEAM", per_team)
        pool = model.stepper(np.full(n, 2.0))._pool
        assert (1 if pool is None else 1 + pool._max_workers) == teams


@pytest.mark.parametrize("name", NETWORKS)
def test_the_way_of_the_gpu_gives_the_same(name: str) -> None:
    networks = NETWORKS[name]
    model = loaded(networks)
    window = model.spec.windowsize
    nu = np.array([0.3, np.nan, 2.9, 5.0, 7.0])
    x = np.random.default_rng(6).normal(0, 0.5, (nu.size, window + 20)).astype(np.float32)
    windows = on_a_gpu(model).stepper(nu)
    assert isinstance(windows, WindowStepper)
    live, other = _run(model.stepper(nu), x), _run(windows, x)
    np.testing.assert_allclose(other[:, :, window - 1 :], live[:, :, window - 1 :], atol=3e-6)
    windows.prepare()
    windows.reset()
    np.testing.assert_array_equal(_run(windows, x), other)


@pytest.mark.parametrize("name", NETWORKS)
def test_reset_is_a_new_start_after_any_number_of_frames(name: str) -> None:
    model = loaded(NETWORKS[name])
    nu = np.array([0.3, 2.9, 5.0, 7.0])
    x = np.random.default_rng(9).normal(0, 0.5, (nu.size, model.spec.windowsize + 12)).astype(np.float32)
    fresh = _run(model.stepper(nu), x)
    used = model.stepper(nu)
    for frames in (0, 1, 2, 3, 7):
        for column in 100 * x[:, :frames].T:
            used.step(column)
        if frames % 2:
            used.prepare()
        used.reset()
        np.testing.assert_array_equal(_run(used, x), fresh)
        used.reset()


@pytest.mark.parametrize("name", NETWORKS)
def test_preparing_early_changes_nothing(name: str) -> None:
    model = loaded(NETWORKS[name])
    nu = np.array([0.3, 2.9, 5.0, 7.0])
    rng = np.random.default_rng(10)
    x = rng.normal(0, 0.5, (nu.size, model.spec.windowsize + 20)).astype(np.float32)
    plain = _run(model.stepper(nu), x)
    eager = model.stepper(nu)
    for t, column in enumerate(x.T):
        for _ in range(rng.integers(0, 3)):
            eager.prepare()
        np.testing.assert_array_equal(eager.step(column), plain[:, :, t])


def test_neurons_do_not_touch_each_other() -> None:
    model = loaded(NETWORKS["binned"])
    nu = np.array([1.0, 3.0, 1.0, 6.0, 3.0])
    x = np.random.default_rng(11).normal(0, 0.5, (5, model.spec.windowsize + 5)).astype(np.float32)
    other = x.copy()
    other[2] = 1e4
    one, two = _run(model.stepper(nu), x), _run(model.stepper(nu), other)
    np.testing.assert_allclose(np.delete(two, 2, 0), np.delete(one, 2, 0), atol=1e-6)
    assert not np.allclose(two[2], one[2])


def test_outputs_are_the_frames_that_they_name() -> None:
    lookaheads = (0, 1, 5, 15)
    model = loaded(picking_network(16, lookaheads), lookaheads)
    x = ramp(3, 50)
    seen = _run(model.stepper(np.array([1.0, 4.0, 9.0])), x)
    for output, lookahead in enumerate(lookaheads):
        np.testing.assert_array_equal(seen[:, output, 15:], x[:, 15 - lookahead : 50 - lookahead])


def test_a_stepper_leaves_its_input_alone() -> None:
    model = loaded(NETWORKS["conditioned"])
    x = np.random.default_rng(0).normal(size=(3, 80)).astype(np.float32)
    x.flags.writeable = False
    nu = np.array([1.0, 2.0, 3.0])
    nu.flags.writeable = False
    _run(model.stepper(nu), x)


@pytest.mark.parametrize("name", ["binned", "conditioned"])
def test_neurons_without_a_noise_level_have_every_output_nan(name: str) -> None:
    model = loaded(NETWORKS[name])
    stepper = model.stepper(np.full(3, np.nan))
    for _ in range(model.spec.windowsize + 3):
        y = stepper.step(np.ones(3, np.float32))
        assert y.shape == (3, len(model.spec.lookaheads))
        assert np.isnan(y).all()

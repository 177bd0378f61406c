"""Training that starts from a model: the same network to begin with, then another."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from networks import Stage, random_network, write_conditioned, write_published
from small_fit import SMALL, small_config, small_traces, weights_hash, write_start

from cascade_rt.bundle import find_bundle, import_cascade, list_models, read_spec
from cascade_rt.errors import TrainingError
from training.architecture import ConditionedShape
from training.config import FitOptions, TrainingConfig, load_config
from training.transfer import FIT_DEFAULTS, read_start, set_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_start(tmp_path / "start")


def _load(folder: Path, bundle: Path, option: str = "", **changes: Any) -> TrainingConfig:
    values = {"name": "mine", "datasets": ["A"], "from_model": str(bundle)} | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}), encoding="utf-8")
    return load_config(path, from_model=option)


# ── configuration ──


def test_what_is_not_given_is_the_models(tmp_path: Path) -> None:
    causal = {"frame_rate_hz": 15.0, "smoothing_s": 0.1, "causal_kernel": True}
    config = _load(tmp_path, write_start(tmp_path / "start", **causal))
    assert (config.frame_rate_hz, config.smoothing_s, config.causal_kernel) == (15.0, 0.1, True)
    assert config.network == replace(SMALL, noise_hidden=5)
    for name, value in FIT_DEFAULTS.items():
        assert getattr(config.fit, name) == value
    assert config.fit.learning_rate < FitOptions().learning_rate


def test_given_entries_hold_if_they_can(tmp_path: Path, bundle: Path) -> None:
    config = _load(
        tmp_path, bundle, frame_rate_hz=30, network={"filter_sizes": [9, 5, 3]}, fit={"learning_rate": 0.01, "seed": 3}
    )
    assert (config.fit.learning_rate, config.fit.seed) == (0.01, 3)
    assert config.fit.target_frames == FIT_DEFAULTS["target_frames"]


def test_the_option_overrides_the_entry(tmp_path: Path, bundle: Path) -> None:
    other = write_start(tmp_path / "other", smoothing_s=0.2)
    assert _load(tmp_path, bundle, option=str(other)).smoothing_s == 0.2
    plain = {"from_model": None, "frame_rate_hz": 30.0, "smoothing_s": 0.05}
    assert _load(tmp_path, bundle, option=str(bundle), **plain).from_model == str(bundle)
    assert _load(tmp_path, bundle, **plain).network == ConditionedShape()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_rate_hz": 15.0}, r"frame_rate_hz is 15\.0 Hz, but \S+start was trained with 30\.0 Hz"),
        ({"smoothing_s": 0.1}, r"smoothing_s is 0\.1 s, but \S+start was trained with 0\.05 s"),
        ({"causal_kernel": True}, r"causal_kernel is True, but \S+start was trained with False"),
        ({"causal_kernel": 1}, r"causal_kernel is True, but"),
        ({"network": {"noise_hidden": 7}}, r"network\.noise_hidden is 7, but \S+start has 5"),
        ({"network": {"lookahead_frames": [0, 1]}}, r"lookahead_frames is \[0, 1\], but \S+start has \(0, 1, 7\)"),
        ({"filter_numbers": [1, 2, 3]}, r"network\.filter_numbers is \[1, 2, 3\], but"),
        ({"network": {"depth": 7}}, r"unknown entry depth"),
        ({"from_model": "NoSuchModel"}, r"no model 'NoSuchModel'"),
    ],
)
def test_what_does_not_fit_the_model_is_named(
    tmp_path: Path, bundle: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=rf"mine\.yaml: .*{message}"):
        _load(tmp_path, bundle, **changes)


def test_models_that_cannot_be_started_from(tmp_path: Path) -> None:
    write_published(tmp_path / "published", levels=(2,))
    import_cascade(tmp_path / "published", tmp_path / "binned")
    with pytest.raises(TrainingError, match="binned model, with networks of their own for each noise level"):
        read_start(str(tmp_path / "binned"))
    deep = random_network(np.random.default_rng(0), outputs=2, stages=(Stage(9, 3),) * 3, noise_range=(1.0, 8.0))
    write_conditioned(tmp_path / "other", lookaheads=(0, 1), network=deep)
    with pytest.raises(TrainingError, match=r"structure of training\.architecture only"):
        read_start(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"test_datasets": ["DS98"]}, "DS98"),
        ({"datasets": ["DS98-known", "A"], "folds": 2}, "DS98-known"),
        ({"datasets": ["DS98-known", "A"]}, None),
        ({"folds": 2, "test_datasets": ["B"]}, None),
    ],
)
def test_scores_on_what_the_model_knows_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], known: str | None
) -> None:
    bundle = write_start(tmp_path / "start", training_datasets=("DS98-known", "DS99-known"))
    with caplog.at_level(logging.WARNING, "training"):
        _load(tmp_path, bundle, **changes)
    assert len(caplog.messages) == (known is not None)
    assert known is None or f"was itself trained on {known}:" in caplog.messages[0]


def _conditioned_models() -> list[str]:
    return [name for name in list_models() if read_spec(find_bundle(name)).family == "conditioned"]


def test_every_conditioned_model_can_be_started_from() -> None:
    assert _conditioned_models()
    for name in _conditioned_models():
        start = read_start(name)
        assert start.shape.receptive_field == start.spec.windowsize
        assert start.shape.lookahead_frames == start.spec.lookaheads
        assert start.shape.noise_range == start.spec.noise_range


# ── weights ──


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("keras", reason="training needs Keras (the extra 'train')")


def test_the_keras_model_computes_what_the_engine_computes(keras: Any, bundle: Path) -> None:
    from cascade_rt.engine import load_model
    from training.architecture import build_conditioned

    start = read_start(str(bundle))
    model = build_conditioned(start.shape, seed=5)
    set_weights(model, start.network)
    dff = np.random.default_rng(1).standard_normal((3, 90)).astype(np.float32)
    nu = np.array([0.5, 3.0, 50.0], np.float32)
    expected = load_model(bundle, threads=1).run_dense(None, dff, nu)
    assert expected.std() > 0.05
    seen = keras.ops.convert_to_numpy(model([dff[:, :, None], nu[:, None]], training=False)).transpose(0, 2, 1)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_shipped_model_comes_back_as_it_is(keras: Any) -> None:
    from cascade_rt.engine import load_model
    from training.architecture import build_conditioned
    from training.export import weights_sha256

    name = _conditioned_models()[0]
    start = read_start(name)
    model = build_conditioned(start.shape, seed=5)
    set_weights(model, start.network)
    assert weights_sha256([model]) == start.spec.source_sha256
    dff = np.random.default_rng(1).standard_normal((2, 200)).astype(np.float32)
    nu = np.array([2.0, 8.0], np.float32)
    expected = load_model(find_bundle(name), threads=1).run_dense(None, dff, nu)
    seen = keras.ops.convert_to_numpy(model([dff[:, :, None], nu[:, None]], training=False)).transpose(0, 2, 1)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_fit_starts_from_the_model_and_leaves_it(keras: Any, tmp_path: Path, bundle: Path) -> None:
    from training.fit import fit, read_record

    start = read_start(str(bundle))
    config = replace(small_config(from_model=str(bundle), learning_rate=1e-9, average_share=0.0), network=start.shape)
    model = fit(small_traces(), config, tmp_path / "still")
    np.testing.assert_allclose(model.get_layer("conv_1").get_weights()[0], start.network.layers[1].kernel[0], atol=1e-6)
    record = read_record(tmp_path / "still")
    assert (record["from_model"], record["from_model_sha256"]) == (str(bundle), "5e" * 32)
    moved = fit(small_traces(), replace(config, fit=replace(config.fit, learning_rate=1e-2)), tmp_path / "moved")
    assert np.abs(moved.get_layer("conv_1").get_weights()[0] - start.network.layers[1].kernel[0]).max() > 1e-3


def test_another_model_of_that_name_is_not_gone_on_with(keras: Any, tmp_path: Path, bundle: Path) -> None:
    from training.fit import fit

    config = replace(small_config(from_model=str(bundle)), network=read_start(str(bundle)).shape)
    whole = weights_hash(fit(small_traces(), config, tmp_path / "run"))
    assert weights_hash(fit(small_traces(), config, tmp_path / "run")) == whole
    write_start(tmp_path / "new", source_sha256="77" * 32)
    for path in (tmp_path / "new").iterdir():
        path.replace(bundle / path.name)
    with pytest.raises(TrainingError, match="another configuration or other data"):
        fit(small_traces(), config, tmp_path / "run")

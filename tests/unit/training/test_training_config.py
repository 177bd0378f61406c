"""Configurations: read whole, checked once, unknown entries refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training.architecture import ConditionedShape, WindowedShape
from training.commands._common import CONFIGS
from training.config import FitOptions, TrainingConfig, load_config
from training.fit import training_traces
from training.ground_truth import Recording

BASE = "name: x\nframe_rate_hz: 30.0\nsmoothing_s: 0.05\ndatasets: [DS30]\n"


def _load(tmp_path: Path, text: str) -> TrainingConfig:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.network.receptive_field / config.frame_rate_hz > 1.0
    assert not set(config.datasets) & set(config.test_datasets)


def test_nested_entries(tmp_path: Path) -> None:
    config = _load(tmp_path, BASE + "network: {lookahead_frames: [0, 3]}\nfit: {seed: 7, methods: [average]}\n")
    assert config.network.lookahead_frames == (0, 3)
    assert config.fit == FitOptions(seed=7, methods=("average",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "smoothing: 0.1\n", "smoothing and smoothing_s are two names of one setting"),
        (BASE + "dataset: [DS31]\n", "unknown entry dataset; did you mean datasets? known are causal_kernel,"),
        (BASE + "fit: {epochs: 3}\n", "unknown entry epochs; known are a"),
        (BASE + "fit: {learnin_rate: 3}\n", "did you mean learning_rate?"),
        (BASE + "fit: {target_frames: 8e7}\n", "target_frames is '8e7': expected something like 40000000"),
        (BASE + "fit: {batch: 1.5}\n", f"batch is 1.5: expected something like {FitOptions().batch}"),
        (BASE + "fit: {jit: 1}\n", "jit is 1: expected something like true"),
        (BASE + "fit: {stretches: 2.0}\n", "stretches is 2.0: expected something like [1.0]"),
        (BASE + "fit: [1]\n", "found [1]: expected entries such as target_frames"),
        (BASE + "fit: {validation_share: 1.0}\n", "validation_share is 1: expected 0 to below 1"),
        (BASE + "fit: {patience: 0}\n", "patience: expected positive numbers"),
        (BASE + "reference: 3\n", "reference is 3: expected something like text"),
        (BASE.replace("name: x", "name: ../x"), "name is '../x'"),
        (BASE.replace("name: x", "name: 3"), "name is 3"),
        (BASE.replace("[DS30]", "[30]"), "datasets is [30]: expected names"),
        ("name: x\n", "frame_rate_hz"),
        (BASE.replace("0.05", "-1"), "smoothing_s is -1"),
        (BASE + "test_datasets: [DS30]\n", "DS30: in datasets and in test_datasets"),
        (BASE + "folds: 1\n", "folds is 1"),
        (BASE + "fit: {methods: [cubic]}\n", "expected 'average', 'fourier'"),
        (BASE + "fit: {stretches: [9.0]}\n", "stretches [9.0]"),
        (BASE + "network: {lookahead_frames: [0, 64]}\n", "between 0 and 63"),
        (BASE + "network: {lookahead_frames: [3, 1]}\n", "increasing"),
        (BASE + "network: {noise_range: [5.0, 1.0]}\n", "lowest < highest"),
        (BASE + "network: {filter_sizes: [31, 19]}\n", "three positive"),
        ("- a\n", "expected a mapping"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=r"c\.yaml") as caught:
        _load(tmp_path, text)
    assert message in str(caught.value)


def test_digest_is_of_what_decides_the_weights(tmp_path: Path) -> None:
    config = _load(tmp_path, BASE)
    assert config.digest() == replace(config, notes="other", fit=FitOptions(checkpoint_blocks=3)).digest()
    assert config.digest() != replace(config, fit=FitOptions(seed=1)).digest()
    assert config.digest() != replace(config, smoothing_s=0.1).digest()


def test_steps_are_whole_blocks() -> None:
    config = TrainingConfig(
        name="x",
        frame_rate_hz=30,
        smoothing_s=0.05,
        datasets=("A",),
        fit=FitOptions(target_frames=5_000_000, segment_frames=191, batch=16),
    )
    assert config.block_frames == 204_800
    assert config.n_steps == 2400  # 16 segments with 128 targets each, in blocks of 100 steps


def test_shapes() -> None:
    assert ConditionedShape().receptive_field == 64
    assert ConditionedShape(head_taps=3).receptive_field == 68
    assert WindowedShape().columns == 2
    with pytest.raises(TrainingError, match="too small"):
        WindowedShape(windowsize=55)


def test_every_version_of_a_recording_is_learnt_from_once() -> None:
    fast = Recording(
        dataset="A",
        neuron="1",
        number=0,
        dff=np.random.default_rng(0).standard_normal(2400).astype(np.float32),
        frame_times_s=np.arange(2400) / 120.0,
        spike_times_s=np.array([5.0]),
    )
    config = TrainingConfig(
        name="x",
        frame_rate_hz=30.0,
        smoothing_s=0.05,
        datasets=("A",),
        fit=FitOptions(phases=4, methods=("average", "fourier"), stretches=(1.0, 1.25)),
    )
    traces = training_traces([fast], config)
    assert len(traces) == 16
    assert {t.frame_rate_hz for t in traces} == {30.0}
    assert {t.spike_counts.sum() for t in traces} == {1.0}
    stretched = [t for t in traces if t.n_frames > 700]
    assert {t.n_frames // 10 for t in stretched} <= {74, 75}
    assert all(abs(int(t.spike_counts.argmax()) - 187.5) <= 1.5 for t in stretched)  # 5 s at 37.5 Hz
    # A recording at the frame rate itself has one version.
    native = replace(fast, frame_times_s=np.arange(2400) / 30.0)
    assert len(training_traces([native], replace(config, fit=FitOptions()))) == 1
    assert training_traces([fast], config, leave_out={("A", "1")}) == []

"""CASCADE's configurations: taken over where the settings mean the same, and told where they do not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_rt.errors import TrainingError
from training.card import bundle_config
from training.config import FitOptions, TrainingConfig, load_config

PUBLISHED: dict[str, Any] = {
    "model_name": "OGB_7.5Hz",
    "sampling_rate": 7.5,
    "training_datasets": ["DS04-OGB1-zf-pDp", "DS05-Cal520-zf-pDp"],
    "placeholder_1": 0,
    "noise_levels": [4, 2, 3],
    "placeholder_2": 0,
    "smoothing": 0.2,
    "causal_kernel": 1,
    "windowsize": 32,
    "before_frac": 0.5,
    "filter_sizes": [21, 11, 3],
    "filter_numbers": [10, 20, 30],
    "dense_expansion": 20,
    "loss_function": "mean_squared_error",
    "optimizer": "Adagrad",
    "nr_of_epochs": 10,
    "ensemble_size": 5,
    "batch_size": 8192,
    "training_finished": "Running",
    "verbose": 1,
}


def _load(tmp_path: Path, values: dict[str, Any], **options: Any) -> TrainingConfig:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_config(path, **options)


def test_a_published_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "training"):
        config = _load(tmp_path, PUBLISHED)
    assert config.name == "OGB_7.5Hz"
    assert config.frame_rate_hz == 7.5
    assert config.datasets == ("DS04-OGB1-zf-pDp", "DS05-Cal520-zf-pDp")
    assert config.network.noise_range == (2.0, 4.0)
    assert config.smoothing_s == 0.2
    assert config.causal_kernel is True
    assert config.network.filter_sizes == (21, 11, 3)
    assert config.network.filter_numbers == (10, 20, 30)
    assert config.network.dense_expansion == 20
    # Every setting without a counterpart is told, with what is used instead; what is no setting is not.
    told, usual = "\n".join(caplog.messages), FitOptions()
    for key, instead in {
        "windowsize 32": f"sees {config.network.receptive_field} frames",
        "before_frac 0.5": "look-aheads 0, 1, 2",
        "loss_function mean_squared_error": f"square error and {usual.absolute_error} times the absolute error",
        "optimizer Adagrad": f"Adam, warmed up to a learning rate of {usual.learning_rate}",
        "nr_of_epochs 10": f"{usual.target_frames // 10**6} million frames",
        "ensemble_size 5": "one network",
        "batch_size 8192": f"{usual.batch} segments of {usual.segment_frames} frames",
        "verbose 1": "-v",
        "noise_levels [4, 2, 3]": "from 2 to 4",
    }.items():
        (line,) = [line for line in told.splitlines() if key in line]
        assert instead in line
    assert "placeholder" not in told
    assert "training_finished" not in told


def test_a_window_that_is_the_networks_own_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {k: v for k, v in PUBLISHED.items() if k not in ("filter_sizes", "filter_numbers")}
    with caplog.at_level(logging.WARNING, "training"):
        assert _load(tmp_path, values | {"windowsize": 64}).network.receptive_field == 64
    assert "windowsize" not in "\n".join(caplog.messages)


def test_the_stored_published_configurations(shared: Path) -> None:
    paths = sorted((shared / "cascade_models").glob("*/config.yaml"))
    assert paths
    for path in paths:
        config = load_config(path)
        assert config.name == path.parent.name
        assert config.causal_kernel == ("causalkernel" in path.parent.name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x"}, "model_name and name are two names of one setting"),
        ({"frame_rate_hz": 7.5}, "sampling_rate and frame_rate_hz"),
        ({"datasets": ["DS04"]}, "training_datasets and datasets"),
        ({"smoothing_s": 0.2}, "smoothing and smoothing_s"),
        ({"network": {"noise_range": [1, 2]}}, "noise_levels and network.noise_range"),
        ({"network": {"filter_sizes": [3, 3, 3]}}, "filter_sizes and network.filter_sizes"),
        ({"noise_levels": [2]}, "expected at least two"),
        ({"noise_levels": 2}, "expected a list of numbers"),
        ({"causal_kernel": 2}, "causal_kernel is 2: expected something like false"),
        ({"training_datasets": []}, "expected names of datasets"),
        ({"ensemble_sizes": 5}, "unknown entry ensemble_sizes; did you mean ensemble_size?"),
        ({"nr_epochs": 5}, "did you mean nr_of_epochs?"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=r"config\.yaml: ") as caught:
        _load(tmp_path, PUBLISHED | changes)
    assert message in str(caught.value)


def test_both_spellings_may_stand_side_by_side(tmp_path: Path) -> None:
    values = {"name": "x", "sampling_rate": 30, "smoothing_s": 0.05, "training_datasets": ["A"], "causal_kernel": False}
    config = _load(tmp_path, values | {"filter_numbers": [4, 5, 6], "network": {"noise_hidden": 3}})
    assert (config.name, config.frame_rate_hz, config.smoothing_s) == ("x", 30, 0.05)
    assert (config.network.filter_numbers, config.network.noise_hidden) == ((4, 5, 6), 3)


def test_the_configuration_of_a_bundle_trains_the_same_model_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = {"lookahead_frames": [0, 2], "noise_hidden": 5, "noise_range": [0.5, 9.0], "filter_sizes": [9, 5, 3]}
    values = {"name": "x", "frame_rate_hz": 15.0, "smoothing_s": 0.1, "datasets": ["DS04"], "network": shape}
    config = _load(tmp_path, values | {"fit": {"seed": 4, "methods": ["average"], "segment_frames": 63}})
    with caplog.at_level(logging.WARNING, "training"):
        again = _load(tmp_path, bundle_config(config))
    assert again == config
    assert again.digest() == config.digest()
    assert caplog.messages == []


def test_all_datasets_but_those_to_test_on(tmp_path: Path) -> None:
    for name in ("DS01-a", "DS02-b", "DS03-c"):
        (tmp_path / "truth" / name).mkdir(parents=True)
        (tmp_path / "truth" / name / "cell_mini.mat").touch()
    values = {"name": "x", "frame_rate_hz": 30.0, "smoothing_s": 0.05, "datasets": "all", "test_datasets": ["DS02"]}
    config = _load(tmp_path, values, ground_truth=tmp_path / "truth")
    assert config.datasets == ("DS01-a", "DS03-c")
    with pytest.raises(TrainingError, match="expected names, because no folder"):
        _load(tmp_path, values)
    assert _load(tmp_path, values | {"datasets": "DS03"}).datasets == ("DS03",)

"""The card and the configuration of a bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from scores import made_up, table

from training.card import bundle_config, card, software_versions
from training.config import FitOptions, TrainingConfig
from training.ground_truth import Recording

CONFIG = TrainingConfig(
    name="GCaMP8_30Hz",
    frame_rate_hz=30.0,
    smoothing_s=0.025,
    datasets=("DS30", "DS31"),
    fit=FitOptions(target_frames=5_000_000),
    notes="Mind the gap.",
)
WHOLE = {"frames": 5_000_192, "held_out": []}
RECORD = {"frames": 4_000_000, "held_out": [["DS30", "a"]], "kept_step": 900, "steps_planned": 2441}


def _recordings() -> list[Recording]:
    times = np.arange(3600) / 30.0
    spikes = np.array([-1.0, 5.0, 6.0, 119.0, 500.0])
    return [
        Recording(
            dataset="DS30",
            neuron=str(n),
            number=0,
            dff=times.astype(np.float32),
            frame_times_s=times,
            spike_times_s=spikes,
        )
        for n in range(2)
    ]


def test_card_says_what_was_trained_on_and_how_good_it_is() -> None:
    text = card(CONFIG, [table(made_up("DS30", "0", 0.9, lookahead=2), title="4-fold test")], _recordings(), WHOLE)
    assert text.startswith("# GCaMP8_30Hz\n")
    assert "Mind the gap." in text
    assert "| DS30 | 2 | 4 | 6 |" in text
    assert "5 million frames were learnt from, with repetition.\n" in text
    assert "### 4-fold test" in text
    assert "| correlation | 2 | 1 | 0.900 |" in text
    assert "with no other within\n0.5 s before and 0.3 s after (at least 4 frames)" in text
    assert "Not measured." in card(CONFIG, [], _recordings(), WHOLE)


def test_provenance() -> None:
    text = card(CONFIG, [], _recordings(), WHOLE)
    assert f"configuration sha256 `{CONFIG.digest()}`" in text
    versions = software_versions()
    assert versions["numpy"] == np.__version__
    assert f"numpy {np.__version__}" in text
    config = bundle_config(CONFIG)["cascade_rt"]
    assert config["software"] == versions
    assert config["configuration_sha256"] == CONFIG.digest()
    assert config["fit"]["target_frames"] == 5_000_000
    assert yaml.safe_load(yaml.safe_dump(bundle_config(CONFIG)))["training_datasets"] == ["DS30", "DS31"]


@pytest.mark.parametrize("where", ["some/folder/Start_30Hz", "Start_30Hz"])
def test_start_and_early_stop_are_told_without_paths(where: str) -> None:
    config: Any = replace(CONFIG, from_model=where)
    text = card(config, [], _recordings(), RECORD)
    assert "4 million frames were learnt from" in text
    assert "The weights started from those of Start_30Hz." in text
    assert "1 of the neurons were not learnt from: they decided when to stop, at step 900 of 2441." in text
    assert bundle_config(config)["cascade_rt"]["from_model"] == "Start_30Hz"

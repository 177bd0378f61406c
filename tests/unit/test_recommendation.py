"""Which model is recommended, why, with which warnings, and what is said when none fits."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from zoo import DYES, GCAMP8, GLOBAL, write_model, write_offline, write_zoo

import cascade_rt
from cascade_rt import bundle
from cascade_rt.catalogue import parse_indicator
from cascade_rt.errors import InputError
from cascade_rt.recommendation import PUBLISHED_GCAMP8, PUBLISHED_GLOBAL, Recommendation, _published, recommend
from cascade_rt.suitability import Question

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def installed(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zoo is installed, and what a test writes into this folder."""
    monkeypatch.setattr(bundle, "_model_folders", lambda: [tmp_path, zoo])
    return tmp_path


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is installed but what a test writes into this folder."""
    monkeypatch.setattr(bundle, "_model_folders", lambda: [tmp_path])
    return tmp_path


def names(answer: Recommendation) -> list[str]:
    return [item.name for item in answer.alternatives]


def warned(answer: Recommendation, *words: str) -> bool:
    return any(all(word in sentence for word in words) for sentence in answer.warnings)


# --------------------------------------------------------------------------------------------- indicator and rate


@pytest.mark.parametrize(
    ("rate", "indicator", "model"),
    [
        (30, "GCaMP8s", "GCaMP8_30Hz_25ms"),
        (30, "jgcamp8", "GCaMP8_30Hz_25ms"),
        (30, "GCaMP6f", "Global_30Hz_50ms"),
        (30, "OGB-1", "Global_30Hz_50ms"),
        (30, "R-CaMP", "Global_30Hz_50ms"),
        (30, None, "Global_30Hz_50ms"),
        (30, "GCaMP7f", "GCaMP8_30Hz_25ms"),
        (30, "XCaMPgf", "GCaMP8_30Hz_25ms"),
        (30, "jRGECO1a", "GCaMP8_30Hz_25ms"),
        (30, "GCaMP3", "Global_30Hz_50ms"),
        (30, "FooCaMP", "Global_30Hz_50ms"),
        (28.5, "GCaMP8s", "GCaMP8_30Hz_25ms"),
        (15.2, "GCaMP8m", "GCaMP8_15Hz_100ms"),
        (60, "GCaMP6s", "Global_60Hz_12ms"),
        (7.5, "Cal520", "Zebrafish_7.5Hz_200ms"),
        (7.5, "GCaMP6f", "Global_7.5Hz_200ms"),
    ],
)
def test_the_model_for_an_indicator_and_frame_rate(
    installed: Path, rate: float, indicator: str | None, model: str
) -> None:
    answer = recommend(frame_rate_hz=rate, indicator=indicator)
    assert answer.model == model
    assert answer.lookahead_frames == 2
    assert answer.integration_time_ms == pytest.approx(3000 / rate)
    assert answer.advice == ()
    assert answer.noise_levels is None
    assert model not in names(answer)
    assert 3 <= len(answer.reasons) <= 5


def test_dyes_in_another_animal_get_the_global_model(installed: Path) -> None:
    assert warned(recommend(frame_rate_hz=7.5, indicator="OGB-1"), "zebrafish neurons only", "--species")
    assert recommend(frame_rate_hz=7.5, indicator="OGB-1", species="zebrafish").warnings == ()
    mouse = recommend(frame_rate_hz=7.5, indicator="OGB-1", species="mouse")
    assert mouse.model == "Global_7.5Hz_200ms"
    assert "Zebrafish_7.5Hz_200ms" in names(mouse)


def test_another_animal_is_better_than_another_indicator(installed: Path) -> None:
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s", species="zebrafish")
    assert answer.model == "GCaMP8_30Hz_25ms"
    assert warned(answer, "mouse neurons only", "zebrafish has not been measured")


def test_what_was_never_measured_is_said(installed: Path) -> None:
    uncalibrated = recommend(frame_rate_hz=30, indicator="GCaMP7f")
    assert warned(uncalibrated, "not calibrated")
    assert warned(uncalibrated, "python -m training fit", "--from GCaMP8_30Hz_25ms")
    assert any("XCaMPgf" in sentence for sentence in uncalibrated.reasons)
    assert warned(recommend(frame_rate_hz=30, indicator="gcmp6f"), "'gcmp6f'", "did you mean GCaMP6f?")
    assert warned(recommend(frame_rate_hz=30), "no indicator named", "GCaMP8f/m/s")
    assert recommend(frame_rate_hz=30, indicator="GCaMP8s").warnings == ()


def test_a_global_model_overcounts_fast_indicators(alone: Path) -> None:
    write_model(alone / "GLOBAL", training_datasets=GLOBAL)
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s")
    assert answer.model == "GLOBAL"
    assert warned(answer, "two to three times too many")


def test_a_model_of_ones_own_is_preferred_for_its_indicator(installed: Path) -> None:
    write_model(installed / "ours", training_datasets=("DS60-FooCaMP-m-S1",))
    answer = recommend(frame_rate_hz=30, indicator="foocamp")
    assert answer.model == "ours"
    assert not warned(answer, "not known")
    assert recommend(frame_rate_hz=30, indicator="BarCaMP").model == "Global_30Hz_50ms"


def test_interneurons_and_undescribed_models_are_never_recommended(alone: Path) -> None:
    write_model(alone / "INH", training_datasets=("DS23-OGB1-m-PV-V1", "DS24-GCaMP6f-m-PV-V1"))
    write_model(alone / "UNKNOWN")
    answer = recommend(frame_rate_hz=30, indicator="GCaMP6f")
    assert answer.model is None
    reasons = dict(answer.alternatives)
    assert "interneurons" in reasons["INH"]
    assert "not stated" in reasons["UNKNOWN"]


# ------------------------------------------------------------------------------------ smoothing, kernel, delay


def test_smoothing_and_kernel_can_be_asked_for(installed: Path) -> None:
    assert recommend(frame_rate_hz=30, indicator="GCaMP8s", smoothing_ms=50).model == "GCaMP8_30Hz_50ms"
    assert recommend(frame_rate_hz=30, indicator="GCaMP6f", smoothing_ms=25).model == "Global_30Hz_25ms"
    causal = recommend(frame_rate_hz=30, indicator="GCaMP8s", causal=True)
    assert causal.model == "GCaMP8_30Hz_50ms_causal"
    assert causal.warnings == ()
    assert "symmetric kernel" in dict(causal.alternatives).values()


def test_wishes_that_are_not_met_are_said(installed: Path) -> None:
    answer = recommend(frame_rate_hz=15, indicator="GCaMP8s", causal=True, smoothing_ms=30)
    assert answer.model == "GCaMP8_15Hz_100ms"
    assert warned(answer, "causal kernel", "symmetric")
    assert warned(answer, "30 ms", "100 ms")


@pytest.mark.parametrize(("delay", "lookahead"), [(33.4, 0), (67, 1), (100, 2), (199, 3), (200, 5), (5000, 31)])
def test_the_longest_lookahead_within_the_delay(installed: Path, delay: float, lookahead: int) -> None:
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s", max_delay_ms=delay)
    assert answer.lookahead_frames == lookahead
    assert answer.integration_time_ms is not None
    assert answer.integration_time_ms <= delay


def test_the_delay_counts_at_the_rate_of_the_recording(installed: Path) -> None:
    assert recommend(frame_rate_hz=29, indicator="GCaMP8s", max_delay_ms=100).lookahead_frames == 1


def test_no_result_in_time(installed: Path) -> None:
    answer = recommend(frame_rate_hz=7.5, indicator="GCaMP6f", max_delay_ms=100)
    assert answer.model is None
    assert answer.lookahead_frames is None
    assert "133 ms" in answer.reasons[0]
    assert answer.advice[0].command == "--max-delay-ms 134"
    assert names(answer) == ["Global_7.5Hz_200ms"]
    assert recommend(frame_rate_hz=7.5, indicator="GCaMP6f", max_delay_ms=134).model == "Global_7.5Hz_200ms"


def test_a_model_for_finished_recordings(installed: Path) -> None:
    write_offline(installed / "A_PUBLISHED", training_datasets=GCAMP8, smoothing_s=0.025)
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s")
    assert answer.model == "GCaMP8_30Hz_25ms", "of two of a kind, the one that serves live runs"
    assert "31" in dict(answer.alternatives)["A_PUBLISHED"]


def test_a_model_for_finished_recordings_is_recommended_only_if_late_results_are_allowed(alone: Path) -> None:
    write_offline(alone / "PUBLISHED", training_datasets=GCAMP8)
    write_model(alone / "OURS", training_datasets=GLOBAL)
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s")
    assert (answer.model, answer.lookahead_frames) == ("PUBLISHED", 31)
    assert warned(answer, "1067 ms", "--allow-offline-model")
    live = recommend(frame_rate_hz=30, indicator="GCaMP8s", max_delay_ms=200)
    assert live.model == "OURS"
    assert "too late: 1067 ms" in dict(live.alternatives)["PUBLISHED"]


# ------------------------------------------------------------------------- what a card tells of delays

WHOLE_CARD = """
Median correlation over neurons, by look-ahead (frames):

| dataset | ν | neurons | 0 | 1 | 2 | 3 | 5 | 7 | 15 | 31 |
|---|---|---|---|---|---|---|---|---|---|---|
| DS01-OGB1-m-V1 | 2 | 21 | 0.06 | 0.11 | 0.16 | 0.22 | 0.32 | 0.38 | 0.48 | 0.50 |
| DS01-OGB1-m-V1 | 8 | 21 | 0.20 | 0.40 | 0.60 | 0.60 | 0.60 | 0.60 | 0.60 | 0.60 |
| DS02-OGB1-2-m-V1 | 2 | 16 | 0.08 | 0.11 | 0.16 | 0.22 | 0.32 | 0.36 | 0.48 | 0.50 |
| **all** | 2 | 65 | 0.90 | 0.90 | 0.90 | 0.90 | 0.90 | 0.90 | 0.90 | 0.90 |

Median error over neurons, by look-ahead (frames):

| dataset | ν | neurons | 0 | 1 | 2 | 3 | 5 | 7 | 15 | 31 |
|---|---|---|---|---|---|---|---|---|---|---|
| DS14-GCaMP6s-m-V1 | 2 | 21 | 9.00 | 8.00 | 7.00 | 6.00 | 5.00 | 4.00 | 3.00 | 2.00 |

### another model

Median correlation over neurons, by look-ahead (frames):

| dataset | ν | neurons | 31 |
|---|---|---|---|
| DS01-OGB1-m-V1 | 2 | 21 | 0.99 |
"""
BRIEF_CARD = """
| dataset | ν | neurons | correlation, 2 | correlation, 31 | error, 2 | error, 31 |
|---|---|---|---|---|---|---|
| DS01-OGB1-m-V1 | 2 | 21 | 0.16 | 0.50 | 1.20 | 1.00 |
| DS30-GCaMP8f-m-V1 | 2 | 7 | 0.86 | 0.87 | n/a | 0.60 |
| broken
"""


def delay_warning(folder: Path, card: str, indicator: str, **options: Any) -> str:
    write_model(folder / "GLOBAL", training_datasets=(*GLOBAL, *GCAMP8), card=card)
    answer = recommend(frame_rate_hz=30, indicator=indicator, **options)
    found = [sentence for sentence in answer.warnings if "is short for" in sentence]
    assert len(found) <= 1
    return found[0] if found else ""


def test_a_card_that_tells_every_delay(alone: Path) -> None:
    told = delay_warning(alone, WHOLE_CARD, "OGB-1")
    assert "correlation 0.16" in told
    assert "0.50" in told
    assert "(--lookahead 15)" in told
    assert "--lookahead 2,15" in told


def test_the_noise_of_the_recording_chooses_the_row(alone: Path) -> None:
    assert delay_warning(alone, WHOLE_CARD, "OGB-1", noise_levels=[7.0, 8.0, np.nan]) == ""


def test_a_delay_that_suffices_needs_no_warning(alone: Path) -> None:
    assert delay_warning(alone, WHOLE_CARD, "OGB-1", max_delay_ms=600) == ""


def test_a_card_that_tells_two_delays(alone: Path) -> None:
    told = delay_warning(alone, BRIEF_CARD, "ogb1")
    assert "correlation 0.16" in told
    assert "(--lookahead 7)" in told, "one between those of the card may do, by what is usual"


@pytest.mark.parametrize(
    ("indicator", "lookahead"), [("GCaMP6s", 5), ("Cal-520", 3), ("R-CaMP", 7), ("OGB-1", 7), ("GCaMP8f", 0)]
)
def test_a_card_that_tells_nothing(alone: Path, indicator: str, lookahead: int) -> None:
    told = delay_warning(alone, "", indicator)
    assert (f"--lookahead {lookahead})" in told) if lookahead else not told


def test_a_fast_indicator_needs_no_more_by_its_card(alone: Path) -> None:
    assert delay_warning(alone, BRIEF_CARD, "GCaMP8f") == ""


# ------------------------------------------------------------------------------------------------- noise levels


def test_noise_levels_are_counted_against_the_trained_range(installed: Path) -> None:
    nu = np.array([0.5, 1.0, 2.0, 3.0, 12.0, np.nan])
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s", noise_levels=nu)
    summary = answer.noise_levels
    assert summary is not None
    assert (summary.n_neurons, summary.n_unknown, summary.n_below, summary.n_above) == (6, 1, 1, 1)
    assert summary.median == 2.0
    assert summary.trained_range == (0.8, 10.0)
    assert any("3 of 5 neurons" in sentence for sentence in answer.reasons)
    assert answer.warnings == ()


def test_many_neurons_outside_of_the_trained_range(installed: Path) -> None:
    below = recommend(frame_rate_hz=30, indicator="GCaMP8s", noise_levels=[0.3, 0.4, 0.5, 2.0])
    assert warned(below, "3 of 4 neurons have less noise", "ν = 0.8", "smoothed or denoised", "fraction")
    above = recommend(frame_rate_hz=30, indicator="GCaMP8s", noise_levels=[14.0, 15.0, 2.0])
    assert warned(above, "2 of 3 neurons have more noise", "ν up to 15", "ν = 10")
    nothing = recommend(frame_rate_hz=30, indicator="GCaMP8s", noise_levels=[np.nan, np.nan])
    assert warned(nothing, "no neuron has a noise level")


def test_much_noise_makes_a_model_for_more_of_it_the_better_one(installed: Path) -> None:
    from networks import picking_network
    from zoo import LOOKAHEADS

    noisy = picking_network(64, LOOKAHEADS, (0.8, 30.0))
    write_model(
        installed / "NOISY", training_datasets=GCAMP8, smoothing_s=0.025, noise_range=(0.8, 30.0), network=noisy
    )
    question = {"frame_rate_hz": 30, "indicator": "GCaMP8s"}
    assert recommend(**question, noise_levels=[15.0, 20.0, 5.0]).model == "NOISY"
    quiet = recommend(**question, noise_levels=[1.0, 2.0, 5.0])
    assert quiet.model == "GCaMP8_30Hz_25ms"
    assert "0.8 to 30" in dict(quiet.alternatives)["NOISY"]


def test_a_recording_is_measured_and_looked_at(installed: Path) -> None:
    rng = np.random.default_rng(0)
    dff = rng.normal(0, 0.05, (20, 600)).astype(np.float32)
    dff.flags.writeable = False
    answer = recommend(dff, frame_rate_hz=30, indicator="GCaMP8s")
    assert answer.noise_levels is not None
    assert answer.noise_levels.median == pytest.approx(
        np.median(cascade_rt.noise_levels(dff, frame_rate_hz=30)), rel=1e-6
    )
    assert answer.warnings == ()
    kernel = np.hanning(15) / np.hanning(15).sum()
    smoothed = np.apply_along_axis(np.convolve, 1, dff, kernel, "same")
    told = recommend(smoothed, frame_rate_hz=30, indicator="GCaMP8s")
    assert warned(told, "smoothed in time")
    assert not warned(told, "less noise"), "said once"
    with pytest.raises(InputError, match="divide by 100"):
        recommend(100 * dff, frame_rate_hz=30)


# ------------------------------------------------------------------------------------------------ nothing fits


def test_another_frame_rate(installed: Path) -> None:
    answer = recommend(frame_rate_hz=20, indicator="GCaMP8s", noise_levels=[1.0])
    assert answer.model is None
    assert answer.integration_time_ms is None
    assert "20 Hz" in answer.reasons[0]
    assert [item.command for item in answer.advice] == [
        "cascade-rt predict RECORDING --frame-rate 20 --model GCaMP8_15Hz_100ms --resample",
        "cascade-rt import --download GC8_EXC_20Hz_smoothing30ms_high_noise",
        "cascade-rt import --download Global_EXC_20Hz_smoothing100ms",
        "python -m training fit CONFIG.yaml",
    ]
    assert names(answer) == ["GCaMP8_15Hz_100ms", "GCaMP8_30Hz_25ms"]
    assert answer.noise_levels is not None
    assert answer.noise_levels.trained_range is None


def test_another_indicator_alone_at_that_frame_rate(alone: Path) -> None:
    write_model(alone / "GC8", training_datasets=GCAMP8)
    write_model(alone / "FISH", training_datasets=DYES, frame_rate_hz=7.5)
    answer = recommend(frame_rate_hz=30, indicator="GCaMP6f")
    assert answer.model is None
    assert "GCaMP6f" in answer.reasons[0]
    assert answer.advice[-1].command == "python -m training fit CONFIG.yaml --from GC8"
    assert dict(answer.alternatives) == {"GC8": "trained on GCaMP8f/m/s alone"}
    assert "name yours" in recommend(frame_rate_hz=30).reasons[0]
    assert warned(recommend(frame_rate_hz=30, indicator="GCmP8f"), "did you mean GCaMP8f?")


def test_nothing_installed(alone: Path) -> None:
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s")
    assert answer.model is None
    assert answer.alternatives == ()
    assert answer.advice[0].command == "cascade-rt import --download GC8_EXC_30Hz_smoothing25ms_high_noise"


def test_a_damaged_model_is_left_out_and_named(installed: Path) -> None:
    (write_model(installed / "BAD") / "manifest.json").write_text("[]", encoding="utf-8")
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s", noise_levels=[0.1])
    assert answer.model == "GCaMP8_30Hz_25ms"
    assert warned(answer, "left out", "BAD")
    assert warned(answer, "less noise"), "a damaged model says nothing about the recording"


def test_names_of_published_models_are_those_of_the_registry(shared: Path) -> None:
    registry = yaml.safe_load((shared / "cascade_models" / "available_models.yaml").read_text(encoding="utf-8"))
    question = Question(
        rate=1, indicator=parse_indicator("GCaMP8"), species=None, max_delay_ms=None, smoothing_ms=None, causal=False,
        nu=None,
    )  # fmt: skip
    published = _published(question)
    assert len(published) == len(PUBLISHED_GLOBAL) + len(PUBLISHED_GCAMP8)
    assert [name for _, name, _ in published if name not in registry] == []


# ---------------------------------------------------------------------------------------------------- the interface


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frame_rate_hz": 0}, "frame_rate_hz=0"),
        ({"frame_rate_hz": float("nan")}, "frame_rate_hz"),
        ({"frame_rate_hz": 30, "max_delay_ms": -1}, "max_delay_ms=-1"),
        ({"frame_rate_hz": 30, "smoothing_ms": 0}, "smoothing_ms=0"),
        ({"frame_rate_hz": 30, "species": "newt"}, "species='newt'"),
        ({"frame_rate_hz": 30, "indicator": ""}, "indicator=''"),
        ({"frame_rate_hz": 30, "dff": np.zeros(5)}, "two dimensions"),
    ],
)
def test_wrong_arguments_are_named(installed: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        recommend(**wrong)


def test_the_answer_is_plain_and_frozen(installed: Path) -> None:
    assert cascade_rt.recommend is recommend
    answer = recommend(frame_rate_hz=20, indicator="GCaMP8s", noise_levels=[1.0, 2.0])
    plain = json.loads(json.dumps(answer.to_dict()))
    assert plain["advice"][0]["command"].startswith("cascade-rt predict")
    assert plain["alternatives"][0]["name"] == "GCaMP8_15Hz_100ms"
    assert plain["noise_levels"]["median"] == 1.5
    with pytest.raises(AttributeError):
        answer.model = "other"  # type: ignore[misc]


def test_every_alternative_has_a_reason_of_its_own(installed: Path) -> None:
    answer = recommend(frame_rate_hz=30, indicator="GCaMP8s")
    told = [item.reason for item in answer.alternatives]
    assert len(told) == len(set(told)) >= 3
    assert all(told)

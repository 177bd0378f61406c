"""Indicators and datasets by their names, and the models that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from zoo import DYES, GCAMP8, GLOBAL, write_model

from cascade_rt import bundle
from cascade_rt.catalogue import fits_frame_rate, installed_models, parse_indicator, training_data
from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "name", "family", "fast"),
    [
        ("jGCaMP8s", "GCaMP8s", "GCaMP8", True),
        ("gcamp8S", "GCaMP8s", "GCaMP8", True),
        ("GC8f", "GCaMP8f", "GCaMP8", True),
        ("ribo-jGCaMP8m", "GCaMP8m", "GCaMP8", True),
        ("GCaMP8", "GCaMP8", "GCaMP8", True),
        ("GCaMP7f", "GCaMP7f", "GCaMP7", True),
        ("GCaMP6f", "GCaMP6f", "GCaMP6", False),
        ("gcamp-6 slow", "GCaMP6s", "GCaMP6", False),
        ("GCaMP5k", "GCaMP5k", "GCaMP5", False),
        ("XCaMP-Gf", "XCaMPgf", "XCaMP", True),
        ("jRGECO1a", "jRGECO1a", "R-GECO", True),
        ("jGECO1a", "jRGECO1a", "R-GECO", True),
        ("R-CaMP", "R-CaMP", "R-CaMP", False),
        ("jRCaMP1a", "jRCaMP1a", "R-CaMP", False),
        ("OGB1", "OGB-1", "synthetic dyes", False),
        ("ogb-1", "OGB-1", "synthetic dyes", False),
        ("Oregon Green BAPTA-1", "OGB-1", "synthetic dyes", False),
        ("Cal520-AM", "Cal-520", "synthetic dyes", False),
    ],
)
def test_indicators_are_recognised_however_they_are_spelt(text: str, name: str, family: str, fast: bool) -> None:
    found = parse_indicator(text)
    assert (found.name, found.family, found.fast, found.known) == (name, family, fast, True)


@pytest.mark.parametrize("text", ["G-GECO1", "FooCaMP", "voltron"])
def test_other_names_are_kept_and_marked(text: str) -> None:
    found = parse_indicator(f" {text} ")
    assert (found.name, found.family, found.known) == (text, text, False)


@pytest.mark.parametrize("text", ["", "  ", "8"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a name such as GCaMP8s"):
        parse_indicator(text)


@pytest.mark.parametrize(
    ("datasets", "brief"),
    [
        (GCAMP8, "GCaMP8f/m/s"),
        (GLOBAL, "GCaMP5/6, R-CaMP, dyes"),
        ((*GLOBAL, *GCAMP8), "GCaMP5/6/8, R-CaMP, dyes"),
        (DYES, "OGB-1, Cal-520, zebrafish"),
        (("DS32-GCaMP8s-m-V1",), "GCaMP8s"),
        (("DS24-GCaMP6f-m-PV-V1", "DS33-Interneurons2023-m-V1"), "GCaMP6f, interneurons"),
        (("DS40-GCaMP6s-spinal-cord-excitatory",), "GCaMP6s, spinal cord"),
        (("DS60-FooCaMP-m-S1",), "FooCaMP"),
        (("X-DS09-GCaMP6f-m-V1",), "GCaMP6f"),
        (("our_GCaMP6s_cells",), "GCaMP6s"),
        ((), "not stated"),
    ],
)
def test_training_data_in_brief(datasets: tuple[str, ...], brief: str) -> None:
    assert training_data(datasets).brief == brief


def test_training_data_tell_indicators_species_and_cells() -> None:
    dyes, many = training_data(DYES), training_data(GLOBAL)
    assert dyes.species == {"zebrafish"}
    assert many.species == {"mouse", "zebrafish"}
    assert len(dyes.families) == 1
    assert {"GCaMP5", "GCaMP6", "R-CaMP"} < set(many.families)
    assert training_data(("DS23-OGB1-m-PV-V1", "DS25-GCaMP6f-m-SST-V1")).cells == "interneurons"
    for name, inside in (("ogb1", True), ("GCaMP6f", True), ("GCaMP6", True), ("GCaMP6m", False), ("GCaMP8s", False)):
        assert many.has(parse_indicator(name)) is inside, name
    own = training_data(("DS60-FooCaMP-m-S1",))
    assert own.has(parse_indicator("foo-camp"))
    assert not own.has(parse_indicator("BarCaMP"))


def test_shipped_models_state_what_they_were_trained_on() -> None:
    shipped, problems = installed_models()
    assert problems == []
    assert shipped
    for model in shipped:
        assert model.training.families, model.name
        assert all(indicator.known for indicator in model.training.indicators), model.name
        assert len(model.training.brief) <= 26, model.name


def test_a_damaged_model_is_reported_and_the_others_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_model_folders", lambda: [tmp_path])
    write_model(tmp_path / "GOOD", training_datasets=GCAMP8)
    (write_model(tmp_path / "BAD") / "manifest.json").write_text("{", encoding="utf-8")
    found, problems = installed_models()
    assert [model.name for model in found] == ["GOOD"]
    assert len(problems) == 1
    assert "BAD" in problems[0]


@pytest.mark.parametrize(("rate", "fits"), [(28.5, True), (31.5, True), (28.4, False), (31.6, False)])
def test_a_frame_rate_fits_within_5_percent(rate: float, fits: bool) -> None:
    assert fits_frame_rate(30.0, rate) is fits

"""Models that are loaded and scored side by side, on recordings for which the right scores are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import picking_layers, picking_network, spec_for, write_published
from truth_files import write_dataset

from cascade_rt.bundle import write_bundle
from cascade_rt.chunks import ModelSpec
from cascade_rt.engine import Model, load_model
from cascade_rt.errors import BundleError, TrainingError
from training.scoring import bundle_tables, check_rates, learnt_from, load_any
from training.summary import ALL, comparisons, summarise

LEVELS = (0.25,)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    write_dataset(folder, "DS01-OGB1-m-V1")
    write_dataset(folder, "DS02-Cal520-m-S1")
    write_dataset(folder, "DS03-late-m-V1", late_frames=2)
    return folder


def _bundle(folder: Path, name: str, lookaheads: tuple[int, ...] = (2, 15), **changes: object) -> Path:
    """A model whose outputs are the frame that each look-ahead describes."""
    network = picking_network(32, lookaheads)
    spec = spec_for(network, lookaheads, name=name, **changes)
    return write_bundle(folder / name, spec, {None: network}, card="", config={})


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    return load_model(_bundle(folder, "copying", training_datasets=("DS02-Cal520-m-S1",)), threads=1)


def test_a_model_is_scored_where_it_was_not_trained(copying: Model, truth: Path) -> None:
    """Its output is the recording, which is the truth plus a little noise; one dataset lags by two frames."""
    shown: list[str] = []
    (table,) = bundle_tables(
        copying, truth, noise_levels=LEVELS, show=lambda done, what: shown.append(f"{done:.2f} {what}")
    )
    assert (table.title, table.test) == ("copying on datasets that it was not trained on", "unseen")
    assert (table.model, table.lookaheads, table.rival) == ("copying", (2, 15), False)
    found = summarise(table.scores)
    assert {dataset for dataset, _, _ in found} == {"DS01-OGB1-m-V1", "DS03-late-m-V1", ALL}
    for lookahead in (2, 15):
        prompt, late = (found[d, 0.25, lookahead] for d in ("DS01-OGB1-m-V1", "DS03-late-m-V1"))
        assert prompt["correlation"].median > 0.9
        assert late["correlation"].median < 0.7
        assert abs(prompt["delay_ms"].median) < 3
        assert late["delay_ms"].median == pytest.approx(2000 / 30, abs=3)
        assert prompt["detected_percent"].median > 95
    assert shown[-1] == "1.00 scoring copying"


def test_datasets_that_it_was_trained_on_are_told_apart(copying: Model, truth: Path) -> None:
    tables = bundle_tables(copying, truth, datasets=["DS02", "DS01", "DS01-OGB1-m-V1"], noise_levels=LEVELS)
    assert [(t.test, {s.dataset for s in t.scores}) for t in tables] == [
        ("unseen", {"DS01-OGB1-m-V1"}),
        ("seen", {"DS02-Cal520-m-S1"}),
    ]
    assert "WAS TRAINED ON" in tables[1].title
    with pytest.raises(TrainingError, match="found 0"):
        bundle_tables(copying, truth, datasets=["DS77"])


def test_a_model_trained_on_everything_needs_datasets_by_name(tmp_path: Path, truth: Path) -> None:
    model = load_model(_bundle(tmp_path, "all", training_datasets=("DS01", "DS02", "DS03")), threads=1)
    with pytest.raises(TrainingError, match=r"trained on every dataset .* --datasets"):
        bundle_tables(model, truth)
    silent = load_model(_bundle(tmp_path, "silent"), threads=1)
    (table,) = bundle_tables(silent, truth, datasets=["DS01"], noise_levels=LEVELS)
    assert "it does not say" in table.title


def test_a_rival_meets_the_same_recordings(copying: Model, truth: Path, tmp_path: Path) -> None:
    """A rival with the same output has the same scores to the last digit, and no difference."""
    twin = load_model(_bundle(tmp_path, "twin", training_datasets=("DS01-OGB1-m-V1",)), threads=1)
    ours, theirs = bundle_tables(copying, truth, datasets=["DS01"], rivals=[twin], noise_levels=LEVELS)
    assert theirs.title == (
        "twin on the same neurons, against true spikes smoothed with its own Gaussian of 50 ms; "
        "it was trained on DS01-OGB1-m-V1"
    )
    assert theirs.rival
    assert theirs.scores == ours.scores
    (comparison,) = comparisons([ours, theirs])
    cell = comparison.summary[ALL, 0.25, 15]["correlation"]
    assert cell.difference == (0, 0, 0, 2)
    assert cell.ours == cell.theirs


def test_a_rival_with_another_kernel_is_scored_against_both(copying: Model, truth: Path, tmp_path: Path) -> None:
    causal = load_model(_bundle(tmp_path, "causal", causal_kernel=True), threads=1)
    ours, own, same = bundle_tables(copying, truth, datasets=["DS01"], rivals=[causal], noise_levels=LEVELS)
    assert "its own causal kernel of 50 ms" in own.title
    assert "the evaluated model's Gaussian of 50 ms" in same.title
    assert same.scores == ours.scores
    assert own.scores[0].scores.correlation < same.scores[0].scores.correlation


def test_a_rival_for_another_rate_is_refused(copying: Model, truth: Path, tmp_path: Path) -> None:
    slow = load_model(_bundle(tmp_path, "slow", frame_rate_hz=7.5), threads=1)
    with pytest.raises(TrainingError, match=r"slow is for 7\.5 Hz and copying for 30 Hz"):
        bundle_tables(copying, truth, rivals=[slow])
    check_rates([load_model(_bundle(tmp_path, "near", frame_rate_hz=30.9), threads=1)], "copying", 30.0)


def test_loading_bundles_and_published_weights(
    tmp_path: Path, truth: Path, monkeypatch: pytest.MonkeyPatch, copying: Model
) -> None:
    """A published network that copies one frame of its window scores as our network that does so."""
    published = tmp_path / "published" / "Global"
    write_published(
        published, make=lambda rng: picking_layers(64, 32), levels=(1,), training_datasets=["DS09-Cal520-m-S1"]
    )
    for model in (load_any(str(published)), load_any("Global", published=tmp_path / "published")):
        assert (model.spec.name, model.spec.lookaheads) == ("Global", (31,))
    (table,) = bundle_tables(model, truth, datasets=["DS01"], noise_levels=LEVELS)
    (ours,) = bundle_tables(copying, truth, datasets=["DS01"], noise_levels=LEVELS)
    for theirs, own in zip(table.scores, (s for s in ours.scores if s.lookahead == 15), strict=True):
        np.testing.assert_allclose(theirs.scores, own.scores, atol=0.01)

    monkeypatch.setenv("CASCADE_RT_MODELS", str(tmp_path))
    assert load_any(str(_bundle(tmp_path, "installed"))).spec.name == "installed"
    assert load_any("installed").spec.name == "installed"
    with pytest.raises(TrainingError, match=r"no model 'missing'.*installed.*--published"):
        load_any("missing", published=tmp_path / "published")
    next(published.glob("*.h5")).unlink()
    with pytest.raises(BundleError, match="missing"):
        load_any(str(published))


def test_recordings_that_are_all_too_short(truth: Path, tmp_path: Path) -> None:
    folder = tmp_path / "truth"
    write_dataset(folder, "DS01-OGB1-m-V1", seconds=30.0)
    network = picking_network(1200, (2,))
    path = write_bundle(tmp_path / "long", spec_for(network, (2,), name="long"), {None: network}, card="", config={})
    with pytest.raises(TrainingError, match=r"none of 2 recordings has 1200 frames at 30 Hz"):
        bundle_tables(load_model(path, threads=1), folder)


def _trained_on(spec: ModelSpec, *names: str) -> ModelSpec:
    return replace(spec, training_datasets=names)


def test_what_a_model_was_trained_on(copying: Model, truth: Path) -> None:
    """By name, by number alone, and by the rest of the name where the number is one that the ground truth has not."""
    every, spec = ["DS01-OGB1-m-V1", "DS02-Cal520-m-S1", "DS03-late-m-V1"], copying.spec
    assert learnt_from(_trained_on(spec, "DS03"), every, truth) == ["DS03-late-m-V1"]
    assert learnt_from(_trained_on(spec, "DS01-Cal520-m-S1"), every, truth) == ["DS02-Cal520-m-S1"]
    assert learnt_from(_trained_on(spec, "DS09", "DS07-GCaMP6f-zf"), every, truth) == []
    assert learnt_from(_trained_on(spec, "DS01-OGB1-m-V1"), every[1:], truth) == []

"""Which model is scored on which neurons; nothing is trained here: a network that copies its input stands in."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from networks import picking_network, spec_for, write_published
from truth_files import write_dataset

from cascade_rt.bundle import write_bundle
from cascade_rt.engine import load_model
from cascade_rt.errors import TrainingError
from training import run as module
from training.architecture import ConditionedShape
from training.config import TrainingConfig
from training.run import Run

A, B, C = "DS01-a", "DS02-b", "DS03-c"
LEVELS = (0.25,)
CONFIG = TrainingConfig(
    name="copying",
    frame_rate_hz=30.0,
    smoothing_s=0.05,
    datasets=(A, B),
    test_datasets=(C,),
    folds=2,
    network=ConditionedShape(lookahead_frames=(2, 15)),
)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    for seconds, dataset in ((100.0, A), (110.0, B), (120.0, C)):
        write_dataset(folder, dataset, neurons=3, seconds=seconds)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = picking_network(64, (2, 15))
    spec = spec_for(network, (2, 15), name="copying", training_datasets=("DS09-GCaMP6f-m-V1",))
    return write_bundle(tmp_path_factory.mktemp("model") / "copying", spec, {None: network}, card="", config={})


class Watched:
    """A run whose models are their parts' names until they are scored; keeps what was trained and scored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
        self.trained: dict[str, set[tuple[str, str]]] = {}
        self.scored: list[tuple[str, set[tuple[str, str]]]] = []
        model, genuine, parts = load_model(bundle, threads=1), module.score_model, []

        def fit(run: Run, *, leave_out: Collection[Any] = (), part: str = "all", progress: Any = None) -> str:
            self.trained[part] = set(leave_out)
            return part

        def engine(run: Run, part: str) -> Any:
            parts.append((part, load_model(bundle, threads=1)))
            return parts[-1][1]

        def score_model(scored: Any, tests: Any, *rest: Any) -> Any:
            part = next(p for p, loaded in parts if loaded is scored)
            self.scored.append((part, {key for key, _ in tests.neurons()}))
            return genuine(model, tests, *rest)

        monkeypatch.setattr(Run, "fit", fit)
        monkeypatch.setattr(Run, "_engine", engine)
        monkeypatch.setattr(module, "score_model", score_model)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Watched:
    return Watched(monkeypatch, bundle)


def _run(truth: Path, folder: Path, config: TrainingConfig = CONFIG, **options: Any) -> Run:
    return Run(config, ground_truth=truth, folder=folder / config.name, **options)


def test_neurons_are_scored_by_models_that_never_saw_them(truth: Path, tmp_path: Path, watched: Watched) -> None:
    run = _run(truth, tmp_path)
    folds, unseen = run.evaluate(noise_levels=LEVELS)
    assert {part for part, _ in watched.scored} == {"fold0", "fold1", "all"}
    for part, neurons in watched.scored:
        if part == "all":
            assert {dataset for dataset, _ in neurons} == {C}
        else:
            assert neurons == watched.trained[part]
    assert len({(s.dataset, s.neuron) for s in folds.scores}) == 6
    assert (folds.test, unseen.test, folds.lookaheads) == ("folds", "unseen", (2, 15))
    assert folds.title.startswith("2-fold cross-validation")
    assert all(s.scores.correlation > 0.9 for s in (*folds.scores, *unseen.scores))

    document = json.loads((run.folder / "scores.json").read_text(encoding="utf-8"))
    assert (document["model"], document["digest"], document["frame_rate_hz"]) == ("copying", CONFIG.digest(), 30.0)
    assert run.tables() == [folds, unseen]
    assert _run(truth, tmp_path, replace(CONFIG, folds=0)).tables() == [folds, unseen]
    with pytest.raises(TrainingError, match="belongs to another configuration"):
        _run(truth, tmp_path, replace(CONFIG, smoothing_s=0.1)).tables()
    assert _run(truth, tmp_path / "elsewhere").tables() == []


def test_the_published_reference_stands_beside_both_tests(truth: Path, tmp_path: Path, watched: Watched) -> None:
    write_published(tmp_path / "published" / "Global", levels=(2,), members=1, causal_kernel=1)
    config = replace(CONFIG, reference="Global")
    tables = _run(truth, tmp_path, config, published=tmp_path / "published").evaluate(noise_levels=LEVELS)
    assert [(t.test, t.model, t.rival) for t in tables] == [
        (test, model, rival)
        for test in ("folds", "unseen")
        for model, rival in (("copying", False), ("Global", True), ("Global", True))
    ]
    assert "its own causal kernel" in tables[1].title
    assert "the evaluated model's Gaussian" in tables[2].title
    with pytest.raises(TrainingError, match="no model 'Global'"):
        _run(truth, tmp_path, config, published=tmp_path).evaluate()


def test_rivals_for_another_rate_are_refused_before_anything_is_trained(
    truth: Path, tmp_path: Path, watched: Watched
) -> None:
    write_published(tmp_path / "published" / "Slow", levels=(2,), members=1, sampling_rate=7.5)
    with pytest.raises(TrainingError, match=r"Slow is for 7\.5 Hz and copying for 30 Hz"):
        _run(truth, tmp_path, replace(CONFIG, reference="Slow"), published=tmp_path / "published").evaluate()
    assert watched.trained == {}


def test_a_test_dataset_with_a_copy_of_a_training_recording(
    tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    for dataset, seconds in ((A, 100.0), (B, 110.0), (C, 120.0)):
        write_dataset(tmp_path / "truth", dataset, neurons=2, seconds=seconds)
    copy = tmp_path / "truth" / C / "cell1_mini.mat"
    copy.write_bytes((tmp_path / "truth" / A / "cell1_mini.mat").read_bytes())
    (unseen,) = _run(tmp_path / "truth", tmp_path, replace(CONFIG, folds=0)).evaluate(noise_levels=LEVELS)
    assert {(s.dataset, s.neuron) for s in unseen.scores} == {(C, "cell0")}
    assert "DS03-c/cell1 is not scored: the training datasets hold the same recording" in caplog.text


def test_each_dataset_is_scored_by_a_model_trained_without_it(truth: Path, tmp_path: Path, watched: Watched) -> None:
    run = _run(truth, tmp_path, replace(CONFIG, datasets=(A, B, C), test_datasets=()))
    (table,) = run.generalise(noise_levels=LEVELS)
    neurons = {d: {(d, f"cell{n}") for n in range(3)} for d in (A, B, C)}
    assert watched.trained == {"without_DS01": neurons[A], "without_DS02": neurons[B], "without_DS03": neurons[C]}
    assert watched.scored == [(f"without_{d[:4]}", neurons[d]) for d in (A, B, C)]
    assert len(table.scores) == 9 * 2
    assert table.title.startswith("Leave one dataset out")
    document = json.loads((run.folder / "generalise.json").read_text(encoding="utf-8"))
    assert {row["dataset"] for row in document["tables"][0]["summary"]} == {A, B, C, "all"}


def test_leaving_out_goes_on_where_it_stopped_and_keeps_what_is_scored(
    truth: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fit = _run(truth, tmp_path), Run.fit

    def stopped(self: Run, *, part: str, **options: Any) -> Any:
        if part == "without_DS02":
            raise KeyboardInterrupt
        return fit(self, part=part, **options)

    monkeypatch.setattr(Run, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.generalise(noise_levels=LEVELS)
    document = json.loads((run.folder / "generalise.json").read_text(encoding="utf-8"))
    assert {row["dataset"] for row in document["tables"][0]["scores"]} == {A}


def test_some_datasets_only(truth: Path, tmp_path: Path, watched: Watched) -> None:
    (table,) = _run(truth, tmp_path).generalise(datasets=["DS02"], noise_levels=LEVELS)
    assert set(watched.trained) == {"without_DS02"}
    assert {s.dataset for s in table.scores} == {B}
    with pytest.raises(TrainingError, match=r"DS03-c cannot be left out: copying is trained on DS01-a, DS02-b"):
        _run(truth, tmp_path).generalise(datasets=["DS03"])
    with pytest.raises(TrainingError, match="expected at least two"):
        _run(truth, tmp_path, replace(CONFIG, datasets=(A,))).generalise()


def test_a_bundle_names_the_datasets_of_the_model_it_started_from(
    truth: Path, tmp_path: Path, bundle: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(module, "conditioned_spec", lambda name, shape, **entries: seen.update(entries))
    monkeypatch.setattr(module, "read_record", lambda folder: {"frames": 1e6, "held_out": []})
    monkeypatch.setattr(module, "export_bundle", lambda folder, *_, **options: (folder, 0.0))
    _run(truth, tmp_path, replace(CONFIG, from_model=str(bundle))).export(tmp_path / "out")
    assert seen["training_datasets"] == (A, B, "DS09-GCaMP6f-m-V1")
    _run(truth, tmp_path).export(tmp_path / "out")
    assert seen["training_datasets"] == (A, B)

"""The zoo: which configurations there are, what of them is done, in what order tasks run and how they end."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training import zoo_jobs
from training.zoo import Entry, Places, read_zoo
from training.zoo_jobs import Task, make, tasks_left, worker_environment


def _write(path: Path, name: str, *, frames: int = 1_000_000, more: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"name: {name}\nframe_rate_hz: 30.0\nsmoothing_s: 0.05\ndatasets: [DS30]\nfit: {{target_frames: {frames}}}\n"
        + more,
        encoding="utf-8",
    )


def _places(folder: Path) -> Places:
    return Places(
        ground_truth=folder / "truth", published=folder / "published", runs=folder / "runs", target=folder / "models"
    )


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, Entry]:
    """A small and a big model, the big one with folds, and a study."""
    configs = tmp_path / "configs"
    _write(configs / "small.yaml", "small")
    _write(configs / "big.yaml", "big", frames=9_000_000, more="folds: 2\n")
    _write(configs / "studies" / "study.yaml", "study", frames=3_000_000, more="folds: 2\n")
    return {entry.name: entry for entry in read_zoo(configs, _places(tmp_path))}


def _finish_fit(entry: Entry, part: str, digest: str = "") -> Path:
    """Leave what a finished fit leaves."""
    folder = entry.folder / part
    folder.mkdir(parents=True)
    digest = digest or entry.config.digest()
    (folder / "fit.json").write_text(json.dumps({"configuration_sha256": digest}), encoding="utf-8")
    np.savez(folder / "checkpoint.npz", run=np.array(digest + "data"), weight_0=np.zeros(3, np.float32))
    return folder


def test_models_and_studies(entries: dict[str, Entry]) -> None:
    assert list(entries) == ["big", "small", "study"]
    assert {name: entry.parts for name, entry in entries.items()} == {
        "big": ("all", "fold0", "fold1"),
        "small": ("all",),
        "study": ("fold0", "fold1"),
    }
    assert [e.name for e in entries.values() if not e.exports] == ["study"]


def test_selection(tmp_path: Path, entries: dict[str, Entry]) -> None:
    folder = entries["big"].path.parent
    assert [e.name for e in read_zoo(folder, _places(tmp_path), ["s*"])] == ["small", "study"]
    with pytest.raises(TrainingError, match="no model 'smal' in the zoo: it has big, small, study"):
        read_zoo(folder, _places(tmp_path), ["big", "smal"])
    with pytest.raises(TrainingError, match="no configuration"):
        read_zoo(tmp_path / "nowhere", _places(tmp_path))
    _write(folder / "again.yaml", "small")
    with pytest.raises(TrainingError, match="more than one configuration has the name small"):
        read_zoo(folder, _places(tmp_path))


def test_longest_first_and_only_what_is_left(entries: dict[str, Entry]) -> None:
    def left() -> list[tuple[str, str]]:
        return [(task.entry.name, task.part) for task in tasks_left(list(entries.values()))]

    big = [("big", "all"), ("big", "fold0"), ("big", "fold1"), ("big", "")]
    study = [("study", "fold0"), ("study", "fold1"), ("study", "")]
    assert left() == [*big, *study, ("small", "all"), ("small", "")]
    _finish_fit(entries["big"], "fold0")
    _finish_fit(entries["small"], "all")
    assert left() == [big[0], *big[2:], *study, ("small", "")]


@pytest.mark.parametrize("spoilt", ["record", "checkpoint", "no checkpoint", "damaged checkpoint"])
def test_a_fit_counts_only_with_this_configuration(entries: dict[str, Entry], spoilt: str) -> None:
    entry = entries["small"]
    folder = _finish_fit(entry, "all")
    assert entry.fraction("all") == 1.0
    if spoilt == "record":
        (folder / "fit.json").write_text(json.dumps({"configuration_sha256": "0" * 64}), encoding="utf-8")
    elif spoilt == "checkpoint":
        np.savez(folder / "checkpoint.npz", run=np.array("0" * 64 + "data"))
    elif spoilt == "no checkpoint":
        (folder / "checkpoint.npz").unlink()
    else:
        (folder / "checkpoint.npz").write_bytes(b"PK half of a checkpoint")
    assert entry.fraction("all") < 1.0


def test_how_far_a_fit_is(entries: dict[str, Entry]) -> None:
    entry = entries["small"]
    assert entry.fraction("all") == 0.0
    (entry.folder / "all").mkdir(parents=True)
    half = entry.config.n_steps // 2
    (entry.folder / "all" / "loss.csv").write_text(f"step,frames,training_loss,validation_loss\n{half},1,1,\n")
    assert entry.fraction("all") == pytest.approx(0.5, abs=0.1)


def test_scores_must_be_of_this_configuration_and_newer_than_the_fits(entries: dict[str, Entry]) -> None:
    entry = entries["small"]
    scores = entry.folder / "scores.json"
    checkpoint = _finish_fit(entry, "all") / "checkpoint.npz"
    assert not entry.scored
    document = {"format": 2, "digest": entry.config.digest(), "tables": []}
    scores.write_text(json.dumps(document), encoding="utf-8")
    assert entry.scored
    os.utime(checkpoint, (2e9, 2e9))
    assert not entry.scored
    os.utime(checkpoint, (1e9, 1e9))
    scores.write_text(json.dumps({**document, "digest": "0" * 64}), encoding="utf-8")
    assert not entry.scored


# ── tasks in processes ──


def _does(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let tasks run this code, which sees ``name`` and ``part``, instead of training."""

    def command(task: Task) -> list[str]:
        return [sys.executable, "-c", f"name, part = {task.entry.name!r}, {task.part!r}\n{code}"]

    monkeypatch.setattr(zoo_jobs, "_command", command)


def test_scores_follow_the_fits_of_their_model(entries: dict[str, Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    _does(monkeypatch, "print(name)")
    tasks = tasks_left(list(entries.values()))
    outcomes = list(make(tasks, jobs=1))
    assert [outcome.task for outcome in outcomes] == tasks
    assert [outcome.n_done for outcome in outcomes] == list(range(1, len(tasks) + 1))
    assert (entries["study"].folder / "fold1" / "log.txt").read_text() == "study\n"
    assert (entries["study"].folder / "log.txt").read_text() == "study\n"
    order = [(o.task.entry.name, o.task.part) for o in make(tasks, jobs=3)]
    for name, entry in entries.items():
        assert order.index((name, "")) > max(order.index((name, part)) for part in entry.parts)


def test_one_that_fails_stops_no_other(entries: dict[str, Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    _does(monkeypatch, "import sys; sys.exit('no such data' if (name, part) == ('big', 'fold0') else 0)")
    outcomes = list(make(tasks_left(list(entries.values())), jobs=2))
    assert {(o.task.label, o.error) for o in outcomes if o.error is not None} == {("big, fold0", "no such data")}
    done = {(o.task.entry.name, o.task.part) for o in outcomes if o.error is None}
    assert ("big", "fold1") in done
    assert ("big", "") not in done
    assert {("study", ""), ("small", "")} <= done
    # A second attempt tells its own words only.
    _does(monkeypatch, "import sys; sys.exit('still none')")
    (again,) = make([Task(entry=entries["big"], part="fold0")], jobs=1)
    assert again.error == "still none"


def test_what_runs_ends_with_the_iterator(entries: dict[str, Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    _does(monkeypatch, "import sys; part and sys.stdin.read()")
    tasks = [Task(entry=entries["small"], part=part) for part in ("all", "")]
    started = []
    worker = zoo_jobs._Worker

    def noted(task: Task) -> zoo_jobs._Worker:
        started.append(worker(task))
        return started[-1]

    monkeypatch.setattr(zoo_jobs, "_Worker", noted)
    monkeypatch.setattr(zoo_jobs._Making, "_next", lambda self: self.waiting.pop() if self.waiting else None)
    with closing(make(tasks, jobs=2)) as outcomes:
        assert next(outcomes).task.part == ""
        assert [w.process.poll() is None for w in started] == [False, True]
    assert all(w.process.poll() is not None for w in started)


def test_one_thread_for_each_process() -> None:
    found = worker_environment({"XLA_FLAGS": "--xla_dump_to=there", "HOME": "x", "OMP_NUM_THREADS": "8"})
    assert found["XLA_FLAGS"] == "--xla_dump_to=there --xla_cpu_multi_thread_eigen=false"
    assert (found["OMP_NUM_THREADS"], found["TF_NUM_INTRAOP_THREADS"], found["HOME"]) == ("1", "1", "x")

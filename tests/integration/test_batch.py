"""A batch that is killed again and again ends with what an undisturbed one gives, and does nothing twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from batches import MODEL, assert_same, results, start, write_sessions

import cascade_rt as crt
from cascade_rt.batch import find_sessions, read_list, run_batch
from cascade_rt.errors import InputError
from cascade_rt.session import InferOptions

OPTIONS = InferOptions(model=MODEL, frame_rate_hz=30.0)
#: Kills of the whole batch before it may end; more for a long run by hand.
KILLS = int(os.environ.get("CASCADE_RT_BATCH_KILLS", "5"))


def events(folder: Path) -> list[dict]:
    found = []
    for line in (folder / "cascade_batch.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return found


def kill_all(process: psutil.Process) -> None:
    """Kill a process and everything that it started, as a crash of the computer would."""
    family = [process, *process.children(recursive=True)]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_until_it_is_done(tmp_path: Path) -> None:
    write_sessions(tmp_path / "killed", 20)
    shutil.copytree(tmp_path / "killed", tmp_path / "whole")
    assert start(tmp_path / "whole").wait(timeout=300) == 0
    chance = random.Random(int(os.environ.get("CASCADE_RT_SEED", "1")))
    written: dict[Path, float] = {}
    for kill in range(KILLS + 20):
        process = start(tmp_path / "killed")
        try:
            # The first second or two are imports; then kills fall among sessions, and into their steps.
            code = process.wait(timeout=chance.uniform(2.0, 5.0) if kill < KILLS else 300)
        except subprocess.TimeoutExpired:
            kill_all(psutil.Process(process.pid))
            process.wait()
            code = None
        for path in (tmp_path / "killed").rglob("*_cascade.h5"):
            # A result that is there is never made again.
            assert written.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if code is not None:
            assert code == 0
            if kill >= KILLS:
                break
    whole = results(tmp_path / "whole")
    assert len(whole) == 20
    assert_same(results(tmp_path / "killed"), whole)
    log = events(tmp_path / "killed")
    done = Counter(event["session"] for event in log if event["event"] == "done")
    assert max(done.values()) == 1
    left = [
        path.name for path in (tmp_path / "killed").rglob("*") if ".part" in path.name or ".incomplete" in path.name
    ]
    assert left == []


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    paths = write_sessions(tmp_path, 3)
    np.savez(paths[0], dff=100 * np.load(paths[1]), frame_rate_hz=30.0)  # percent
    lines = []
    summary = run_batch(
        find_sessions([tmp_path], OPTIONS).sessions,
        out=tmp_path / "out",
        workers=2,
        report=False,
        progress=lambda outcome, n, total: lines.append((outcome.status, n, total)),
    )
    assert (summary.count("done"), summary.count("failed")) == (2, 1)
    failed = next(outcome for outcome in summary.outcomes if outcome.status == "failed")
    assert failed.session == str(paths[0])
    assert "percent" in failed.reason
    assert [n for _, n, _ in lines] == [1, 2, 3]
    page = summary.page.read_text(encoding="utf-8")
    assert "2 done, 0 were done before, 1 failed" in page
    assert "percent" in page
    assert len(list((tmp_path / "out").rglob("*_cascade.h5"))) == 2


def test_what_has_changed_is_done_again(tmp_path: Path) -> None:
    paths = write_sessions(tmp_path, 2)

    def again(options: InferOptions = OPTIONS) -> list[str]:
        sessions = find_sessions([tmp_path], options).sessions
        summary = run_batch(sessions, out=tmp_path / "out", workers=1, report=False)
        return [outcome.status for outcome in sorted(summary.outcomes, key=lambda outcome: outcome.session)]

    assert again() == ["done", "done"]
    assert again() == ["skipped", "skipped"]
    np.save(paths[1], 2 * np.load(paths[1]))
    assert again() == ["skipped", "done"]
    assert again(InferOptions(model=MODEL, frame_rate_hz=30.0, threshold="none")) == ["done", "done"]


def test_what_was_not_written_before_is_done_again(tmp_path: Path) -> None:
    (path,) = write_sessions(tmp_path, 1)
    sessions, out = find_sessions([path], OPTIONS).sessions, tmp_path / "out"

    def status(**wanted: bool) -> str:
        return run_batch(sessions, out=out, workers=1, **wanted).outcomes[0].status

    assert status(report=False, beside=False) == "done"
    assert not (out / "traces_cascade_report.html").exists()
    assert status(report=True, beside=True) == "done"
    assert (out / "traces_cascade_report.html").exists()
    assert (out / "traces_spike_prob.npz").exists()
    assert status(report=True, beside=True) == "skipped"
    assert status(report=False, beside=False) == "skipped"


def test_no_session_overwrites_the_result_of_another(tmp_path: Path) -> None:
    paths = write_sessions(tmp_path, 3)
    chosen = [paths[0], paths[2]]  # of one name, in different folders
    sessions = find_sessions(chosen, OPTIONS).sessions
    for before in ("done", "skipped"):
        summary = run_batch(sessions, out=tmp_path / "out", workers=1, report=False)
        assert [outcome.status for outcome in summary.outcomes] == [before, "failed"]
        assert f"is the result of {paths[0]}" in summary.outcomes[1].reason
    with crt.open_result(tmp_path / "out" / "traces_cascade.h5") as result:
        assert result.metadata["batch_session"] == str(paths[0])
    # A list and a search keep them apart.
    (tmp_path / "list.txt").write_text("\n".join(path.relative_to(tmp_path).as_posix() for path in chosen), "utf-8")
    for kept in (read_list(tmp_path / "list.txt", OPTIONS), find_sessions([tmp_path / "session*"], OPTIONS).sessions):
        assert run_batch(kept, out=tmp_path / "apart", workers=1, report=False).count("failed") == 0
    assert len(results(tmp_path / "apart")) == 3


@pytest.mark.slow
def test_two_batches_at_once_share_the_work(tmp_path: Path) -> None:
    write_sessions(tmp_path, 6)
    both = [start(tmp_path), start(tmp_path)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    ends = Counter((event["session"], event["event"]) for event in events(tmp_path) if "fingerprint" in event)
    assert len(results(tmp_path)) == 6
    assert set(ends.values()) == {1}
    assert Counter(event for _, event in ends) == {"done": 6, "skipped": 6}


def test_results_that_no_batch_has_made_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_sessions(tmp_path, 1)
    (path.parent / "traces_cascade.h5").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    summary = run_batch(find_sessions([path], OPTIONS).sessions, workers=1)
    assert summary.outcomes[0].status == "failed"
    assert "traces_cascade.h5 exists" in summary.outcomes[0].reason
    assert (path.parent / "traces_cascade.h5").read_bytes() == b"mine"


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_session_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_sessions(tmp_path, 4)
    monkeypatch.chdir(tmp_path)
    sessions = find_sessions([tmp_path], OPTIONS).sessions
    me, killed = psutil.Process(), []

    def progress(outcome, finished, total) -> None:
        if not killed:
            workers = [child for child in me.children() if "spawn_main" in " ".join(child.cmdline())]
            busy = next(child for child in workers if child.is_running())
            busy.kill()
            killed.append(busy.pid)

    summary = run_batch(sessions, workers=2, report=False, progress=progress)
    assert len(summary.outcomes) == len(paths)
    assert summary.count("failed") <= 1
    if summary.count("failed"):
        assert "its worker was killed" in next(o.reason for o in summary.outcomes if o.status == "failed")
    assert run_batch(sessions, workers=2, report=False).count("failed") == 0
    assert len(results(tmp_path)) == 4


def test_a_list_with_options(tmp_path: Path) -> None:
    paths = write_sessions(tmp_path, 2)
    table = tmp_path / "sessions.csv"
    table.write_text(
        f"path,frame_rate_hz,threshold\n{paths[0].relative_to(tmp_path)},,none\n{paths[1].relative_to(tmp_path)},30,\n",
        encoding="utf-8",
    )
    sessions = read_list(table, InferOptions(model=MODEL))
    assert [session.options.threshold for session in sessions] == ["none", "zero"]
    assert [session.options.frame_rate_hz for session in sessions] == [None, 30.0]
    summary = run_batch(sessions, out=tmp_path / "out", workers=1, report=False)
    assert summary.count("done") == 2


def test_no_sessions() -> None:
    with pytest.raises(InputError, match="without sessions"):
        run_batch([])

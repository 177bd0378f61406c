"""What a batch consists of, and by what a session is known as done; batches themselves are in the integration tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_rt.batch import Session, find_sessions, read_list
from cascade_rt.batch.fingerprint import fingerprint, hash_files, model_identity
from cascade_rt.batch.lock import locked
from cascade_rt.batch.log import BatchLog
from cascade_rt.batch.task import process
from cascade_rt.bundle import find_bundle, read_spec
from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.session import InferOptions

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"


def traces(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dff = np.random.default_rng(seed).normal(0, 0.1, (3, 300)).astype(np.float32)
    if path.suffix == ".npz":
        np.savez(path, dff=dff)
    else:
        np.save(path, dff)
    return path


def suite2p(folder: Path) -> Path:
    plane = folder / "plane0"
    traces(plane / "F.npy")
    traces(plane / "Fneu.npy", seed=1)
    np.save(plane / "iscell.npy", np.ones((3, 2)))
    return folder


def below(folder: Path, sessions: tuple[Session, ...]) -> list[str]:
    return [session.path.relative_to(folder).as_posix() for session in sessions]


# ------------------------------------------------------------------------------------------------------- searching


def test_a_folder_is_searched(tmp_path: Path) -> None:
    suite2p(tmp_path / "mouse1" / "day1" / "suite2p")
    traces(tmp_path / "mouse2" / "dff.npy")
    traces(tmp_path / "mouse2" / "deeper" / "one.npz")
    (tmp_path / "mouse2" / "notes.txt").write_text("nothing", encoding="utf-8")
    np.save(tmp_path / "mouse2" / "frame_times.npy", np.arange(300.0))  # no traces
    found = find_sessions([tmp_path])
    paths = below(tmp_path, found.sessions)
    assert paths == ["mouse1/day1", "mouse2/dff.npy", "mouse2/deeper/one.npz"]
    assert [Path(path).name for path in found.passed_over] == ["frame_times.npy"]
    assert "300" in next(iter(found.passed_over.values()))
    places = {session.path.name: session.place.as_posix() for session in found.sessions}
    assert places["one.npz"] == "mouse2/deeper"
    assert places["dff.npy"] == "mouse2"


def test_own_results_are_not_sessions(tmp_path: Path) -> None:
    traces(tmp_path / "dff.npy")
    for name in ("dff_spike_prob.npz", "dff_cascade.npz", "cascade_spike_prob.npy", "dff_cascade.part.npy"):
        traces(tmp_path / name)
    assert below(tmp_path, find_sessions([tmp_path]).sessions) == ["dff.npy"]
    assert below(tmp_path, find_sessions([tmp_path / "*.np?"]).sessions) == ["dff.npy"]
    # Whoever names a file means it.
    assert below(tmp_path, find_sessions([tmp_path / "dff_cascade.npz"]).sessions) == ["dff_cascade.npz"]


@pytest.mark.parametrize("folder", ["2024_cascade_imaging", "cascade", "spike_prob"])
def test_folders_called_after_cascade_are_searched(tmp_path: Path, folder: str) -> None:
    traces(tmp_path / folder / "inner" / "dff.npy")
    expected = [f"{folder}/inner/dff.npy"]
    assert below(tmp_path, find_sessions([tmp_path]).sessions) == expected
    assert below(tmp_path, find_sessions([tmp_path / "*" / "inner"]).sessions) == expected


def test_patterns_are_expanded_without_a_shell(tmp_path: Path) -> None:
    for mouse in ("m2", "m1"):
        traces(tmp_path / mouse / "dff.npy")
    traces(tmp_path / "other" / "x" / "dff.npy")
    found = find_sessions([f"{tmp_path}/m*/dff.npy"]).sessions
    assert below(tmp_path, found) == ["m1/dff.npy", "m2/dff.npy"]
    assert [session.place.as_posix() for session in found] == ["m1", "m2"]
    assert len(find_sessions([f"{tmp_path}/**/dff.npy"]).sessions) == 3
    # Found twice, there once.
    assert len(find_sessions([tmp_path, f"{tmp_path}/m*/dff.npy"]).sessions) == 3


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such file"):
        find_sessions([tmp_path / "absent"])
    with pytest.raises(InputError, match="no session in it"):
        find_sessions([tmp_path / "empty"])
    with pytest.raises(InputError, match="no session in it"):
        find_sessions([tmp_path / "*.nwb"])
    with pytest.raises(InputError, match="format='suit2p': expected one of run, suite2p"):
        find_sessions([tmp_path / "empty"], InferOptions(format="suit2p"))


# ----------------------------------------------------------------------------------------------------------- lists


def test_a_plain_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# mine\n\na b/x.npy\n  /else/where.nwb  \n", encoding="utf-8")
    sessions = read_list(tmp_path / "list.txt")
    assert sessions[0].path == tmp_path / "a b" / "x.npy"
    assert sessions[0].place == Path("a b")
    assert (sessions[1].path.name, sessions[1].place) == ("where.nwb", Path())


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_of_options(tmp_path: Path, mark: str) -> None:
    rows = [
        ["path", "frame_rate_hz", "indicator", "all_rois", "planes", "fill_gaps", "baseline_window_s"],
        ["x.npy", "7.5", "GCaMP6f", "yes", "plane0|plane2", "3", "90"],
        ["y.npy"],
    ]
    (tmp_path / "list.csv").write_text("\n".join(mark.join(row) for row in rows), encoding="utf-8-sig")
    usual = InferOptions(frame_rate_hz=30.0, indicator="GCaMP8s")
    one, other = read_list(tmp_path / "list.csv", usual)
    assert (one.options.frame_rate_hz, one.options.indicator, one.options.all_rois) == (7.5, "GCaMP6f", True)
    assert (one.options.planes, one.options.fill_gaps) == (("plane0", "plane2"), 3)
    assert one.options.baseline.window_s == 90.0
    assert one.options.baseline.percentile == usual.baseline.percentile
    assert other.options == usual


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,frame_rate\nx.npy,30\n", r"line 2: unknown column 'frame_rate': .*frame_rate_hz"),
        ("path,frame_rate_hz\nx.npy,fast\n", r"line 2: frame_rate_hz='fast': expected a number"),
        ("path,force\nx.npy,perhaps\n", r"line 2: force='perhaps': expected yes or no"),
        ("path,threshold\nx.npy,high\n", r"line 2: threshold='high'"),
        ("path,force\n,yes\n", r"line 2: no path"),
        ("path,force\nx.npy,yes,no\n", r"line 2: 3 cells for 2 columns"),
        ("# nothing\n", r"the list is empty"),
    ],
)
def test_errors_in_a_list_name_the_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises((InputError, FileFormatError), match=told):
        read_list(tmp_path / "list.csv")


# ------------------------------------------------------------------------------------------------------ fingerprint


def aged(path: Path) -> Path:
    """Set the time of a file back: what was written just now may change once more at the same time."""
    earlier = time.time_ns() - 10_000_000_000
    os.utime(path, ns=(earlier, earlier))
    return path


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = aged(traces(tmp_path / "x.npy"))
    hashes, fresh = hash_files([path], {})
    assert list(fresh) == [str(path)]

    def never(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    with monkeypatch.context() as patch:
        patch.setattr("cascade_rt.batch.fingerprint.hash_file", never)
        assert hash_files([path], fresh) == (hashes, {})
        aged(traces(path, seed=1))
        os.utime(path, ns=(time.time_ns(), fresh[str(path)][1] + 1))
        with pytest.raises(AssertionError, match="was read"):
            hash_files([path], fresh)
    assert hash_files([path], fresh)[0] != hashes


def test_a_hash_of_what_may_still_change_is_not_kept(tmp_path: Path) -> None:
    assert hash_files([traces(tmp_path / "x.npy")], {})[1] == {}


def test_every_file_of_a_folder_counts(tmp_path: Path) -> None:
    traces(tmp_path / "store" / "0" / "c")
    traces(tmp_path / "store" / "zarr.json")
    assert len(hash_files([tmp_path / "store"], {})[0]) == 2
    with pytest.raises(FileFormatError, match="cannot be read"):
        hash_files([tmp_path / "absent"], {})


def test_the_fingerprint_is_of_contents_options_and_model(tmp_path: Path) -> None:
    def of(path: Path, options: InferOptions, **model: Any) -> str:
        hashes, _ = hash_files([path], {})
        return fingerprint(path, hashes, options, model or model_identity(options))

    options = InferOptions(model=MODEL)
    first = of(traces(tmp_path / "a" / "x.npy"), options)
    # Moved, or the model given by its folder: the same.
    assert of(traces(tmp_path / "b" / "x.npy"), options) == first
    assert of(tmp_path / "a" / "x.npy", InferOptions(model=str(find_bundle(MODEL)))) == first
    others = [
        of(traces(tmp_path / "c" / "x.npy", seed=1), options),
        of(traces(tmp_path / "a" / "y.npy"), options),
        of(tmp_path / "a" / "x.npy", InferOptions(model=MODEL, threshold="none")),
        of(tmp_path / "a" / "x.npy", InferOptions(model="GCaMP8_EXC_30Hz_smoothing50ms")),
        of(tmp_path / "a" / "x.npy", options, name=MODEL, source_sha256="other weights"),
        of(tmp_path / "a" / "x.npy", InferOptions()),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_without_a_named_model_all_that_are_installed_count(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = model_identity(InferOptions())
    assert identity["installed"][MODEL] == read_spec(find_bundle(MODEL)).source_sha256
    monkeypatch.setattr("cascade_rt.batch.fingerprint.installed_models", lambda: ([], []))
    assert model_identity(InferOptions()) != identity


# -------------------------------------------------------------------------------------------------------------- log


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with BatchLog(path) as log:
        log.add("hashed", hashes={"a": [1, 2, "x"]})
    with path.open("ab") as file:
        file.write(b'{"event": "hashed", "hashes": {"b": [1, ')
    with BatchLog(path) as log:
        assert log.hashes == {"a": [1, 2, "x"]}
        log.add("hashed", hashes={"c": [3, 4, "z"]})
    with BatchLog(path) as log:
        assert log.hashes == {"a": [1, 2, "x"], "c": [3, 4, "z"]}
    lines = path.read_bytes().splitlines()
    assert [line.endswith(b"}") for line in lines] == [True, False, True]
    assert json.loads(lines[2])["event"] == "hashed"


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="--out FOLDER"):
        BatchLog(tmp_path / "file" / "log.jsonl")


# ------------------------------------------------------------------------------------------------------------- lock


def hold(result: Path, pipe: Any) -> None:
    with locked(result) as mine:
        pipe.send(mine)
        pipe.recv()


def test_a_lock_excludes_others_until_its_owner_is_gone(tmp_path: Path) -> None:
    result = tmp_path / "x_cascade.h5"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    owner = context.Process(target=hold, args=(result, theirs))
    owner.start()
    assert ours.recv() is True
    with locked(result) as mine:
        assert mine is False
    owner.kill()  # it cannot tidy up
    owner.join()
    with locked(result) as mine, locked(result) as again:
        assert (mine, again) == (True, False)
    with locked(result) as mine:
        assert mine is True
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- sessions


def test_what_is_wrong_with_a_session_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY, but no more")
    failed = process(Session(path=path), out=tmp_path / "out")
    assert (failed.status, failed.session) == ("failed", str(path))
    assert "x.npy" in failed.reason
    traces(path)

    def broken(*args: Any, **options: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("cascade_rt.batch.task.infer", broken)
    failed = process(Session(path=path, options=InferOptions(model=MODEL, frame_rate_hz=30.0)), out=tmp_path / "out")
    assert failed.status == "failed"
    assert "KeyError" in failed.reason
    assert "a bug" in failed.reason

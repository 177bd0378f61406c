"""Reading recordings and writing results: every format, every kind of damage, nothing half-written."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from scipy import io

from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.endpoints import open_sink, parse_endpoint
from cascade_rt.endpoints.files import FileSink, FileSource, PortableSink, RecordingFolder
from cascade_rt.endpoints.growing import GrowingFolder
from cascade_rt.endpoints.results import (
    NpyAppender,
    allocate_result,
    check_output,
    incomplete_path,
    work_folder,
    write_result,
)
from cascade_rt.errors import FileFormatError, InputError, OutputExistsError
from cascade_rt.formats import read_recording
from cascade_rt.gaps import Piece
from cascade_rt.ports import EndOfStream, RunInfo
from cascade_rt.results import open_result
from cascade_rt.testing import ManualClock, fake_spec, ramp

DFF = ramp(3, 20)
METADATA = {"model": "m", "noise": np.float64("nan"), "lookahead_frames": [2, 7]}


def info(n_neurons=3, lookaheads=(2, 7)):
    return RunInfo(stream="s", n_neurons=n_neurons, frame_rate_hz=30.0, lookaheads=lookaheads, spec=fake_spec(),
                   metadata={"model": "fake", "frame_rate_hz": 30.0})  # fmt: skip


def result(first, n, lookahead=2, valid=True, n_neurons=3):
    prob = ramp(n_neurons, n, first)
    return SpikeChunk(spike_prob=prob, first_frame=first, valid=np.full(prob.shape, valid), lookahead_frames=lookahead)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- reading -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["npy", "npy-fortran", "npz", "mat", "mat73"])
def recording(request, tmp_path):
    kind = request.param
    path = tmp_path / f"rec.{kind.split('-')[0].removesuffix('73')}"
    if kind == "npy":
        np.save(path, DFF)
    elif kind == "npy-fortran":
        np.save(path, np.asfortranarray(DFF))
    elif kind == "npz":
        np.savez(path, dff=DFF, frame_rate=np.float64(30.0), other=np.ones((2, 2)), noise_levels=np.arange(3.0))
    elif kind == "mat":
        io.savemat(path, {"frame_rate_hz": 30.0, "note": "text", "dF_traces": DFF})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            file["dF_traces"] = DFF.T
            file["frame_rate_hz"] = np.array([[30.0]])
        with path.open("r+b") as file:
            header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
            file.write(header)
    return path


def test_recordings_of_every_format(recording):
    read = read_recording(recording)
    np.testing.assert_array_equal(read.dff, DFF)
    assert (read.n_neurons, read.n_frames) == (3, 20)
    assert read.frame_rate_hz == (None if recording.suffix == ".npy" else 30.0)
    if recording.suffix == ".npz":
        np.testing.assert_array_equal(read.noise_levels, [0, 1, 2])


def test_truncated_files_of_every_format_are_named(recording):
    size = recording.stat().st_size
    for keep in (0, 3, size // 2, size - 5):
        damaged = recording.with_name(f"cut{keep}{recording.suffix}")
        damaged.write_bytes(recording.read_bytes()[:keep])
        with pytest.raises(FileFormatError, match=damaged.name):
            read_recording(damaged)


def test_truncation_is_located(tmp_path):
    np.save(tmp_path / "a.npy", DFF)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-10])
    with pytest.raises(FileFormatError, match=f"ends at byte {len(data)}, the file has {len(data) - 10} bytes"):
        read_recording(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_foreign_files_are_named(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    with pytest.raises(FileFormatError, match="picture"):
        read_recording(path)


def test_npy_is_memory_mapped(tmp_path):
    np.save(tmp_path / "a.npy", DFF)
    assert isinstance(read_recording(tmp_path / "a.npy").dff, np.memmap)


def test_the_array_may_be_chosen(tmp_path):
    np.savez(tmp_path / "a.npz", a=DFF, b=DFF + 1)
    np.testing.assert_array_equal(read_recording(tmp_path / "a.npz", "b").dff, DFF + 1)
    with pytest.raises(FileFormatError, match=r"which array.*a \(3, 20\), b \(3, 20\)"):
        read_recording(tmp_path / "a.npz")
    with pytest.raises(FileFormatError, match=r"no array 'c'; it holds a \(3, 20\), b"):
        read_recording(tmp_path / "a.npz", "c")


def test_a_single_matrix_needs_no_name(tmp_path):
    np.savez(tmp_path / "a.npz", something=DFF, times=np.arange(20))
    assert read_recording(tmp_path / "a.npz").key == "something"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(5), r"shape \(5,\)"),
        (np.ones((0, 5)), "shape"),
        (np.ones((2, 2), complex), "real numbers"),
        (np.array([["a"]]), "real numbers"),
        (np.ones((2, 2, 2)), "shape"),
    ],
)
def test_arrays_that_are_no_traces(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileFormatError, match=message):
        read_recording(tmp_path / "a.npy")


def test_python_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", dff=np.array([[{"a": 1}, 2]], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(FileFormatError, match=name):
            read_recording(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"), [("none.npy", "no such file"), ("a.doc", "suffix"), ("folder", "not recognised")]
)
def test_paths_that_are_no_recordings(tmp_path, name, message):
    (tmp_path / "a.doc").write_text("1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match=message):
        read_recording(tmp_path / name)


def test_npy_has_no_names(tmp_path):
    np.save(tmp_path / "a.npy", DFF)
    with pytest.raises(FileFormatError, match="without a name"):
        read_recording(tmp_path / "a.npy", "dff")


# --- a file as source --------------------------------------------------------------------------------------


def everything(source):
    source.open()
    items = []
    while not items or isinstance(items[-1], FrameChunk):
        items.append(source.receive(0))
    source.close()
    return items


@pytest.mark.parametrize("size", [1, 7, 20, 100])
def test_a_file_gives_all_its_frames_in_order(recording, size):
    *chunks, end = everything(FileSource(recording, chunk_frames=size, frame_rate_hz=30.0, clock=ManualClock(5.0)))
    np.testing.assert_array_equal(np.concatenate([chunk.frames for chunk in chunks], axis=1), DFF)
    assert [chunk.first_frame for chunk in chunks] == list(range(0, 20, size))
    assert end == EndOfStream(stream="rec", next_frame=20)
    assert {(c.stream, c.frame_rate_hz, c.t_recv, c.frames.dtype.str) for c in chunks} == {("rec", 30.0, 5.0, "<f4")}


def test_double_precision_and_integers_become_float32(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1e300, 0.1]]))
    np.save(tmp_path / "b.npy", np.array([[1, 2]], np.int16))
    (chunk, _) = everything(FileSource(tmp_path / "a.npy"))
    np.testing.assert_array_equal(chunk.frames, np.array([[np.inf, 0.1]], np.float32))
    (chunk, _) = everything(FileSource(tmp_path / "b.npy"))
    assert chunk.frames.dtype == np.float32


def test_a_contradicting_frame_rate_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", dff=DFF, frame_rate_hz=7.5)
    with pytest.raises(InputError, match=r"recorded at 7.5 Hz.*given is 30 Hz"):
        FileSource(tmp_path / "a.npz", frame_rate_hz=30.0).open()
    FileSource(tmp_path / "a.npz", frame_rate_hz=7.6).open()


# --- growing files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [None, 1, 5])
@pytest.mark.parametrize("dtype", ["<f4", "?", "<i8"])
def test_growing_arrays_can_be_read_at_any_moment(tmp_path, n_rows, dtype):
    file = NpyAppender(tmp_path / "a.npy", n_rows, dtype)
    rng = np.random.default_rng(0)
    whole = (rng.normal(size=(n_rows or 1, 50)) > 0).astype(dtype)
    done = 0
    for size in (3, 1, 20, 26):
        part = whole[:, done : done + size]
        file.append(part[0] if n_rows is None else part)
        done += size
        file.sync()
        for mode in (None, "r"):
            read = np.load(tmp_path / "a.npy", mmap_mode=mode)
            np.testing.assert_array_equal(read, whole[0, :done] if n_rows is None else whole[:, :done])
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.append(whole[0, :1] if n_rows is None else whole[:, :1])


def test_a_crash_leaves_what_was_synced(tmp_path):
    file = NpyAppender(tmp_path / "a.npy", 3, "<f4")
    file.append(DFF[:, :8])
    file.sync()
    file.append(DFF[:, 8:])
    file._file.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), DFF[:, :8])
    np.testing.assert_array_equal(read_recording(tmp_path / "a.npy").dff, DFF[:, :8])
    file.close()


def test_columns_of_the_wrong_height_are_refused(tmp_path):
    file = NpyAppender(tmp_path / "a.npy", 3, "<f4")
    with pytest.raises(InputError, match="expected"):
        file.append(DFF[:2])
    file.close()


def test_folders_are_synced_now_and_then(tmp_path):
    clock = ManualClock()
    folder = GrowingFolder(tmp_path / "run", 3, {"model": "m"}, clock=clock)
    frame = tmp_path / "run" / "frame_lookahead2.npy"
    folder.add_result(result(0, 5))
    folder.add_result(result(5, 5))
    np.testing.assert_array_equal(np.load(frame), np.arange(5))
    clock.advance(2)
    folder.add_result(result(10, 5))
    np.testing.assert_array_equal(np.load(frame), np.arange(15))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["complete"] is False
    folder.add_result(result(15, 5))
    folder.keep_readable()
    assert np.load(frame).size == 15, "once a second is enough"
    clock.advance(2)
    folder.keep_readable()  # nothing comes any more
    np.testing.assert_array_equal(np.load(frame), np.arange(20))
    folder.close()


# --- results -----------------------------------------------------------------------------------------------


def run_sink(sink, *, complete=True, lookaheads=(2, 7)):
    sink.open(lambda: False)
    sink.start(info(lookaheads=lookaheads))
    for first in (0, 8):
        for lookahead in lookaheads:
            sink.send(result(first, 8, lookahead, valid=first > 0))
    sink.send(result(30, 2, lookaheads[-1]))
    metadata = {**info().metadata, "noise_levels": np.array([1.0, np.nan, 3.0]), "run": {"frames": {"lost": 14}}}
    sink.finish(32, complete=complete, metadata=metadata)
    sink.close()


def test_npz_results_hold_everything(tmp_path):
    path = tmp_path / "out.npz"
    run_sink(FileSink(path))
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    np.testing.assert_array_equal(arrays["frame"], [*range(16), 30, 31])
    np.testing.assert_array_equal(arrays["spike_prob"][:, :16], ramp(3, 16))
    np.testing.assert_array_equal(arrays["valid"][0], [False] * 8 + [True] * 10)
    np.testing.assert_array_equal(arrays["spike_prob_lookahead2"], ramp(3, 16))
    np.testing.assert_array_equal(arrays["noise_levels"], [1, np.nan, 3])
    metadata = json.loads(str(arrays["metadata"]))
    assert metadata["complete"] is True
    assert metadata["segments"] == [[0, 16], [30, 2]]
    assert metadata["run"]["frames"]["lost"] == 14
    assert names_in(tmp_path) == ["out.npz"]


def test_mat_results_hold_everything(tmp_path):
    run_sink(FileSink(tmp_path / "out.mat"))
    stored = io.loadmat(tmp_path / "out.mat", squeeze_me=True)
    np.testing.assert_array_equal(stored["spike_prob"][:, :16], ramp(3, 16))
    np.testing.assert_array_equal(stored["frame"], [*range(16), 30, 31])
    assert json.loads(str(stored["metadata"]))["complete"] is True
    assert names_in(tmp_path) == ["out.mat"]


def test_npy_results_are_nan_where_not_valid(tmp_path):
    run_sink(FileSink(tmp_path / "out.npy"))
    prob = np.load(tmp_path / "out.npy")
    assert np.isnan(prob[:, :8]).all()
    np.testing.assert_array_equal(prob[:, 8:16], ramp(3, 8, 8))
    metadata = json.loads((tmp_path / "out.npy.json").read_text(encoding="utf-8"))
    assert metadata["complete"] is True
    assert metadata["noise_levels"] == [1.0, None, 3.0]
    assert names_in(tmp_path) == ["out.npy", "out.npy.json"]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_an_interrupted_recording_is_marked(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    sink = FileSink(path)
    run_sink(sink, complete=False)
    assert not path.exists()
    assert sink.written == incomplete_path(path) == tmp_path / f"out.incomplete{suffix}"
    assert sink.written.is_file()
    assert not work_folder(path).exists()
    with pytest.raises(OutputExistsError, match="interrupted run"):
        FileSink(path).open(lambda: False)
    run_sink(FileSink(path, overwrite=True))
    assert path.is_file()
    assert not incomplete_path(path).exists()


def test_a_crash_leaves_a_readable_folder(tmp_path):
    path = tmp_path / "out.npz"
    sink = FileSink(path)
    sink.open(lambda: False)
    sink.start(info())
    sink.send(result(0, 8))
    sink.close()
    folder = work_folder(path)
    np.testing.assert_array_equal(np.load(folder / "spike_prob_lookahead2.npy"), ramp(3, 8))
    assert json.loads((folder / "run.json").read_text())["complete"] is False
    assert not path.exists()
    with pytest.raises(OutputExistsError, match=r"out\.npz\.incomplete"):
        FileSink(path).open(lambda: False)
    run_sink(FileSink(path, overwrite=True))
    assert names_in(tmp_path) == ["out.npz"]


def test_a_run_without_results_writes_nothing(tmp_path):
    sink = FileSink(tmp_path / "a.npz")
    sink.open(lambda: False)
    sink.finish(0, complete=True, metadata={})
    sink.close()
    assert names_in(tmp_path) == []
    sink.open(lambda: False)
    sink.start(info())
    sink.finish(0, complete=True, metadata=info().metadata)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_existing_results_are_kept(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        FileSink(path).open(lambda: False)
    with pytest.raises(OutputExistsError):
        write_result(path, {"spike_prob": DFF}, METADATA)
    if suffix == ".npy":
        with pytest.raises(OutputExistsError), allocate_result(path, (3, 4), {}):
            pass
    assert path.read_bytes() == b"precious"
    FileSink(path, overwrite=True).open(lambda: False)
    assert path.read_bytes() == b"precious", "only replaced by a finished result"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_results_written_as_a_whole_can_be_read_as_recordings(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    frozen = DFF.copy()
    frozen.flags.writeable = False
    write_result(path, {"spike_prob": frozen, "valid": np.ones(DFF.shape, bool)}, METADATA)
    np.testing.assert_array_equal(read_recording(path, None if suffix == ".npy" else "spike_prob").dff, DFF)
    text = (tmp_path / "out.npy.json").read_text() if suffix == ".npy" else None
    if suffix == ".npz":
        with np.load(path) as stored:
            text = str(stored["metadata"])
    if text:
        assert json.loads(text) == {"model": "m", "noise": None, "lookahead_frames": [2, 7]}
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_result(tmp_path / "out.npz", {"spike_prob": DFF}, METADATA)
    assert names_in(tmp_path) == []
    with pytest.raises(ZeroDivisionError), allocate_result(tmp_path / "out.npy", (3, 4), {}) as out:
        out[:] = 1 / 0
    assert names_in(tmp_path) == []


def test_allocated_results_appear_when_filled(tmp_path):
    metadata = {}
    with allocate_result(tmp_path / "out.npy", (3, 20), metadata) as out:
        out[:] = DFF
        metadata["model"] = "m"
        assert not (tmp_path / "out.npy").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), DFF)
    assert json.loads((tmp_path / "out.npy.json").read_text()) == {"model": "m"}
    with pytest.raises(InputError, match=r"only \.npy"), allocate_result(tmp_path / "out.npz", (3, 20), {}):
        pass


def test_outputs_are_checked_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"\.npy, \.npz, \.mat"):
        check_output(tmp_path / "a.csv", overwrite=False)
    with pytest.raises(InputError, match="does not exist"):
        check_output(tmp_path / "none" / "a.npz", overwrite=False)
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(OutputExistsError, match="folder"):
        check_output(tmp_path / "b.npz", overwrite=True)


def test_arrays_too_large_for_mat_are_refused_and_kept(tmp_path, monkeypatch):
    class Large(np.ndarray):
        nbytes = 2**31

    with pytest.raises(FileFormatError, match="2 GiB"):
        write_result(tmp_path / "a.mat", {"spike_prob": DFF.view(Large)}, {})
    assert names_in(tmp_path) == []


# --- portable results ----------------------------------------------------------------------------------------


def test_portable_results_hold_everything(tmp_path):
    run_sink(open_sink(str(tmp_path / "out.h5")))
    assert names_in(tmp_path) == ["out.h5"]
    with open_result(tmp_path / "out.h5") as stored:
        np.testing.assert_array_equal(stored.frames, [*range(16), 30, 31])
        np.testing.assert_array_equal(stored.spike_prob[:], ramp(3, 32)[:, [*range(16), 30, 31]])
        np.testing.assert_array_equal(stored.valid[0], [False] * 8 + [True] * 10)
        np.testing.assert_array_equal(stored.revisions[2].spike_prob[:], ramp(3, 16))
        np.testing.assert_array_equal(stored.noise_levels, [1, np.nan, 3])
        assert stored.metadata["run"]["frames"]["lost"] == 14
        assert (stored.metadata["stream"], stored.metadata["smoothing_s"]) == ("s", fake_spec().smoothing_s)
        assert stored.complete


def test_portable_results_of_interrupted_runs_are_kept(tmp_path):
    path, left = tmp_path / "out.h5", tmp_path / "out.incomplete.h5"
    sink = PortableSink(path)
    run_sink(sink, complete=False)
    assert sink.written == left
    with open_result(left) as stored:
        assert not stored.complete
    with pytest.raises(OutputExistsError, match="interrupted run"):
        PortableSink(path).open(lambda: False)
    run_sink(PortableSink(path, overwrite=True))
    assert names_in(tmp_path) == ["out.h5"]
    with pytest.raises(OutputExistsError, match="--overwrite"):
        PortableSink(path).open(lambda: False)


def test_a_crash_leaves_a_readable_portable_result(tmp_path):
    sink = PortableSink(tmp_path / "out.h5")
    sink.open(lambda: False)
    sink.start(info())
    sink.send(result(0, 8, 7))
    sink.close()
    with open_result(tmp_path / "out.incomplete.h5") as stored:
        np.testing.assert_array_equal(stored.spike_prob[:], ramp(3, 8))
        assert stored.metadata["model"] == "fake"
    with pytest.raises(RuntimeError, match="not started"):
        sink.send(result(8, 1, 7))


def test_portable_results_can_be_read_while_nothing_comes(tmp_path):
    sink = PortableSink(tmp_path / "out.h5")
    sink.keep_readable()
    sink.open(lambda: False)
    sink.start(info())
    sink.send(result(0, 8, 7))
    sink.keep_readable()
    with open_result(tmp_path / "out.incomplete.h5") as stored:
        np.testing.assert_array_equal(stored.spike_prob[:], ramp(3, 8))
    sink.close()


def test_a_run_without_results_leaves_no_portable_file(tmp_path):
    sink = PortableSink(tmp_path / "a.h5")
    sink.open(lambda: False)
    sink.finish(0, complete=True, metadata={})
    sink.start(info())
    sink.finish(0, complete=True, metadata=info().metadata)
    assert names_in(tmp_path) == []
    assert sink.written is None


def test_portable_results_are_sinks_only():
    assert parse_endpoint("a.h5", "sink").path.name == "a.h5"
    with pytest.raises(InputError, match=r"\.npy, \.npz, \.mat$"):
        parse_endpoint("a.h5", "source")


# --- recorded folders --------------------------------------------------------------------------------------


def record(folder, **options):
    sink = RecordingFolder(folder, **options)
    sink.open(lambda: False)
    sink.start(info())
    for first in (5, 6, 9):
        piece = Piece(frames=ramp(3, 1, first), first_frame=first, t_source=first / 30, arrivals=(100.0 + first,))
        sink.keep_piece(piece)
        sink.send(result(first, 1))
    sink.finish(10, complete=True, metadata={**info().metadata, "noise_levels": np.ones(3), "run": {"a": 1}})
    sink.close()


def test_a_recorded_run_can_be_read_again_with_its_gaps(tmp_path):
    record(tmp_path / "run")
    read = read_recording(tmp_path / "run")
    np.testing.assert_array_equal(read.frames, [5, 6, 9])
    assert read.frame_rate_hz == 30.0
    np.testing.assert_array_equal(read.noise_levels, np.ones(3))
    times = np.load(tmp_path / "run" / "dff_time.npy")
    np.testing.assert_allclose(times, [[5 / 30, 6 / 30, 9 / 30], [105, 106, 109]])
    *chunks, end = everything(FileSource(tmp_path / "run"))
    assert [(chunk.first_frame, chunk.n_frames) for chunk in chunks] == [(5, 2), (9, 1)]
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.frames, ramp(3, chunk.n_frames, chunk.first_frame))
    assert end.next_frame == 10
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["complete"] is True
    assert described["run"] == {"a": 1}


def test_recorded_folders_are_not_overwritten_by_mistake(tmp_path):
    record(tmp_path / "run")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        RecordingFolder(tmp_path / "run").open(lambda: False)
    record(tmp_path / "run", overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(OutputExistsError, match="name an empty one"):
        RecordingFolder(tmp_path / "photos", overwrite=True).open(lambda: False)
    with pytest.raises(OutputExistsError, match="is a file"):
        RecordingFolder(tmp_path / "photos" / "cat.jpg").open(lambda: False)


def test_a_crashed_recording_can_be_read(tmp_path):
    sink = RecordingFolder(tmp_path / "run")
    sink.open(lambda: False)
    sink.start(info())
    sink.keep_piece(Piece(frames=ramp(3, 4), first_frame=0))
    for file in sink._growing._files.values():
        file.sync()
    assert read_recording(tmp_path / "run").n_frames == 4
    sink.close()

"""Opening results of every kind, and saying what is wrong with files that are none."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from result_files import METADATA, NOISE, chunk, names_in, prob_of, write_portable
from scipy import io

from cascade_rt.endpoints.files import FileSink, PortableSink, RecordingFolder
from cascade_rt.endpoints.results import allocate_result, work_folder, write_result
from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.gaps import Piece
from cascade_rt.lazy import LazyMatrix
from cascade_rt.ports import RunInfo
from cascade_rt.results import open_result
from cascade_rt.testing import fake_spec, ramp

PREDICTED = {"model": "m", "frame_rate_hz": 20.0, "lookahead_frames": 31, "first_frame": 4, "complete": True}


def info(n_neurons=3):
    return RunInfo(stream="s", n_neurons=n_neurons, frame_rate_hz=20.0, lookaheads=(2, 7), spec=fake_spec(),
                   metadata={"model": "fake", "frame_rate_hz": 20.0, "alignment": "target"})  # fmt: skip


def run_sink(sink, *, complete=True):
    """A run with a gap: frames 0 to 15 and 30, 31; the first 8 are not valid."""
    sink.open(lambda: False)
    sink.start(info())
    for first in (0, 8):
        for lookahead in (2, 7):
            sink.send(chunk(first, 8, lookahead, valid=first > 0))
    sink.send(chunk(30, 2, 7))
    if complete is not None:
        metadata = {**info().metadata, "noise_levels": np.array([1.0, np.nan, 3.0]), "run": {"lost": 14}}
        sink.finish(32, complete=complete, metadata=metadata)
    sink.close()


@pytest.mark.parametrize("kind", ["npz", "mat", "npy", "allocated"])
def test_results_of_predict(tmp_path, kind):
    path = tmp_path / f"a.{kind if kind != 'allocated' else 'npy'}"
    prob = prob_of()
    arrays = {"spike_prob": prob, "valid": np.isfinite(prob), "frame": np.arange(4, 54), "noise_levels": NOISE}
    if kind == "allocated":
        with allocate_result(path, prob.shape, {**PREDICTED, "noise_levels": NOISE}) as out:
            out[:] = prob
    else:
        write_result(path, arrays, {**PREDICTED, **({"noise_levels": NOISE} if kind == "npy" else {})})
    with open_result(path) as result:
        np.testing.assert_array_equal(result.spike_prob[:], prob)
        np.testing.assert_array_equal(result.noise_levels, NOISE)
        np.testing.assert_array_equal(result.frame_index, np.arange(4, 54))
        np.testing.assert_allclose(result.times, np.arange(4, 54) / 20)
        assert (result.frame_rate_hz, result.lookahead_frames, result.complete) == (20.0, 31, True)
        assert result.metadata["model"] == "m"
        assert (result.frames, result.dff, result.is_cell, result.spikes, result.done) == (None,) * 5
        if kind != "npz" and kind != "mat":
            assert isinstance(result.spike_prob, np.memmap)
        else:
            np.testing.assert_array_equal(result.valid[:], np.isfinite(prob))


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".npy", ".h5"])
@pytest.mark.parametrize("complete", [True, False])
def test_results_of_a_run(tmp_path, suffix, complete):
    path = tmp_path / f"a{suffix}"
    sink = (PortableSink if suffix == ".h5" else FileSink)(path)
    run_sink(sink, complete=complete)
    assert names_in(tmp_path)[0] == f"a{'' if complete else '.incomplete'}{suffix}"
    assert sink.written == tmp_path / names_in(tmp_path)[0]
    with open_result(sink.written) as result:
        assert result.complete is complete
        np.testing.assert_array_equal(result.frame_index, [*range(16), 30, 31])
        np.testing.assert_array_equal(result.spike_prob[:, 8:], ramp(3, 32)[:, [*range(8, 16), 30, 31]])
        np.testing.assert_array_equal(result.noise_levels, [1, np.nan, 3])
        np.testing.assert_allclose(result.times[-2:], [1.5, 1.55])
        assert result.metadata["run"] == {"lost": 14}
        if suffix == ".npy":  # knows neither: NaN stands for what is not valid
            assert np.isnan(result.spike_prob[:, :8]).all()
            return
        np.testing.assert_array_equal(result.valid[1], [0] * 8 + [1] * 10)
        assert list(result.revisions) == [2]
        np.testing.assert_array_equal(result.revisions[2].spike_prob[:], ramp(3, 16))
        np.testing.assert_array_equal(result.revisions[2].frame_index, np.arange(16))
        assert result.revisions[2].lookahead_frames == 2


def test_portable_results_are_read_when_sliced(tmp_path):
    write_portable(tmp_path / "a.h5")
    result = open_result(str(tmp_path / "a.h5"))
    assert isinstance(result.spike_prob, LazyMatrix)
    np.testing.assert_array_equal(result.spike_prob[[1, 3], 5:9], prob_of()[[1, 3], 5:9])
    result.close()
    with pytest.raises((OSError, ValueError)):  # which, depends on the version of h5py
        _ = result.spike_prob[0]


@pytest.mark.parametrize("ended", ["killed", "finished"])
def test_folders_of_runs(tmp_path, ended):
    sink = RecordingFolder(tmp_path / "run")
    sink.open(lambda: False)
    sink.start(info())
    for first in (5, 6, 9):
        sink.keep_piece(Piece(frames=ramp(3, 1, first), first_frame=first))
        sink.send(chunk(first, 1, 2))
        sink.send(chunk(first - 5, 1, 7))
    if ended == "finished":
        sink.finish(10, complete=True, metadata={**info().metadata, "noise_levels": np.ones(3)})
    sink.close()
    with open_result(tmp_path / "run") as result:
        assert result.complete is (ended == "finished")
        np.testing.assert_array_equal(result.frames, [0, 1, 4])
        np.testing.assert_array_equal(result.spike_prob[:], ramp(3, 5)[:, [0, 1, 4]])
        np.testing.assert_array_equal(result.revisions[2].frames, [5, 6, 9])
        np.testing.assert_array_equal(result.revisions[2].spike_prob[:], ramp(3, 10)[:, [5, 6, 9]])
        assert isinstance(result.spike_prob, np.memmap)


def test_what_a_killed_run_left_is_found(tmp_path):
    run_sink(FileSink(tmp_path / "a.npz"), complete=None)
    with pytest.raises(FileFormatError, match=r"a\.npz\.incomplete, left by"):
        open_result(tmp_path / "a.npz")
    # Written one after the other: one file may be longer than the others.
    folder = work_folder(tmp_path / "a.npz")
    np.save(folder / "frame_lookahead7.npy", np.load(folder / "frame_lookahead7.npy")[:-1])
    with open_result(folder) as result:
        np.testing.assert_array_equal(result.frame_index, [*range(16), 30])
        assert result.spike_prob.shape == (3, 17)
        assert not result.complete
    run_sink(PortableSink(tmp_path / "b.h5"), complete=None)
    with pytest.raises(FileFormatError, match=r"b\.incomplete\.h5, left by"):
        open_result(tmp_path / "b.h5")


def test_planes_are_taken_by_name(tmp_path):
    write_portable(tmp_path / "a.h5", ("plane0", "plane1"), spikes=True)
    with open_result(tmp_path / "a.h5") as result:
        assert len(result) == 2
        np.testing.assert_array_equal(result["plane1"].spike_prob[0], prob_of()[0] + 1000)
        with pytest.raises(InputError, match=r"no plane 'plane2'; its planes are 'plane0', 'plane1'"):
            _ = result["plane2"]
        with pytest.raises(InputError, match=r"2 planes \(plane0, plane1\)"):
            _ = result.spike_prob
        with pytest.raises(AttributeError, match="nothing"):
            _ = result.nothing
        assert "spike_prob" in dir(result)
        text = repr(result)
        assert "model GCaMP8, look-ahead 31" in text
        assert "plane1: 6 neurons, 50 frames at 20 Hz, 4 cells, 6 single spikes" in text
        assert repr(result["plane0"]).startswith("RecordingResult(plane0: 6 neurons")


def test_frames_that_are_missing(tmp_path):
    frames = np.delete(np.arange(60), slice(20, 30))
    write_portable(tmp_path / "a.h5", frames=frames)
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_array_equal(result.frame_index, frames)
        np.testing.assert_allclose(result.times, frames / 20)


# --- files that are no results -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.h5", "no such file"),
        ("text.txt", "suffix '.txt': results are .h5"),
        ("picture.h5", "not a readable HDF5 file"),
        ("picture.npz", "not a readable .npz"),
        ("picture.mat", "not a readable .mat"),
        ("picture.npy", "not a readable .npy"),
        ("other.h5", "not a result of cascade_rt"),
        ("other.npz", "has no array 'spike_prob'; it holds dff"),
        ("other.mat", "has no array 'spike_prob'; it holds dff"),
        ("flat.npy", r"shape \(5,\)"),
        ("folder", "run.json"),
        ("empty_run", "no results"),
        ("sidecar.npy", "sidecar.npy.json: not readable as JSON"),
        ("newer.h5", "version 2 .* update"),
        ("damaged.h5", "damaged result"),
        ("bare.h5", "metadata"),
    ],
)
def test_files_that_are_no_results_are_named(tmp_path, name, message):
    (tmp_path / "text.txt").write_text("1")
    for suffix in ("h5", "npz", "mat", "npy"):
        (tmp_path / f"picture.{suffix}").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dff"] = ramp(2, 3)
    np.savez(tmp_path / "other.npz", dff=ramp(2, 3))
    io.savemat(tmp_path / "other.mat", {"dff": ramp(2, 3)})
    np.save(tmp_path / "flat.npy", np.ones(5))
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty_run").mkdir()
    (tmp_path / "empty_run" / "run.json").write_text("{}")
    np.save(tmp_path / "sidecar.npy", ramp(2, 3))
    (tmp_path / "sidecar.npy.json").write_text("{")
    for changed in ("newer", "damaged", "bare"):
        write_portable(tmp_path / f"{changed}.h5")
        with h5py.File(tmp_path / f"{changed}.h5", "r+") as file:
            if changed == "newer":
                file.attrs["format_version"] = 2
            elif changed == "damaged":
                del file["recordings/main/spike_prob"]
            else:
                del file["metadata"], file["metadata_at_start"]
    with pytest.raises(FileFormatError, match=message) as caught:
        open_result(tmp_path / name)
    assert name in str(caught.value)


def test_python_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", spike_prob=np.array([[{"a": 1}, 2]], object))
    with pytest.raises(FileFormatError, match=r"a\.npz"):
        open_result(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0, 100, 3000, -1])
def test_truncated_portable_results_are_named(tmp_path, keep):
    path = write_portable(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileFormatError, match=r"a\.h5"):
        open_result(path)


def test_metadata_are_plain_values(tmp_path):
    write_portable(tmp_path / "a.h5")
    with open_result(tmp_path / "a.h5") as result:
        assert json.loads(json.dumps(result.metadata)) == {**METADATA, "complete": True}

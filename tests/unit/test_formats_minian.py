"""Minian folders: the variable with the noise, times of the frames, and what is not in them."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import xarray as xr
import zarr

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.formats import minian, open_source

N, T, RATE = 5, 400, 29.7
HEADER = "Frame Number,Time Stamp (ms),Buffer Index"


def traces(seed=0, n_frames=T):
    rng = np.random.default_rng(seed)
    spikes = rng.poisson(0.03, (N, n_frames)).astype(float)
    decay = np.exp(-np.arange(60) / 12)
    c = np.stack([np.convolve(row, decay)[:n_frames] for row in spikes])
    return c, c + rng.normal(2.0, 0.2, c.shape)


def save(folder, name, values, units=None, frames=None, dims=("unit_id", "frame"), zarr_format=2):
    """As Minian's save_minian does: a dataset of one variable, written by xarray into a folder of its own."""
    units = np.arange(values.shape[0]) if units is None else units
    frames = np.arange(values.shape[1]) if frames is None else frames
    array = xr.DataArray(values, dims=("unit_id", "frame"), coords={"unit_id": units, "frame": frames})
    if zarr_format == 2:  # version 3 of the format knows no text
        array = array.assign_coords(animal="a1", session="s1")
    array = array.transpose(*dims).chunk({"unit_id": 2, "frame": 150}).rename(name)
    array.to_dataset().to_zarr(folder / f"{name}.zarr", zarr_format=zarr_format, consolidated=zarr_format == 2)


def stamp(path, times_ms, numbers=None):
    numbers = np.arange(len(times_ms)) if numbers is None else numbers
    rows = [f"{number},{time:.0f},0" for number, time in zip(numbers, times_ms, strict=True)]
    path.write_text("\n".join([HEADER, *rows]) + "\n")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "session" / "minian"
    folder.mkdir(parents=True)
    c, raw = traces()
    save(folder, "YrA", raw)
    save(folder, "C", c)
    save(folder, "S", c)
    stamp(tmp_path / "session" / "timeStamps.csv", np.arange(T) * 1000 / RATE)
    return folder


def only(path, **options):
    with open_source(path, **options) as source:
        assert source.format == "minian"
        return source.only(), source


def test_the_raw_traces_are_read(folder):
    recording, source = only(folder)
    np.testing.assert_array_equal(recording.traces[:], traces()[1])
    assert (recording.kind, recording.key, recording.neuron_ids) == ("fluorescence", "YrA", (0, 1, 2, 3, 4))
    assert recording.frame_rate_hz == pytest.approx(RATE, rel=1e-4)
    assert recording.timestamps[1] == pytest.approx(0.034)
    assert recording.is_cell is None
    assert recording.frames is None
    assert any("F0 is not in its files" in problem for problem in recording.problems)
    np.testing.assert_array_equal(recording.native["unit_id"], np.arange(N))
    np.testing.assert_array_equal(recording.native["frame"], np.arange(T))
    assert recording.native["folder"] == folder
    names = {str(file.relative_to(folder.parent)).replace("\\", "/") for file in source.files}
    assert {
        "timeStamps.csv",
        "minian/YrA.zarr/YrA/0.0",
        "minian/YrA.zarr/YrA/2.2",
        "minian/YrA.zarr/.zmetadata",
    } <= names
    assert all(file.is_file() for file in source.files)
    assert len(set(source.files)) == len(source.files)
    assert not [name for name in names if "/S.zarr" in name or "/C.zarr/C/" in name]


def test_only_what_was_asked_for_is_in_memory(folder, monkeypatch):
    with open_source(folder) as source:
        array = source.only().traces
        assert isinstance(array.stored[0], zarr.Array)
        np.testing.assert_array_equal(array[1:3, 140:160], traces()[1][1:3, 140:160])


def test_the_folder_of_the_session_and_a_variable_are_recognised(folder):
    for path in (folder.parent, folder / "YrA.zarr"):
        recording, _ = only(path)
        np.testing.assert_array_equal(recording.traces[:], traces()[1])
    with pytest.raises(InputError, match="C is denoised"):
        open_source(folder / "C.zarr")


@pytest.mark.parametrize("key", ["C", "S", "/C.zarr"])
def test_denoised_variables_are_refused(folder, key):
    with pytest.raises(InputError, match="noise level ν would be near 0"):
        open_source(folder, key=key)


def test_without_the_raw_traces_it_says_what_to_save(folder):
    shutil.rmtree(folder / "YrA.zarr")
    with pytest.raises(FileFormatError, match=r"no YrA\.zarr.*has C, S, and C and S are denoised.*save_minian"):
        open_source(folder)


def test_a_copy_of_c_under_another_name_is_recognised(folder):
    save(folder, "C_second", 2 * traces()[0])
    with pytest.raises(FileFormatError, match="changes as C does"):
        open_source(folder, key="C_second")
    save(folder, "YrA_second", traces()[1])
    assert only(folder, key="YrA_second")[0].key == "YrA_second"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dims", [("unit_id", "frame"), ("frame", "unit_id")])
def test_dimensions_are_read_by_their_names(tmp_path, dims, zarr_format):
    save(tmp_path, "YrA", traces()[1], dims=dims, zarr_format=zarr_format)
    recording, _ = only(tmp_path)
    np.testing.assert_array_equal(recording.traces[:], traces()[1])
    assert recording.frame_rate_hz is None
    assert any("no times of the frames" in problem for problem in recording.problems)


def test_units_that_were_merged_later_are_no_cells(folder):
    shutil.rmtree(folder / "C.zarr")
    shutil.rmtree(folder / "YrA.zarr")
    save(folder, "YrA", traces()[1], units=np.array([3, 4, 7, 9, 12]))
    save(folder, "C", traces()[0][:3], units=np.array([3, 9, 12]))
    recording, source = only(folder)
    assert recording.neuron_ids == (3, 4, 7, 9, 12)
    np.testing.assert_array_equal(recording.is_cell, [True, False, False, True, True])
    assert any(file.parent.name == "unit_id" and file.parents[1].name == "C.zarr" for file in source.files)


def test_values_that_were_cut_off_at_0_are_named(folder):
    shutil.rmtree(folder / "YrA.zarr")
    save(folder, "YrA", (traces()[1] - 2.0).clip(0))
    recording, _ = only(folder)
    assert any("exactly 0" in problem for problem in recording.problems)


def test_every_second_frame_halves_the_rate(tmp_path):
    frames = np.arange(100, 100 + 2 * T, 2)
    save(tmp_path, "YrA", traces()[1], frames=frames)
    stamp(tmp_path / "timeStamps.csv", np.arange(2000) * 1000 / RATE)
    recording, _ = only(tmp_path)
    assert recording.frame_rate_hz == pytest.approx(RATE / 2, rel=1e-3)
    np.testing.assert_array_equal(recording.frames, np.arange(50, 50 + T))
    assert recording.timestamps[0] == pytest.approx(100 / RATE, abs=1e-3)
    np.testing.assert_array_equal(recording.native["frame"], frames)


def test_frames_that_were_left_out_keep_their_place(tmp_path):
    frames = np.delete(np.arange(T + 30), np.arange(200, 230))
    save(tmp_path, "YrA", traces()[1], frames=frames)
    stamp(tmp_path / "timeStamps.csv", np.arange(T + 30) * 1000 / RATE)
    recording, _ = only(tmp_path)
    np.testing.assert_array_equal(recording.frames, frames)
    assert recording.frame_rate_hz == pytest.approx(RATE, rel=1e-3)


def test_frames_dropped_by_the_camera_keep_their_place(folder):
    # Numbered without a gap, but the clock went on.
    kept = np.delete(np.arange(T + 3), [120, 121, 300])
    stamp(folder.parent / "timeStamps.csv", kept * 1000 / RATE)
    recording, _ = only(folder)
    np.testing.assert_array_equal(recording.frames, kept)
    assert recording.frame_rate_hz == pytest.approx(RATE, rel=1e-3)
    assert any("3 frames are missing" in problem for problem in recording.problems)


def test_a_restless_clock_moves_no_frames(folder):
    rng = np.random.default_rng(0)
    stamp(folder.parent / "timeStamps.csv", np.arange(T) * 1000 / RATE + rng.uniform(0, 25, T))
    recording, _ = only(folder)
    assert recording.frames is None
    assert recording.frame_rate_hz == pytest.approx(RATE, rel=0.1)


def test_times_of_another_recording_are_not_used(folder):
    stamp(folder.parent / "timeStamps.csv", np.arange(T - 10) * 1000 / RATE)
    recording, _ = only(folder)
    assert recording.frame_rate_hz is None
    assert any("not of this recording" in problem for problem in recording.problems)
    (folder.parent / "timeStamps.csv").write_text("a,b\n1,2\n")
    assert any("expected frame number" in problem for problem in only(folder)[0].problems)


@pytest.mark.parametrize(("other", "told"), [(T - 100, True), (T + 100, True), (T, False)])
def test_times_of_the_older_program(folder, other, told):
    (folder.parent / "timeStamps.csv").unlink()
    rows = ["camNum\tframeNum\tsysClock\tbuffer"]
    # The clock of the first frame is not set yet, and frames count from 1.
    rows += [f"0\t{n + 1}\t{n * 50:.0f}\t1" for n in range(other)]
    rows += [f"1\t{n + 1}\t{4294967291 if n == 0 else n * 1000 / RATE:.0f}\t1" for n in range(T)]
    (folder.parent / "timestamp.dat").write_text("\n".join(rows))
    recording, _ = only(folder)
    if told:
        assert recording.frame_rate_hz == pytest.approx(RATE, rel=1e-3)
        assert recording.timestamps[1] == pytest.approx(0.034)
        assert recording.timestamps[0] == pytest.approx(0, abs=2e-3)
        assert recording.frames is None
    else:
        assert recording.frame_rate_hz is None
        assert any("which is the Miniscope's" in problem for problem in recording.problems)


def test_pieces_that_are_not_there_are_named(folder):
    (folder / "YrA.zarr" / "YrA" / "1.1").unlink()
    recording, _ = only(folder)
    assert any("1 of 9 pieces of array 'YrA'" in problem for problem in recording.problems)


def test_damaged_folders_are_named(folder):
    (folder / "YrA.zarr" / "frame" / "0").unlink()
    with pytest.raises(FileFormatError, match="coordinate frame"):
        open_source(folder)
    (folder / "YrA.zarr" / ".zmetadata").write_text("{")
    (folder / "YrA.zarr" / ".zgroup").write_text("{")
    with pytest.raises(FileFormatError, match=r"YrA\.zarr: not a readable zarr"):
        open_source(folder)


def test_footprints_are_no_traces(folder):
    save(folder, "A", traces()[1])
    array = xr.DataArray(
        np.ones((3, 4)), dims=("unit_id", "height"), coords={"unit_id": range(3), "frame": ("unit_id", [1, 2, 3])}
    )
    shutil.rmtree(folder / "A.zarr")
    array.rename("A").to_dataset().to_zarr(folder / "A.zarr", zarr_format=2)
    with pytest.raises(FileFormatError, match="expected unit_id and frame"):
        open_source(folder, key="A")


def test_options_that_mean_nothing_here(folder):
    with pytest.raises(InputError, match="leave out transposed"):
        open_source(folder, transposed=True)


def test_the_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert minian.recognises(folder)
    with pytest.raises(InputError, match=r'pip install "cascade-rt\[zarr\]"'):
        open_source(folder)

"""Suite2p's folders: real ones of both versions (tests/data/suite2p), and small ones for what is rare."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cascade_rt.errors import CascadeWarning, FileFormatError, InputError
from cascade_rt.formats import suite2p
from cascade_rt.formats.recording import ReadOptions

DATA = Path(__file__).resolve().parents[1] / "data" / "suite2p"
BAD = [*range(2000, 2012), *range(3500, 3503)]


def opened(path, **options):
    return suite2p.open_file(Path(path), ReadOptions(**options))


@pytest.fixture(params=["v1", "v0"])
def session(request, tmp_path):
    """A copy of a real folder, to be altered."""
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


def make_plane(folder, n_rois=3, n_frames=40, *, settings=None, ops=None, iscell=True):
    folder.mkdir(parents=True)
    ramp = np.arange(n_rois * n_frames, dtype=np.float32).reshape(n_rois, n_frames) + 100
    np.save(folder / "F.npy", ramp)
    np.save(folder / "Fneu.npy", ramp / 2)
    if iscell:
        np.save(folder / "iscell.npy", np.ones((n_rois, 2)))
    for name, values in (("settings.npy", settings), ("ops.npy", ops)):
        if values is not None:
            np.save(folder / name, np.array(values, object), allow_pickle=True)
    return folder


@pytest.mark.parametrize(("version", "title"), [("v1", "Suite2p 1.1.0 folder"), ("v0", "Suite2p 0.14.6 folder")])
def test_a_real_folder_of_either_version(version, title):
    source = opened(DATA / version)
    assert (source.format, source.title) == ("suite2p", title)
    assert [plane.name for plane in source.recordings] == ["plane0", "plane1"]
    for plane, n_frames in zip(source.recordings, (4400, 4399), strict=True):
        folder = DATA / version / "suite2p" / plane.name
        np.testing.assert_array_equal(plane.traces, np.load(folder / "F.npy"))
        np.testing.assert_array_equal(plane.neuropil, np.load(folder / "Fneu.npy"))
        np.testing.assert_array_equal(plane.is_cell, np.load(folder / "iscell.npy")[:, 0] == 1)
        assert plane.is_cell.any()
        assert not plane.is_cell.all()
        assert plane.n_frames == n_frames
        assert (plane.kind, plane.frame_rate_hz, plane.neuropil_coefficient) == ("fluorescence", 30.0, 0.7)
        assert np.flatnonzero(plane.bad_frames).tolist() == BAD
        assert plane.path == folder
        assert not plane.problems


def test_the_facts_say_where_everything_came_from():
    new, old = (opened(DATA / version).recordings[0].facts for version in ("v1", "v0"))
    assert new == (
        "30 Hz per plane (settings.npy: fs)",
        "neuropil coefficient 0.7 (settings.npy: extraction/neuropil_coefficient)",
        "9 of 12 rows are cells (iscell.npy)",
        "15 of 4400 frames are bad (reg_outputs.npy)",
    )
    assert old[:2] == ("30 Hz per plane (ops.npy: fs)", "neuropil coefficient 0.7 (ops.npy: neucoeff)")
    assert old[-1] == "15 of 4400 frames are bad (ops.npy)"


def test_every_file_that_the_result_depends_on_is_listed():
    names = {file.relative_to(DATA / "v1" / "suite2p").as_posix() for file in opened(DATA / "v1").files}
    used = ("F.npy", "Fneu.npy", "iscell.npy", "settings.npy", "reg_outputs.npy")
    assert names == {f"plane{plane}/{name}" for plane in (0, 1) for name in used}


def test_traces_stay_in_their_files(session):
    for plane in opened(session).recordings:
        assert isinstance(plane.traces, np.memmap)
        assert isinstance(plane.neuropil, np.memmap)
        assert not plane.traces.flags.writeable


def test_the_folder_around_the_planes_or_one_plane_may_be_given(session, monkeypatch):
    assert suite2p.recognises(session)
    assert suite2p.recognises(session / "suite2p")
    assert [plane.name for plane in opened(session / "suite2p").recordings] == ["plane0", "plane1"]
    assert suite2p.recognises(session / "suite2p" / "plane1")
    assert [plane.name for plane in opened(session / "suite2p" / "plane1").recordings] == ["plane1"]
    monkeypatch.chdir(session / "suite2p" / "plane1")
    assert opened(".").only().name == "plane1"


def test_planes_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        make_plane(tmp_path / "suite2p" / f"plane{number}", n_frames=20 + number, ops={"fs": 7.0, "neucoeff": 0.5})
    assert [plane.n_frames for plane in opened(tmp_path).recordings] == [20, 22, 30]


def test_other_folders_are_not_taken_for_suite2p(tmp_path):
    (tmp_path / "plane0").mkdir()
    assert not suite2p.recognises(tmp_path)
    np.save(tmp_path / "F.npy", np.zeros((2, 3)))
    assert not suite2p.recognises(tmp_path)
    assert not suite2p.recognises(tmp_path / "F.npy")
    assert not suite2p.recognises(tmp_path / "none")
    with pytest.raises(FileFormatError, match=r"not a Suite2p folder: expected a folder with suite2p/plane0/F\.npy"):
        opened(tmp_path)


# combined/


def test_combined_pads_with_zeros_and_is_not_read_when_there_are_planes():
    combined = DATA / "v1" / "suite2p" / "combined"
    padded = np.load(combined / "F.npy")
    assert padded.shape == (23, 4400)
    assert (padded[12:, -1] == 0).all()  # the trap itself
    for path in (DATA / "v1", combined):
        planes = opened(path).recordings
        assert [plane.name for plane in planes] == ["plane0", "plane1"]
        assert all((plane.traces[:, -1] > 0).all() for plane in planes)
        assert any("combined" in fact for fact in planes[0].facts) == (path == combined)


@pytest.mark.parametrize("n_padded", [1, 7, 1000, 2345])
def test_combined_alone_is_read_without_the_padding(tmp_path, n_padded):
    folder = make_plane(tmp_path / "suite2p" / "combined", 3, 3000, settings={"fs": 15.0})
    traces = np.load(folder / "F.npy")
    traces[1, 5:60] = 0  # zeros elsewhere are values
    traces[2, -n_padded:] = 0
    traces[1, -1] = 0
    np.save(folder / "F.npy", traces)
    recording = opened(tmp_path).only()
    assert np.flatnonzero(recording.bad_frames).tolist() == list(range(3000 - n_padded, 3000))
    assert any("planes are missing" in problem for problem in recording.problems)
    assert any(f"end with {n_padded} zeros" in problem for problem in recording.problems)


def test_combined_alone_without_padding_has_no_bad_frames(tmp_path):
    make_plane(tmp_path / "suite2p" / "combined", settings={"fs": 15.0})
    assert opened(tmp_path).only().bad_frames is None


# settings


def test_fs_is_the_rate_of_each_plane(tmp_path):
    for number, rate in enumerate((15.0, np.float32(7.5))):
        make_plane(tmp_path / "suite2p" / f"plane{number}", ops={"fs": rate, "nplanes": 2, "neucoeff": 0.7})
    assert [plane.frame_rate_hz for plane in opened(tmp_path).recordings] == [15.0, 7.5]


def test_settings_in_groups_are_read_without_any_ops():
    assert not (DATA / "v1" / "suite2p" / "plane1" / "ops.npy").exists()
    plane = opened(DATA / "v1").recordings[1]
    assert (plane.frame_rate_hz, plane.neuropil_coefficient) == (30.0, 0.7)


def test_the_nested_ops_of_version_1_serves_where_it_is_alone(tmp_path):
    folder = Path(shutil.copytree(DATA / "v1" / "suite2p" / "plane0", tmp_path / "plane0"))
    for name in ("settings.npy", "reg_outputs.npy", "db.npy"):
        (folder / name).unlink()
    plane = opened(folder).only()
    assert (plane.frame_rate_hz, plane.neuropil_coefficient) == (30.0, 0.7)
    assert np.flatnonzero(plane.bad_frames).tolist() == BAD


def test_an_ops_that_an_older_version_left_behind_does_not_count(tmp_path):
    settings = {"fs": 20.0, "extraction": {"neuropil_coefficient": 0.4}, "version": "1.1.0"}
    make_plane(tmp_path / "plane0", settings=settings, ops={"fs": 10.0, "neucoeff": 0.7})
    plane = opened(tmp_path).only()
    assert (plane.frame_rate_hz, plane.neuropil_coefficient) == (20.0, 0.4)


def test_missing_settings_are_told(tmp_path):
    plane = opened(make_plane(tmp_path / "plane0")).only()
    assert (plane.frame_rate_hz, plane.neuropil_coefficient, plane.bad_frames) == (None, None, None)
    assert any("frame rate is unknown" in problem for problem in plane.problems)
    assert any("no neuropil coefficient" in problem for problem in plane.problems)


def test_the_rate_that_nobody_set_is_told(tmp_path):
    plane = opened(make_plane(tmp_path / "plane0", ops={"fs": 10.0, "neucoeff": 0.7})).only()
    assert plane.frame_rate_hz == 10.0
    assert any("what Suite2p assumes" in problem for problem in plane.problems)


@pytest.mark.parametrize("fs", ["30", None, [30.0, 30.0], float("nan"), 0.0, -3.0])
def test_a_rate_that_is_none_is_an_error(tmp_path, fs):
    make_plane(tmp_path / "plane0", ops={"fs": fs, "neucoeff": 0.7})
    with pytest.raises(FileFormatError, match=r"ops\.npy: fs is .*: expected a (positive )?number"):
        opened(tmp_path)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["ops.npy", "settings.npy", "reg_outputs.npy"])
def test_settings_that_run_something_are_refused(tmp_path, name):
    folder = make_plane(tmp_path / "plane0")
    harmed = tmp_path / "harmed"
    np.save(folder / name, np.array({"fs": 30.0, "x": Harm(str(harmed))}, object), allow_pickle=True)
    with pytest.raises(FileFormatError, match=rf"{name}: holds a .*mkdir"):
        opened(tmp_path)
    assert not harmed.exists()


@pytest.mark.parametrize("name", ["F.npy", "Fneu.npy", "iscell.npy"])
def test_arrays_are_read_without_any_objects(tmp_path, name):
    folder = make_plane(tmp_path / "plane0", ops={"fs": 30.0, "neucoeff": 0.7})
    np.save(folder / name, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(FileFormatError, match=rf"{name}: holds Python objects"):
        opened(tmp_path)


def test_settings_that_are_no_dict_are_an_error(tmp_path):
    np.save(make_plane(tmp_path / "plane0") / "ops.npy", np.arange(3))
    with pytest.raises(FileFormatError, match=r"ops\.npy: holds ndarray: expected Suite2p's settings"):
        opened(tmp_path)


# cells


def test_curation_decides_which_rows_are_cells(session):
    path = session / "suite2p" / "plane0" / "iscell.npy"
    before = opened(session).recordings[0].is_cell
    values = np.load(path)
    values[:, 0] = 1 - values[:, 0]  # the probability in the second column stays as it is
    np.save(path, values)
    np.testing.assert_array_equal(opened(session).recordings[0].is_cell, ~before)


def test_curating_while_a_source_is_open_does_not_change_it(session):
    path = session / "suite2p" / "plane0" / "iscell.npy"
    is_cell = opened(session).recordings[0].is_cell
    assert not isinstance(is_cell, np.memmap)
    before = is_cell.copy()
    values = np.load(path, mmap_mode="r+")
    values[:, 0] = 0
    values.flush()
    np.testing.assert_array_equal(is_cell, before)


def test_without_iscell_all_rows_are_cells_and_a_warning_says_so(session):
    (session / "suite2p" / "plane1" / "iscell.npy").unlink()
    with pytest.warns(CascadeWarning, match=r"plane1 has no iscell\.npy: all 11 rows are taken as cells"):
        source = opened(session)
    assert source.recordings[1].is_cell is None
    assert any("no iscell.npy" in problem for problem in source.recordings[1].problems)


def test_a_plane_without_any_cell_is_told(tmp_path):
    folder = make_plane(tmp_path / "plane0", ops={"fs": 30.0, "neucoeff": 0.7})
    np.save(folder / "iscell.npy", np.zeros((3, 2)))
    assert any("no row is a cell" in problem for problem in opened(tmp_path).only().problems)


# shapes


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("Fneu.npy", np.zeros((3, 39)), r"Fneu\.npy has shape \(3, 39\): expected \(3, 40\), that of F\.npy"),
        ("Fneu.npy", np.zeros((4, 40)), r"Fneu\.npy has shape \(4, 40\): expected \(3, 40\), that of F\.npy"),
        ("iscell.npy", np.zeros((4, 2)), r"iscell\.npy has shape \(4, 2\) .*: expected \(3, 2\)"),
        ("iscell.npy", np.zeros(3), r"iscell\.npy has shape \(3,\) .*: expected \(3, 2\)"),
        ("F.npy", np.zeros(40), r"F\.npy: the array has shape \(40,\): expected \(n_neurons, n_frames\)"),
    ],
)
def test_files_that_do_not_fit_together_are_named(tmp_path, name, values, message):
    np.save(make_plane(tmp_path / "plane0", ops={"fs": 30.0, "neucoeff": 0.7}) / name, values)
    with pytest.raises(FileFormatError, match=message):
        opened(tmp_path)


def test_bad_frames_of_another_length_are_named(tmp_path):
    make_plane(tmp_path / "plane0", ops={"fs": 30.0, "neucoeff": 0.7, "badframes": np.zeros(41, bool)})
    with pytest.raises(FileFormatError, match=r"ops\.npy: badframes has shape \(41,\): expected \(40,\)"):
        opened(tmp_path)


def test_a_truncated_file_is_named(session):
    path = session / "suite2p" / "plane0" / "F.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FileFormatError, match=r"F\.npy: truncated"):
        opened(session)


def test_a_folder_without_neuropil(tmp_path):
    folder = make_plane(tmp_path / "plane0", ops={"fs": 30.0, "neucoeff": 0.7})
    (folder / "Fneu.npy").unlink()
    plane = opened(tmp_path).only()
    assert (plane.neuropil, plane.neuropil_coefficient) == (None, None)
    assert any("no Fneu.npy" in problem for problem in plane.problems)


# bad frames


def test_frames_listed_by_the_user_are_bad_even_if_nothing_was_registered(tmp_path):
    # Without registration Suite2p leaves the list out of what it saves.
    for number, n_frames in enumerate((40, 39)):
        folder = make_plane(
            tmp_path / "suite2p" / f"plane{number}", n_frames=n_frames, settings={"fs": 30.0, "version": "1.1.0"}
        )
        unregistered = {"badframes": np.zeros(n_frames, bool)}
        np.save(folder / "reg_outputs.npy", np.array(unregistered, object), allow_pickle=True)
    np.save(tmp_path / "bad_frames.npy", np.array([3, 4, 39]))
    source = opened(tmp_path)
    assert [np.flatnonzero(plane.bad_frames).tolist() for plane in source.recordings] == [[3, 4, 39], [3, 4]]
    assert tmp_path / "bad_frames.npy" in source.files


# planes in which nothing was found


def test_planes_without_rois_are_left_out_with_a_warning(tmp_path):
    ops = {"fs": 30.0, "neucoeff": 0.7}
    make_plane(tmp_path / "suite2p" / "plane0", ops=ops)
    make_plane(tmp_path / "suite2p" / "plane1", n_rois=0, ops=ops)
    (make_plane(tmp_path / "suite2p" / "plane2", ops=ops) / "F.npy").unlink()
    with pytest.warns(CascadeWarning) as seen:
        source = opened(tmp_path)
    assert [plane.name for plane in source.recordings] == ["plane0"]
    told = [str(warning.message) for warning in seen]
    assert len(told) == 2
    assert "plane1: has no regions of interest: this plane is left out" in told[0]
    assert "plane2: has no F.npy: this plane is left out" in told[1]


def test_a_folder_without_any_traces_is_an_error(tmp_path):
    (make_plane(tmp_path / "suite2p" / "plane0", ops={"fs": 30.0}) / "F.npy").unlink()
    assert suite2p.recognises(tmp_path)
    with pytest.warns(CascadeWarning), pytest.raises(FileFormatError, match=r"no plane has traces \(seen: plane0\)"):
        opened(tmp_path)


# options


@pytest.mark.parametrize(
    "options", [{"key": "spks"}, {"neuropil_key": "Fneu"}, {"transposed": True}, {"transposed": False}, {"kind": "dff"}]
)
def test_options_that_do_not_apply_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        opened(DATA / "v0", **options)


def test_fluorescence_may_be_said():
    assert len(opened(DATA / "v0", kind="fluorescence").recordings) == 2


def test_nothing_is_written(session):
    before = {file: file.stat().st_mtime_ns for file in session.rglob("*")}
    opened(session)
    assert {file: file.stat().st_mtime_ns for file in session.rglob("*")} == before

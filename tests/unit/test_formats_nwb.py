"""NWB files: which series is read, which way round, at which rate, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from nwb_files import RATE, Trace, dff, ramp, replace, write_file

from cascade_rt.errors import FileFormatError
from cascade_rt.formats import Source, open_source
from cascade_rt.formats.nwb import recognises

SUITE2P = Path(__file__).resolve().parents[1] / "data" / "suite2p" / "v1" / "suite2p"


def opened(path: Path, **options) -> Source:
    return open_source(path, format="nwb", **options)


def suite2p_like(n_frames: int = 50) -> list[Trace]:
    return [
        Trace("plane0", ramp(n_frames, 4, start), container=container)
        for container, start in (("Fluorescence", 0.0), ("Neuropil", 0.25), ("Deconvolved", 0.5))
    ]


# ------------------------------------------------------------------------------------------------- which series


def test_fluorescence_with_its_neuropil_and_cells(tmp_path: Path) -> None:
    iscell = np.array([[1, 0.9], [0, 0.2], [1, 0.8], [1, 0.7]])
    path = write_file(tmp_path / "s.nwb", suite2p_like(), columns={"iscell": iscell})
    with opened(path) as source:
        recording = source.only()
        assert source.files == (path,)
        assert (recording.kind, recording.name) == ("fluorescence", "")
        assert recording.key == "/processing/ophys/Fluorescence/plane0"
        np.testing.assert_array_equal(recording.traces[:], ramp(50, 4).T)
        np.testing.assert_array_equal(recording.neuropil[:], ramp(50, 4, 0.25).T)
        np.testing.assert_array_equal(recording.is_cell, [True, False, True, True])
        assert recording.neuron_ids == (100, 101, 102, 103)
        assert recording.frame_rate_hz == RATE
        assert recording.timestamps is None
        assert recording.native["indicator"] == "GCaMP6f"
        assert recording.native["imaging_rate"] == RATE
        assert any("3 of 4" in fact for fact in recording.facts)
        assert recording.problems == ()


def test_dff_is_preferred_and_key_chooses_another(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [*suite2p_like(), dff("plane0", ramp(50, 4, 0.75))])
    with opened(path) as source:
        assert source.only().kind == "dff"
        assert source.only().neuropil is None
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4, 0.75).T)
    for key in ("/processing/ophys/Fluorescence/plane0", "processing/ophys/Fluorescence", "Fluorescence/plane0"):
        with opened(path, key=key) as source:
            assert source.only().kind == "fluorescence"
            np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4).T)
    with pytest.raises(FileFormatError, match=r"no series 'plane7'; it holds .*/Fluorescence/plane0 \(50, 4\)"):
        opened(path, key="plane7")
    with pytest.raises(FileFormatError, match="Deconvolved/plane0 is denoised, deconvolved"):
        opened(path, key="Deconvolved")
    with pytest.raises(FileFormatError, match="Neuropil/plane0 is neuropil"):
        opened(path, key="Neuropil/plane0")
    # Whoever says what it is may use it.
    with opened(path, key="Deconvolved", kind="dff") as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4, 0.5).T)


@pytest.mark.parametrize(
    ("container", "name", "kind"),
    [
        ("Fluorescence", "Denoised", None),
        ("Fluorescence", "DeconvolvedChan1Plane0", None),
        ("event_detection", "traces", None),
        ("Fluorescence", "Baseline", None),
        ("Fluorescence", "NeuropilChan1Plane0", None),
        (None, "SpikeProbability_plane0", None),
        ("dff", "traces", "dff"),
        ("DfOverF", "RoiResponseSeries", "dff"),
        ("Fluorescence", "dF_over_F", "dff"),
        (None, "DeltaFOverF", "dff"),
        ("Fluorescence", "RoiResponseSeriesChan1Plane0", "fluorescence"),
        ("corrected_fluorescence", "traces", "fluorescence"),
        ("Fluorescence", "NeuropilCorrected", "fluorescence"),
        (None, "RoiResponseSeries", "fluorescence"),
    ],
)
def test_names_tell_what_a_series_holds(tmp_path: Path, container: str | None, name: str, kind: str | None) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace(name, ramp(50, 4), container=container)])
    if kind is None:
        with pytest.raises(FileFormatError, match=f"no usable traces.*{name}"):
            opened(path)
        return
    with opened(path) as source:
        assert source.only().kind == kind


def test_the_type_of_the_container_counts_and_corrected_dff_is_dff(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [dff("NeuropilCorrected", ramp(50, 4), container="responses")])
    with opened(path) as source:
        assert source.only().kind == "dff"


def test_corrected_traces_do_not_lose_their_neuropil_twice(tmp_path: Path) -> None:
    names = ("demixed_trace", "corrected_fluorescence", "neuropil_trace")
    traces = [Trace("traces", ramp(50, 4, 0.1 * n), container=name) for n, name in enumerate(names[1:])]
    path = write_file(tmp_path / "s.nwb", traces)
    with opened(path) as source:
        assert source.only().key.endswith("corrected_fluorescence/traces")
        assert source.only().neuropil is None
    with opened(path, neuropil_key="neuropil_trace") as source:
        np.testing.assert_array_equal(source.only().neuropil[:], traces[1].data.T)


def test_series_in_modules_of_other_names(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("traces", ramp(50, 4), None, module="deconvolution_pipeline")])
    with opened(path) as source:
        assert source.only().key == "/processing/deconvolution_pipeline/traces"


def test_dff_of_the_cells_only_replaces_the_fluorescence_of_all(tmp_path: Path) -> None:
    traces = [Trace("all", ramp(50, 4)), dff("cells", ramp(50, 2, 0.5), rows=[3, 1])]
    with opened(write_file(tmp_path / "s.nwb", traces, columns={"Accepted": [0, 1, 0, 0]})) as source:
        recording = source.only()
        assert recording.kind == "dff"
        assert recording.neuron_ids == (103, 101)
        np.testing.assert_array_equal(recording.is_cell, [False, True])


def test_planes_with_tables_of_their_own(tmp_path: Path) -> None:
    tables = {"deep": 3, "shallow": 4}
    traces = [dff("RoiResponseSeries", ramp(50, n, 0.5), table=name, container=name) for name, n in tables.items()]
    traces += [
        Trace("RoiResponseSeries", ramp(50, n), table=name, container=f"raw_{name}") for name, n in tables.items()
    ]
    with opened(write_file(tmp_path / "s.nwb", traces, n_rois=tables)) as source:
        assert [recording.name for recording in source.recordings] == ["deep", "shallow"]
        assert [recording.n_neurons for recording in source.recordings] == [3, 4]
        assert {recording.kind for recording in source.recordings} == {"dff"}


def test_ten_planes_are_in_order(tmp_path: Path) -> None:
    traces = [Trace(f"plane{n}", ramp(50, 1), rows=[n]) for n in range(11)]
    with opened(write_file(tmp_path / "s.nwb", traces, n_rois=11)) as source:
        assert [recording.name for recording in source.recordings] == [f"plane{n}" for n in range(11)]
        assert [recording.neuron_ids for recording in source.recordings] == [(100 + n,) for n in range(11)]


def test_caiman_traces_get_their_residuals_back(tmp_path: Path) -> None:
    traces = [
        Trace("RoiResponseSeries", ramp(50, 3), rows=[0, 1, 2]),
        Trace("Background_Fluorescence_Response", ramp(50, 1), rows=[3]),
    ]
    columns = {"keep": [True, False, True, False], "accepted": [False] * 4, "rejected": [False] * 4}
    path = write_file(tmp_path / "s.nwb", traces, columns=columns)
    with pytest.raises(FileFormatError, match=r"denoised by CaImAn.*own \.hdf5"):
        opened(path)
    noise = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with h5py.File(path, "r+") as file:
        file["processing/ophys/residuals/data"] = noise
    with opened(path) as source:
        recording = source.only()
        np.testing.assert_allclose(recording.traces[:], (ramp(50, 3) + noise).T, rtol=1e-6)
        np.testing.assert_array_equal(recording.is_cell, [True, False, True])
        assert "background" in recording.problems[0]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"Accepted": [1, 0, 1, 1], "Rejected": [0, 1, 0, 0]}, [True, False, True, True]),
        ({"accepted": [False] * 4, "rejected": [True, False, False, False]}, [False, True, True, True]),
        ({"accepted": [False] * 4, "rejected": [False] * 4}, None),
        ({"iscell": [0.0, 1.0, 0.0, 0.0], "accepted": [True] * 4}, [False, True, False, False]),
        ({"iscell": [0.0, 0.0, 0.0, 0.0]}, None),
        ({"depth": [1.0, 2.0, 3.0, 4.0]}, None),
    ],
)
def test_columns_that_say_what_is_a_cell(tmp_path: Path, columns: dict, expected: list[bool] | None) -> None:
    with opened(write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))], columns=columns)) as source:
        cells = source.only().is_cell
        assert (None if cells is None else cells.tolist()) == expected


@pytest.mark.parametrize(
    ("given", "read"), [("jGCaMP8m", "jGCaMP8m"), ("GCaMP", None), ("unknown", None), ("XCaMP", "XCaMP")]
)
def test_placeholders_are_no_indicators(tmp_path: Path, given: str, read: str | None) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))], indicator=given)
    with opened(path) as source:
        assert source.only().native["indicator"] == read
        assert f"indicator {given!r}" in source.only().facts


# ------------------------------------------------------------------------------------------------ which way round


def turned(**when) -> list[Trace]:
    return [Trace("plane0", np.ascontiguousarray(ramp(50, 4).T), options=when)]


def test_transposed_files_are_recognised_by_their_regions(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", turned())
    with opened(path) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4).T)
        assert any("(n_rois, n_frames)" in fact for fact in source.only().facts)
        np.testing.assert_array_equal(source.only().traces[1:3, 7:9], ramp(50, 4).T[1:3, 7:9])
    with opened(path, transposed=True) as source:
        assert source.only().traces.shape == (50, 4)


def test_more_neurons_than_frames(tmp_path: Path) -> None:
    with opened(write_file(tmp_path / "s.nwb", [Trace("x", ramp(5, 40))], n_rois=40)) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(5, 40).T)


def test_a_square_series_is_as_nwb_has_it(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(6, 6))], n_rois=6)
    with opened(path) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(6, 6).T)
    with opened(path, transposed=False) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(6, 6))


def test_regions_that_fit_neither_way_leave_it_to_the_time_stamps(tmp_path: Path) -> None:
    times = np.arange(50) / RATE
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4), rows=[0, 1])], timestamps=times)
    replace(path, "processing/ophys/Fluorescence/x/data", ramp(50, 4).T)
    with opened(path) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4).T)
        assert source.only().neuron_ids == ()
        assert source.only().is_cell is None
    path = write_file(tmp_path / "t.nwb", [Trace("x", ramp(50, 4), rows=[0, 1])])
    with opened(path) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4).T)
        assert "does not fit its 2 regions" in source.only().problems[0]


def test_a_single_region_without_a_second_dimension(tmp_path: Path) -> None:
    with opened(write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 1)[:, 0], rows=[2])])) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 1).T)
        assert source.only().neuron_ids == (102,)


# ------------------------------------------------------------------------------------------------- units and times


def test_percent_conversion_and_offset(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [dff("x", ramp(50, 4), options={"unit": "percent"})])
    with opened(path) as source:
        np.testing.assert_allclose(source.only().traces[:], ramp(50, 4).T / 100, rtol=1e-6)
        assert source.only().traces.dtype == np.float32
    counts = ramp(50, 4).astype(np.int16)
    path = write_file(tmp_path / "t.nwb", [Trace("x", counts, options={"conversion": 0.5, "offset": 10.0})])
    with opened(path) as source:
        np.testing.assert_array_equal(source.only().traces[2:, 3:5], (counts.T[2:, 3:5] * 0.5 + 10).astype(np.float32))
    path = write_file(tmp_path / "u.nwb", [Trace("x", counts, options={"conversion": 0.0})])
    with pytest.raises(FileFormatError, match="conversion factor 0"):
        opened(path)


def test_regular_time_stamps_give_the_rate(tmp_path: Path) -> None:
    times = 12.5 + np.round(np.arange(300) / RATE, 3)  # in whole milliseconds: the median alone would give 30.3
    with opened(write_file(tmp_path / "s.nwb", [Trace("x", ramp(300, 4))], timestamps=times)) as source:
        recording = source.only()
        assert recording.frame_rate_hz == pytest.approx(RATE, rel=1e-4)
        np.testing.assert_array_equal(recording.timestamps, times)
        assert recording.native["starting_time"] == 12.5
        assert recording.problems == ()


def test_missing_and_irregular_frames_are_counted(tmp_path: Path) -> None:
    times = np.delete(np.arange(300) / RATE, [100, 101, 200])
    with opened(write_file(tmp_path / "s.nwb", [Trace("x", ramp(297, 4))], timestamps=times)) as source:
        assert source.only().frame_rate_hz == pytest.approx(RATE)
        (problem,) = source.only().problems
        assert "2 gaps with about 3 frames missing" in problem
        assert "after frame 99" in problem
    times = np.arange(300) / RATE
    times[50] = times[49]
    times[80] = np.nan
    with opened(write_file(tmp_path / "t.nwb", [Trace("x", ramp(300, 4))], timestamps=times)) as source:
        assert source.only().frame_rate_hz == pytest.approx(RATE)
        assert any("3 of 300 time stamps are irregular" in problem for problem in source.only().problems)


def test_time_stamps_of_another_length_only_tell_the_rate(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))], timestamps=np.arange(50) / RATE)
    replace(path, "processing/ophys/Fluorescence/x/timestamps", np.arange(49) / RATE)
    with opened(path) as source:
        assert source.only().timestamps is None
        assert source.only().frame_rate_hz == pytest.approx(RATE)
        assert "49 time stamps for 50 frames" in source.only().problems[0]


def test_rates_that_contradict_each_other_are_mentioned(tmp_path: Path) -> None:
    with opened(write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))], imaging_rate=15.0)) as source:
        assert source.only().frame_rate_hz == RATE
        assert "30 Hz, its imaging plane says 15 Hz" in source.only().problems[0]


def test_a_series_without_rate_has_that_of_its_imaging_plane(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))], imaging_rate=15.0)
    with h5py.File(path, "r+") as file:
        del file["processing/ophys/Fluorescence/x/starting_time"]
    with opened(path) as source:
        assert source.only().frame_rate_hz == 15.0
        assert "taken from the imaging plane" in source.only().problems[0]


# --------------------------------------------------------------------------------------------------- files as such


def test_data_in_another_file_are_followed(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))])
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "data.h5", "w") as other:
        group = file["processing/ophys/Fluorescence/x"]
        other["values"] = group["data"][()]
        other["values"].attrs.update(dict(group["data"].attrs))
        del group["data"]
        group["data"] = h5py.ExternalLink("data.h5", "/values")
    with opened(path) as source:
        np.testing.assert_array_equal(source.only().traces[:], ramp(50, 4).T)
        assert source.files == (path, (tmp_path / "data.h5").resolve())
    (tmp_path / "data.h5").unlink()
    with pytest.raises(FileFormatError, match="Fluorescence/x are in another file, which is not there"):
        opened(path)


def test_a_series_with_several_links_is_read_once(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))])
    with h5py.File(path, "r+") as file:
        file["analysis/again"] = h5py.SoftLink("/processing/ophys/Fluorescence/x")
    with opened(path) as source:
        assert source.only().key == "/processing/ophys/Fluorescence/x"


def test_what_is_recognised(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(50, 4))])
    renamed = tmp_path / "renamed.h5"
    shutil.copy(path, renamed)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "text.h5").write_bytes(b"text")
    (tmp_path / "folder.nwb").mkdir()
    found = {name.name: recognises(name) for name in (*tmp_path.iterdir(), tmp_path / "missing.nwb")}
    assert {name for name, yes in found.items() if yes} == {"s.nwb", "renamed.h5"}


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(5000, 4))])
    cut = tmp_path / "cut.nwb"
    cut.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(FileFormatError, match=r"cut\.nwb: not a readable NWB file \(30000 bytes\)"):
        opened(cut)
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    with pytest.raises(FileFormatError, match=r"NWB version NWB-1\.0\.6: expected 2"):
        opened(tmp_path / "old.nwb")
    empty = write_file(tmp_path / "empty.nwb", [])
    with pytest.raises(FileFormatError, match="holds no responses"):
        opened(empty)
    (tmp_path / "folder.nwb").mkdir()
    with pytest.raises(FileFormatError, match="only HDF5 files"):
        opened(tmp_path / "folder.nwb")


def test_the_file_is_closed_with_the_source_and_after_errors(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", suite2p_like())
    with opened(path) as source:
        recording = source.only()
    with pytest.raises((ValueError, RuntimeError)):
        recording.traces[0]
    with pytest.raises(FileFormatError):
        opened(path, key="nothing")
    with h5py.File(path, "r+"):  # refused by HDF5 while it is open for reading
        pass


def test_the_file_that_suite2p_wrote_equals_its_folder() -> None:
    path = SUITE2P / "ophys.nwb"
    if not path.is_file():
        pytest.skip("tests/data/suite2p has no NWB file")
    with opened(path) as source:
        assert [recording.name for recording in source.recordings] == ["plane0", "plane1"]
        lengths = []
        for recording in source.recordings:
            folder = SUITE2P / recording.name
            np.testing.assert_array_equal(recording.traces[:], np.load(folder / "F.npy"))
            np.testing.assert_array_equal(recording.neuropil[:], np.load(folder / "Fneu.npy"))
            np.testing.assert_array_equal(recording.is_cell, np.load(folder / "iscell.npy")[:, 0] > 0)
            assert recording.frame_rate_hz == RATE
            lengths.append(recording.n_frames)
        # Suite2p fills the second plane up with a frame of zeros, of which ΔF/F would be -1.
        assert lengths[0] == lengths[1] + 1
        assert source.recordings[1].native["n_samples"] == lengths[0]

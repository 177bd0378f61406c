"""Zarr folders of any layout, in both versions of the format."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import zarr

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.formats import open_source, zarr_store
from cascade_rt.lazy import LazyMatrix
from cascade_rt.testing import ramp

DFF = ramp(3, 20)


@pytest.fixture(params=[2, 3])
def version(request):
    return request.param


def write(path, version, attributes=None, **values):
    root = zarr.open_group(str(path), mode="w", zarr_format=version)
    for name, value in values.items():
        value = np.asarray(value)
        chunks = tuple(min(n, 7) for n in value.shape) or None
        root.create_array(name.replace("__", "/"), data=value, **({"chunks": chunks} if chunks else {}))
    for place, named in (attributes or {}).items():
        (root[place] if place else root).attrs.update(named)
    return path


def only(path, **options):
    with open_source(path, **options) as source:
        assert source.format == "zarr"
        recording = source.only()
        return recording, recording.traces[:]


def test_arrays_are_found_by_their_path(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, processed__dff=DFF, raw__deep__other=DFF + 1)
    for key in ("/processed/dff", "processed/dff", None):
        recording, traces = only(path, key=key)
        np.testing.assert_array_equal(traces, DFF)
        assert recording.key == "processed/dff"
    np.testing.assert_array_equal(only(path, key="/raw/deep/other")[1], DFF + 1)
    with pytest.raises(FileFormatError, match=r"processed/dff \(3, 20\), raw/deep/other \(3, 20\)"):
        open_source(path, key="/raw/dff")


def test_an_array_may_be_the_folder(tmp_path, version):
    path = tmp_path / "dff.zarr"
    array = zarr.create_array(str(path), data=DFF, chunks=(2, 7), zarr_format=version)
    array.attrs["frame_rate"] = 12.0
    recording, traces = only(path)
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz == 12.0
    with open_source(path) as source:
        assert set(source.files) == {file for file in path.rglob("*") if file.is_file()}


def test_traces_stay_in_the_folder(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, dff=DFF)
    with open_source(path) as source:
        traces = source.only().traces
    assert isinstance(traces, LazyMatrix)
    assert isinstance(traces.stored[0], zarr.Array)
    np.testing.assert_array_equal(traces[1:, 5:9], DFF[1:, 5:9])


def test_frames_by_neurons_with_neuropil(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, F=DFF.T, Fneu=DFF.T + 5, unused=np.zeros((4, 5)))
    recording, traces = only(path, transposed=True)
    np.testing.assert_array_equal(traces, DFF)
    np.testing.assert_array_equal(recording.neuropil[:], DFF + 5)
    assert recording.kind == "fluorescence"


def test_rates_near_the_traces(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, {"": {"fs": 5.0}, "b": {"frame_rate_hz": 20.0}}, a__dff=DFF, b__dff=DFF)
    assert only(path, key="a/dff")[0].frame_rate_hz == 5.0
    assert only(path, key="b/dff")[0].frame_rate_hz == 20.0
    path = write(tmp_path / "b.zarr", version, dff=DFF, fs=np.array([15.0]))
    with open_source(path) as source:
        assert source.only().frame_rate_hz == 15.0
        assert any(file.parts[-2:] != ("dff",) and "fs" in file.parts for file in source.files)


def test_all_files_that_matter_are_listed(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, {"g": {"fs": 5.0}}, g__F=DFF, g__Fneu=DFF, g__other=DFF)
    with open_source(path) as source:
        files = set(source.files)
    every = {file for file in path.rglob("*") if file.is_file()}
    assert files == {file for file in every if "other" not in file.parts}
    assert len(files) > 8


def test_pieces_that_are_not_there_are_named(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, dff=DFF + 1)
    assert only(path)[0].problems == ()
    (path / "dff" / ("0.1" if version == 2 else "c/0/1")).unlink()
    recording, traces = only(path)
    assert any("1 of 3 pieces of array 'dff'" in problem and "0" in problem for problem in recording.problems)
    assert (traces[:, 7:14] == 0).all()


def test_shards_count_as_pieces(tmp_path):
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    root.create_array("dff", data=DFF + 1, chunks=(1, 5), shards=(3, 10))
    recording, traces = only(tmp_path / "a.zarr")
    assert recording.problems == ()
    np.testing.assert_array_equal(traces, DFF + 1)


def test_results_are_named(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, {"": {"format": "cascade_rt result"}}, spike_prob=DFF)
    with pytest.raises(FileFormatError, match=r"is a result.*open_result"):
        open_source(path)


def test_folders_are_recognised(tmp_path, version):
    assert zarr_store.recognises(write(tmp_path / "a.zarr", version, dff=DFF))
    assert zarr_store.recognises(write(tmp_path / "without suffix", version, dff=DFF))
    assert not zarr_store.recognises(write(tmp_path / "b.nwb.zarr", version, dff=DFF))
    (tmp_path / "plain").mkdir()
    assert not zarr_store.recognises(tmp_path / "plain")
    (tmp_path / "x.zarr.zip").write_bytes(b"PK")
    assert not zarr_store.recognises(tmp_path / "x.zarr.zip")


def test_damaged_folders_are_named(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, dff=DFF)
    (path / "dff" / (".zarray" if version == 2 else "zarr.json")).write_text("{")
    with pytest.raises(FileFormatError, match=r"a\.zarr"):
        open_source(path)
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(FileFormatError, match=r"b\.zarr: not a readable zarr folder"):
        open_source(tmp_path / "b.zarr")


def test_other_files_in_the_folder_do_no_harm(tmp_path, version):
    path = write(tmp_path / "a.zarr", version, dff=DFF)
    (path / "notes.txt").write_text("x")
    (path / "figures").mkdir()
    np.testing.assert_array_equal(only(path)[1], DFF)


def test_the_missing_package_is_named(tmp_path, version, monkeypatch):
    path = write(tmp_path / "a.zarr", version, dff=DFF)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(
        InputError, match=r'reading zarr folders needs the package zarr.*pip install "cascade-rt\[zarr\]"'
    ):
        open_source(path)

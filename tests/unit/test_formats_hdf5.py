"""HDF5 files of any layout: arrays by their path, rates near them, and files that are something else."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cascade_rt.errors import FileFormatError
from cascade_rt.formats import hdf5, open_source
from cascade_rt.lazy import LazyMatrix
from cascade_rt.testing import ramp

DFF = ramp(3, 20)


def write(path, userblock=0, attributes=None, **values):
    with h5py.File(path, "w", userblock_size=userblock) as file:
        for name, value in values.items():
            file[name.replace("__", "/")] = value
        for place, named in (attributes or {}).items():
            file[place].attrs.update(named)
    return path


def only(path, **options):
    with open_source(path, **options) as source:
        assert source.format == "hdf5"
        recording = source.only()
        return recording, recording.traces[:]


@pytest.mark.parametrize("key", ["/processed/dff", "processed/dff", None])
def test_arrays_are_found_by_their_path(tmp_path, key):
    path = write(tmp_path / "a.h5", processed__dff=DFF, raw__movie=np.zeros((2, 3, 4)), raw__other=DFF + 1)
    recording, traces = only(path, key=key)
    np.testing.assert_array_equal(traces, DFF)
    assert (recording.key, recording.kind) == ("processed/dff", "dff")
    recording, traces = only(path, key="/raw/other", kind="fluorescence")
    np.testing.assert_array_equal(traces, DFF + 1)
    assert recording.kind == "fluorescence"


def test_what_there_is_is_listed(tmp_path):
    path = write(tmp_path / "a.h5", one__x=DFF, two__y=DFF)
    with pytest.raises(FileFormatError, match=r"one/x \(3, 20\), two/y \(3, 20\)"):
        open_source(path)
    with pytest.raises(FileFormatError, match=r"no array '/one/z'; it holds one/x \(3, 20\)"):
        open_source(path, key="/one/z")


def test_the_same_name_in_several_groups_is_no_answer(tmp_path):
    path = write(tmp_path / "a.h5", plane0__dff=DFF, plane1__dff=DFF + 1)
    with pytest.raises(FileFormatError, match=r"which array.*plane0/dff \(3, 20\), plane1/dff"):
        open_source(path)
    np.testing.assert_array_equal(only(path, key="plane1/dff")[1], DFF + 1)


def test_traces_stay_in_the_file(tmp_path):
    path = write(tmp_path / "a.h5", dff=DFF)
    with open_source(path) as source:
        traces = source.only().traces
        assert isinstance(traces, LazyMatrix)
        assert isinstance(traces.stored[0], h5py.Dataset)
        np.testing.assert_array_equal(traces[1:, 3:5], DFF[1:, 3:5])
    assert not traces.stored[0], "closed"


def test_frames_by_neurons(tmp_path):
    path = write(tmp_path / "a.h5", F=DFF.T, Fneu=DFF.T + 5)
    recording, traces = only(path, transposed=True)
    np.testing.assert_array_equal(traces, DFF)
    assert recording.kind == "fluorescence"
    with open_source(path, transposed=True) as source:
        np.testing.assert_array_equal(source.only().neuropil[:], DFF + 5)
    assert only(path)[1].shape == (20, 3)


def test_the_neuropil_may_be_named(tmp_path):
    path = write(tmp_path / "a.h5", a__cells=DFF, b__around=DFF + 5)
    with open_source(path, key="/a/cells", neuropil_key="/b/around", kind="fluorescence") as source:
        np.testing.assert_array_equal(source.only().neuropil[:], DFF + 5)


def test_the_nearest_rate_counts(tmp_path):
    path = write(
        tmp_path / "a.h5",
        plane0__dff=DFF, plane0__fs=10.0, plane1__dff=DFF, plane1__fs=np.array([[20.0]]),
        plane2__dff=DFF, plane3__dff=DFF,
        attributes={"plane2": {"frame_rate": 30.0}, "plane3/dff": {"sampling_rate": 40}, "plane3": {"fs": 1.0}},
    )  # fmt: skip
    rates = [only(path, key=f"plane{plane}/dff")[0].frame_rate_hz for plane in range(4)]
    assert rates == [10.0, 20.0, 30.0, 40.0]
    path = write(tmp_path / "b.h5", a__dff=DFF, b__fs=10.0)
    assert only(path)[0].frame_rate_hz == 10.0
    path = write(tmp_path / "c.h5", a__dff=DFF, b__fs=10.0, c__fs=20.0)
    assert only(path)[0].frame_rate_hz is None, "there are two, and neither is near"
    path = write(tmp_path / "d.h5", dff=DFF, fs=-1.0, attributes={"/": {"frame_rate": "fast"}})
    assert only(path)[0].frame_rate_hz is None
    path = write(tmp_path / "e.h5", dff=DFF, attributes={"/": {"frame_rate_hz": np.array([7.5])}})
    assert only(path)[0].frame_rate_hz == 7.5


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.dat"])
@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_files_are_recognised_by_their_first_bytes(tmp_path, name, userblock):
    path = write(tmp_path / name, userblock, dff=DFF)
    assert hdf5.recognises(path)
    np.testing.assert_array_equal(only(path)[1], DFF)


def test_other_formats_are_left_to_their_readers(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["nwb_version"] = "2.6"
        file["dff"] = DFF
    assert not hdf5.recognises(tmp_path / "x.h5")
    assert not hdf5.recognises(write(tmp_path / "c.h5", estimates__C=DFF, estimates__YrA=DFF))
    assert not hdf5.recognises(write(tmp_path / "c.nwb", dff=DFF))
    assert not hdf5.recognises(tmp_path)
    (tmp_path / "text.txt").write_text("a" * 5000)
    assert not hdf5.recognises(tmp_path / "text.txt")


def test_results_are_named(tmp_path):
    path = write(tmp_path / "a.h5", spike_prob=DFF, attributes={"/": {"format": "cascade_rt result"}})
    with pytest.raises(FileFormatError, match=r"is a result.*open_result"):
        open_source(path)


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, keep):
    path = write(tmp_path / "a.h5", dff=np.random.default_rng(0).normal(size=(30, 200)))
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(FileFormatError, match=r"a\.h5: not a readable HDF5 file"):
        open_source(path)
    path.unlink()


def test_links_are_followed_when_named(tmp_path):
    write(tmp_path / "far.h5", dff=DFF + 2)
    with h5py.File(write(tmp_path / "a.h5", x=DFF), "r+") as file:
        file["here"] = h5py.SoftLink("/x")
        file["there"] = h5py.ExternalLink("far.h5", "/dff")
        file["nowhere"] = h5py.SoftLink("/gone")
    np.testing.assert_array_equal(only(tmp_path / "a.h5", key="here")[1], DFF)
    with open_source(tmp_path / "a.h5", key="/there") as source:
        np.testing.assert_array_equal(source.only().traces[:], DFF + 2)
        assert source.files == (tmp_path / "a.h5", tmp_path / "far.h5")
    with pytest.raises(FileFormatError, match="no array 'nowhere'"):
        open_source(tmp_path / "a.h5", key="nowhere")


def test_virtual_datasets_depend_on_other_files(tmp_path):
    for part in range(2):
        write(tmp_path / f"part{part}.h5", dff=DFF[:, 10 * part : 10 * part + 10])
    layout = h5py.VirtualLayout(DFF.shape, DFF.dtype)
    for part in range(2):
        layout[:, 10 * part : 10 * part + 10] = h5py.VirtualSource(f"part{part}.h5", "dff", (3, 10))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("dff", layout)
    with open_source(tmp_path / "a.h5") as source:
        np.testing.assert_array_equal(source.only().traces[:], DFF)
        assert [file.name for file in source.files] == ["a.h5", "part0.h5", "part1.h5"]


def test_failures_leave_the_file_closed(tmp_path):
    path = write(tmp_path / "a.h5", text="abc", dff=np.array([[b"a", b"b"]]))
    with pytest.raises(FileFormatError, match="expected real numbers"):
        open_source(path)
    with h5py.File(path, "a") as file:  # fails while it is open for reading
        file["more"] = 1


def test_a_group_is_no_array(tmp_path):
    path = write(tmp_path / "a.h5", one__x=DFF)
    with pytest.raises(FileFormatError, match="no array 'one'"):
        open_source(path, key="one")

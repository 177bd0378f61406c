"""MATLAB files of all versions: names, orientation, neuropil, and damage."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import io

from cascade_rt.errors import FileFormatError
from cascade_rt.formats import open_source
from cascade_rt.lazy import LazyMatrix, block_rows
from cascade_rt.testing import ramp

DFF = ramp(3, 20)


def write_73(path, values):
    """As MATLAB does: dimensions in reverse order, scalars as (1, 1), 512 bytes in front."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            # Text is an array of character codes.
            file[name] = np.atleast_2d(np.array([*map(ord, value)], np.uint16) if isinstance(value, str) else value).T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


@pytest.fixture(params=["5", "5-compressed", "4", "7.3"])
def save(request, tmp_path):
    def write(name="rec.mat", **values):
        path = tmp_path / name
        if request.param == "7.3":
            write_73(path, values)
        else:
            version, _, compressed = request.param.partition("-")
            io.savemat(path, values, do_compression=bool(compressed), format=version)
        return path

    write.version = request.param
    return write


def only(path, **options):
    with open_source(path, **options) as source:
        assert (source.format, source.files) == ("matlab", (path,))
        recording = source.only()
        neuropil = None if recording.neuropil is None else np.array(recording.neuropil[:])
        return recording, np.array(recording.traces[:]), neuropil


def test_usual_names(save):
    recording, traces, _ = only(save(dF_traces=DFF, frame_rate=7.5, other=np.ones((4, 4))))
    np.testing.assert_array_equal(traces, DFF)
    assert (recording.kind, recording.key, recording.frame_rate_hz) == ("dff", "dF_traces", 7.5)
    assert any("dF_traces" in fact for fact in recording.facts)


def test_fluorescence_comes_with_its_neuropil(save):
    recording, traces, neuropil = only(save(F=DFF, Fneu=DFF + 5, fs=10))
    np.testing.assert_array_equal(traces, DFF)
    np.testing.assert_array_equal(neuropil, DFF + 5)
    assert (recording.kind, recording.frame_rate_hz) == ("fluorescence", 10)


def test_names_may_be_given(save):
    path = save(cells=DFF, around=DFF + 5, third=np.ones((2, 2)))
    recording, traces, neuropil = only(path, key="cells", neuropil_key="around", kind="fluorescence")
    np.testing.assert_array_equal(traces, DFF)
    np.testing.assert_array_equal(neuropil, DFF + 5)
    assert recording.kind == "fluorescence"
    assert only(path, key="cells")[0].kind == "dff"
    with pytest.raises(FileFormatError, match=r"which array.*cells \(3, 20\)"):
        open_source(path)
    with pytest.raises(FileFormatError, match="no array 'nothing'"):
        open_source(path, key="cells", neuropil_key="nothing")
    with pytest.raises(FileFormatError, match="neuropil has shape"):
        open_source(path, key="cells", neuropil_key="third", kind="fluorescence")


def test_frames_by_neurons(save):
    recording, traces, neuropil = only(save(F=DFF.T, Fneu=DFF.T + 5), transposed=True)
    assert recording.traces.shape == (3, 20)
    np.testing.assert_array_equal(traces, DFF)
    np.testing.assert_array_equal(neuropil, DFF + 5)


def test_one_neuron(save):
    np.testing.assert_array_equal(only(save(dff=DFF[:1]))[1], DFF[:1])


@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.9])
def test_truncated_files_are_named(save, keep):
    path = save(dF_traces=np.random.default_rng(0).normal(size=(20, 500)), frame_rate=7.5)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(FileFormatError, match=r"rec\.mat"):
        open_source(path)
    path.unlink()


def test_what_is_no_recording_is_named(save):
    with pytest.raises(FileFormatError, match="which array"):
        open_source(save(threshold=0.5))
    with pytest.raises(FileFormatError, match="shape"):
        open_source(save("empty.mat", dff=np.zeros((0, 5))), key="dff")


def test_files_of_version_73_are_read_slice_by_slice(tmp_path):
    write_73(tmp_path / "rec.mat", {"dff": DFF})
    with open_source(tmp_path / "rec.mat") as source:
        traces = source.only().traces
        assert isinstance(traces, LazyMatrix)
        for rows in (slice(1, 3), [0, 2], 1):
            np.testing.assert_array_equal(traces[rows, 5:9], DFF[rows, 5:9])
        # MATLAB stores column after column, frame after frame: all neurons are read together.
        assert block_rows(traces, 20) == 3
    with pytest.raises((ValueError, OSError, RuntimeError)):
        traces[:]


def test_real_recordings(shared):
    for path in sorted((shared / "recordings").glob("*.mat")):
        _, traces, _ = only(path)
        np.testing.assert_array_equal(traces, io.loadmat(path)["dF_traces"])

"""NumPy files: names, orientation, neuropil, memory maps, and damage."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from cascade_rt.errors import FileFormatError
from cascade_rt.formats import open_source
from cascade_rt.formats.numpy_files import read_noise_archive
from cascade_rt.testing import ramp

DFF = ramp(3, 20)


def only(path, **options):
    with open_source(path, **options) as source:
        assert (source.format, source.files) == ("numpy", (path,))
        return source.only()


def npy(path, values):
    np.save(path, values)
    return path


def npz(path, **values):
    np.savez(path, **values)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("transposed", [None, False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4", np.int16])
def test_npy(tmp_path, order, transposed, dtype):
    values = np.asarray(DFF.T if transposed else DFF, dtype, order=order)
    recording = only(npy(tmp_path / "a.npy", values), transposed=transposed)
    assert recording.traces.shape == (3, 20)
    np.testing.assert_array_equal(recording.traces[:], DFF.astype(dtype))
    np.testing.assert_array_equal(recording.traces[1:, 3:7], DFF.astype(dtype)[1:, 3:7])
    inner = recording.traces.stored[0] if transposed else recording.traces
    assert isinstance(inner, np.memmap)
    assert not inner.flags.writeable
    assert (recording.kind, recording.key, recording.frame_rate_hz, recording.neuropil) == ("dff", "", None, None)


def test_npy_has_no_names(tmp_path):
    path = npy(tmp_path / "a.npy", DFF)
    assert only(path, kind="fluorescence").kind == "fluorescence"
    with pytest.raises(FileFormatError, match=r"without a name; leave out the key 'dff'"):
        open_source(path, key="dff")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "a.npz", dff=DFF, frame_rate=np.float64(7.5), noise_levels=np.arange(3.0), other=np.ones((4, 4)))
    recording = only(tmp_path / "a.npz")
    np.testing.assert_array_equal(recording.traces[:], DFF)
    assert (recording.kind, recording.key, recording.frame_rate_hz) == ("dff", "dff", 7.5)
    np.testing.assert_array_equal(recording.noise_levels, [0, 1, 2])
    np.testing.assert_array_equal(read_noise_archive(tmp_path / "a.npz"), [0, 1, 2])


def test_noise_levels_of_something_else_are_not_taken(tmp_path):
    assert only(npz(tmp_path / "a.npz", dff=DFF, noise_levels=np.arange(4.0))).noise_levels is None
    with pytest.raises(FileFormatError, match="no array 'noise_levels'; it holds dff"):
        read_noise_archive(npz(tmp_path / "b.npz", dff=DFF))


def test_fluorescence_comes_with_its_neuropil(tmp_path):
    recording = only(npz(tmp_path / "a.npz", F=DFF, Fneu=DFF + 5))
    np.testing.assert_array_equal(recording.neuropil[:], DFF + 5)
    assert recording.kind == "fluorescence"
    recording = only(npz(tmp_path / "b.npz", F=DFF.T, Fneu=DFF.T + 5), transposed=True)
    np.testing.assert_array_equal(recording.traces[:], DFF)
    np.testing.assert_array_equal(recording.neuropil[:], DFF + 5)
    recording = only(npz(tmp_path / "c.npz", x=DFF, y=DFF + 5), key="x", neuropil_key="y", kind="fluorescence")
    np.testing.assert_array_equal(recording.neuropil[:], DFF + 5)
    # ΔF/F has had its neuropil subtracted.
    assert only(npz(tmp_path / "d.npz", dff=DFF, Fneu=DFF + 5)).neuropil is None


def test_dff_is_preferred_to_fluorescence(tmp_path):
    path = npz(tmp_path / "a.npz", F=DFF + 100, dff=DFF)
    assert only(path).key == "dff"
    assert only(path, key="F").kind == "fluorescence"


@pytest.mark.parametrize("keep", [0, 3, 60, 0.5, -1])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_files_are_named(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else np.savez)(
        path, *([DFF] if suffix == ".npy" else []), **({} if suffix == ".npy" else {"dff": DFF})
    )
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(FileFormatError, match=rf"a\{suffix}"):
        open_source(path)


def test_damage_inside_of_an_archive_is_named(tmp_path):
    path = npz(tmp_path / "a.npz", dff=np.random.default_rng(0).normal(size=(30, 200)))
    data = bytearray(path.read_bytes())
    data[10_000:10_010] = b"\0" * 10
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"a\.npz: array 'dff' cannot be read"):
        open_source(path)


def test_other_things_in_an_archive_do_no_harm(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "text")
        buffer = io.BytesIO()
        np.save(buffer, DFF)
        archive.writestr("dff.npy", buffer.getvalue())
    np.testing.assert_array_equal(only(tmp_path / "a.npz").traces[:], DFF)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(5), r"shape \(5,\)"),
        (np.ones((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.ones((0, 4)), r"shape \(0, 4\)"),
        (np.ones((2, 3), complex), "complex128"),
        (np.array([["a", "b"]]), "expected real numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_named(tmp_path, values, message):
    with pytest.raises(FileFormatError, match=message):
        open_source(npy(tmp_path / "a.npy", values))
    with pytest.raises(FileFormatError, match=message):
        open_source(npz(tmp_path / "a.npz", dff=values), key="dff")


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{"a": 1}]]), allow_pickle=True)
    with pytest.raises(FileFormatError, match="Python objects"):
        open_source(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", dff=np.array([[{"a": 1}, 2]]))
    with pytest.raises(FileFormatError):
        open_source(tmp_path / "a.npz")

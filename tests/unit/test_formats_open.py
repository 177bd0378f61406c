"""Which format a file is, across all of them; unknown files; what is forced, and what is missing."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import io

from cascade_rt import formats
from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.formats import FORMATS, open_source, read_recording
from cascade_rt.formats.extras import require
from cascade_rt.testing import ramp

DFF = ramp(3, 20)


def with_h5py(path, **values):
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name.replace("__", "/")] = value


def with_zarr(path, **values):
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name, value in values.items():
        root.create_array(name, data=np.asarray(value)).attrs["_ARRAY_DIMENSIONS"] = (
            [name] if value.ndim == 1 else ["unit_id", "frame"]
        )


def write(format, folder):
    """A recording of a format that holds DFF; its path."""
    noise = np.random.default_rng(0).normal(0, 0.1, DFF.shape)
    if format == "run":
        np.save(folder / "dff.npy", DFF)
        np.save(folder / "dff_frame.npy", np.arange(20))
        (folder / "run.json").write_text(json.dumps({"frame_rate_hz": 30.0}))
        return folder
    if format == "suite2p":
        for name, values in {"F": DFF, "Fneu": 0 * DFF, "iscell": np.ones((3, 2))}.items():
            np.save(folder / f"{name}.npy", values)
        return folder
    if format == "minian":
        with_zarr(folder / "YrA.zarr", YrA=DFF, unit_id=np.arange(3), frame=np.arange(20))
        return folder
    if format == "caiman":
        with_h5py(
            folder / "x.hdf5", estimates__C=DFF - noise, estimates__YrA=noise, estimates__A=np.eye(5)[:, :3],
            estimates__b=np.zeros((5, 1)), estimates__f=np.ones((1, 20)),
        )  # fmt: skip
        return folder / "x.hdf5"
    if format == "nwb":
        with_h5py(folder / "x.nwb", dff=DFF)
        return folder / "x.nwb"
    if format == "matlab":
        io.savemat(folder / "x.mat", {"dff": DFF})
        return folder / "x.mat"
    if format == "numpy":
        np.save(folder / "x.npy", DFF)
        return folder / "x.npy"
    if format == "zarr":
        with_zarr(folder / "x.zarr", dff=DFF)
        return folder / "x.zarr"
    if format == "hdf5":
        with_h5py(folder / "x.h5", dff=DFF)
        return folder / "x.h5"
    pd.DataFrame(DFF.T, columns=["a", "b", "c"]).to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def modules():
    return {name: import_module(f"cascade_rt.formats.{module}") for name, module in FORMATS.items()}


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_each_format_is_recognised_by_the_first_that_is_asked(tmp_path, format):
    path = write(format, tmp_path)
    chosen = next(name for name, module in modules().items() if module.recognises(path))
    assert chosen == format
    assert list(FORMATS.values()) == list(formats._MODULES), "asked in this order"


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"nwb"}))
def test_each_format_is_opened(tmp_path, format):
    path = write(format, tmp_path)
    for forced in (None, format):
        with open_source(path, format=forced) as source:
            assert (source.format, source.path) == (format, path)
            recording = source.only()
            np.testing.assert_allclose(recording.traces[:], DFF, rtol=1e-6)
            assert recording.path == path
            assert source.files
            assert all(file.is_file() for file in source.files)
            assert source.title


def test_the_contract_of_a_format():
    names = [module.NAME for module in modules().values()]
    assert names == list(FORMATS)
    for module in modules().values():
        assert module.TITLE
        assert module.WHAT


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_recognition_never_raises(tmp_path, name):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "short.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dff.npy").mkdir()
    module = modules()[name]
    for item in ("empty", "folder", "short.h5", "run", "not there", "not there.zarr"):
        assert module.recognises(tmp_path / item) is (item == "short.h5" and name == "hdf5")


def test_unknown_files_are_described(tmp_path):
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(FileFormatError) as caught:
        open_source(tmp_path / "a.xyz")
    message = str(caught.value)
    assert "a.xyz: suffix '.xyz' is not recognised; known are" in message
    for name, module in modules().items():
        assert f"{name}: {module.WHAT}" in message
    (tmp_path / "folder").mkdir()
    for number in range(12):
        (tmp_path / "folder" / f"{number:02}.tif").touch()
    with pytest.raises(FileFormatError, match=r"a folder with 00\.tif, .*07\.tif … is not recognised"):
        open_source(tmp_path / "folder")
    with pytest.raises(FileFormatError, match="no such file or folder"):
        open_source(tmp_path / "gone.npy")


def test_a_format_may_be_forced(tmp_path):
    path = write("hdf5", tmp_path)
    renamed = path.rename(tmp_path / "x.mat")
    with open_source(renamed, format="hdf5") as source:
        np.testing.assert_array_equal(source.only().traces[:], DFF)
    with pytest.raises(InputError, match=r"format='hdf6': expected one of run, suite2p"):
        open_source(renamed, format="hdf6")


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"numpy"}))
def test_a_forced_format_that_is_wrong_is_an_error_of_its_own(tmp_path, format):
    path = tmp_path / "x.npy"
    np.save(path, DFF)
    with pytest.raises((FileFormatError, InputError), match=r"x\.npy"):
        open_source(path, format=format)


def test_options_are_checked(tmp_path):
    with pytest.raises(InputError, match="kind"):
        open_source(write("numpy", tmp_path), kind="spikes")


def test_a_recording_of_one_plane_may_be_read_at_once(tmp_path):
    np.testing.assert_array_equal(read_recording(write("hdf5", tmp_path)).traces[:], DFF)
    path = tmp_path / "two.h5"
    with_h5py(path, a=DFF, b=DFF + 1)
    np.testing.assert_array_equal(read_recording(path, "b").traces[:], DFF + 1)


def test_what_is_missing_is_named(monkeypatch):
    assert require("numpy", "x", "x") is np
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InputError, match=r'doing this needs the package zarr.*: pip install "cascade-rt\[some\]"'):
        require("zarr", "some", "doing this")

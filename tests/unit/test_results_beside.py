"""Results beside their source: in its order, with its names and frames, and nothing of the source changed."""

from __future__ import annotations

import hashlib
import json
import sys
from types import ModuleType

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import xarray
import zarr
from result_files import IS_CELL, METADATA, N_FRAMES, N_NEURONS, NOISE, SPIKES, names_in, prob_of, write_portable
from scipy import io

from cascade_rt.errors import CascadeWarning, FileFormatError, OutputExistsError
from cascade_rt.formats import Recording, Source
from cascade_rt.results import arrays, beside, open_result, planned_paths, write_beside

EXPECTED = {"model": "GCaMP8", "alignment": "target", "lookahead_frames": 31}


def recording(path, name="", **fields):
    return Recording(traces=np.zeros((N_NEURONS, N_FRAMES)), path=path, name=name, is_cell=IS_CELL, **fields)


def source_of(path, format, *recordings):
    return Source(path=path, format=format, title=format, recordings=recordings, files=())


@pytest.fixture
def suite2p(tmp_path):
    """Two planes with what Suite2p leaves."""
    root = tmp_path / "mouse1" / "suite2p"
    folders = [root / "plane0", root / "plane1"]
    for folder in folders:
        folder.mkdir(parents=True)
        np.save(folder / "spks.npy", np.arange(5.0))
        np.save(folder / "F.npy", np.ones((N_NEURONS, N_FRAMES)))
    planes = [recording(f, f.name, kind="fluorescence", native={"folder": f}) for f in folders]
    return source_of(root, "suite2p", *planes)


def result_of(tmp_path, names=("",), **fields):
    return open_result(write_portable(tmp_path / "result.h5", names, **fields))


def state(folder):
    """Every file below a folder, and a hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_suite2p(suite2p, tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "BLOCK_VALUES", 2 * N_FRAMES)
    before = state(suite2p.path)
    with result_of(tmp_path, ("plane0", "plane1"), spikes=True, first_frame=0) as result:
        written = write_beside(suite2p, result)
    assert set(written) == set(planned_paths(suite2p))
    assert {name: seen for name, seen in state(suite2p.path).items() if name in before} == before, "spks.npy above all"
    for number, plane in enumerate(suite2p.recordings):
        folder = plane.path
        assert names_in(folder) == ["F.npy", "cascade_spike_prob.json", "cascade_spike_prob.npy", "cascade_spikes.npz",
                                    "spks.npy"]  # fmt: skip
        prob = np.load(folder / "cascade_spike_prob.npy")
        assert (prob.dtype, prob.shape) == (np.float32, np.load(folder / "F.npy").shape)
        np.testing.assert_array_equal(prob, prob_of() + 1000 * number)
        np.testing.assert_array_equal(np.isnan(prob).all(axis=1), ~IS_CELL)
        about = json.loads((folder / "cascade_spike_prob.json").read_text(encoding="utf-8"))
        assert {name: about[name] for name in EXPECTED} == EXPECTED
        assert about["noise_levels"] == [None if np.isnan(nu) else nu for nu in NOISE]
        assert (about["name"], about["frame_rate_hz"]) == (f"plane{number}", 20.0)
        spikes = np.load(folder / "cascade_spikes.npz")
        np.testing.assert_array_equal(spikes["neuron"], [0, 0, 0, 3, 3, 4])
        np.testing.assert_array_equal(spikes["frame"], np.concatenate(SPIKES))
        np.testing.assert_allclose(spikes["time_s"], np.concatenate(SPIKES) / 20)


def test_suite2p_into_another_folder(suite2p, tmp_path):
    before = state(suite2p.path)
    with result_of(tmp_path, ("plane1",)) as result:
        written = write_beside(suite2p, result, folder=tmp_path / "out")
    assert state(suite2p.path) == before
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "out/mouse1/plane1/cascade_spike_prob.npy", "out/mouse1/plane1/cascade_spike_prob.json",
    ]  # fmt: skip
    assert set(written) < set(planned_paths(suite2p, tmp_path / "out"))


def test_earlier_results_are_kept_or_replaced_as_a_whole(suite2p, tmp_path):
    with result_of(tmp_path, ("plane0", "plane1"), spikes=True) as result:
        write_beside(suite2p, result)
        earlier = state(suite2p.path)
        (suite2p.recordings[0].path / "cascade_spike_prob.npy").unlink()
        with pytest.raises(OutputExistsError, match=r"cascade_spike_prob\.json"):
            write_beside(suite2p, result)
        assert not (suite2p.recordings[0].path / "cascade_spike_prob.npy").exists()
        write_beside(suite2p, result, overwrite=True)
    assert state(suite2p.path) == earlier
    (tmp_path / "result.h5").unlink()
    with result_of(tmp_path, ("plane0", "plane1")) as result:
        write_beside(suite2p, result, overwrite=True)
    assert not (suite2p.recordings[0].path / "cascade_spikes.npz").exists(), "spikes of other probabilities"


@pytest.mark.parametrize("missing", [slice(20, 30), slice(0, 3)])
def test_frames_that_the_source_has_not(tmp_path, missing):
    """The result covers the whole time, the source only what was recorded."""
    frames = np.delete(np.arange(N_FRAMES), missing)
    folder = tmp_path / "plane0"
    folder.mkdir()
    plane = Recording(
        traces=np.zeros((N_NEURONS, frames.size)), path=folder, kind="fluorescence", frames=frames.astype(np.int64)
    )
    with result_of(tmp_path) as result:
        write_beside(source_of(folder, "suite2p", plane), result)
    np.testing.assert_array_equal(np.load(folder / "cascade_spike_prob.npy"), prob_of()[:, frames])


def test_results_of_something_else_are_refused(suite2p, tmp_path):
    before = state(suite2p.path)
    with result_of(tmp_path, ("plane0", "plane7")) as result, pytest.raises(FileFormatError, match="no plane 'plane7'"):
        write_beside(suite2p, result)
    (tmp_path / "result.h5").unlink()
    with (
        result_of(tmp_path, ("plane0",), first_frame=1) as result,
        pytest.raises(FileFormatError, match="frames 0 to 49"),
    ):
        write_beside(suite2p, result)
    fewer = Recording(traces=np.zeros((5, N_FRAMES)), path=tmp_path, name="plane0")
    with open_result(tmp_path / "result.h5") as result, pytest.raises(FileFormatError, match="5 neurons, the result 6"):
        write_beside(source_of(tmp_path, "suite2p", fewer), result)
    assert state(suite2p.path) == before


def test_caiman(tmp_path):
    path = tmp_path / "analysis.hdf5"
    path.write_bytes(b"source")
    source = source_of(path, "caiman", recording(path))
    with result_of(tmp_path, spikes=True) as result:
        assert write_beside(source, result) == planned_paths(source) == (tmp_path / "analysis_cascade.hdf5",)
    assert path.read_bytes() == b"source"
    with h5py.File(tmp_path / "analysis_cascade.hdf5") as file:
        np.testing.assert_array_equal(file["estimates/spike_prob"][:], prob_of())
        np.testing.assert_array_equal(file["estimates/noise_level"][:], NOISE)
        assert file["params/data/fr"][()] == 20.0
        np.testing.assert_array_equal(file["estimates/spikes/neuron"][:], [0, 0, 0, 3, 3, 4])
        np.testing.assert_array_equal(file["estimates/spikes/frame"][:], np.concatenate(SPIKES))
        assert json.loads(file.attrs["metadata"])["model"] == "GCaMP8"


def test_minian(tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "BLOCK_VALUES", 4 * N_FRAMES)
    folder = tmp_path / "mouse2" / "minian"
    folder.mkdir(parents=True)
    unit_id, frame = np.array([0, 3, 4, 8, 9, 12]), np.arange(N_FRAMES) * 2
    # As Minian would write it.
    xarray.Dataset(
        {"C": (("unit_id", "frame"), np.ones((N_NEURONS, N_FRAMES)))}, {"unit_id": unit_id, "frame": frame}
    ).to_zarr(folder / "C.zarr", zarr_format=2)
    before = state(folder)
    source = source_of(folder, "minian", recording(folder, native={"unit_id": unit_id, "frame": frame}))
    with result_of(tmp_path) as result:
        assert write_beside(source, result) == planned_paths(source) == (folder / "spike_prob.zarr",)
        with pytest.raises(OutputExistsError, match=r"spike_prob\.zarr"):
            write_beside(source, result)
        write_beside(source, result, overwrite=True)
    assert names_in(folder) == ["C.zarr", "spike_prob.zarr"]
    assert {name: seen for name, seen in state(folder).items() if name in before} == before
    with xarray.open_zarr(folder / "spike_prob.zarr") as ours, xarray.open_zarr(folder / "C.zarr") as theirs:
        assert ours.spike_prob.dims == theirs.C.dims
        for name in ("unit_id", "frame"):
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours.spike_prob, prob_of())
        np.testing.assert_array_equal(ours.spike_prob.sel(unit_id=8), prob_of()[3])
        assert json.loads(ours.spike_prob.attrs["metadata"])["model"] == "GCaMP8"
        assert (ours.C if "C" in ours else theirs.C + ours.spike_prob).shape == (N_NEURONS, N_FRAMES)
    assert zarr.open_group(str(folder / "spike_prob.zarr"), mode="r").metadata.zarr_format == 2
    other = planned_paths(source, tmp_path / "out")
    assert other == (tmp_path / "out" / "mouse2" / "spike_prob.zarr",)


def test_nwb_is_left_to_its_writer(tmp_path, monkeypatch):
    called = []
    module = ModuleType("cascade_rt.results.nwb")
    module.write_nwb = lambda *arguments, **options: called.append((arguments, options))
    monkeypatch.setitem(sys.modules, "cascade_rt.results.nwb", module)
    path = tmp_path / "a.nwb"
    source = source_of(path, "nwb", recording(path))
    with result_of(tmp_path) as result:
        assert write_beside(source, result) == (tmp_path / "a_cascade.nwb",)
        assert called == [((source, tmp_path / "a_cascade.nwb", result), {"overwrite": True})]


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.mat", "matlab", "a_spike_prob.mat"),
        ("a.npy", "numpy", "a_spike_prob.npy"),
        ("a.npz", "numpy", "a_spike_prob.npz"),
        ("a.csv", "table", "a_spike_prob.csv"),
        ("a.tsv", "table", "a_spike_prob.csv"),
        ("a.parquet", "table", "a_spike_prob.parquet"),
    ],
)
def test_plain_files(tmp_path, name, format, expected):
    path = tmp_path / name
    path.write_bytes(b"source")
    ids = tuple(f"cell {i}" for i in range(N_NEURONS))
    source = source_of(path, format, recording(path, neuron_ids=ids))
    with result_of(tmp_path, neuron_ids=ids) as result:
        assert write_beside(source, result) == planned_paths(source) == (tmp_path / expected,)
        with pytest.raises(OutputExistsError, match=expected):
            write_beside(source, result)
        write_beside(source, result, overwrite=True)
    assert path.read_bytes() == b"source"
    suffix = expected[-4:]
    if suffix == ".csv":
        names = (tmp_path / expected).read_text(encoding="utf-8").splitlines()[0].split(",")
        assert names == ["frame", "time_s", *ids]
    elif suffix == "quet":
        assert pyarrow.parquet.read_table(tmp_path / expected).column_names == ["frame", "time_s", *ids]
    elif suffix == ".mat":
        np.testing.assert_array_equal(io.loadmat(tmp_path / expected)["spike_prob"], prob_of())
    else:
        stored = np.load(tmp_path / expected)
        np.testing.assert_array_equal(stored if suffix == ".npy" else stored["spike_prob"], prob_of())


def test_what_matlab_cannot_hold_does_not_end_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAT_BYTES", 100)
    path = tmp_path / "a.mat"
    with result_of(tmp_path) as result, pytest.warns(CascadeWarning, match="not written.*2 GiB"):
        assert write_beside(source_of(path, "matlab", recording(path)), result) == ()


@pytest.mark.parametrize("format", ["hdf5", "zarr", "run"])
def test_formats_without_a_convention_have_the_portable_result_alone(tmp_path, format):
    path = tmp_path / "a.h5"
    source = source_of(path, format, recording(path))
    assert planned_paths(source) == ()
    with result_of(tmp_path) as result:
        assert write_beside(source, result) == ()
    assert names_in(tmp_path) == ["result.h5"]


def test_a_failed_write_leaves_the_earlier_result(suite2p, tmp_path, monkeypatch):
    with result_of(tmp_path, ("plane0",)) as result:
        write_beside(suite2p, result)
        before = state(suite2p.path)

        def fail(*arguments):
            yield slice(0, 1), prob_of()[:1]
            raise OSError("disk full")

        monkeypatch.setattr(beside, "_blocks", fail)
        with pytest.raises(OSError, match="disk full"):
            write_beside(suite2p, result, overwrite=True)
    assert state(suite2p.path) == before
    assert METADATA["model"] in (suite2p.recordings[0].path / "cascade_spike_prob.json").read_text(encoding="utf-8")

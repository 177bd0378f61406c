"""Results in other formats: the same numbers at the same neurons and frames, and back again."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from result_files import IS_CELL, METADATA, N_FRAMES, NOISE, SPIKES, chunk, names_in, prob_of, write_portable
from scipy import io

from cascade_rt.errors import CascadeWarning, FileFormatError, InputError, OutputExistsError
from cascade_rt.results import ResultAppender, arrays, export_result, exports, open_result
from cascade_rt.testing import ramp


@pytest.fixture
def portable(tmp_path):
    fields = {"first_frame": 5, "dff": True, "neuron_ids": ("a", "b ö", "c", "d", "e", 'f,"g"')}
    with open_result(write_portable(tmp_path / "a.h5", spikes=True, **fields)) as result:
        yield result


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5", ".npy"])
def test_what_is_written_can_be_opened_again(portable, tmp_path, suffix):
    path = export_result(portable, tmp_path / f"b{suffix}")
    with open_result(path) as result:
        np.testing.assert_array_equal(result.spike_prob[:], prob_of())
        np.testing.assert_array_equal(result.noise_levels, NOISE)
        np.testing.assert_array_equal(result.frame_index, np.arange(5, 55))
        assert result.neuron_ids == portable.neuron_ids
        assert (result.frame_rate_hz, result.lookahead_frames, result.complete) == (20.0, 31, True)
        assert {name: result.metadata[name] for name in METADATA} == METADATA
        if suffix != ".npy":
            np.testing.assert_array_equal(result.dff[:], -prob_of())
            np.testing.assert_array_equal(result.is_cell, IS_CELL)
            assert [one.tolist() for one in result.spikes] == SPIKES
            assert result.why_undefined == portable.why_undefined


def test_results_are_copied_byte_by_byte(portable, tmp_path):
    export_result(portable, tmp_path / "b.h5")
    assert (tmp_path / "b.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_several_planes(tmp_path, suffix):
    write_portable(tmp_path / "a.h5", ("plane0", "2nd plane"), spikes=True)
    with open_result(tmp_path / "a.h5") as result:
        export_result(result, tmp_path / f"b{suffix}")
        for single in (".npy", ".csv", ".parquet"):
            with pytest.raises(InputError, match="plane0, 2nd plane"):
                export_result(result, tmp_path / f"c{single}")
        export_result(result, tmp_path / "c.npy", plane="2nd plane")
        export_result(result, tmp_path / "d.h5", plane="2nd plane")
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), prob_of() + 1000)
    stored = dict(np.load(tmp_path / "b.npz")) if suffix == ".npz" else io.loadmat(tmp_path / "b.mat")
    np.testing.assert_array_equal(stored["plane0_spike_prob"], prob_of())
    np.testing.assert_array_equal(stored["p2nd_plane_spike_prob"], prob_of() + 1000)
    for path in (f"b{suffix}", "d.h5"):
        with open_result(tmp_path / path) as result:
            np.testing.assert_array_equal(result["2nd plane"].spike_prob[:], prob_of() + 1000)
            assert [one.tolist() for one in result["2nd plane"].spikes] == SPIKES
    assert names_in(tmp_path) == sorted(["a.h5", f"b{suffix}", "c.npy", "c.npy.json", "d.h5"])


def test_one_named_plane_keeps_its_name(tmp_path):
    write_portable(tmp_path / "a.h5", ("plane3",))
    with open_result(tmp_path / "a.h5") as result:
        export_result(result, tmp_path / "b.npz")
    with open_result(tmp_path / "b.npz") as result:
        np.testing.assert_array_equal(result["plane3"].spike_prob, prob_of())
        np.testing.assert_array_equal(result.noise_levels, NOISE)
        export_result(result, tmp_path / "c.mat")
    with open_result(tmp_path / "c.mat") as result:
        np.testing.assert_array_equal(result["plane3"].spike_prob, prob_of())


@pytest.mark.parametrize("values", [7, 13, 10**6])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(portable, tmp_path, monkeypatch, suffix, values):
    monkeypatch.setattr(exports, "TABLE_VALUES", values)
    path = export_result(portable, tmp_path / f"b{suffix}")
    if suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = list(csv.reader(file))
        table = np.array([[float(cell or "nan") for cell in row] for row in rows])
    else:
        read = pyarrow.parquet.read_table(path)
        names = read.column_names
        table = np.stack([read.column(name).to_numpy() for name in names], axis=1)
        assert [str(kind) for kind in read.schema.types[:3]] == ["int64", "double", "float"]
        assert json.loads(read.schema.metadata[b"cascade_rt"])["model"] == "GCaMP8"
    assert names == ["frame", "time_s", *portable.neuron_ids]
    np.testing.assert_array_equal(table[:, 0], np.arange(5, 55))
    np.testing.assert_allclose(table[:, 1], np.arange(5, 55) / 20)
    np.testing.assert_allclose(table[:, 2:], prob_of().T, rtol=1e-6)


def test_tables_leave_out_what_is_not_valid_and_count_the_neurons(tmp_path):
    with ResultAppender(tmp_path / "a.h5", 3, {"frame_rate_hz": 10.0}, lookaheads=(2,)) as appender:
        appender.append(chunk(3, 2, valid=False))
        appender.append(chunk(9, 1))
        appender.finish()
    with open_result(tmp_path / "a.h5") as result:
        export_result(result, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text().splitlines() == [
        "frame,time_s,neuron0,neuron1,neuron2", "3,0.300000,,,", "4,0.400000,,,",
        "9,0.900000,9,9.000977,9.001953",
    ]  # fmt: skip


def test_runs_with_revisions(tmp_path):
    with ResultAppender(tmp_path / "a.h5", 3, {"frame_rate_hz": 10.0, "n": 1}, lookaheads=(2, 7)) as appender:
        appender.append(chunk(0, 9, 2))
        appender.append(chunk(0, 4, 7, valid=False))
        appender.append(chunk(6, 1, 7))
        appender.finish(complete=False)
    with open_result(tmp_path / "a.incomplete.h5") as result:
        export_result(result, tmp_path / "b.npz")
        export_result(result, tmp_path / "b.npy")
        with pytest.warns(CascadeWarning, match="longest look-ahead"):
            export_result(result, tmp_path / "b.h5")
    np.testing.assert_array_equal(np.isnan(np.load(tmp_path / "b.npy")[0]), [True] * 4 + [False])
    for name in ("b.npz", "b.npy", "b.h5"):
        with open_result(tmp_path / name) as result:
            assert not result.complete
            np.testing.assert_array_equal(result.frame_index, [0, 1, 2, 3, 6])
            np.testing.assert_array_equal(result.spike_prob[:, 4:], ramp(3, 1, 6))
            if name == "b.npz":
                np.testing.assert_array_equal(result.revisions[2].spike_prob, ramp(3, 9))
            if name != "b.npy":
                np.testing.assert_array_equal(result.valid[2], [0, 0, 0, 0, 1])


@pytest.mark.parametrize("suffix", exports.SUFFIXES)
def test_existing_files_are_kept(portable, tmp_path, suffix):
    path = tmp_path / f"b{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export_result(portable, path)
    assert path.read_bytes() == b"precious"
    export_result(portable, path, overwrite=True)
    assert path.read_bytes() != b"precious"
    assert not [name for name in names_in(tmp_path) if "tmp" in name or "incomplete" in name]


def test_large_arrays_and_matlab(portable, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAT_BYTES", 4 * 6 * N_FRAMES)
    with pytest.raises(FileFormatError, match=r"spike_prob has 1200 bytes.*2 GiB.*h5read"):
        export_result(portable, tmp_path / "b.mat")
    assert names_in(tmp_path) == ["a.h5"]


def test_unknown_names_are_refused(portable, tmp_path):
    with pytest.raises(InputError, match=r"\.h5, \.npz, \.npy, \.mat, \.csv, \.parquet"):
        export_result(portable, tmp_path / "b.xlsx")
    for suffix in (".csv", ".h5", ".npz"):
        with pytest.raises(InputError, match="does not exist"):
            export_result(portable, tmp_path / "none" / f"b{suffix}")
    with pytest.raises(InputError, match="no plane 'x'"):
        export_result(portable, tmp_path / "b.npz", plane="x")


def test_a_failed_export_leaves_nothing(portable, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "_by_frame", lambda recording: iter([1 / 0] if recording is None else [None]))
    with pytest.raises(TypeError):
        export_result(portable, tmp_path / "b.csv")
    assert names_in(tmp_path) == ["a.h5"]


def test_matlab_sees_texts_as_cells(portable, tmp_path):
    export_result(portable, tmp_path / "b.mat")
    stored = io.loadmat(tmp_path / "b.mat")
    assert stored["neuron_ids"].dtype == object
    assert stored["neuron_ids"].ravel()[1][0] == "b ö"
    assert json.loads(stored["metadata"][0])["model"] == "GCaMP8"
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["recordings/main/neuron_ids"][1].decode() == "b ö"

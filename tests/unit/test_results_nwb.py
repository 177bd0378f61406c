"""Spike probabilities in NWB files: in the right place, at the right time, and as the schema wants them."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from nwb_files import RATE, Trace, dff, quiet, ramp, replace, write_file

from cascade_rt.errors import FileFormatError, InputError, OutputExistsError
from cascade_rt.formats import Recording, open_source
from cascade_rt.results import nwb as writer
from cascade_rt.results.nwb import write_nwb

SUITE2P = Path(__file__).resolve().parents[1] / "data" / "suite2p" / "v1" / "suite2p" / "ophys.nwb"
METADATA = {
    "model": "A_model",
    "smoothing_s": 0.05,
    "causal_kernel": True,
    "lookahead_frames": 7,
    "alignment": "target",
    "threshold": "zero",
    "frame_rate_hz": RATE,
    "version": "1.2.3",
}


@dataclass
class Plane:
    spike_prob: Any
    noise_levels: Any
    recording: Recording | None = None
    name: str = ""
    metadata: dict = field(default_factory=lambda: dict(METADATA))


def result_of(recording: Recording) -> Plane:
    """Every value tells its neuron and frame; undefined at the ends, and for the first neuron."""
    prob = (ramp(recording.n_frames, recording.n_neurons) / 65536).T.copy()
    prob[:, :3] = prob[:, -4:] = prob[0] = np.nan
    prob.flags.writeable = False
    return Plane(prob, 1.0 + np.arange(recording.n_neurons) / 10, recording, recording.name)


def infer(path: Path, target: Path | None = None, **options) -> tuple[Path, list[Plane]]:
    with open_source(path, format="nwb") as source:
        planes = [result_of(recording) for recording in source.recordings]
        return write_nwb(path, target, planes, **options), planes


def remarks(path: Path) -> set[tuple[str, str, str]]:
    """Errors of pynwb's validator, and what nwbinspector thinks of more than a suggestion."""
    import nwbinspector
    import pynwb

    with quiet():
        found = {("schema", str(error.name), str(error.reason)) for error in pynwb.validate(path=str(path))}
        for message in nwbinspector.inspect_nwbfile(nwbfile_path=str(path)):
            if message.importance.name != "BEST_PRACTICE_SUGGESTION":
                found.add((message.importance.name, str(message.location), message.message))
    return found


def plain_file(folder: Path, **options) -> Path:
    traces = [
        dff("plane0", ramp(120, 4)),
        Trace("plane0", ramp(120, 4)),
        Trace("plane0", ramp(120, 4), "Neuropil"),
        Trace("plane0", ramp(120, 4), "Deconvolved"),
    ]
    return write_file(folder / "session.nwb", traces, columns={"iscell": [1.0, 0.0, 1.0, 1.0]}, **options)


def test_a_copy_with_the_result_is_valid_and_the_source_untouched(tmp_path: Path) -> None:
    from pynwb import NWBHDF5IO

    path = plain_file(tmp_path, starting_time=2.5)
    before = path.read_bytes()
    written, (plane,) = infer(path)
    assert written == tmp_path / "session_cascade.nwb"
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["session.nwb", "session_cascade.nwb"]
    assert remarks(written) == remarks(path) == set()
    with quiet(), NWBHDF5IO(str(written), "r") as io:
        module = io.read().processing["ophys"]
        series, source = module["SpikeProbability"], module["DfOverF"]["plane0"]
        np.testing.assert_array_equal(series.data[:], plane.spike_prob.T)
        assert series.data.dtype == np.float32
        assert (series.rate, series.starting_time) == (source.rate, source.starting_time) == (RATE, 2.5)
        assert series.unit == "expected spikes per frame"
        assert series.rois.table is source.rois.table
        assert list(series.rois.data[:]) == [0, 1, 2, 3]
        for said in ("A_model", "50 ms, causal", "Look-ahead: 7", "Alignment: target", "Threshold: zero", "1.2.3", "ν"):
            assert said in series.description
        stored = json.loads(series.comments)
        assert METADATA.items() <= stored.items()
        assert stored["source_series"] == "/processing/ophys/DfOverF/plane0"
        noise = module["SpikeInferenceNoise"]
        np.testing.assert_array_equal(noise["noise_level"].data[:], plane.noise_levels)
        assert noise["roi"].table is source.rois.table
        assert list(noise["roi"].data[:]) == [0, 1, 2, 3]


def test_the_reader_does_not_take_the_result_for_traces(tmp_path: Path) -> None:
    written, _ = infer(plain_file(tmp_path))
    with open_source(written) as source:
        assert source.only().key == "/processing/ophys/DfOverF/plane0"
        assert source.only().kind == "dff"


def test_time_stamps_are_those_of_the_source(tmp_path: Path) -> None:
    from pynwb import NWBHDF5IO

    times = 3.0 + np.delete(np.arange(121) / RATE, 60)
    path = plain_file(tmp_path, timestamps=times)
    written, (plane,) = infer(path)
    assert remarks(written) == remarks(path)
    with h5py.File(written) as file:
        assert isinstance(file["processing/ophys/SpikeProbability"].get("timestamps", getlink=True), h5py.SoftLink)
    with quiet(), NWBHDF5IO(str(written), "r") as io:
        series = io.read().processing["ophys"]["SpikeProbability"]
        np.testing.assert_array_equal(series.get_timestamps()[:], times)
        np.testing.assert_array_equal(series.data[:], plane.spike_prob.T)
        assert series.rate is None


def test_two_planes_of_one_table(tmp_path: Path) -> None:
    from pynwb import NWBHDF5IO

    traces = [Trace("plane0", ramp(120, 3, 1.0), rows=[0, 1, 2]), Trace("plane1", ramp(120, 2, 1.0), rows=[4, 3])]
    # Suite2p fills up the shorter plane with zeros.
    traces[1].data[-1] = 0
    path = write_file(tmp_path / "s.nwb", traces, n_rois=5)
    written, planes = infer(path, tmp_path / "out.nwb")
    assert written == tmp_path / "out.nwb"
    assert planes[1].spike_prob.shape == (2, 119)
    assert remarks(written) == remarks(path)
    with quiet(), NWBHDF5IO(str(written), "r") as io:
        module = io.read().processing["ophys"]
        np.testing.assert_array_equal(module["SpikeProbability_plane0"].data[:], planes[0].spike_prob.T)
        second = module["SpikeProbability_plane1"]
        np.testing.assert_array_equal(second.data[:119], planes[1].spike_prob.T)
        assert np.isnan(second.data[119]).all()
        assert list(second.rois.data[:]) == [4, 3]
        np.testing.assert_array_equal(module["SpikeInferenceNoise_plane1"]["noise_level"].data[:], [1.0, 1.1])


def test_results_find_their_planes_by_name(tmp_path: Path) -> None:
    class Results(list):
        metadata: ClassVar = METADATA | {"long": "x" * 200_000}  # more than HDF5 keeps in an object's header

    traces = [Trace("plane0", ramp(120, 3), rows=[0, 1, 2]), Trace("plane1", ramp(120, 2), rows=[4, 3])]
    path = write_file(tmp_path / "s.nwb", traces, n_rois=5)
    with open_source(path) as source:
        plane = Plane(np.zeros((2, 120), np.float32), None, name="plane1", metadata={"dff": "as the file has it"})
        written = write_nwb(source, None, Results([plane]))
        with pytest.raises(FileFormatError, match=r"no plane 'plane2'.*'plane0', 'plane1'"):
            write_nwb(source, tmp_path / "o.nwb", [Plane(plane.spike_prob, None, name="plane2")])
    with h5py.File(written) as file:
        module = file["processing/ophys"]
        assert "SpikeProbability_plane0" not in module
        assert json.loads(module["SpikeProbability_plane1"].attrs["comments"])["model"] == "A_model"
        assert np.isnan(module["SpikeInferenceNoise_plane1/noise_level"][()]).all()


def test_a_transposed_source_gets_a_result_as_nwb_has_it(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("plane0", ramp(120, 4).T.copy())])
    written, (plane,) = infer(path)
    with h5py.File(written) as file:
        np.testing.assert_array_equal(file["processing/ophys/SpikeProbability/data"][()], plane.spike_prob.T)
    assert not {remark for remark in remarks(written) if "Spike" in str(remark)}


def test_a_source_without_the_usual_module(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("traces", ramp(120, 4), module="pipeline")])
    written, _ = infer(path)
    assert remarks(written) == remarks(path)
    with h5py.File(written) as file:
        assert file["processing/ophys/SpikeProbability/rois"].shape == (4,)


def test_a_file_without_identifiers(tmp_path: Path) -> None:
    path = plain_file(tmp_path)
    with h5py.File(path, "r+") as file:

        def forget(_: str, item: Any) -> None:
            item.attrs.pop("object_id", None)

        file.visititems(forget)
    written, (plane,) = infer(path)
    with h5py.File(written) as file:
        np.testing.assert_array_equal(file["processing/ophys/SpikeProbability/data"][()], plane.spike_prob.T)
        table = file[file["processing/ophys/SpikeProbability/rois"].attrs["table"]]
        assert table.name == "/processing/ophys/ImageSegmentation/PlaneSegmentation"


def test_in_place_and_again(tmp_path: Path) -> None:
    path = plain_file(tmp_path)
    path.chmod(0o640)
    assert infer(path, in_place=True)[0] == path
    assert [item.name for item in tmp_path.iterdir()] == ["session.nwb"]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o640
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"holds results already .*/SpikeProbability\): write into the file"):
        infer(path, in_place=True)
    with pytest.raises(OutputExistsError, match="holds results already"):
        infer(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["session.nwb"]
    with open_source(path) as source:
        plane = result_of(source.only())
        plane.spike_prob = plane.spike_prob + np.float32(0.5)
        write_nwb(path, None, [plane], in_place=True, overwrite=True)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["processing/ophys/SpikeProbability/data"][()], plane.spike_prob.T)
    assert remarks(path) == set()


def test_existing_files_and_wrong_options_are_refused(tmp_path: Path) -> None:
    path = plain_file(tmp_path)
    infer(path)
    with pytest.raises(OutputExistsError, match=r"session_cascade\.nwb exists.*overwrite"):
        infer(path)
    infer(path, overwrite=True)
    with pytest.raises(InputError, match="leave out the target"):
        infer(path, tmp_path / "o.nwb", in_place=True)
    with pytest.raises(OutputExistsError, match="is the source itself"):
        infer(path, path, overwrite=True)
    with open_source(path) as source, pytest.raises(InputError, match="no results"):
        write_nwb(source, tmp_path / "o.nwb", [])


def test_results_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = plain_file(tmp_path)
    with open_source(path) as source:
        plane = result_of(source.only())
        for prob in (plane.spike_prob[:, :-1], plane.spike_prob[:-1], plane.spike_prob.T):
            with pytest.raises(FileFormatError, match="has 4 neurons and 120 frames, the result"):
                write_nwb(source, None, [Plane(prob, plane.noise_levels)])
        with pytest.raises(FileFormatError, match=r"noise_levels has shape \(3,\): expected \(4,\)"):
            write_nwb(source, None, [Plane(plane.spike_prob, plane.noise_levels[:3])])
    assert [item.name for item in tmp_path.iterdir()] == ["session.nwb"]


def test_traces_of_unknown_regions_are_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(120, 4))])
    replace(path, "processing/ophys/Fluorescence/x/rois", np.arange(2))
    with pytest.raises(FileFormatError, match="does not tell which regions of interest"):
        infer(path)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    path = plain_file(tmp_path)
    before = path.read_bytes()

    class Failing:
        shape, dtype = (4, 120), np.dtype(np.float32)

        def __getitem__(self, key: Any) -> Any:
            raise OSError("the disk is gone")

    with open_source(path) as source:
        for options in ({}, {"in_place": True}):
            with pytest.raises(FileFormatError, match="the disk is gone"):
                write_nwb(path, None, [Plane(Failing(), None, source.only())], **options)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["session.nwb"]


def test_links_to_other_files_must_still_lead_there(tmp_path: Path) -> None:
    path = write_file(tmp_path / "s.nwb", [Trace("x", ramp(120, 4))])
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "data.h5", "w") as other:
        group = file["processing/ophys/Fluorescence/x"]
        other["values"] = group["data"][()]
        other["values"].attrs.update(dict(group["data"].attrs))
        del group["data"]
        group["data"] = h5py.ExternalLink("data.h5", "/values")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"has links to files beside it .*data\.h5"):
        infer(path, tmp_path / "out" / "o.nwb")
    written, (plane,) = infer(path)
    with h5py.File(written) as file:
        np.testing.assert_array_equal(file["processing/ophys/SpikeProbability/data"][()], plane.spike_prob.T)


def test_values_pass_through_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BUFFER_VALUES", 20_000)
    monkeypatch.setattr(writer, "CHUNK_FRAMES", 256)
    monkeypatch.setattr(writer, "CHUNK_ROIS", 8)
    n_rois, n_frames = 50, 3001
    path = write_file(tmp_path / "s.nwb", [dff("x", ramp(n_frames, n_rois))], n_rois=n_rois)
    prob = ramp(n_frames, n_rois).T

    class Counting:
        shape, dtype, largest = prob.shape, prob.dtype, 0

        def __getitem__(self, key: Any) -> Any:
            block = prob[key]
            Counting.largest = max(Counting.largest, block.size)
            return block

    with open_source(path) as source:
        written = write_nwb(path, None, [Plane(Counting(), None, source.only())])
    assert 0 < Counting.largest <= 20_000
    with h5py.File(written) as file:
        data = file["processing/ophys/SpikeProbability/data"]
        np.testing.assert_array_equal(data[()], prob.T)
        assert data.chunks == (256, 8)


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BUFFER_VALUES", 200_000)
    n_rois, n_frames = 64, 60_000
    path = write_file(tmp_path / "s.nwb", [dff("x", np.zeros((n_frames, n_rois), np.float32))], n_rois=n_rois)

    class Zeros:
        shape, dtype = (n_rois, n_frames), np.dtype(np.float32)

        def __getitem__(self, key: Any) -> Any:
            rows, columns = key
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)

    with open_source(path) as source:
        tracemalloc.start()
        try:
            write_nwb(path, None, [Plane(Zeros(), None, source.only())])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 0.6 * 4 * n_rois * n_frames  # the whole would be 15 MB


def test_the_file_that_suite2p_wrote(tmp_path: Path) -> None:
    from pynwb import NWBHDF5IO

    if not SUITE2P.is_file():
        pytest.skip("tests/data/suite2p has no NWB file")
    written, planes = infer(SUITE2P, tmp_path / "ophys_cascade.nwb")
    assert remarks(written) <= remarks(SUITE2P)
    with quiet(), NWBHDF5IO(str(written), "r") as io:
        module = io.read().processing["ophys"]
        for plane in planes:
            series, source = module[f"SpikeProbability_{plane.name}"], module["Fluorescence"][plane.name]
            n_frames = plane.spike_prob.shape[1]
            np.testing.assert_array_equal(series.data[:n_frames], plane.spike_prob.T)
            assert np.isnan(series.data[n_frames:]).all()
            assert series.data.shape == source.data.shape
            assert (series.rate, series.starting_time) == (source.rate, source.starting_time)
            assert list(series.rois.data[:]) == list(source.rois.data[:])
            assert series.rois.table is source.rois.table

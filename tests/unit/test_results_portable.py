"""Writing portable results: every row where it belongs, readable at every step, nothing replaced by mistake."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from result_files import IS_CELL, METADATA, N_FRAMES, N_NEURONS, NOISE, SPIKES, chunk, names_in, prob_of, write_portable

from cascade_rt.errors import InputError, OutputExistsError
from cascade_rt.results import ResultAppender, ResultWriter, layout, open_result
from cascade_rt.testing import ManualClock, ramp


def test_every_row_is_where_it_belongs(tmp_path):
    rng = np.random.default_rng(0)
    prob = ramp(40, 30)
    with ResultWriter(tmp_path / "a.h5", {}) as writer:
        target = writer.begin("", 40, 30)
        order = rng.permutation(40)
        target.write(order[:7], prob[order[:7]])
        target.write(np.isin(np.arange(40), order[7:20]), prob[np.sort(order[7:20])])
        for start in range(20, 40, 3):
            rows = np.sort(order[start : start + 3])
            target.write(rows, prob[rows])
        assert writer.finish() == tmp_path / "a.h5"
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_array_equal(result.spike_prob[:], prob)
        np.testing.assert_array_equal(result.spike_prob[5:9, 10:20], prob[5:9, 10:20])
        assert result.done.all()
        assert result.complete
    assert names_in(tmp_path) == ["a.h5"]


def test_slices_and_other_layouts_of_arrays(tmp_path):
    prob = ramp(5, 8)
    frozen = np.asfortranarray(prob.astype(np.float64))
    frozen.flags.writeable = False
    with ResultWriter(tmp_path / "a.h5", {}) as writer:
        target = writer.begin("", 5, 8)
        target.write(slice(1, None, 2), frozen[1::2])
        target.write(slice(0, 5, 2), frozen[::2])
        writer.finish()
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_array_equal(result.spike_prob[:], prob)


def test_all_fields(tmp_path):
    timestamps = np.cumsum(np.full(N_FRAMES, 0.051)) + 3
    write_portable(tmp_path / "a.h5", ("plane0", "plane10", "plane2"), spikes=True, dff=True, timestamps=timestamps,
                   neuron_ids=[f"zelle ü{i}" for i in range(N_NEURONS)], first_frame=7, f0=np.arange(6.0),
                   metadata={"kind": "dff"})  # fmt: skip
    with open_result(tmp_path / "a.h5") as result:
        assert [recording.name for recording in result] == ["plane0", "plane10", "plane2"], "as written, not sorted"
        for number, plane in enumerate(result):
            prob = prob_of() + np.float32(1000 * number)
            np.testing.assert_array_equal(plane.spike_prob[:], prob)
            np.testing.assert_array_equal(plane.dff[:], -prob)
            np.testing.assert_array_equal(plane.noise_levels, NOISE)
            np.testing.assert_array_equal(plane.is_cell, IS_CELL)
            np.testing.assert_array_equal(plane.times, timestamps)
            np.testing.assert_array_equal(plane.frame_index, np.arange(7, 57))
            np.testing.assert_array_equal(plane.f0, np.arange(6))
            assert [one.tolist() for one in plane.spikes] == SPIKES
            assert plane.neuron_ids == tuple(f"zelle ü{i}" for i in range(N_NEURONS))
            assert plane.why_undefined == tuple("" if cell else "not accepted as a cell" for cell in IS_CELL)
            assert plane.frame_rate_hz == 20.0
            assert plane.metadata == {"kind": "dff"}
        assert result.metadata == {**METADATA, "complete": True}


def test_what_was_not_given_is_not_there(tmp_path):
    with ResultWriter(tmp_path / "a.h5", {}) as writer:
        writer.begin("", 2, 4, neuron_ids=[17, 4]).write([0], ramp(1, 4))
        writer.finish()
    with open_result(tmp_path / "a.h5") as result:
        assert (result.is_cell, result.frames, result.timestamps, result.dff, result.spikes, result.f0) == (None,) * 6
        assert np.isnan(result.noise_levels).all()
        assert result.neuron_ids == (17, 4)
        assert result.done.tolist() == [True, False]
        assert np.isnan(result.spike_prob[1]).all()
        with pytest.raises(InputError, match="frame rate"):
            _ = result.times


def test_other_programs_can_read_the_file(tmp_path):
    write_portable(tmp_path / "a.h5", spikes=True)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file.attrs["format"] == "cascade_rt result"
        assert file.attrs["format_version"] == 1
        assert json.loads(file["metadata"].asstr()[()])["warnings"] == ["ν is high"]
        arrays = []
        file.visititems(lambda name, item: arrays.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        kinds = {name: item.dtype for name, item in arrays}
        # No enumerations, no texts of variable length, no compression: what every reader knows.
        assert {kind.kind for kind in kinds.values()} <= set("fiuS")
        assert all(item.attrs["description"] for _, item in arrays)
        main = file["recordings/main"]
        assert main["spike_prob"].attrs["units"] == "spikes per frame"
        assert main["noise_levels"].attrs["units"] == "% Hz^-1/2"
        assert main["spikes/neuron"][:].tolist() == [0, 0, 0, 3, 3, 4]
        assert main["spikes/column"][:].tolist() == [3, 3, 7, 0, 49, 48]
    with (tmp_path / "a.h5").open("rb") as raw:
        assert raw.read(9)[8] == 0, "the first version of the superblock"


def test_the_file_can_be_read_after_every_step(tmp_path):
    path, work = tmp_path / "a.h5", tmp_path / "a.incomplete.h5"
    prob = prob_of()
    with ResultWriter(path, METADATA) as writer:
        first = writer.begin("plane0", N_NEURONS, N_FRAMES)
        assert not work.exists(), "nothing to say yet"
        first.write([2], prob[[2]])
        with open_result(work) as result:
            assert not result.complete
            assert result["plane0"].done.tolist() == [False, False, True, False, False, False]
            np.testing.assert_array_equal(result["plane0"].spike_prob[2], prob[2])
            assert result.metadata["model"] == "GCaMP8"
        first.write([0, 4], prob[[0, 4]], spikes=[[1], [2]])
        second = writer.begin("plane1", 2, 9)
        second.write([1], ramp(1, 9))
        first.write([1], prob[[1]])
        with open_result(work) as result:
            assert [int(plane.done.sum()) for plane in result] == [4, 1]
            np.testing.assert_array_equal(result["plane0"].spike_prob[[0, 1, 2, 4]], prob[[0, 1, 2, 4]])
            np.testing.assert_array_equal(result["plane1"].spike_prob[1], ramp(1, 9)[0])
            assert np.isnan(result["plane1"].spike_prob[0]).all()
            assert result["plane0"].spikes is None
        assert not path.exists()
        writer.finish({"more": 1})
    with open_result(path) as result:
        assert (result.complete, result.metadata["more"]) == (True, 1)
        assert result["plane0"].spikes[4].tolist() == [2]
        assert result["plane1"].spikes is None
    assert names_in(tmp_path) == ["a.h5"]


def test_an_error_leaves_an_incomplete_result_or_nothing(tmp_path):
    def stop(rows):
        with ResultWriter(tmp_path / "a.h5", {}) as writer:
            target = writer.begin("", 2, 4)
            target.set(noise_levels=[1, 2])
            if rows:
                target.write(rows, ramp(1, 4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop([])
    assert names_in(tmp_path) == []
    with pytest.raises(ZeroDivisionError):
        stop([1])
    assert names_in(tmp_path) == ["a.incomplete.h5"]
    with ResultWriter(tmp_path / "a.h5", {}) as writer:  # what can be computed again is replaced
        writer.begin("", 2, 4).write([0, 1], ramp(2, 4))
        writer.finish()
    assert names_in(tmp_path) == ["a.h5"]


def test_existing_results_are_kept_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        ResultWriter(path, {})
    with ResultWriter(path, {}, overwrite=True) as writer:
        writer.begin("", 1, 3).write([0], ramp(1, 3))
        assert path.read_bytes() == b"precious"
        writer.finish()
    with open_result(path) as result:
        assert result.n_frames == 3
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(OutputExistsError, match="folder"):
        ResultWriter(tmp_path / "folder.h5", {}, overwrite=True)
    with pytest.raises(InputError, match=r"\.h5"):
        ResultWriter(tmp_path / "a.npz", {})
    with pytest.raises(InputError, match="does not exist"):
        ResultWriter(tmp_path / "none" / "a.h5", {})


def test_metadata_may_outgrow_their_room(tmp_path):
    long = "ν" * layout.METADATA_BYTES
    with ResultWriter(tmp_path / "a.h5", {"model": "m"}) as writer:
        writer.begin("", 2, 4).write([0, 1], ramp(2, 4))
        writer.finish({"long": long, "odd": np.float64("nan"), "array": np.arange(2)})
    with open_result(tmp_path / "a.h5") as result:
        assert result.metadata == {"model": "m", "long": long, "odd": None, "array": [0, 1], "complete": True}
        np.testing.assert_array_equal(result.spike_prob[:], ramp(2, 4))


def test_torn_metadata_do_not_hide_the_values(tmp_path):
    with ResultWriter(tmp_path / "a.h5", METADATA) as writer:
        writer.begin("", 2, 4).write([0, 1], ramp(2, 4))
    work = tmp_path / "a.incomplete.h5"
    with h5py.File(work, "r+") as file:
        file["metadata"][()] = b'{"model": "GCa'
    with open_result(work) as result:
        assert result.metadata["model"] == "GCaMP8"
        assert not result.complete
        np.testing.assert_array_equal(result.spike_prob[:], ramp(2, 4))


def test_long_reasons_are_cut_between_characters(tmp_path):
    with ResultWriter(tmp_path / "a.h5", {}) as writer:
        writer.begin("", 2, 4).set(why_undefined=["ü" * 200, "x"])
        writer.finish()
    with open_result(tmp_path / "a.h5") as result:
        assert result.why_undefined == ("ü" * ((layout.REASON_BYTES - 1) // 2), "x")


@pytest.mark.parametrize(
    ("rows", "arrays", "message"),
    [
        ([0], {"spike_prob": ramp(2, 4)}, r"shape \(2, 4\): expected \(1, 4\)"),
        ([0], {"spike_prob": ramp(1, 5)}, r"shape \(1, 5\)"),
        ([0], {"spike_prob": ramp(1, 4), "dff": ramp(1, 4)}, "dff was not announced"),
        ([0], {"spike_prob": ramp(1, 4), "spikes": [[1], [2]]}, "spikes of 2 neurons"),
    ],
)
def test_wrong_calls_leave_nothing_behind(tmp_path, rows, arrays, message):
    with ResultWriter(tmp_path / "a.h5", {}) as writer:
        target = writer.begin("", 2, 4)
        with pytest.raises(InputError, match=message):
            target.write(rows, arrays.pop("spike_prob"), **arrays)
    assert names_in(tmp_path) == []


def test_impossible_planes_are_refused(tmp_path):
    with ResultWriter(tmp_path / "a.h5", {}) as writer:
        writer.begin("p", 2, 4)
        with pytest.raises(InputError, match="begun already"):
            writer.begin("p", 2, 4)
        with pytest.raises(InputError, match="expected some"):
            writer.begin("q", 0, 4)
        with pytest.raises(InputError, match=r"is_cell has shape \(3,\): expected \(2,\)"):
            writer.begin("q", 2, 4, is_cell=[1, 1, 1])
        with pytest.raises(InputError, match="without '/'"):
            writer.begin("a/b", 2, 4)
        with pytest.raises(IndexError):
            writer.begin("q", 2, 4).write([2], ramp(1, 4))


# --- appending ---------------------------------------------------------------------------------------------


def test_streams_are_readable_while_they_grow(tmp_path):
    clock = ManualClock()
    work = tmp_path / "live.incomplete.h5"
    metadata = {"model": "m", "frame_rate_hz": 30.0}
    with ResultAppender(tmp_path / "live.h5", 3, metadata, lookaheads=(7, 2), clock=clock) as appender:
        appender.append(chunk(0, 5, 2))
        with open_result(work) as result:
            assert result.revisions[2].n_frames == 0, "waits for the next second"
        clock.advance(1)
        appender.append(chunk(5, 1, 2))
        appender.append(chunk(0, 4, 7, valid=False))
        appender.sync()
        appender.append(chunk(4, 1, 7))
        with open_result(work) as result:
            assert not result.complete
            np.testing.assert_array_equal(result.spike_prob[:], ramp(3, 4))
            np.testing.assert_array_equal(result.valid[:], np.zeros((3, 4)))
            np.testing.assert_array_equal(result.revisions[2].spike_prob[:], ramp(3, 6))
            np.testing.assert_array_equal(result.revisions[2].frames, np.arange(6))
            assert (result.lookahead_frames, result.frame_rate_hz) == (7, 30.0)
        appender.append(chunk(20, 2, 7))
        assert appender.finish({"run": {"lost": 3}}, noise_levels=[1, np.nan, 3]) == tmp_path / "live.h5"
    assert names_in(tmp_path) == ["live.h5"]
    with open_result(tmp_path / "live.h5") as result:
        assert result.complete
        np.testing.assert_array_equal(result.frames, [0, 1, 2, 3, 4, 20, 21])
        np.testing.assert_allclose(result.times, np.array([0, 1, 2, 3, 4, 20, 21]) / 30)
        np.testing.assert_array_equal(result.spike_prob[:, 5:], ramp(3, 2, 20))
        np.testing.assert_array_equal(result.valid[0], [0, 0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(result.noise_levels, [1, np.nan, 3])
        assert result.metadata == {**metadata, "run": {"lost": 3}, "complete": True}


def test_a_stream_file_can_be_read_from_its_first_moment(tmp_path, monkeypatch):
    """A copy of the file is what remains if the program is killed at that moment."""
    work, copy = tmp_path / "a.incomplete.h5", tmp_path / "copy.h5"
    seen = []

    def look(expected):
        copy.write_bytes(work.read_bytes())
        with open_result(copy) as result:
            np.testing.assert_array_equal(result.spike_prob[:], expected)
        seen.append(expected.shape[1])

    class Watched(h5py.File):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            if work.exists() and self.mode == "r+":
                look(ramp(3, n_before))

    monkeypatch.setattr(h5py, "File", Watched)
    for n_before in (0, 200):
        with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,), append=True) as appender:
            assert seen[-1] == n_before, "looked at when it was opened"
            look(ramp(3, n_before))
            appender.append(chunk(n_before, 200))
            appender.sync()
            look(ramp(3, n_before + 200))
        look(ramp(3, n_before + 200))


def test_the_callers_arrays_may_be_reused(tmp_path):
    piece = chunk(0, 2)
    with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,)) as appender:
        appender.append(piece)
        piece.spike_prob[:] = -1
        piece.valid[:] = False
        appender.finish()
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_array_equal(result.spike_prob[:], ramp(3, 2))
        assert result.valid[:].all()


@pytest.mark.parametrize("n_neurons", [1, 300])
@pytest.mark.parametrize("finished", [True, False])
def test_streams_may_be_continued(tmp_path, n_neurons, finished):
    path = tmp_path / "a.h5"
    first = 0
    for round_ in range(3):
        with ResultAppender(path, n_neurons, {f"round{round_}": 1}, lookaheads=(2,), append=True) as appender:
            assert appender.next_frame == first
            for n in (1, 130, 20):
                appender.append(chunk(first, n, n_neurons=n_neurons))
                first += n
            if finished:
                appender.finish({"ended": round_})
        assert names_in(tmp_path) == ["a.h5" if finished else "a.incomplete.h5"]
        with open_result(tmp_path / names_in(tmp_path)[0]) as result:
            np.testing.assert_array_equal(result.spike_prob[:], ramp(n_neurons, first))
            np.testing.assert_array_equal(result.frames, np.arange(first))
            assert [name for name in result.metadata if name.startswith("round")] == [
                f"round{i}" for i in range(round_ + 1)
            ]
            assert result.complete is finished


def test_columns_that_were_not_finished_are_cut_off(tmp_path):
    with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,)) as appender:
        appender.append(chunk(0, 10))
    work = tmp_path / "a.incomplete.h5"
    with h5py.File(work, "r+", libver="latest") as file:
        file["recordings/main/spike_prob"].resize(14, axis=1)
        file["recordings/main/n_written"][()] = 8
    with open_result(work) as result:
        np.testing.assert_array_equal(result.spike_prob[:], ramp(3, 8))
    with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,), append=True) as appender:
        assert (appender.next_frame, appender.n_frames) == (8, 8)
        appender.append(chunk(8, 3))
        appender.finish()
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_array_equal(result.spike_prob[:], ramp(3, 11))


def test_what_does_not_fit_is_refused_whole(tmp_path):
    with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2, 7)) as appender:
        appender.append(chunk(0, 5))
        for wrong, message in (
            (chunk(5, 1, n_neurons=4), "4 neurons"),
            (chunk(5, 1, 3), "look-ahead 3"),
            (chunk(4, 2), "frame 4 comes after frame 4"),
        ):
            with pytest.raises(InputError, match=message):
                appender.append(wrong)
        appender.finish()
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_array_equal(result.revisions[2].spike_prob[:], ramp(3, 5))
    for options in ({"n_neurons": 4, "lookaheads": (2, 7)}, {"n_neurons": 3, "lookaheads": (2,)}):
        with pytest.raises(InputError, match="cannot be continued"):
            ResultAppender(tmp_path / "a.h5", metadata={}, append=True, **options)
    write_portable(tmp_path / "b.h5")
    with pytest.raises(InputError, match="not written frame by frame"):
        ResultAppender(tmp_path / "b.h5", 6, {}, lookaheads=(2,), append=True)
    assert names_in(tmp_path) == ["a.h5", "b.h5"]


def test_an_interrupted_stream_is_not_replaced_by_mistake(tmp_path):
    with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,)) as appender:
        appender.append(chunk(0, 5))
        assert appender.finish(complete=False) == tmp_path / "a.incomplete.h5"
    with pytest.raises(OutputExistsError, match="interrupted run"):
        ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,))
    with ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,), overwrite=True) as appender:
        appender.append(chunk(0, 2))
        appender.finish({"long": "x" * layout.METADATA_BYTES})
    with pytest.raises(OutputExistsError, match="exists"):
        ResultAppender(tmp_path / "a.h5", 3, {}, lookaheads=(2,))
    with open_result(tmp_path / "a.h5") as result:
        assert (result.n_frames, len(result.metadata["long"])) == (2, layout.METADATA_BYTES)
    assert names_in(tmp_path) == ["a.h5"]

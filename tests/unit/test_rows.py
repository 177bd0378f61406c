"""Neurons that join and leave: each gives what it would give alone, and nobody else notices."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from live import recording
from networks import write_conditioned

from cascade_rt import rows as rows_module
from cascade_rt.chunks import FrameChunk
from cascade_rt.engine import load_model
from cascade_rt.errors import InputError, StreamError
from cascade_rt.rows import RowMap, RowStream, check_ids
from cascade_rt.stream import SpikeStream

RATE = 30.0
CALIBRATION_S = 3.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_conditioned(tmp_path_factory.mktemp("rows") / "small", lookaheads=(0, 2, 7)), threads=1)


def make(model, n, **options):
    options = {"lookahead_frames": (2, 7), "calibration_s": CALIBRATION_S, **options}
    return SpikeStream(model, n_neurons=n, frame_rate_hz=RATE, **options)


def chunk(frames, ids, first=0):
    return FrameChunk(frames=np.asarray(frames, np.float32), first_frame=first, ids=ids)


# ----------------------------------------------------------------------------------------------------------- rows


def test_a_neuron_keeps_its_row():
    rows = RowMap(("a", 7), 4)
    np.testing.assert_array_equal(rows.arrange(chunk([[1], [2]], ("a", 7))).frames[:, 0], [1, 2, np.nan, np.nan])
    np.testing.assert_array_equal(rows.arrange(chunk([[2], [1]], (7, "a"))).frames[:, 0], [1, 2, np.nan, np.nan])
    np.testing.assert_array_equal(rows.arrange(chunk([[2]], (7,))).frames[:, 0], [np.nan, 2, np.nan, np.nan])
    np.testing.assert_array_equal(rows.arrange(chunk([[9], [1], [2]], ("new", "a", 7))).frames[:, 0], [1, 2, 9, np.nan])
    assert rows.ids == ("a", 7, "new")
    assert rows.version == 2
    assert rows.to_dict() == {"ids": ["a", 7, "new"], "at_start": 2, "capacity": 4, "joined": 1, "without_row": 0}


def test_one_too_many_is_left_out_and_said(caplog):
    rows = RowMap((1, 2), 3)
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        got = rows.arrange(chunk([[1], [2], [3], [4], [5]], (1, 2, 3, 4, 5)))
        rows.arrange(chunk([[1], [6]], (1, 6)))
    np.testing.assert_array_equal(got.frames[:, 0], [1, 2, 3])
    assert rows.to_dict()["without_row"] == 3
    assert len(caplog.records) == 1
    assert "--max-neurons" in caplog.text


def test_names_without_end_take_no_memory_without_end():
    rows = RowMap(tuple(f"{n:060d}" for n in range(10)), 1_000_000)
    for start in range(10, 30_000, 300):
        names = tuple(f"{n:060d}" for n in range(start, start + 300))
        rows.arrange(chunk(np.zeros((300, 1)), names))
    told = rows.to_dict()
    assert len(told["ids"]) < 1000
    assert told["without_row"] <= 10_000


@pytest.mark.parametrize(
    "ids", [[1], [1, 1], [1, True], [1, 1.0], [1, None], [1, ""], [1, "x" * 65], [1, "a\nb"], [1, 2**53], "ab", {}, 5]
)
def test_ids_that_are_none(ids):
    with pytest.raises(InputError, match="ids"):
        check_ids(ids, 2)


def test_ids_that_are_some():
    assert check_ids([1, "1", -5], 3) == (1, "1", -5)
    assert check_ids([1], 3, fewer=True) == (1,)


# -------------------------------------------------------------------------------------------------------- streams


class Population:
    """Rows that begin at frames of their own, pushed through a RowStream in pieces, and each alone for comparison."""

    def __init__(self, model, begins, n_frames=400, **options):
        self.model, self.begins, self.options = model, begins, options
        self.dff = recording(len(begins), n_frames)
        self.n_first = sum(begin == 0 for begin in begins)
        self.frames = self.dff.copy()
        for row, begin in enumerate(begins):
            self.frames[row, :begin] = np.nan

    def together(self, sizes, **changes):
        rows = RowMap(tuple(range(self.n_first)), len(self.begins))
        first = make(self.model, self.n_first, **self.options)
        stream = RowStream(first, lambda n: make(self.model, n, **self.options), rows, frame_rate_hz=RATE)
        got = {2: [], 7: []}
        start = 0
        for size in sizes:
            self._keep(got, stream.push(self.frames[:, start : start + size]))
            stream.prepare()
            start += size
        self._keep(got, stream.flush())
        self.stream = stream
        return {
            k: (
                np.concatenate([c.spike_prob for c in v], axis=1),
                np.concatenate([c.valid for c in v], axis=1),
                np.concatenate([np.arange(c.first_frame, c.first_frame + c.n_frames) for c in v]),
            )
            for k, v in got.items()
        }

    @staticmethod
    def _keep(got, out):
        got[2].append(out)
        got[7].append(out.revisions[7])

    def alone(self, row, lookahead):
        """Values and validity of a row in a stream of its own."""
        stream = make(self.model, 1, **self.options)
        begin = self.begins[row]
        prob = np.full(self.frames.shape[1], np.nan, np.float32)
        valid = np.zeros(prob.shape, bool)
        for start in range(begin, self.frames.shape[1]):
            self._put(stream.push(self.frames[row : row + 1, start : start + 1]), lookahead, begin, prob, valid)
        self._put(stream.flush(), lookahead, begin, prob, valid)
        return prob, valid

    @staticmethod
    def _put(out, lookahead, begin, prob, valid):
        one = out if out.lookahead_frames == lookahead else out.revisions[lookahead]
        span = slice(begin + one.first_frame, begin + one.first_frame + one.n_frames)
        prob[span] = one.spike_prob[0]
        valid[span] = one.valid[0] & (not one.provisional or begin == 0)


BEGINS = (0, 0, 0, 40, 40, 50, 95, 130)


@pytest.mark.parametrize(
    "sizes", [[1] * 400, [7] * 57 + [1], [100] * 4], ids=["one by one", "in sevens", "in hundreds"]
)
@pytest.mark.parametrize("threshold", ["zero", "noise_floor"])
def test_each_row_gives_what_it_would_alone(model, sizes, threshold):
    population = Population(model, BEGINS, threshold=threshold)
    got = population.together(sizes)
    for lookahead, (prob, valid, frame) in got.items():
        np.testing.assert_array_equal(frame, np.arange(400))
        for row in range(len(BEGINS)):
            expected, sound = population.alone(row, lookahead)
            np.testing.assert_array_equal(np.isnan(prob[row]), np.isnan(expected))
            np.testing.assert_allclose(prob[row], expected, rtol=0, atol=1e-5)
            if len(sizes) == 400:  # in larger pieces validity is told by the piece
                np.testing.assert_array_equal(valid[row], sound)
            assert not valid[row, : BEGINS[row]].any()
        assert valid[:, 300:390].all()
    levels = population.stream.noise_levels
    assert np.isfinite(levels).all()


def test_rows_that_have_settled_are_brought_together(model):
    population = Population(model, (0, 0, 10, 30, 50, 70, 90))
    population.together([1] * 400)
    assert [group[0].tolist() for group in population.stream._groups] == [[0, 1], [2, 3, 4, 5], [6]]


def test_the_first_rows_do_not_notice(model):
    nu = [2.0, 2.0]
    population = Population(model, (0, 0, 60, 61, 62), noise_levels=None)
    rows = RowMap((0, 1), 5)
    stream = RowStream(make(model, 2, noise_levels=nu), lambda n: make(model, n), rows, frame_rate_hz=RATE)
    lone = make(model, 2, noise_levels=nu)
    for start in range(300):
        out, expected = (
            stream.push(population.frames[:, start : start + 1]),
            lone.push(population.dff[:2, start : start + 1]),
        )
        stream.prepare()
        np.testing.assert_array_equal(out.spike_prob[:2], expected.spike_prob)
        np.testing.assert_array_equal(out.valid[:2], expected.valid)
        assert out.first_frame == expected.first_frame
        assert out.provisional is expected.provisional is False


def test_too_many_at_different_times_wait_for_their_turn(model, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_GROUPS", 2)
    monkeypatch.setattr(rows_module, "WORTH_JOINING", 2)
    population = Population(model, (0, 20, 30, 40, 50, 60))
    got = population.together([1] * 400)
    assert len(population.stream._groups) <= 3
    prob, valid, _ = got[2]
    assert np.isfinite(prob[:, 380]).all()
    assert valid[:3, 380].all()


def test_ids_are_told_after_a_change_and_once_a_second(model):
    rows = RowMap(("a",), 3)
    stream = RowStream(make(model, 1), lambda n: make(model, n), rows, frame_rate_hz=RATE)
    dff = recording(3, 200)
    told = []
    for frame in range(200):
        ids = ("a",) if frame < 100 else ("b", "a")
        piece = chunk(dff[: len(ids), frame : frame + 1], ids, frame)
        out = stream.push(rows.arrange(piece).frames)
        if out.ids is not None:
            told.append((out.first_frame, out.ids))
    assert told == [
        (0, ("a",)), (30, ("a",)), (60, ("a",)), (90, ("a",)), (98, ("a", "b")), (128, ("a", "b")), (158, ("a", "b")),
        (188, ("a", "b")),
    ]  # fmt: skip


def test_a_long_gap(model):
    population = Population(model, (0, 0, 30), n_frames=500)
    rows = RowMap((0, 1), 3)
    stream = RowStream(make(model, 2), lambda n: make(model, n), rows, frame_rate_hz=RATE)
    for start in range(250):
        stream.push(population.frames[:, start : start + 1])
        stream.prepare()
    tail = stream.skip(1000)
    assert tail.first_frame + tail.n_frames == 250
    again = stream.push(population.frames[:, 250:251])
    assert again.n_frames == 0
    assert stream.frame == 1251
    out = [stream.push(population.frames[:, start : start + 1]) for start in range(251, 400)]
    window = model.spec.windowsize
    assert all(np.isfinite(one.spike_prob).all() for one in out[window:])


def test_streams_that_cannot_be_brought_together(model):
    a, b = (make(model, 1, noise_levels=[2.0]) for _ in range(2))
    dff = recording(1, 200)
    a.push(dff)
    b.push(dff[:, :199])
    with pytest.raises(StreamError, match="same frame"):
        SpikeStream.joined([a, b])
    assert make(model, 1).settled is False

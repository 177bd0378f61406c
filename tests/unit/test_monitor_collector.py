"""What the page can show: kept in bounded memory, sent once, forgotten when frames are counted anew."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cascade_rt.latency import LatencyHistogram
from cascade_rt.monitor.collector import LATENCY_EDGES_S, RASTER_ROWS, UPDATE_FRAMES, Collector, Series, Viewer
from cascade_rt.monitor.protocol import DFF, PROB, RASTER, RATE

INFO = {
    "stream": "s", "n_neurons": 4, "frame_rate_hz": 30.0, "lookaheads": [2, 7], "model": "m", "noise_range": [1.0, 8.0],
    "integration": [[2, 3, 100.0], [7, 8, 266.7]], "has_dff": True,
}  # fmt: skip


def ramp(first, n, n_neurons=4):
    """Values that tell neuron and frame."""
    return (1000 * np.arange(n_neurons)[:, None] + np.arange(first, first + n)).astype(np.float32)


def collector(**changes):
    made = Collector(clock=lambda: 0.0)
    made.start(INFO | changes)
    return made


def collect(viewer, n=100):
    """All blocks until nothing is new, by kind: first frame and values."""
    found: dict[int, list] = {}
    for number in range(n):
        update = viewer.update(number, 0.0)
        if update is None:
            break
        for block in update.blocks:
            found.setdefault(block.kind, []).append(block)
    for blocks in found.values():
        for one, other in pairwise(blocks):
            assert other.first_frame == one.first_frame + len(one.values)
    return {kind: (blocks[0].first_frame, np.concatenate([b.values for b in blocks])) for kind, blocks in found.items()}


@pytest.mark.parametrize("size", [1, 3, 10, 25])
def test_a_series_keeps_the_newest_values(size):
    series = Series(2, 10)
    for first in range(5, 55, size):
        series.write(first, ramp(first, min(size, 55 - first), 2).T)
    assert (series.first, series.stop) == (45, 55)
    np.testing.assert_array_equal(series.read(45, 55), ramp(45, 10, 2).T)
    np.testing.assert_array_equal(series.read(47, 50, [1]), ramp(47, 3, 2).T[:, 1:])


def test_frames_that_never_came_are_empty():
    series = Series(1, 10)
    series.write(0, np.ones((8, 1)))
    series.write(11, np.ones((2, 1)))
    np.testing.assert_array_equal(series.read(3, 13)[:, 0], [1] * 5 + [np.nan] * 3 + [1] * 2)
    series.write(10**9, np.ones((1, 1)))
    assert np.isnan(series.read(10**9 - 9, 10**9)).all()


def test_a_viewer_gets_the_chosen_neurons_once():
    c = collector()
    viewer = Viewer(c)
    viewer.select([3, 1], None)
    c.add_frames(100, ramp(100, 5))
    c.add_result(2, 98, ramp(98, 5))
    got = collect(viewer)
    assert got[DFF][0] == 100
    np.testing.assert_array_equal(got[DFF][1], ramp(100, 5)[[3, 1]].T)
    assert got[PROB][0] == 98
    np.testing.assert_array_equal(got[PROB][1], ramp(98, 5)[[3, 1]].T)
    np.testing.assert_allclose(got[RATE][1][:, 0], 30 * ramp(98, 5).mean(axis=0))
    assert got[RASTER][1].shape == (5, 4)
    assert viewer.update(1, 0.0) is None
    c.add_frames(105, ramp(105, 1))
    assert collect(viewer)[DFF][0] == 105


def test_a_long_history_comes_in_several_updates():
    c = collector()
    c.add_frames(0, ramp(0, 1000))
    viewer = Viewer(c)
    viewer.select([0], None)
    assert len(viewer.update(0, 0.0).blocks[0].values) == UPDATE_FRAMES
    viewer.select([0], None)
    np.testing.assert_array_equal(collect(viewer)[DFF][1], ramp(0, 1000)[:1].T)


def test_another_lookahead_is_shown_from_its_beginning():
    c = collector()
    for lookahead in (2, 7):
        c.add_result(lookahead, 0, ramp(0, 9) + lookahead)
    viewer = Viewer(c)
    viewer.select([0], None)
    assert viewer.lookahead == 2
    collect(viewer)
    viewer.select([0], 7)
    got = collect(viewer)
    np.testing.assert_array_equal(got[PROB][1], (ramp(0, 9) + 7)[:1].T)
    assert len(got[RASTER][1]) == 9


def test_many_neurons_share_rows_and_the_highest_shows():
    c = collector(n_neurons=2000)
    prob = np.zeros((2000, 2), np.float32)
    prob[13, 0] = 1.0
    prob[14:21, 1] = np.nan
    c.add_result(2, 0, prob)
    told = c.describe()
    assert told["neurons_per_row"] == 7
    assert told["raster_rows"] == 286 <= RASTER_ROWS
    raster = collect(Viewer(c))[RASTER][1]
    assert raster[0, 1] == 255
    assert raster[0, [0, 2]].tolist() == [1, 1]
    assert raster[1, 2] == 0
    assert c.pick(1) == 13
    assert c.pick(286) is None
    assert c.busiest(1) == [13]


def test_the_last_row_may_have_fewer_neurons():
    c = collector(n_neurons=601)
    prob = np.zeros((601, 1), np.float32)
    prob[600] = 1
    c.add_result(2, 0, prob)
    assert collect(Viewer(c))[RASTER][1][0].tolist() == [1] * 200 + [255]
    assert c.pick(200) == 600


def test_a_source_that_counts_anew_is_shown_anew():
    c = collector()
    viewer = Viewer(c)
    viewer.select([0], None)
    c.add_frames(500, ramp(500, 3))
    c.add_result(2, 498, ramp(498, 3))
    collect(viewer)
    epoch = c.epoch
    c.add_result(2, 0, ramp(0, 1))
    c.add_frames(0, ramp(0, 3))
    assert c.epoch == epoch + 1
    got = collect(viewer)
    assert (got[DFF][0], got[PROB][0]) == (0, 0)


def test_another_run_is_another_epoch():
    c = collector()
    before = c.epoch
    c.start(dict(INFO))
    assert c.epoch == before
    c.start(INFO | {"n_neurons": 2})
    assert c.epoch == before + 1
    viewer = Viewer(c)
    viewer.select([3, 1], None)
    c.add_frames(0, ramp(0, 1, 2))
    assert collect(viewer)[DFF][1].shape == (1, 1)


def test_memory_is_bounded():
    c = collector(n_neurons=20_000, frame_rate_hz=500.0)
    c.add_frames(0, np.zeros((20_000, 1), np.float32))
    assert c.dff._values.nbytes <= 128 * 2**20 / 3 + 80_000
    for number in range(1000):
        c.add_event({"number": number})
    assert len(c.events) == 200


def test_noise_levels_are_counted_against_the_range():
    c = collector()
    c.set_status({"latency": {}}, np.array([0.5, 2.1, 2.2, 50.0, np.nan], np.float32))
    noise = c.status()["noise"]
    assert (sum(noise["counts"]), noise["outside"], noise["unknown"]) == (4, 2, 1)
    assert noise["counts"][8] == 2
    assert noise["counts"][-1] == 1


def test_without_a_status_it_counts_itself():
    c = collector()
    c.add_result(2, 0, ramp(0, 1), latency_s=0.002)
    c.add_result(2, 4, ramp(4, 1), latency_s=0.04)
    status = c.status()
    assert status["frames"] == {"lost": 3}
    assert status["latency"]["count"] == 2
    assert status["latency"]["deadline_misses"] == 1
    assert status["last_frame"] == 4
    c.set_ended()
    assert c.status()["ended"] == "end"


def test_the_histogram_counts_between_edges():
    latency = LatencyHistogram()
    for ms in (0.01, 0.5, 2.0, 2.1, 30.0, 5000.0):
        latency.add(ms / 1000)
    assert latency.counts(np.array([1e-4, 1e-3, 1e-2, 1.0])).tolist() == [1, 1, 2, 1, 1]
    assert latency.counts(LATENCY_EDGES_S).sum() == 6

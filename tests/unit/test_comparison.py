"""Comparing a rerun with the recording: each kind of difference is found, and only that."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cascade_rt.chunks import SpikeChunk
from cascade_rt.comparison import ComparingSink, match_events, same_events
from cascade_rt.events import Event
from cascade_rt.gaps import Piece
from cascade_rt.ports import RunInfo
from cascade_rt.recorded import RecordedResults, Step, unwrapped
from cascade_rt.testing import fake_spec, ramp

N = 3


def recorded(frames, *, missing=(), steps=()):
    frames = np.asarray(frames)
    prob = np.concatenate([ramp(N, 1, f) for f in frames], axis=1)
    prob[:, :2] = np.nan
    results = RecordedResults(
        spike_prob=prob, valid=~np.isnan(prob), frame=frames, provisional=np.arange(frames.size) < 4
    )  # fmt: skip
    return SimpleNamespace(lookaheads=(2,), results=lambda n: results, missing=list(missing), steps=lambda: iter(steps))


def chunks(frames, size=3):
    """What a rerun gives for these frames, cut where they jump."""
    start = 0
    for stop in range(1, len(frames) + 1):
        if stop == len(frames) or frames[stop] != frames[stop - 1] + 1 or stop - start == size or stop == 4:
            prob = ramp(N, stop - start, frames[start])
            prob[:, : max(0, 2 - start)] = np.nan
            yield SpikeChunk(
                spike_prob=prob, first_frame=frames[start], valid=~np.isnan(prob), lookahead_frames=2,
                provisional=start < 4,
            )  # fmt: skip
            start = stop


def compare(run, made, settle=0):
    sink = ComparingSink(run, lambda info: settle)
    info = RunInfo(stream="", n_neurons=N, frame_rate_hz=30.0, lookaheads=(2,), spec=fake_spec())
    sink.start(info)
    for chunk in made:
        sink.send(chunk)
    sink.finish(0, complete=True, metadata={})
    (told,) = sink.comparisons
    return told


FRAMES = [*range(5, 25), *range(40, 60), *range(3, 30)]  # a gap, and a source that counts anew


def test_the_same_is_the_same_however_it_is_cut():
    for size in (1, 2, 7, 100):
        told = compare(recorded(FRAMES), chunks(FRAMES, size))
        assert told.agrees()
        assert (told.frames, told.only_recorded, told.only_rerun, told.near_holes) == (len(FRAMES), 0, 0, 0)
        assert told.correlation == pytest.approx(1)
        assert told.recorded_spikes == told.rerun_spikes > 0


@pytest.mark.parametrize("what", ["value", "nan", "valid", "provisional", "shift"])
def test_each_difference_is_found(what):
    made = list(chunks(FRAMES))
    chunk = made[6]
    if what == "value":
        chunk.spike_prob[1, 0] += 1e-3
    elif what == "nan":
        chunk.spike_prob[1, 0] = np.nan
    elif what == "valid":
        chunk.valid[2, 0] = False
    elif what == "provisional":
        made[6] = SpikeChunk(**{**vars(chunk), "provisional": True})
    else:
        chunk.spike_prob[:] = ramp(N, chunk.n_frames, chunk.first_frame - 1)
    told = compare(recorded(FRAMES), made)
    assert not told.agrees()
    assert told.agrees(0.01) is (what == "value")
    found = {
        "value": told.different == 1, "nan": not told.nan_pattern_equal, "valid": not told.valid_equal,
        "provisional": not told.provisional_equal, "shift": told.largest_difference == 1,
    }  # fmt: skip
    assert found.pop(what)
    assert not any(found.values()) or what == "shift"


def test_columns_that_only_one_has_are_counted():
    told = compare(recorded(FRAMES[:-4]), chunks(FRAMES[:40]))
    assert (told.frames, told.only_recorded, told.only_rerun) == (40, len(FRAMES) - 44, 0)
    told = compare(recorded(FRAMES[:40]), chunks(FRAMES[:44]))
    assert (told.frames, told.only_recorded, told.only_rerun) == (40, 0, 4)


def test_near_a_hole_nothing_is_compared():
    def step(first, n, **more):
        return Step(piece=Piece(frames=ramp(N, n, first), first_frame=first), **more)

    steps = [step(0, 20), step(20, 10, recorded=False), step(30, 70)]
    made = list(chunks(list(range(100)), 10))
    for chunk in made:
        frame = np.arange(chunk.first_frame, chunk.first_frame + chunk.n_frames)
        chunk.spike_prob[:, (frame >= 14) & (frame < 34)] += 1  # depends on what is missing
    told = compare(recorded(range(100), missing=[{"pieces": 10}], steps=steps), made, settle=4)
    assert told.agrees()
    assert told.near_holes == (30 + 4) - (20 - 4 - 2)
    assert not compare(recorded(range(100), missing=[{"pieces": 10}], steps=steps), made, settle=3).agrees()


def test_counting_anew_is_unwrapped():
    index = unwrapped([5, 6, 7, 3, 4, 4], once=True)
    assert (np.diff(index) > 0).all()
    assert index[4] - index[3] == 1
    assert unwrapped([5, 5, 6]).tolist() == [5, 5, 6]
    assert unwrapped([]).size == 0


def event(frame, rule="a", kind="stimulate", **more):
    return Event(rule=rule, kind=kind, frame=frame, newest_frame=frame + 2, lookahead=2, **more).to_dict()


def test_events_that_are_the_same_but_for_the_moment():
    old = [event(3, t_emit=1.0, number=0), event(9, t_emit=2.0, number=1), event(0, rule="output x", kind="fault")]
    new = [event(3, t_emit=7.0, number=4), event(9)]
    assert same_events(old, new, ended=True) == (2, "")
    assert same_events(old, new[:1], ended=False) == (1, "")
    same, difference = same_events(old, new[:1], ended=True)
    assert same == 1
    assert "2 events were recorded, now there are 1" in difference
    same, difference = same_events(old, [event(3), event(10)], ended=False)
    assert same == 1
    assert "rule a: recorded" in difference
    assert same_events(old, [event(3), event(9, kind="sham")], ended=True)[1]
    faults = [event(3, kind="fault", data={"text": "x"})], [event(7, kind="fault", data={"text": "x"})]
    assert same_events(*faults, ended=True) == (1, ""), "when a failure is noticed depends on the machine"


def test_decisions_are_matched_with_the_nearest():
    old = [event(f) for f in (10, 50, 100, 200, 300)] + [event(5, rule="b"), event(1, kind="armed")]
    new = [event(10), event(50, kind="sham"), event(97), event(205), event(400)]
    a, b = match_events(old, new, 30.0)
    assert (a.recorded, a.rerun, a.matched, a.same_kind) == (5, 5, 2, 1)
    assert (a.earlier, a.later, a.missing, a.extra) == (1, 1, 1, 1)
    assert sorted(a.shifts) == [-3, 5]
    assert a.to_dict()["median_shift_frames"] == 1.0
    assert (b.rule, b.recorded, b.missing, b.extra) == ("b", 1, 1, 0)
    assert match_events([], [], 30.0) == []

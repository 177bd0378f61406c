"""Frame sequencing: every frame accounted for, whatever the order of arrival."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_rt.chunks import FrameChunk
from cascade_rt.errors import InputError, StreamError
from cascade_rt.gaps import FrameSequencer, coalesce
from cascade_rt.testing import ramp, ramp_chunks


def chunk(first, n=1, n_neurons=2, **fields):
    return FrameChunk(frames=ramp(n_neurons, n, first), first_frame=first, **fields)


def feed(sequencer, *chunks):
    return [piece for one in chunks for piece in sequencer.feed(one)]


def indices(pieces):
    return [index for piece in pieces for index in range(piece.first_frame, piece.stop_frame)]


def check_values(pieces):
    """Frames that were received hold their own index."""
    for piece in pieces:
        if not piece.touched:
            np.testing.assert_array_equal(piece.frames, ramp(len(piece.frames), piece.n_frames, piece.first_frame))


def test_frames_in_order_pass_unchanged():
    sequencer = FrameSequencer()
    pieces = feed(sequencer, *ramp_chunks(2, 20, [3, 1, 5], first_frame=4))
    assert indices(pieces) == list(range(4, 24))
    check_values(pieces)
    assert not any(piece.touched or piece.reset for piece in pieces)
    counters = sequencer.counters
    assert (counters.received, counters.processed, counters.lost, counters.before_start) == (20, 20, 0, 4)


def test_hold_repeats_the_last_frame():
    pieces = feed(FrameSequencer(policy="hold"), chunk(0, 3), chunk(6, 2))
    assert indices(pieces) == list(range(8))
    gap = pieces[1]
    assert gap.touched
    np.testing.assert_array_equal(gap.frames, np.repeat(ramp(2, 1, 2), 3, axis=1))
    check_values(pieces)


def test_nan_fills_with_nan():
    pieces = feed(FrameSequencer(policy="nan"), chunk(0, 3), chunk(6, 2))
    assert np.isnan(pieces[1].frames).all()
    assert pieces[1].frames.shape == (2, 3)


def test_stop_names_the_missing_frames():
    sequencer = FrameSequencer(policy="stop")
    sequencer.feed(chunk(0, 3))
    with pytest.raises(StreamError, match=r"frames 3 to 5 are missing"):
        sequencer.feed(chunk(6))


def test_a_long_gap_is_not_filled():
    sequencer = FrameSequencer(max_fill=10)
    pieces = feed(sequencer, chunk(0, 3), chunk(10**9, 2))
    assert indices(pieces) == [0, 1, 2, 10**9, 10**9 + 1]
    assert [piece.reset for piece in pieces] == ["", "gap"]
    assert sequencer.counters.skipped == 10**9 - 3
    assert sequencer.counters.gaps == 1


def test_a_gap_of_the_longest_length_is_filled():
    assert len(indices(feed(FrameSequencer(max_fill=10), chunk(0), chunk(11)))) == 12
    assert len(indices(feed(FrameSequencer(max_fill=10), chunk(0), chunk(12)))) == 2


def test_duplicates_are_dropped():
    sequencer = FrameSequencer()
    pieces = feed(sequencer, chunk(0, 3), chunk(0, 3), chunk(3), chunk(2), chunk(4))
    assert indices(pieces) == list(range(5))
    assert sequencer.counters.duplicate == 4
    assert sequencer.counters.late == 0


def test_late_frames_are_told_from_duplicates():
    sequencer = FrameSequencer()
    pieces = feed(sequencer, chunk(5), chunk(8), chunk(6), chunk(6), chunk(4), chunk(7), chunk(9))
    assert indices(pieces) == list(range(5, 10))
    counters = sequencer.counters
    assert (counters.late, counters.duplicate, counters.filled, counters.lost) == (3, 1, 2, 2)


def test_partial_overlap_uses_the_rest():
    sequencer = FrameSequencer()
    pieces = feed(sequencer, chunk(0, 5), chunk(3, 6, t_source=1.0, frame_rate_hz=10.0))
    assert indices(pieces) == list(range(9))
    check_values(pieces)
    assert sequencer.counters.duplicate == 2
    assert pieces[1].t_source == pytest.approx(1.5)


def test_times_are_those_of_the_newest_frame():
    (piece,) = feed(FrameSequencer(), chunk(0, 4, t_source=2.0, t_recv=7.0, frame_rate_hz=10.0))
    assert piece.t_source == pytest.approx(2.3)
    assert piece.arrivals == (7.0,)
    (single,) = feed(FrameSequencer(), chunk(0, 1, t_source=2.0))
    assert single.t_source == 2.0
    (unknown,) = feed(FrameSequencer(), chunk(0, 4, t_source=2.0))
    assert unknown.t_source is None


def test_a_restarted_counter_is_followed_and_loses_nothing():
    sequencer = FrameSequencer(max_fill=16, confirm_restart=4)
    first = feed(sequencer, *ramp_chunks(2, 100))
    again = feed(sequencer, *ramp_chunks(2, 30))
    assert indices(first) == list(range(100))
    assert indices(again) == list(range(30))
    assert [piece.reset for piece in again] == ["restart"] + [""] * 29
    counters = sequencer.counters
    assert (counters.restarts, counters.duplicate, counters.late) == (1, 0, 0)
    assert counters.received == counters.processed == 130


def test_a_counter_restarted_early_or_elsewhere_is_followed_too():
    sequencer = FrameSequencer(max_fill=16, confirm_restart=4)
    feed(sequencer, *ramp_chunks(2, 10))
    assert indices(feed(sequencer, *ramp_chunks(2, 8))) == list(range(8))
    feed(sequencer, *ramp_chunks(2, 200, first_frame=8))
    assert indices(feed(sequencer, *ramp_chunks(2, 8, first_frame=50))) == list(range(50, 58))
    assert sequencer.counters.restarts == 2


def test_a_bogus_index_far_ahead_is_recovered_from():
    sequencer = FrameSequencer(max_fill=16, confirm_restart=4)
    feed(sequencer, *ramp_chunks(2, 50))
    feed(sequencer, FrameChunk(frames=np.zeros((2, 1), np.float32), first_frame=10**12))
    assert indices(feed(sequencer, *ramp_chunks(2, 20, first_frame=50))) == list(range(50, 70))


def test_a_burst_of_repeated_frames_is_not_a_restart():
    sequencer = FrameSequencer(max_fill=16, confirm_restart=4)
    pieces = feed(sequencer, *ramp_chunks(2, 50), *ramp_chunks(2, 10, first_frame=40))
    pieces += feed(sequencer, *ramp_chunks(2, 5, first_frame=50))
    assert indices(pieces) == list(range(55))
    assert sequencer.counters.restarts == 0
    assert sequencer.counters.duplicate == 10


def test_stragglers_far_behind_are_not_a_restart():
    sequencer = FrameSequencer(max_fill=16, confirm_restart=4)
    pieces = feed(sequencer, *ramp_chunks(2, 50))
    for frame in range(50, 70):  # every second chunk is an old one
        pieces += feed(sequencer, chunk(frame), chunk(frame - 50))
    assert indices(pieces) == list(range(70))
    assert sequencer.counters.restarts == 0


def test_an_overlap_that_disagrees_is_another_recording():
    sequencer = FrameSequencer()
    feed(sequencer, *ramp_chunks(2, 10))
    other = FrameChunk(frames=ramp(2, 40) + 5, first_frame=0)
    (piece,) = sequencer.feed(other)
    assert piece.reset == "restart"
    assert indices([piece]) == list(range(40))


def test_a_restart_stops_a_run_that_must_have_no_gaps():
    sequencer = FrameSequencer(policy="stop", confirm_restart=2)
    feed(sequencer, *ramp_chunks(2, 10))
    sequencer.feed(chunk(0))
    with pytest.raises(StreamError, match="went back from 10 to 0"):
        sequencer.feed(chunk(1))


def test_the_end_message_shows_frames_lost_at_the_end():
    sequencer = FrameSequencer()
    feed(sequencer, chunk(0, 10))
    sequencer.finish(13)
    assert (sequencer.counters.after_end, sequencer.counters.lost) == (3, 3)
    empty = FrameSequencer()
    empty.finish(20)
    assert empty.counters.before_start == 20
    empty.finish(None)


def test_neighbouring_pieces_are_joined_but_not_across_gaps():
    sequencer = FrameSequencer(max_fill=4)
    chunks = [chunk(0, 2, t_recv=1.0), chunk(2, 1, t_recv=2.0), chunk(5, 1, t_recv=3.0), chunk(6, 2, t_recv=4.0)]
    pieces = coalesce(feed(sequencer, *chunks, chunk(100), chunk(101)))
    assert [(p.first_frame, p.n_frames, p.touched, p.reset) for p in pieces] == [
        (0, 3, False, ""),
        (3, 2, True, ""),
        (5, 3, False, ""),
        (100, 2, False, "gap"),
    ]
    assert pieces[0].arrivals == (1.0, 2.0)
    check_values(pieces)


def test_the_callers_frames_are_not_written_to():
    frames = ramp(2, 5)
    frames.flags.writeable = False
    sequencer = FrameSequencer()
    feed(sequencer, FrameChunk(frames=frames, first_frame=0), FrameChunk(frames=frames, first_frame=20))


def test_reset_is_complete():
    sequencer = FrameSequencer()
    feed(sequencer, chunk(0, 5), chunk(9), chunk(1))
    sequencer.reset()
    fresh = FrameSequencer()
    assert sequencer.__dict__ == fresh.__dict__


@pytest.mark.parametrize("options", [{"policy": "ignore"}, {"max_fill": -1}, {"confirm_restart": 0}])
def test_wrong_options(options):
    with pytest.raises(InputError):
        FrameSequencer(**options)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    max_fill=st.integers(0, 20),
    policy=st.sampled_from(["hold", "nan"]),
    random=st.randoms(use_true_random=False),
)
def test_every_frame_is_accounted_for(sizes, max_fill, policy, random):
    """Random loss, duplication and reordering: the ledger closes and the output is contiguous but for resets."""
    total = sum(sizes)
    arrivals = []
    for one in ramp_chunks(2, total, sizes, first_frame=5):
        if random.random() < 0.2:
            continue
        arrivals += [one] * (2 if random.random() < 0.15 else 1)
    for place in range(len(arrivals) - 1):
        if random.random() < 0.1:
            arrivals[place], arrivals[place + 1] = arrivals[place + 1], arrivals[place]
    # Swaps and repetitions next to each other are no restart, so this ledger has none.
    sequencer = FrameSequencer(policy=policy, max_fill=max_fill, confirm_restart=50)
    pieces = feed(sequencer, *arrivals)
    counters = sequencer.counters
    real = [index for piece in pieces if not piece.touched for index in indices([piece])]
    filled = [index for piece in pieces if piece.touched for index in indices([piece])]
    check_values(pieces)
    assert counters.received == sum(one.n_frames for one in arrivals)
    assert counters.received == counters.processed + counters.duplicate + counters.late
    assert len(real) == counters.processed
    assert len(filled) == counters.filled
    assert sorted(set(real + filled)) == sorted(real + filled), "a frame came out twice"
    for before, after in pairwise(pieces):
        assert after.first_frame == before.stop_frame or after.reset == "gap"
    if real:
        assert counters.processed + counters.lost == real[-1] + 1 - real[0]
        assert set(real) <= {one.first_frame + j for one in arrivals for j in range(one.n_frames)}

"""Weeks of uptime: indices far beyond 32 bits change nothing, and nothing grows with the number of frames."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from live import recording
from networks import picking_network, write_conditioned

from cascade_rt.chunks import FrameChunk
from cascade_rt.engine import load_model
from cascade_rt.ports import EndOfStream
from cascade_rt.runner import Runner
from cascade_rt.stream import SpikeStream
from cascade_rt.testing import ListSink, ListSource
from cascade_rt.triggers.host import TriggerHost
from cascade_rt.triggers.rulefile import read_rules

RATE = 30.0
N_NEURONS = 4
YEARS = 2**40

RULES = """
seed: 5
rules:
  plain: {neurons: [0, 1], above: 0.3, refractory_s: 0.5, sham: 0.3, armed: {from_s: 2, to_s: 100000}}
  busier: {neuron: 2, signal: rate_hz, window_s: 0.5, above: 3, lookahead: 4}
  than usual: {neurons: [0, 1, 2, 3], change: {against_s: 3, by: 0.05}}
  spikes: {neuron: 3, signal: spike, above: 0.5}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Its result is the frame itself."""
    folder = tmp_path_factory.mktemp("uptime")
    return load_model(
        write_conditioned(folder / "picking", lookaheads=(0, 2, 4), network=picking_network(16, (0, 2, 4)))
    )


class Quiet:
    """A sink that forgets."""

    live, name, dropped = True, "quiet", 0

    def open(self, stopped):
        pass

    def start(self, info):
        pass

    def send(self, chunk):
        pass

    def send_event(self, event):
        pass

    def finish(self, next_frame, **how):
        pass

    def close(self):
        pass


class Events(ListSink):
    """Keeps events too."""

    def __init__(self):
        super().__init__()
        self.events = []

    def send_event(self, event):
        self.events.append(event)


def chunks(dff, first=0, size=1):
    return [
        FrameChunk(frames=dff[:, i : i + size], first_frame=first + i, stream="long", frame_rate_hz=RATE)
        for i in range(0, dff.shape[1], size)
    ]


def plain(event):
    return {**event.to_dict(), "t_emit": None}


def run(model, source, sink, folder, **options):
    path = folder / "rules.yaml"
    path.write_text(RULES, encoding="utf-8")
    host = TriggerHost(read_rules(path))
    host.prepare(model.spec)
    runner = Runner(
        source,
        [sink],
        lambda n, rate: SpikeStream(
            model, n_neurons=n, frame_rate_hz=rate, noise_levels=np.full(n, 2.0), lookahead_frames=(2, 4)
        ),
        triggers=host,
        **options,
    )
    return runner.run()


def test_indices_of_years_change_nothing(model, tmp_path):
    dff = recording(n_frames=700, n_neurons=N_NEURONS)
    sinks = []
    for first in (0, YEARS):
        sink = Events()
        parts = chunks(dff, first, 3)
        del parts[70:72], parts[150:190]  # a gap that is filled, and one that is not
        again = chunks(dff[:, :200], first, 3)  # the source counts anew
        summary = run(model, ListSource([*parts, *again, EndOfStream(next_frame=first + 200)]), sink, tmp_path)
        assert (summary.frames["restarts"], summary.frames["gaps"]) == (1, 2)
        assert summary.frames["filled"] == 6
        sinks.append(sink)
    young, old = sinks
    for lookahead in (2, 4):
        frame, prob, valid = young.results(lookahead)
        later, same_prob, same_valid = old.results(lookahead)
        np.testing.assert_array_equal(later - YEARS, frame)
        np.testing.assert_array_equal(same_prob, prob)
        np.testing.assert_array_equal(same_valid, valid)
    moved = [replace(one, frame=one.frame - YEARS, newest_frame=one.newest_frame - YEARS) for one in old.events]
    assert [plain(one) for one in moved] == [plain(one) for one in young.events]
    assert {one.rule for one in young.events} == {"plain", "busier", "than usual", "spikes"}


def test_a_stream_that_is_at_a_frame_of_years(model):
    dff = recording(n_frames=100, n_neurons=N_NEURONS)
    options = {"n_neurons": N_NEURONS, "frame_rate_hz": RATE, "lookahead_frames": (2, 4), "threshold": "noise_floor"}
    young = SpikeStream(model, noise_levels=np.full(N_NEURONS, 2.0), **options)
    old = SpikeStream(model, noise_levels=np.full(N_NEURONS, 2.0), **options)
    old.skip(YEARS)
    dff[1, 50] = np.nan
    for part in (dff[:, :40], dff[:, 40:]):
        a, b = young.push(part, touched=False), old.push(part, touched=False)
        for one, other in ((a, b), (a.revisions[4], b.revisions[4])):
            assert other.first_frame == YEARS + one.first_frame
            np.testing.assert_array_equal(other.spike_prob, one.spike_prob)
            np.testing.assert_array_equal(other.valid, one.valid)


def test_nothing_grows_with_the_number_of_frames(model, tmp_path, caplog):
    """With everything in it that may happen again and again: events, gaps, late frames, wrong messages, restarts."""
    caplog.set_level(logging.CRITICAL, "cascade_rt")  # pytest keeps what is logged
    dff = recording(n_frames=400, n_neurons=N_NEURONS)
    blocks = []

    def items():
        wrong = FrameChunk(frames=np.zeros((9, 1), np.float32), first_frame=0, stream="long", frame_rate_hz=RATE)
        for number in range(60):
            blocks.append(sys.getallocatedblocks())
            first = number * 800 if number % 7 else 0  # now and then the source counts anew
            parts = chunks(dff, first, 2)
            del parts[30:32]
            yield from parts
            yield parts[20]  # again
            yield from chunks(dff, first + 60, 2)[:2]  # too late
            yield wrong
            yield from chunks(dff, first + 500, 50)[:6]
        yield EndOfStream()

    class Source(ListSource):
        def __init__(self, items):
            super().__init__([])
            self._coming = items

        def receive(self, timeout_s):
            return next(self._coming, None)

    messages = [{"rule": "plain", "action": "arm"}, {"rule": "nobody", "action": "arm"}]
    summary = run(model, Source(items()), Quiet(), tmp_path, controls=lambda: messages)
    assert summary.frames["processed"] > 30_000
    assert sum(summary.values["events"].values()) > 1000
    assert summary.frames["restarts"] > 5
    assert summary.values["messages"]["rejected"]
    grown = min(blocks[-7:]) - min(blocks[30:37])
    assert grown < 100, f"{grown} more objects after 24 times the same"

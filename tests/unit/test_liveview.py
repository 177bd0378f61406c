"""What the live view shows, read back as text; and that it never shows more often than it may."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from cascade_rt.chunks import SpikeChunk
from cascade_rt.gaps import Piece, SequenceCounters
from cascade_rt.latency import LatencyHistogram
from cascade_rt.liveview import History, LineView, TerminalView, View, make_view, render
from cascade_rt.ports import RunInfo
from cascade_rt.receiving import Rejections
from cascade_rt.runstats import NeuronStatistics, RunStatistics
from cascade_rt.testing import ManualClock, fake_spec

N = 20


@pytest.fixture
def statistics():
    """A run of a minute; neuron 7 is by far the most active one."""
    statistics = RunStatistics(
        counters=SequenceCounters(), rejections=Rejections(), source="tcp://127.0.0.1:5555", sinks=["out.npz"]
    )
    statistics.started, statistics.now = 100.0, 163.0
    statistics.info = RunInfo(stream="mouse", n_neurons=N, frame_rate_hz=30.0, lookaheads=(2, 7), spec=fake_spec())
    statistics.latency = LatencyHistogram(1 / 30)
    statistics.recent_latency = LatencyHistogram(1 / 30)
    for _ in range(100):
        statistics.latency.add(0.004)
        statistics.recent_latency.add(0.004)
    statistics.neurons = NeuronStatistics(N, 30.0)
    statistics.integration = ((2, 3), (7, 8))
    statistics.noise_levels = np.linspace(1, 4, N)
    statistics.counters.processed = 1800
    statistics.last_frame = 123_456
    add_frames(statistics)
    return statistics


def add_frames(statistics, n=30):
    prob = np.full((N, n), 0.01, np.float32)
    prob[7] = 0.5
    frames = np.random.default_rng(0).normal(0, 1, (N, n)).astype(np.float32)
    frames[3] = np.nan
    frames[4] = 1
    statistics.neurons.add_frames(Piece(frames=frames, first_frame=0))
    statistics.neurons.add_result(SpikeChunk(spike_prob=prob, first_frame=0, valid=prob > 0, lookahead_frames=2))
    statistics.published[2] += n


def shown(statistics, width=110, history=None):
    history = history or History()
    history.add(statistics)
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render(statistics, history, width))
    return console.export_text()


def test_everything_that_matters_is_shown(statistics):
    text = shown(statistics)
    for part in (
        "fake_30Hz", "20 neurons, 30 Hz", "mouse", "tcp://127.0.0.1:5555", "out.npz", "0:01:03", "running",
        "123 456", "2 frames  known 100 ms", "7 frames  known 267 ms", "max 4.0 ms", "p99 of 33.3 ms",
        "0 missed", "1 800", "median 2.50", "trained for 0.5-10", "Ctrl-C",
    ):  # fmt: skip
        assert part in text, part
    assert re.search(r"p50 (3\.9|4\.0)\d  p99 (3\.9|4\.0)\d", text)
    rows = text.splitlines()
    first = next(row for row, after in zip(rows[1:], rows, strict=False) if "most active" in after)
    assert " 7 15.00 Hz" in first
    assert all(len(row) <= 110 for row in rows)


@pytest.mark.parametrize("width", [60, 89, 90, 200])
def test_it_fits_the_terminal(statistics, width):
    rows = shown(statistics, width).splitlines()
    assert max(map(len, rows)) <= min(width - 3, 120)
    assert sum("most active" in row and "noise level" in row for row in rows) == (width >= 90)


def test_what_is_wrong_is_shown(statistics):
    statistics.counters.filled = 12
    statistics.counters.gaps = 2
    statistics.counters.late = 3
    statistics.counters.before_start = 4321
    statistics.overrun = 77
    statistics.sink_dropped = 88
    statistics.rejections.add("shape", "x")
    statistics.latency.add(0.5)
    statistics.warnings.append("values look like percent")
    text = " ".join(shown(statistics).split())
    for part in (
        "lost 12", "gaps 2", "late 3", "too slow 77", "not sent 88", "rejected 1", "1 missed", "all NaN 1",
        "constant 1", "! values look like percent", "joined at frame 4 321",
    ):  # fmt: skip
        assert part in text, part


def test_the_states_of_a_run(statistics):
    statistics.calibrating, statistics.calibration_progress = True, 0.63
    text = shown(statistics)
    assert "calibrating: results are provisional" in text
    assert "63 %" in text
    statistics.noise_levels = np.full(N, np.nan)
    assert "not known yet" in shown(statistics)
    statistics.stopping = True
    assert "once more ends at once" in shown(statistics)
    statistics.ended = "error"
    assert "failed" in shown(statistics)
    statistics.info = None
    statistics.ended = ""
    assert "waiting for the first frame from tcp://127.0.0.1:5555" in shown(statistics)


def test_neurons_without_noise_level_are_counted(statistics):
    statistics.noise_levels[:3] = np.nan
    assert "3 neurons without" in " ".join(shown(statistics).replace("│", " ").split())


def test_a_run_that_has_just_begun_can_be_shown(statistics):
    fresh = RunStatistics(counters=SequenceCounters(), rejections=Rejections())
    assert "waiting" in shown(fresh)
    fresh.info, fresh.neurons = statistics.info, NeuronStatistics(N, 30.0)
    assert "no results yet" in shown(fresh)


def test_frames_per_second_are_those_of_the_last_pictures(statistics):
    history = History()
    for picture in range(30):
        statistics.now = 100 + picture / 4
        statistics.counters.processed = 10 * picture
        history.add(statistics)
    assert history.frames_per_s == pytest.approx(40)
    assert "40.0 frames/s" in shown(statistics, history=history)


def test_activity_forgets():
    neurons = NeuronStatistics(2, 10.0)

    def add(values, times):
        for _ in range(times):
            prob = np.array(values, np.float32)[:, None]
            neurons.add_result(SpikeChunk(spike_prob=prob, first_frame=0, valid=prob > 0, lookahead_frames=2))

    add([0.3, np.nan], 10)
    np.testing.assert_allclose(neurons.activity_hz, [3, 0], rtol=1e-6)
    np.testing.assert_allclose(neurons.take_recent_hz(), [3, 0], rtol=1e-6)
    assert neurons.take_recent_hz() is None
    add([0.0, 0.1], 500)
    np.testing.assert_allclose(neurons.activity_hz, [0, 1], atol=1e-3)


def test_activity_does_not_depend_on_the_chunks():
    prob = np.random.default_rng(0).random((3, 60)).astype(np.float32)
    whole, single = NeuronStatistics(3, 30.0), NeuronStatistics(3, 30.0)
    for step, neurons in ((60, whole), (1, single)):
        for start in range(0, 60, step):
            part = prob[:, start : start + step]
            neurons.add_result(SpikeChunk(spike_prob=part, first_frame=start, valid=part > 0, lookahead_frames=2))
    np.testing.assert_allclose(whole.activity_hz, single.activity_hz, rtol=0.2)


def test_it_is_drawn_at_its_interval_and_less_often_if_that_takes_long(statistics):
    clock = ManualClock()

    class Counting(View):
        cost, drawn = 0.0, 0

        def show(self):
            self.drawn += 1
            clock.advance(self.cost)

    view = Counting(statistics, clock=clock)
    for _ in range(100):
        view.update()
        clock.advance(0.01)
    assert view.drawn == 4
    view.cost = 0.05
    view.update(force=True)
    drawn = view.drawn
    clock.advance(0.9)
    view.update()
    assert view.drawn == drawn
    clock.advance(0.2)
    view.update()
    assert view.drawn == drawn + 1


def test_plain_lines(statistics):
    clock, stream = ManualClock(), io.StringIO()
    view = LineView(statistics, stream, clock=clock)
    for _ in range(12):
        view.update()
        clock.advance(1.0)
        statistics.now += 1.0
        statistics.counters.processed += 30
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        for part in ("frame 123456", "30.0 frames/s", "latency p50 4.0 p99 4.0 ms", "deadline misses 0", "lost 0"):
            assert part in line
    statistics.ended = "end"
    view.update(force=True)
    assert len(stream.getvalue().splitlines()) == 2


def test_the_terminal_is_left_as_it_was(statistics):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with TerminalView(statistics, console, clock=ManualClock()) as view:
        view.update(force=True)
        assert "\x1b[?25l" in stream.getvalue(), "the cursor is hidden"
    assert stream.getvalue().rstrip().endswith("\x1b[?25h"), "and shown again"


def test_the_view_suits_the_stream(statistics):
    assert isinstance(make_view("auto", statistics, io.StringIO()), LineView)
    assert isinstance(make_view("terminal", statistics, io.StringIO()), TerminalView)
    assert isinstance(make_view("lines", statistics, io.StringIO()), LineView)
    assert type(make_view("none", statistics, io.StringIO())) is View


@pytest.mark.parametrize("kind", ["lines", "terminal"])
def test_a_terminal_that_has_gone_does_not_end_the_run(statistics, kind, caplog):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with make_view(kind, statistics, Closed()) as view:
        for _ in range(3):
            view.update(force=True)
    assert caplog.text.count("the run goes on") == 1

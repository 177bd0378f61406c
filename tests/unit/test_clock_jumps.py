"""Clocks that jump: a run counts in frames and in monotonic time; nothing depends on the time of day."""

from __future__ import annotations

import ast
import datetime
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cascade_rt
from cascade_rt.ports import EndOfStream
from cascade_rt.runner import Runner
from cascade_rt.testing import FakeStream, ListSink, ListSource, ManualClock, ramp_chunks

PACKAGE = Path(cascade_rt.__file__).parent
#: What works while frames come; a time of day in them is for people to read, never for a decision.
LIVE = ("runner", "receiving", "publishing", "gaps", "stream", "latency", "codec", "stepper", "noise", "runstats")


class Source(ListSource):
    """Advances the clock before each message as told, and stamps what it gives with it."""

    def __init__(self, items, clock, steps):
        super().__init__(items)
        self._own_clock, self._steps = clock, iter(steps)

    def receive(self, timeout_s):
        item = super().receive(timeout_s)
        self._own_clock.advance(next(self._steps, 0.0))
        return item if not hasattr(item, "frames") else replace(item, t_recv=self._own_clock())


def results_of(items, steps=()):
    clock, sink = ManualClock(), ListSink()
    source = Source(items, clock, steps)
    runner = Runner(
        source,
        [sink],
        lambda n, rate: FakeStream(n_neurons=n, frame_rate_hz=rate, lookahead_frames=2),
        frame_rate_hz=30.0,
        clock=clock,
    )
    summary = runner.run()
    return summary, sink.results(2), sink


def items(times):
    chunks = ramp_chunks(3, len(times), [1])
    return [*(replace(chunk, t_source=t) for chunk, t in zip(chunks, times, strict=True)), EndOfStream(next_frame=60)]


def same_results(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_time_of_day_does_not_matter(monkeypatch):
    times = [n / 30 for n in range(60)]
    plain, expected, _ = results_of(items(times), [1 / 30] * 60)
    jumps = iter(np.tile([0.0, 4e9, -4e9, 1.7e9], 10_000))

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(next(jumps) % 2e9, tz)

    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    monkeypatch.setattr(datetime, "datetime", Datetime)
    jumped, results, _ = results_of(items(times), [1 / 30] * 60)
    same_results(results, expected)
    assert jumped.frames == plain.frames
    assert jumped.latency["count"] == plain.latency["count"] == 60
    assert jumped.latency["max_ms"] <= 2001, "the two threads share the clock that goes on for 2 s altogether"
    assert 0 <= jumped.values["duration_s"] <= 2.001


@pytest.mark.parametrize(
    "times",
    [
        [n / 30 - (3600.0 if n > 30 else 0.0) for n in range(60)],
        [n / 30 + (1e9 if n > 30 else 0.0) for n in range(60)],
        [1.0] * 60,
        [None] * 60,
    ],
    ids=["back", "ahead", "stands", "none"],
)
def test_timestamps_of_the_source_are_passed_on_and_used_for_nothing(times):
    _, expected, _ = results_of(items([n / 30 for n in range(60)]))
    summary, results, sink = results_of(items(times))
    same_results(results, expected)
    assert summary.frames["processed"] == 60
    assert summary.frames["lost"] == 0
    given = {chunk.t_source for chunk in sink.chunks if chunk.t_source is not None}
    assert given <= {t for t in times if t is not None}


def test_an_hour_of_sleep_of_the_computer_loses_no_frame():
    """The monotonic clock may go on meanwhile, or not."""
    times = [n / 30 for n in range(60)]
    _, expected, _ = results_of(items(times), [1 / 30] * 60)
    summary, results, _ = results_of(items(times), [1 / 30] * 30 + [3600.0] + [1 / 30] * 29)
    same_results(results, expected)
    assert (summary.frames["processed"], summary.frames["lost"]) == (60, 0)


def test_no_module_of_the_live_path_asks_for_the_time_of_day():
    asking = []
    for path in (*(PACKAGE / f"{name}.py" for name in LIVE), *(PACKAGE / "endpoints").glob("zeromq.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow",
            ):  # fmt: skip
                asking.append(f"{path.name}:{node.lineno}")
    assert asking == []

"""Progress is quiet for short work, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from cascade_rt.progress import progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_shows_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        clock = Clock()
        with progress("predicting", stream=stream, clock=clock) as update:
            for step in range(10):
                clock.now += 0.09
                update(step / 10)
        assert stream.getvalue() == ""


def test_plain_lines_are_far_apart_and_say_what_is_left() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("predicting", stream=stream, clock=clock, interval_s=10.0) as update:
        for step in range(1, 101):
            clock.now += 0.5
            update(step / 100, "7 neurons")
    assert stream.getvalue().splitlines() == [
        "predicting: 2 %, 7 neurons, about 49 s left",
        "predicting: 22 %, 7 neurons, about 39 s left",
        "predicting: 42 %, 7 neurons, about 29 s left",
        "predicting: 62 %, 7 neurons, about 19 s left",
        "predicting: 82 %, 7 neurons, about 9 s left",
        "predicting: done in 50 s",
    ]


def test_unknown_end_and_long_times() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("downloading", stream=stream, clock=clock) as update:
        clock.now = 2.0
        update(None, "3.2 MB")
        clock.now = 100.0
        update(0.5)
        clock.now = 7300.0
        update(None)
    assert stream.getvalue().splitlines() == [
        "downloading: 3.2 MB",
        "downloading: 50 %, about 1 min 40 s left",
        "downloading: 2 h 1 min",
        "downloading: done in 2 h 1 min",
    ]


def test_failed_work_does_not_claim_to_be_done() -> None:
    clock, stream = Clock(), io.StringIO()

    def work() -> None:
        with progress("reading", stream=stream, clock=clock) as update:
            clock.now = 5.0
            update(0.5)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert stream.getvalue() == "reading: 50 %, about 5 s left\n"


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    clock, stream = Clock(), Terminal()
    with progress("predicting", stream=stream, clock=clock) as update:
        clock.now = 2.0
        update(None, "3.2 MB")
        update(0.25, "74 neurons")
    shown = stream.getvalue()
    assert "predicting" in shown
    assert "25%" in shown
    assert "74 neurons" in shown
    assert "done in" not in shown

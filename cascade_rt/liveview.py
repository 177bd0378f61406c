"""What an experimenter sees of a live run: a panel in the terminal, or plain lines where there is none.

Drawn by the processing thread between two frames, when nothing waits: a thread of its own would take the
interpreter away from a frame that has just arrived. The interval grows with the time that drawing takes.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TextIO

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from rich.console import RenderableType

    from .runstats import RunStatistics

__all__ = ["LineView", "TerminalView", "View", "make_view", "render"]

log = logging.getLogger(__name__)

ViewKind = Literal["auto", "terminal", "lines", "none"]

#: Time between two pictures (s), and how often a picture may cost its own time.
INTERVAL_S, LEAST_SHARE = 0.25, 20
#: Time between two plain lines (s).
LINE_S = 5.0
#: Pictures that the small curves reach back, one character each.
CURVE = 20
#: Neurons listed as most active.
TOP = 8

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_GOOD, _DOUBTFUL, _BAD, _QUIET, _ACCENT = "green", "yellow", "bold red", "dim", "cyan"
_NOISE_EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, math.inf)


class History:
    """What the small curves show: one entry for each picture."""

    def __init__(self) -> None:
        self.latency_ms: deque[float] = deque(maxlen=CURVE)
        self.mean_activity: deque[float] = deque(maxlen=CURVE)
        self.activity: deque[NDArray[np.float32]] = deque(maxlen=CURVE)
        self._last: tuple[float, int] | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=9)

    def add(self, statistics: RunStatistics) -> None:
        """Look at the run now."""
        self._recent.append((statistics.now, statistics.counters.processed))
        recent = statistics.recent_latency
        if recent.count:
            self.latency_ms.append(1000 * recent.percentile(99))
            recent.reset()
        if statistics.neurons is not None:
            recent_hz = statistics.neurons.take_recent_hz()
            if recent_hz is not None:
                self.activity.append(recent_hz)
                self.mean_activity.append(float(recent_hz.mean()))

    @property
    def frames_per_s(self) -> float:
        """Frames processed per second over the last pictures."""
        if len(self._recent) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._recent[0], self._recent[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0


class View:
    """Watches a run and shows nothing; what the other views have in common.

    Parameters
    ----------
    statistics : RunStatistics
    clock : callable
        Monotonic time (s).
    """

    interval_s = INTERVAL_S

    def __init__(self, statistics: RunStatistics, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.statistics = statistics
        self._clock = clock
        self._next = -math.inf
        self._gone = False

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, *, force: bool = False) -> None:
        """Show the run's state if it is time to."""
        now = self._clock()
        if self._gone or (now < self._next and not force):
            return
        try:
            self.show()
        except OSError:  # the terminal or pipe is closed, which must not end an experiment
            self._gone = True
            log.warning("the view cannot be shown any more; the run goes on")
        took = self._clock() - now
        self._next = now + max(self.interval_s, LEAST_SHARE * took)

    def show(self) -> None:
        """Show the run's state now."""

    def close(self) -> None:
        """Leave the terminal as it should be."""


class LineView(View):
    """One line every few seconds, for logs and pipes."""

    interval_s = LINE_S

    def __init__(
        self, statistics: RunStatistics, stream: TextIO, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(statistics, clock=clock)
        self._stream = stream
        self._history = History()
        self._begun = clock()
        self._next = self._begun + LINE_S
        self._seen = False

    def update(self, *, force: bool = False) -> None:
        """Write a line if it is time to."""
        if not self._seen and self.statistics.info is not None:
            self._seen = True
            self._history.add(self.statistics)  # where the first line's frames per second are counted from
        super().update(force=force)

    def show(self) -> None:
        """Write a line, once frames have come."""
        statistics, history = self.statistics, self._history
        if statistics.info is None or statistics.ended:
            return
        history.add(statistics)
        self._stream.write(line(statistics, history, self._clock() - self._begun) + "\n")
        self._stream.flush()


class TerminalView(View):
    """A panel that is redrawn in place.

    Parameters
    ----------
    statistics : RunStatistics
    console : Console
    """

    def __init__(
        self, statistics: RunStatistics, console: Console, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(statistics, clock=clock)
        self._history = History()
        self._console = console
        self._live: Live | None = None

    def show(self) -> None:
        """Redraw the panel."""
        self._history.add(self.statistics)
        picture = render(self.statistics, self._history, self._console.width)
        if self._live is None:
            live = Live(picture, console=self._console, auto_refresh=False, vertical_overflow="crop")
            live.start()
            self._live = live
        self._live.update(picture, refresh=True)

    def close(self) -> None:
        """Leave the last picture where it is and free the terminal."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None


class _Console(Console):
    """A console that leaves it to the view what happens when its pipe is closed: rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_view(kind: ViewKind, statistics: RunStatistics, stream: TextIO) -> View:
    """Choose a view.

    Parameters
    ----------
    kind : "auto", "terminal", "lines" or "none"
        ``auto``: a panel on a terminal, lines elsewhere.
    statistics : RunStatistics
    stream : text file
        Where to show it, usually stderr.
    """
    if kind == "none":
        return View(statistics)
    console = _Console(file=stream, force_terminal=True if kind == "terminal" else None)
    if kind == "terminal" or (kind == "auto" and console.is_terminal and not console.is_dumb_terminal):
        return TerminalView(statistics, console)
    return LineView(statistics, stream)


# --- pictures ----------------------------------------------------------------------------------------------


def line(statistics: RunStatistics, history: History, elapsed_s: float) -> str:
    """One line about the run."""
    counters, latency = statistics.counters, statistics.latency
    last = "-" if statistics.last_frame is None else statistics.last_frame
    parts = [f"{elapsed_s:8.1f} s", f"frame {last}", f"{history.frames_per_s:.1f} frames/s"]
    if latency.count:
        p50, p99 = (1000 * latency.percentile(q) for q in (50, 99))
        parts.append(f"latency p50 {p50:.1f} p99 {p99:.1f} ms")
        if latency.deadline_s is not None:
            parts.append(f"deadline misses {latency.misses}")
    parts.append(f"lost {counters.lost} late {counters.late} duplicate {counters.duplicate}")
    if statistics.rejections.total:
        parts.append(f"rejected {statistics.rejections.total}")
    if statistics.calibrating:
        parts.append(f"calibrating {100 * statistics.calibration_progress:.0f} %")
    return "  ".join(parts)


def render(statistics: RunStatistics, history: History, width: int = 100) -> RenderableType:
    """Draw the state of a run.

    Parameters
    ----------
    statistics : RunStatistics
    history : History
    width : int
        Columns of the terminal; below 90 the parts stand below each other.
    """
    if statistics.info is None:
        body: RenderableType = Text(f"waiting for the first frame from {statistics.source} …", style=_DOUBTFUL)
    else:
        timing = _titled("time", _timing(statistics, history))
        frames = _titled("frames", _frames(statistics))
        noise = _titled("noise level ν  (% · Hz^-½)", _noise(statistics))
        active = _titled("most active neurons", _active(history, statistics))
        body = Table.grid(expand=True, padding=(0, 1))
        if width >= 90:
            body.add_column(ratio=11)
            body.add_column(ratio=9)
            body.add_row(timing, frames)
            body.add_row(active, noise)
        else:
            body.add_column()
            for part in (timing, frames, active, noise):
                body.add_row(part)
    rows: list[RenderableType] = [_head(statistics), body]
    rows += [Text(f"! {text}", style=_DOUBTFUL) for text in statistics.warnings[-3:]]
    state, style = _state(statistics)
    return Panel(
        Group(*rows),
        title=Text.assemble(("cascade-rt ", "bold"), (f" {state} ", style)),
        title_align="left",
        subtitle=Text(_subtitle(statistics), style=_QUIET),
        subtitle_align="right",
        border_style=_ACCENT,
        width=min(width - 3, 120),  # room for the ^C that a terminal echoes: a wrapped line would spoil the picture
    )


def _head(statistics: RunStatistics) -> Text:
    info = statistics.info
    elapsed = 0.0 if statistics.started is None else statistics.now - statistics.started
    text = Text(overflow="ellipsis", no_wrap=True)
    if info is not None:
        text.append(info.spec.name, "bold")
        text.append(f"   {info.n_neurons} neurons, {info.frame_rate_hz:g} Hz")
        text.append(f"   stream {info.stream}" if info.stream else "")
        text.append("\n")
    text.append(statistics.source, _ACCENT)
    text.append(" → ", _QUIET)
    text.append(", ".join(statistics.sinks) or "nowhere", _ACCENT)
    text.append(f"   {_clock_time(elapsed)}", _QUIET)
    return text


def _state(statistics: RunStatistics) -> tuple[str, str]:
    if statistics.ended:
        return {"end": "finished", "interrupted": "stopped", "error": "failed"}.get(statistics.ended, "ended"), (
            "reverse red" if statistics.ended == "error" else "reverse"
        )
    if statistics.info is None:
        return "waiting", "reverse yellow"
    if statistics.calibrating:
        return "calibrating: results are provisional", "reverse yellow"
    if statistics.baseline_filling:
        return "the baseline's window fills: results are provisional", "reverse yellow"
    return "running", "reverse green"


def _subtitle(statistics: RunStatistics) -> str:
    if statistics.ended:
        return "everything is closed"
    return "finishing; Ctrl-C once more ends at once" if statistics.stopping else "Ctrl-C: finish and close"


def _timing(statistics: RunStatistics, history: History) -> RenderableType:
    info, latency = statistics.info, statistics.latency
    assert info is not None
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style=_QUIET, width=10)
    grid.add_column()
    grid.add_row("frame", Text(f"{_count(statistics.last_frame)}", "bold"))
    rate = history.frames_per_s
    slow = not statistics.ended and latency.deadline_s is not None and rate < 0.9 * info.frame_rate_hz
    grid.add_row(
        "rate",
        Text.assemble((f"{rate:.1f}", _DOUBTFUL if slow else _GOOD), " frames/s"),
    )
    for number, (lookahead, n_frames) in enumerate(statistics.integration):
        ms = 1000 * n_frames / info.frame_rate_hz
        name = "look-ahead" if number == 0 else "  revised"
        grid.add_row(name, Text.assemble((f"{lookahead:>3} frames", "bold"), f"  known {ms:.0f} ms after frame start"))
    if latency.count:
        p50, p99 = (1000 * latency.percentile(q) for q in (50, 99))
        deadline = None if latency.deadline_s is None else 1000 * latency.deadline_s
        style = _GOOD if deadline is None or p99 < deadline / 2 else _DOUBTFUL if p99 < deadline else _BAD
        grid.add_row(
            "latency",
            Text.assemble(
                "p50 ", (f"{p50:.2f}", style), "  p99 ", (f"{p99:.2f}", style), f"  max {1000 * latency.max_s:.1f} ms"
            ),
        )
        if deadline is not None:
            grid.add_row(
                "deadline",
                Text.assemble(
                    (_bar(p99 / deadline, 14).rstrip(), style),
                    ("░" * (14 - len(_bar(p99 / deadline, 14).rstrip())), _QUIET),
                    f" p99 of {deadline:.1f} ms, ",
                    (f"{latency.misses} missed", _BAD if latency.misses else _GOOD),
                ),
            )
        grid.add_row("", Text.assemble((_curve(history.latency_ms), _QUIET), (" p99 over time", _QUIET)))
    return grid


def _frames(statistics: RunStatistics) -> RenderableType:
    counters = statistics.counters
    grid = Table.grid(padding=(0, 1))
    for _ in range(2):
        grid.add_column(style=_QUIET, width=10)
        grid.add_column(justify="right", width=10)
    cells = [
        ("processed", counters.processed, ""),
        ("waiting", statistics.queue_frames, _DOUBTFUL if statistics.queue_frames > 4 else ""),
        ("lost", counters.lost, _BAD),
        ("gaps", counters.gaps, _BAD),
        ("late", counters.late, _DOUBTFUL),
        ("duplicate", counters.duplicate, _DOUBTFUL),
        ("too slow", statistics.overrun, _BAD),
        ("restarts", counters.restarts, _DOUBTFUL),
        ("rejected", statistics.rejections.total, _DOUBTFUL),
        ("not sent", statistics.sink_dropped, _BAD),
    ]
    for left, right in zip(cells[::2], cells[1::2], strict=True):
        grid.add_row(*[part for name, n, style in (left, right) for part in (name, _number(n, style))])
    if statistics.neurons is not None:
        unusable = int(statistics.neurons.all_nan.sum()), int(statistics.neurons.constant.sum())
        if any(unusable) and counters.processed > 1:
            grid.add_row("all NaN", _number(unusable[0], _DOUBTFUL), "constant", _number(unusable[1], _DOUBTFUL))
    if counters.before_start:
        return Group(grid, Text(f"joined at frame {_count(counters.before_start)}", style=_QUIET))
    return grid


def _noise(statistics: RunStatistics) -> RenderableType:
    info, nu = statistics.info, statistics.noise_levels
    assert info is not None
    rows: list[RenderableType] = []
    if statistics.calibrating:
        bar = ProgressBar(total=1.0, completed=statistics.calibration_progress, width=24)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text("measuring", style=_DOUBTFUL), bar, f"{100 * statistics.calibration_progress:.0f} %")
        rows.append(grid)
    known = nu[np.isfinite(nu)] if nu is not None else np.empty(0)
    if not known.size:
        return Group(*rows, Text("not known yet", style=_QUIET))
    counts = np.histogram(known, _NOISE_EDGES)[0]
    used = np.flatnonzero(counts)
    low, high = info.spec.noise_range
    for place in range(used[0], used[-1] + 1):
        left, right = _NOISE_EDGES[place], _NOISE_EDGES[place + 1]
        trained = right > low and left < high
        label = f"{left:g}-{right:g}" if math.isfinite(right) else f"> {left:g}"
        drawn = _bar(counts[place] / counts.max(), 20)
        rows.append(Text.assemble((f"{label:>7} ", _QUIET), (drawn, _ACCENT if trained else _BAD), f" {counts[place]}"))
    without = int(np.isnan(nu).sum()) if nu is not None else 0
    rows.append(Text(f"median {np.median(known):.2f}, model trained for {low:g}-{high:g}", style=_QUIET))
    if without:
        rows.append(Text(f"{without} neurons without", style=_DOUBTFUL))
    return Group(*rows)


def _active(history: History, statistics: RunStatistics) -> RenderableType:
    if statistics.neurons is None or not history.activity or not statistics.published:
        return Text("no results yet", style=_QUIET)
    activity = statistics.neurons.activity_hz
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", width=7, style=_QUIET)
    grid.add_column(justify="right", width=8)
    grid.add_column(width=10)
    grid.add_column(width=CURVE)
    top = np.argsort(-activity, kind="stable")[:TOP]
    highest = max(float(activity[top[0]]), 1e-9)
    for neuron in top:
        rate = float(activity[neuron])
        curve = _curve([recent[neuron] for recent in history.activity])
        grid.add_row(f"{neuron}", f"{rate:.2f} Hz", Text(_bar(rate / highest, 10), _ACCENT), Text(curve, _QUIET))
    mean = Text(_curve(history.mean_activity), _QUIET)
    grid.add_row("all", f"{activity.mean():.2f} Hz", Text("on average", _QUIET), mean)
    return grid


def _titled(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}", style=f"bold {_ACCENT}"), content)


def _number(value: int, style: str) -> Text:
    return Text(_count(value), style=style if value and style else "")


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}".replace(",", " ")


def _bar(fraction: float, width: int) -> str:
    """Draw a horizontal bar with a resolution of an eighth of a character."""
    eighths = round(8 * width * min(max(fraction, 0.0), 1.0)) if math.isfinite(fraction) else 0
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def _curve(values: Iterable[float]) -> str:
    """Draw values as a curve of one line's height, from zero to the highest."""
    shown = np.nan_to_num(np.array(list(values), float))
    if not shown.size or not shown.max() > 0:
        return _BLOCKS[1] * len(shown)
    places: list[int] = np.clip(np.ceil(shown / shown.max() * 8), 1, 8).astype(int).tolist()
    return "".join(_BLOCKS[place] for place in places)


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

"""Progress of anything that may take longer than a second: a bar on a terminal, plain lines elsewhere.

Nothing is shown for work that is done within the first second.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Progress", "progress"]


class Progress:
    """Shows how far a piece of work is; made by :func:`progress`.

    Call it with the fraction done (0 to 1, or None where the end is unknown) and, if there is something to say,
    a short detail such as ``"3.2 of 11 MB"``.

    Parameters
    ----------
    label : str
        What is being done, for example ``"predicting"``.
    stream : text file
        Where to show it.
    clock : callable
        Monotonic time in seconds.
    delay_s : float
        Nothing is shown before this time has passed.
    interval_s : float
        Time between two lines where the stream is not a terminal.
    """

    def __init__(
        self, label: str, *, stream: TextIO, clock: Callable[[], float], delay_s: float, interval_s: float
    ) -> None:
        self.label = label
        self._stream = stream
        self._clock = clock
        self._interval_s = interval_s
        self._terminal = bool(getattr(stream, "isatty", lambda: False)())
        self._started = clock()
        self._next = self._started + delay_s
        self._shown = False
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, fraction: float | None, detail: str = "") -> None:
        now = self._clock()
        if now < self._next and self._bar is None:
            return
        self._shown = True
        if self._terminal:
            self._update_bar(fraction, detail)
        else:
            self._next = now + self._interval_s
            if fraction is None or fraction < 1:
                self._write_line(now - self._started, fraction, detail)

    def close(self, *, finished: bool) -> None:
        """Take the bar away; a plain stream gets a last line if it had others before."""
        if self._bar is not None:
            self._bar.stop()
        elif self._shown and finished:
            self._stream.write(f"{self.label}: done in {_duration(self._clock() - self._started)}\n")
            self._stream.flush()

    def _write_line(self, elapsed_s: float, fraction: float | None, detail: str) -> None:
        parts = [detail] if detail else []
        if fraction is not None:
            parts.insert(0, f"{100 * fraction:.0f} %")
            if fraction > 0:
                parts.append(f"about {_duration(elapsed_s * (1 - fraction) / fraction)} left")
        self._stream.write(f"{self.label}: {', '.join(parts) or _duration(elapsed_s)}\n")
        self._stream.flush()

    def _update_bar(self, fraction: float | None, detail: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task(self.label, total=None, detail="")
            self._bar.start()
        self._bar.update(
            self._task,
            completed=0 if fraction is None else fraction,
            total=None if fraction is None else 1.0,
            detail=detail,
        )


@contextmanager
def progress(
    label: str,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    delay_s: float = 1.0,
    interval_s: float = 10.0,
) -> Iterator[Progress]:
    """Show the progress of the work inside the ``with`` block.

    Parameters
    ----------
    label : str
        What is being done, for example ``"predicting"``.
    stream : text file, optional
        Where to show it; stderr by default, so that stdout stays free for results.
    clock : callable
        Monotonic time in seconds.
    delay_s : float
        Work that is done sooner shows nothing (s).
    interval_s : float
        Time between two lines where the stream is not a terminal (s).

    Yields
    ------
    Progress
        To be called with the fraction done, 0 to 1.

    Examples
    --------
    >>> with progress("reading") as update:
    ...     for number in range(4):
    ...         update((number + 1) / 4)
    """
    shown = Progress(label, stream=stream or sys.stderr, clock=clock, delay_s=delay_s, interval_s=interval_s)
    finished = False
    try:
        yield shown
        finished = True
    finally:
        shown.close(finished=finished)


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"

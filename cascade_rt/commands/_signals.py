"""Ctrl-C asks a command to finish; a second one ends it at once."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def stop_on_signals(stop: Callable[[], None], *, announce: bool = True) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C or request to end, raise KeyboardInterrupt at the next.

    With ``announce`` the first one is answered by a line on stderr; a live view says it by itself. Does nothing
    outside of the main thread, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if announce:
            sys.stderr.write("\nfinishing; once more to end at once\n")
        stop()

    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # what there is of these on this system
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

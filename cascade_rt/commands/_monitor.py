"""What `run` needs for its live page: options, and the page as long as the run lasts."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from cascade_rt.ports import Sink
    from cascade_rt.runstats import RunStatistics

__all__ = ["Watching", "add_monitor"]

ADDRESS = "127.0.0.1:8765"


def add_monitor(parser: argparse.ArgumentParser) -> None:
    """Add the options for the live page."""
    group = parser.add_argument_group("live page (docs/monitor.md)")
    group.add_argument(
        "--monitor",
        nargs="?",
        const=ADDRESS,
        metavar="HOST:PORT",
        help=f"show the run in a browser (default {ADDRESS})",
    )
    group.add_argument(
        "--monitor-control", action="store_true", help="who has the printed token may arm, disarm and change rules"
    )
    group.add_argument("--monitor-protect", action="store_true", help="looking needs the token too")
    group.add_argument("--monitor-insecure", action="store_true", help="let everybody look who can reach the address")


class Watching:
    """The live page of a run, if it was asked for; a context manager that ends it.

    Parameters
    ----------
    args : Namespace
    control : callable or None
        Takes messages for the rules; None: there are no rules.
    """

    def __init__(self, args: argparse.Namespace, control: Callable[[Any], str | None] | None) -> None:
        asked = args.monitor_control or args.monitor_protect or args.monitor_insecure
        if args.monitor is None and asked:
            raise InputError("--monitor-… without --monitor: add --monitor to have a live page")
        if args.monitor_control and control is None:
            raise InputError("--monitor-control without --rules: there is nothing to control")
        self._stack = ExitStack()
        self._monitor: Any = None
        self.sinks: list[Sink] = []
        if args.monitor is None:
            return
        from cascade_rt.monitor import start_monitor

        self._monitor = self._stack.enter_context(
            start_monitor(
                args.monitor,
                control=control if args.monitor_control else None,
                protect=args.monitor_protect,
                insecure=args.monitor_insecure,
            )
        )
        self.sinks.append(self._monitor.sink)
        print(f"live page: {self._monitor.url}", file=sys.stderr)

    def watch(self, statistics: RunStatistics, rules: Callable[[], Any] | None) -> None:
        """Say what to show."""
        if self._monitor is not None:
            self._monitor.watch(statistics, rules)

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

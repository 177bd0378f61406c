"""``cascade-rt batch``: spikes of many sessions."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, add_overwrite, positive_int, print_json
from ._infer import add_infer_options, infer_options

if TYPE_CHECKING:
    from cascade_rt.batch import Outcome, Session

_DESCRIPTION = """\
Does what `infer` does, for many sessions. PATHs are files, folders, patterns (data/*/suite2p), or folders
that are searched for sessions. Stopped or killed, give the same command again: sessions that are finished
are recognised by the contents of their files, the options and the model, and skipped; nothing is done
twice. One that fails does not stop the others.

Results go beside each session, or below --out FOLDER; a report (cascade_batch.html) and a log
(cascade_batch.jsonl) into the current folder, or into --out."""

_EXAMPLES = """\
examples:
  cascade-rt batch "data/*/suite2p" --indicator GCaMP8m
  cascade-rt batch archive/ --out results/ --workers 4
  cascade-rt batch --list sessions.csv                 columns: path, frame_rate_hz, indicator, ...
  cascade-rt batch archive/ --scheduler tcp://10.0.0.1:8786      on a Dask cluster"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``batch``."""
    parser = subparsers.add_parser(
        "batch",
        help="the same for many sessions, on all cores or a Dask cluster; goes on where it was stopped",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, folders, patterns")
    parser.add_argument("--list", type=Path, metavar="FILE", help="a session on each line, or a table with options")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the results (default: beside sessions)")
    parser.add_argument("--workers", type=positive_int, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="use the workers of this Dask scheduler")
    parser.add_argument("--report", type=Path, metavar="FILE", help="the report (default: cascade_batch.html)")
    parser.add_argument("--no-reports", action="store_true", help="write no report for each session")
    parser.add_argument("--no-beside", action="store_true", help="write nothing in the sources' own conventions")
    add_infer_options(parser)
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Process all sessions; 1 if any failed."""
    from cascade_rt.batch import run_batch
    from cascade_rt.errors import InputError

    if not args.paths and args.list is None:
        raise InputError("no sessions: give files, folders or patterns, or --list FILE")
    sessions = _sessions(args)
    print(f"{len(sessions)} sessions", file=sys.stderr)
    summary = run_batch(
        sessions,
        out=args.out,
        workers=args.workers,
        scheduler=args.scheduler,
        page=args.report,
        overwrite=args.overwrite,
        report=not args.no_reports,
        beside=not args.no_beside,
        progress=_Lines(),
    )
    if args.json:
        print_json(summary.to_dict())
    else:
        counts = ", ".join(f"{summary.count(status)} {status}" for status in ("done", "skipped", "failed"))
        print(f"{counts} in {summary.seconds:.0f} s\nreport: {summary.page}\nlog: {summary.log}")
    return 1 if summary.count("failed") else 0


def _sessions(args: argparse.Namespace) -> list[Session]:
    from cascade_rt.batch import find_sessions, read_list

    options = infer_options(args)
    found = list(read_list(args.list, options)) if args.list is not None else []
    if args.paths:
        search = find_sessions(args.paths, options)
        for path, why in search.passed_over.items():
            print(f"passed over: {path}: {why}", file=sys.stderr)
        found += search.sessions
    return list({session.path: session for session in found}.values())


class _Lines:
    """A line for each session, with the time left at the present rate."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._worked = 0

    def __call__(self, outcome: Outcome, finished: int, total: int) -> None:
        # Sessions that were skipped cost nothing and would make the rest look short.
        self._worked += outcome.status != "skipped"
        left = ""
        if finished < total and self._worked:
            seconds = (time.monotonic() - self._started) / self._worked * (total - finished)
            left = f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
        told = f": {outcome.reason}" if outcome.reason else ""
        print(f"[{finished}/{total}{left}] {outcome.status} {outcome.session}{told}", file=sys.stderr, flush=True)

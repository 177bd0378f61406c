"""``cascade-rt demo``: see it work, and check that it does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, positive_float, print_json

if TYPE_CHECKING:
    from cascade_rt.demo import DemoResult

_DESCRIPTION = """\
Plays a simulated recording with known spikes, at its true frame rate, through a socket into a live run;
receives what the run publishes, and compares it with the offline prediction and with the true spikes.
Writes a picture. Exit code 1 if a frame was lost or anything differs.

Each frame is described twice: at once, with an immediate estimate that knows two later frames, and again
half a second later, when fifteen later frames are known."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="see it work: a simulated recording through a live run, with a check",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=positive_float, default=30.0, metavar="S", help="how long to play (default: 30)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo_output"),
        metavar="FOLDER",
        help="where demo.png goes; an older one is replaced (default: demo_output)",
    )
    parser.add_argument("--no-live-view", action="store_true", help="do not show the live view of the run")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Play, compare, print."""
    from cascade_rt.demo import run_demo, to_json

    made = not args.out.exists()
    args.out.mkdir(parents=True, exist_ok=True)

    def tell(text: str) -> None:
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    try:
        result = run_demo(args.out, seconds=args.seconds, live_view=not (args.no_live_view or args.json), report=tell)
    finally:
        if made and not any(args.out.iterdir()):
            args.out.rmdir()
    if args.json:
        print_json(to_json(result))
    else:
        _print_summary(result)
    return 1 if result.problems else 0


def _print_summary(result: DemoResult) -> None:
    print(f"\n{result.n_neurons} neurons, {result.n_frames} frames sent, {result.lost} lost")
    print("look-ahead  received  largest difference to offline  correlation with the true spikes (median)")
    for lag, entry in sorted(result.lookaheads.items()):
        found = f"{entry['largest_difference']:>29.1e}  {entry['correlation']:>16.3f}"
        print(f"{lag:>4} frames  {entry['frames']:>8}  {found}")
    latency = result.latency
    if latency["count"]:
        print(
            f"from receiving a frame to publishing its estimate: {latency['p50_ms']:.1f} ms (p50), "
            f"{latency['p99_ms']:.1f} ms (p99), {latency['max_ms']:.1f} ms (longest)"
        )
    print(f"picture: {result.picture}")
    for problem in result.problems:
        print(f"PROBLEM: {problem}")
    if not result.problems:
        print(f"live equals offline: largest difference {result.largest_difference:.1e}, no frame lost")

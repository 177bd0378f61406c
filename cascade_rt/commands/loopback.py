"""``cascade-rt loopback``: the latency of the whole closed loop on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_device, add_json, add_overwrite, check_free, positive_float, positive_int, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

_DESCRIPTION = """\
Measures a closed loop as it will run: one process sends frames at their rate, `cascade-rt run` infers and
decides, another subscribes to results and events. Tells stage by stage how long that takes, what the model's
integration time adds, and whether frames were lost. Do it on the computer of the experiment, with what else
will run there."""

_EPILOG = """\
what stands behind -- goes to `cascade-rt run`, to measure with it, for example
  cascade-rt loopback --model GCaMP8_EXC_30Hz_smoothing25ms --seconds 600 -- --record session --monitor"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``loopback``."""
    parser = subparsers.add_parser(
        "loopback",
        help="measure the latency from frame to event on this machine, through real sockets",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="a model's name, or the folder of a bundle")
    parser.add_argument("--neurons", type=positive_int, default=1000, metavar="N", help="(default: 1000)")
    parser.add_argument("--frame-rate", type=positive_float, metavar="HZ", help="(default: the model's)")
    parser.add_argument("--seconds", type=positive_float, default=30.0, metavar="S", help="(default: 30)")
    parser.add_argument("--lookahead", metavar="N[,N…]", help="as for run")
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="your rules (default: a threshold on the busiest neuron)"
    )
    parser.add_argument("--fluorescence", action="store_true", help="send fluorescence, of which run makes dF/F")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with figures and a picture")
    add_overwrite(parser)
    add_device(parser)
    add_json(parser)
    parser.add_argument("run_options", nargs="*", metavar="-- OPTION", help="further options of run")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from cascade_rt.errors import InputError
    from cascade_rt.loopback import loopback
    from cascade_rt.loopback_report import html_report
    from cascade_rt.progress import progress

    if args.report is not None and args.report.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--report {args.report}: expected a name that ends in .html")
    check_free([args.report], overwrite=args.overwrite)
    options = ["--device", args.device, *args.run_options]
    options += [] if args.threads is None else ["--threads", str(args.threads)]
    options += [] if args.lookahead is None else ["--lookahead", args.lookahead]
    with progress("measuring") as report:
        loop = loopback(
            model=args.model, n_neurons=args.neurons, frame_rate_hz=args.frame_rate, seconds=args.seconds,
            rules=args.rules, fluorescence=args.fluorescence, run_options=options, report=report,
        )  # fmt: skip
    values = loop.to_dict()
    if args.report is not None:
        args.report.write_text(html_report(loop), encoding="utf-8")
    if args.json:
        print_json(values)
        return 0
    for line in describe(values):
        print(line)
    if args.report is not None:
        print(f"report: {args.report}")
    return 0


def describe(values: Mapping[str, Any]) -> list[str]:
    """Put a measurement into a table and a few lines."""
    from cascade_rt.loopback import STAGES
    from cascade_rt.loopback_report import frames_in_words, sum_in_words

    lines = [
        f"{values['model']}, {values['n_neurons']} neurons at {values['frame_rate_hz']:g} Hz, {values['seconds']:g} s",
        f"  {'ms':<52}{'p50':>9}{'p99':>9}{'p99.9':>9}{'max':>9}",
    ]
    event = values["event"]
    rows = {f"{name}: {STAGES[name]}": stage for name, stage in values["stages"].items()}
    rows["frame sent to result received"] = values["end_to_end"]
    rows["frame received to event at a subscriber"] = event["frame_received_to_subscriber"]
    rows["frame sent to event at a subscriber"] = event["frame_sent_to_subscriber"]
    for name, row in rows.items():
        if row["count"]:
            cells = "".join(f"{row[key]:9.3f}" for key in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms"))
            lines.append(f"  {name:<52}{cells}")
    lines.append(f"  {event['frame_received_to_subscriber']['count']} events")
    return [*lines, sum_in_words(values), frames_in_words(values)]

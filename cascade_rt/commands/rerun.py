"""``cascade-rt rerun``: a recorded run once more, to check it, or with another model or other rules."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, add_overwrite, print_json

if TYPE_CHECKING:
    from cascade_rt.comparison import EventMatch, LookaheadComparison
    from cascade_rt.rerun import Rerun

_DESCRIPTION = """\
Does a recorded run once more from what was recorded (run --record): the same frames in the same pieces, the same
model, noise levels, rules and control messages. Compares what comes out with what was recorded then; with another
model or other rules it says what they would have done."""

_EPILOG = """\
examples:
  cascade-rt rerun session1 --check                      the same, bit for bit?
  cascade-rt rerun session1 --rules stricter.yaml        which events would there have been?
  cascade-rt rerun session1 --model OTHER --out other    another model; its results and events into a folder"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``rerun``."""
    parser = subparsers.add_parser(
        "rerun",
        help="do a recorded run again: check it, or try another model or other rules",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the folder that `run --record` wrote")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results and events there")
    add_overwrite(parser)
    group = parser.add_argument_group("what would have been with")
    group.add_argument("--model", metavar="NAME", help="another model: its name, or the folder of a bundle")
    group.add_argument("--rules", type=Path, metavar="FILE", help="other rules")
    group.add_argument("--lookahead", type=_lookaheads, metavar="N[,N…]", help="other look-aheads (frames)")
    group.add_argument("--threshold", choices=("zero", "noise_floor", "none"), help="another threshold")
    group = parser.add_argument_group("how")
    group.add_argument("--check", action="store_true", help="fail (exit code 1) unless everything is as recorded")
    group.add_argument(
        "--tolerance", type=_tolerance, default=0.0, metavar="X",
        help="differences of values that --check lets pass (expected spikes per frame; default: none)",
    )  # fmt: skip
    group.add_argument("--device", choices=("cpu", "cuda", "auto"), help="where to compute, if not where it was")
    group.add_argument("--threads", type=_threads, metavar="N", help="threads, if not as many as then")
    add_json(parser)


def _lookaheads(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of frames such as 2 or 2,15")
    return tuple(int(part) for part in parts)


def _threads(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 1")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Run it again and tell what differs."""
    from cascade_rt.rerun import rerun

    if args.check and (args.model or args.rules or args.lookahead or args.threshold):
        args.parser.error("--check is for a rerun in which nothing is changed")
    report = rerun(
        args.folder,
        model=args.model,
        rules=args.rules,
        lookaheads=args.lookahead,
        threshold=args.threshold,
        out=args.out,
        overwrite=args.overwrite,
        device=args.device,
        threads=args.threads,
    )
    if args.json:
        print_json(report.to_dict())
    else:
        for line in describe(report):
            print(line)
    return 0 if not args.check or report.agrees(args.tolerance) else 1


def describe(report: Rerun) -> list[str]:
    """Put a rerun into words."""
    lines = [f"{report.folder}: {report.frames} frames" + ("" if report.ended else "; the run was cut off")]
    lines += [f"changed: {what}" for what in report.changed]
    if report.missing_frames:
        lines.append(f"{report.missing_frames} frames could not be recorded; results near them are not compared")
    lines += [_describe_lookahead(told, changed=bool(report.changed)) for told in report.lookaheads]
    recorded, now = sum(report.recorded_events.values()), sum(report.rerun_events.values())
    if recorded or now:
        lines.append(f"events: {recorded} recorded, {now} now, {report.events_same} of them the same")
        lines += [_describe_match(match) for match in report.matches]
        if report.events_difference and not report.changed:
            lines.append(f"  first difference: {report.events_difference}")
    if not report.changed:
        verdict = "everything is as recorded, bit for bit" if report.agrees() else "NOT AS RECORDED"
        if not report.agrees() and report.agrees(1e-5):
            verdict = "as recorded, but for the last digits"
        lines.append(verdict)
        if not report.agrees():
            lines += [f"  {what}" for what in report.elsewhere]
    return lines


def _describe_lookahead(told: LookaheadComparison, *, changed: bool) -> str:
    text = f"look-ahead {told.lookahead_frames}: {told.frames} frames compared"
    for number, what in (
        (told.only_recorded, "only recorded"),
        (told.only_rerun, "only now"),
        (told.near_holes, "near holes"),
    ):
        text += f", {number} {what}" if number else ""
    if changed:
        return (
            f"{text}; correlation {told.correlation:.3f} (median over neurons), "
            f"{told.recorded_spikes:.0f} expected spikes then, {told.rerun_spikes:.0f} now"
        )
    text += f"; largest difference {told.largest_difference:.2g}" + (
        f" ({told.different} values)" if told.different else ""
    )
    flags = (
        ("NaN", told.nan_pattern_equal), ("valid", told.valid_equal), ("provisional", told.provisional_equal),
    )  # fmt: skip
    differing = [name for name, same in flags if not same]
    return text + (f"; {' and '.join(differing)} in other places" if differing else "; NaN in the same places")


def _describe_match(match: EventMatch) -> str:
    median = match.to_dict()["median_shift_frames"]
    moved = f", {match.earlier} earlier, {match.later} later (median {median:+.0f} frames)" if match.shifts else ""
    return (
        f"  rule {match.rule}: {match.recorded} decisions recorded, {match.rerun} now: "
        f"{match.matched} at the same frame{moved}, {match.missing} missing, {match.extra} extra"
    )

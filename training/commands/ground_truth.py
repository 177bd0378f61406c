"""``python -m training ground-truth``: the datasets, what is irregular in them, and where to get them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

_HELP = "list the datasets with known spikes and what is irregular in them, draw them, or download them"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``ground-truth``."""
    command = subparsers.add_parser("ground-truth", parents=parents, help=_HELP, description=_HELP)
    command.add_argument("--json", action="store_true", help="print JSON, irregularities included")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw an example, the noise levels and the spike rates of each dataset",
    )
    command.add_argument(
        "--frame-rate",
        type=float,
        default=30.0,
        metavar="HZ",
        help="recordings too short for a window of 64 frames at this rate are irregular; default %(default)g",
    )
    command.add_argument(
        "--download",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="fetch the public CASCADE ground truth, or what is missing of it, instead of listing what is there; "
        "default FOLDER: that of --ground-truth",
    )
    command.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --download: only these (DS30, or the whole name)",
    )


def run(args: argparse.Namespace) -> int:
    """List or download the datasets."""
    from cascade_rt.errors import InputError

    if args.download is not None:
        if args.plot:
            raise InputError("--plot: draws what is there; give it without --download")
        return _download(Path(args.download) if args.download else args.ground_truth, args)
    if args.datasets:
        raise InputError("--datasets: chooses what to download; give it with --download")
    return _list(args)


def _list(args: argparse.Namespace) -> int:
    from cascade_rt.errors import InputError
    from cascade_rt.plots import FORMATS
    from cascade_rt.progress import progress
    from training.census import summary, take_census, to_table, total

    if args.plot and args.plot.suffix.lower() not in FORMATS:
        raise InputError(f"{args.plot}: a picture is written as one of {', '.join(FORMATS)}")
    if not (math.isfinite(args.frame_rate) and args.frame_rate > 0):
        raise InputError(f"--frame-rate {args.frame_rate:g}: expected a positive number of frames per second")
    with progress(f"reading {args.ground_truth}") as report:
        rows = take_census(args.ground_truth, frame_rate_hz=args.frame_rate, progress=lambda done: report(done))
    if args.plot:
        from training.census_plot import plot_census

        plot_census(args.plot, rows)
    if args.json:
        datasets = [summary(row) for row in rows]
        print(json.dumps({"folder": str(args.ground_truth), "datasets": datasets, "total": summary(total(rows))}))
        return 0
    print("\n".join(to_table(rows, problems=args.verbose)))
    if any(row.problems for row in rows) and not args.verbose:
        print("irregular: what was skipped, trimmed, split or joined; -v lists it by file and recording")
    if args.plot:
        print(f"drawn: {args.plot}")
    return 0


def _download(folder: Path, args: argparse.Namespace) -> int:
    from cascade_rt.progress import progress
    from training import download

    with progress("downloading the ground truth") as report:
        fetched = download.download_ground_truth(
            folder, datasets=args.datasets, tree_url=download.TREE_URL, raw_url=download.RAW_URL, report=report
        )
    if args.json:
        print(json.dumps(fetched.summary()))
        return 0
    print(fetched)
    print(f"list it: python -m training ground-truth --ground-truth {folder}")
    return 0

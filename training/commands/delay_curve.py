"""``python -m training delay-curve``: accuracy and timing against the delay, from the scores of finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cascade_rt.errors import TrainingError

from ._common import CONFIGS

_HELP = "write what each look-ahead is worth: a page, its data and a picture"
_DESCRIPTION = """\
Reads the cross-validation scores of the GCaMP8 models and of the GCaMP6 studies at 15, 30 and 60 Hz below --runs
('python -m training zoo' makes them) and writes delay-curve.md, delay-curve.csv and delay-curve.png."""


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``delay-curve``."""
    command = subparsers.add_parser(
        "delay-curve",
        parents=parents,
        help=_HELP,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--to", type=Path, default=Path("docs"), metavar="FOLDER", help="default %(default)s")
    command.add_argument("--partial", action="store_true", help="go on with the scores that are there")


def run(args: argparse.Namespace) -> int:
    """Read scores, write three files, say what is lacking."""
    from training.checkpoint import replaced
    from training.config import load_config
    from training.delay_curve import CONFIGURATIONS, plot, read_points, to_markdown, write_csv

    configs = [load_config(CONFIGS / f"{name}.yaml") for name in CONFIGURATIONS]
    points, lacking = read_points(configs, runs=args.runs)
    for name, reason in lacking.items() if args.partial else ():
        print(f"{name}: {reason}")
    if lacking and not (args.partial and points):
        told = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise TrainingError(
            f"the delay curve lacks scores ({told}). Delete scores.json where it is of no use, then train and score: "
            f"python -m training zoo --runs {args.runs} --only {' '.join(lacking)}"
        )
    args.to.mkdir(parents=True, exist_ok=True)
    page, data, picture = (args.to / f"delay-curve.{ending}" for ending in ("md", "csv", "png"))
    plot(picture, points)
    write_csv(data, points)
    text = to_markdown(points, picture=picture.name, data=data.name, lacking=list(lacking))
    with replaced(page) as file:
        file.write(text.encode())
    print(f"{page}, {data}, {picture}: {len(points)} points")
    return 0

"""``python -m training zoo``: train, score and export every model."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.commands._common import positive_int

from ._common import CONFIGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.zoo import Entry
    from training.zoo_jobs import Outcome

_HELP = "train, score and export every model; run it again to go on after a stop"
_DESCRIPTION = """\
Every configuration in training/configs is trained on all its neurons and for each fold of its cross-validation, then
scored, then exported as a bundle with its card, in place of an older bundle of that name. Configurations in
training/configs/studies are trained and scored only.

What is done already is not done again: finished fits, scores that are newer than the fits, bundles with the weights of
the fits that are newer than the scores. To score a model again, delete its scores.json below --runs; to train it again
after its configuration or its data changed, delete its folder there. Messages of each part are in its log.txt there."""


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``zoo``."""
    command = subparsers.add_parser(
        "zoo",
        parents=parents,
        help=_HELP,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only these models and studies; * stands for any text"
    )
    command.add_argument(
        "--jobs",
        type=positive_int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes at a time, with one thread each (default: one for each core, %(default)s)",
    )
    command.add_argument("--to", type=Path, default=Path("exported_models"), help="bundles; default %(default)s")
    command.add_argument(
        "--configs", type=Path, default=CONFIGS, metavar="FOLDER", help="configurations (default: training/configs)"
    )
    command.add_argument("--list", action="store_true", help="only list the models and what is done")


def run(args: argparse.Namespace) -> int:
    """List, or make what is not there yet."""
    from training.zoo import Places, read_zoo
    from training.zoo_jobs import make, tasks_left

    places = Places(ground_truth=args.ground_truth, published=args.published, runs=args.runs, target=args.to)
    entries = read_zoo(args.configs, places, args.only)
    if args.list:
        print("\n".join(_listed(entries)))
        return 0
    tasks = tasks_left(entries)
    print(f"{len(tasks)} tasks to do for {len(entries)} models and studies, {args.jobs} at a time", flush=True)
    failed: list[Outcome] = []
    with closing(make(tasks, jobs=args.jobs)) as outcomes:
        for outcome in outcomes:
            print(_line(outcome), flush=True)
            if outcome.error is not None:
                failed.append(outcome)
    unfinished = [entry.name for entry in entries if not entry.finished]
    if failed or unfinished:
        print(f"failed: {'; '.join(outcome.task.label for outcome in failed) or 'nothing'}")
        print(f"not finished: {', '.join(unfinished)}")
        return 1
    print("all is done")
    return 0


def _line(outcome: Outcome) -> str:
    """One line for a task; for one that failed, the end of its log too."""
    now = time.strftime("%H:%M")
    task = outcome.task
    if outcome.error is not None:
        shown = "\n".join(f"    {line}" for line in outcome.error.splitlines())
        return f"{now}  {task.label}: FAILED after {_duration(outcome.seconds)}; the end of {task.log}:\n{shown}"
    left = f", about {_duration(outcome.left_s)} left" if outcome.left_s > 0 else ""
    return f"{now}  {task.label}: {_duration(outcome.seconds)}; {outcome.n_done} of {outcome.n_tasks} tasks{left}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _listed(entries: Sequence[Entry]) -> list[str]:
    """Table of models: condition, fits, scores, bundle."""
    rows = [["model", "Hz", "smoothing", "kernel", "fits", "scores", "bundle"]]
    for entry in entries:
        config = entry.config
        fractions = [entry.fraction(part) for part in entry.parts]
        begun = sum(f for f in fractions if f < 1.0)
        fits = f"{sum(f == 1.0 for f in fractions)} of {len(fractions)}" + (f" + {begun:.0%}" if begun else "")
        rows.append(
            [
                entry.name,
                f"{config.frame_rate_hz:g}",
                f"{1000 * config.smoothing_s:g} ms",
                "causal" if config.causal_kernel else "Gaussian",
                fits,
                "done" if entry.scored else "-",
                ("done" if entry.exported else "-") if entry.exports else "study",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

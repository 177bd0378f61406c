"""``python -m training fit``: train one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._common import Progress, add_config, open_run

if TYPE_CHECKING:
    import argparse

_HELP = "train; run it again to go on after a stop"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``fit``."""
    command = subparsers.add_parser("fit", parents=parents, help=_HELP, description=_HELP)
    add_config(command)
    command.add_argument("--folds", action="store_true", help="train the folds of the cross-validation as well")


def run(args: argparse.Namespace) -> int:
    """Train, or go on training."""
    run = open_run(args)
    with Progress(run.config.name) as progress:
        run.fit(progress=progress)
    for number, left in enumerate(run.folds() if args.folds else ()):
        with Progress(f"fold {number}, {len(left)} neurons left out") as progress:
            run.fit(leave_out=left, part=f"fold{number}", progress=progress)
    print(f"trained; kept in {run.folder}. Next: python -m training evaluate {args.config}")
    return 0

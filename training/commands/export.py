"""``python -m training export``: write the bundle of a trained model, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import Progress, add_config, open_run

if TYPE_CHECKING:
    import argparse

_HELP = "write the bundle of a trained model, with its card"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``export``."""
    command = subparsers.add_parser("export", parents=parents, help=_HELP, description=_HELP)
    add_config(command)
    command.add_argument("--to", type=Path, default=Path("exported_models"), help="default %(default)s")
    command.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")


def run(args: argparse.Namespace) -> int:
    """Export."""
    run = open_run(args)
    with Progress(run.config.name) as progress:
        folder, difference = run.export(args.to / run.config.name, overwrite=args.overwrite, progress=progress)
    print(f"{folder}: largest difference to Keras {difference:.2g}")
    return 0

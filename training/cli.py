"""``python -m training``: list ground truth, train, score and export models.

Every file in ``training/commands/`` that is not private is one subcommand. It defines
``add_parser(subparsers, parents)``, which adds exactly one parser, and ``run(args)``, which returns the exit code
and does its heavy imports itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from cascade_rt.errors import CascadeError

from . import commands
from .commands._common import data_options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 failed, 2 wrong use."""
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
    except (CascadeError, OSError, ModuleNotFoundError) as error:
        print(f"training: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Lists ground truth; trains, scores and exports models."
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in sorted(m.name for m in pkgutil.iter_modules(commands.__path__) if not m.name.startswith("_")):
        command = import_module(f"{commands.__name__}.{name}")
        known = set(subparsers.choices)
        command.add_parser(subparsers, [data_options()])
        for new in set(subparsers.choices) - known:
            subparsers.choices[new].set_defaults(run=command.run)
    return parser

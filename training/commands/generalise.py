"""``python -m training generalise``: leave one dataset out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade_rt.commands._common import print_json

from ._common import Progress, add_config, open_run
from .evaluate import add_output

if TYPE_CHECKING:
    import argparse

_HELP = "train without each dataset in turn and score on it; run it again to go on after a stop"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``generalise``."""
    command = subparsers.add_parser("generalise", parents=parents, help=_HELP, description=_HELP)
    add_config(command)
    command.add_argument(
        "--datasets", nargs="+", default=[], metavar="DS", help="leave out only these (names or numbers)"
    )
    add_output(command)


def run(args: argparse.Namespace) -> int:
    """Train, score, write ``generalise.json``, and print a table."""
    from training.noised import NOISE_LEVELS
    from training.pictures import check_format, plot_left_out
    from training.run import GENERALISE
    from training.tables import read_document, to_markdown

    if args.plot is not None:
        check_format(args.plot)
    run = open_run(args)
    tables = run.generalise(datasets=args.datasets, noise_levels=args.noise_levels or NOISE_LEVELS, progress=Progress)
    if args.plot is not None:
        plot_left_out(args.plot, tables[0])
    if args.json:
        print_json(read_document(run.folder / GENERALISE))
    else:
        print(to_markdown(tables))
    return 0

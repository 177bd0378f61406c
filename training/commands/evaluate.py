"""``python -m training evaluate``: score a model on neurons that it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade_rt.errors import TrainingError

from ._common import Progress, add_config, open_run

if TYPE_CHECKING:
    import argparse

_HELP = "score a trained model (trains what is not trained yet)"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``evaluate``."""
    command = subparsers.add_parser("evaluate", parents=parents, help=_HELP, description=_HELP)
    add_config(command)


def run(args: argparse.Namespace) -> int:
    """Score and print tables."""
    from training.tables import to_markdown

    run = open_run(args)
    with Progress(run.config.name) as progress:
        tables = run.evaluate(progress=progress)
    if not tables:
        raise TrainingError(f"{run.config.name} has neither folds nor test_datasets: nothing to score it on")
    print(to_markdown(tables))
    return 0

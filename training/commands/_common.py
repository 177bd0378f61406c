"""What the subcommands of ``python -m training`` share: options, the run of a configuration, progress."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.run import Run

__all__ = ["CONFIGS", "Progress", "add_config", "config_path", "data_options", "open_run"]

CONFIGS = Path(__file__).parents[1] / "configs"


def data_options() -> argparse.ArgumentParser:
    """Options of every subcommand: where the data are and where training is kept."""
    shared = Path(os.environ.get("CASCADE_RT_SHARED", "../shared"))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--ground-truth", type=Path, default=shared / "ground_truth", help="default %(default)s")
    common.add_argument("--published", type=Path, default=shared / "cascade_models", help="default %(default)s")
    common.add_argument(
        "--runs", type=Path, default=Path("training_runs"), help="checkpoints and scores; default %(default)s"
    )
    common.add_argument("-v", "--verbose", action="store_true", help="also list what was irregular in the files")
    return common


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the argument that names a configuration."""
    command.add_argument("config", metavar="CONFIG", help="YAML file, or the name of one in training/configs")
    command.add_argument(
        "--from", dest="from_model", metavar="NAME", help="start from the weights of this model: a name, or a bundle"
    )


def config_path(name: str) -> Path:
    """File of a configuration: a path, or the name of one in ``training/configs``."""
    path = Path(name)
    if not path.is_file():
        path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise TrainingError(f"no configuration {name!r}: give a YAML file or one of {known}")
    return path


def open_run(args: argparse.Namespace) -> Run:
    """Make the run of ``args.config``."""
    from training.config import load_config
    from training.run import Run

    config = load_config(
        config_path(args.config), from_model=getattr(args, "from_model", None), ground_truth=args.ground_truth
    )
    return Run(config, ground_truth=args.ground_truth, folder=args.runs / config.name, published=args.published)


class Progress:
    """Shows training steps, loss and the time left on stderr."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __enter__(self) -> Callable[[int, int, float, float], None]:
        from cascade_rt.progress import progress

        self._context = progress(self.label)
        show = self._context.__enter__()

        def update(step: int, steps: int, loss: float, left_s: float) -> None:
            minutes, seconds = divmod(round(left_s), 60)
            show(step / steps, f"step {step} of {steps}, loss {loss:.4f}, {minutes} min {seconds:02d} s left")

        return update

    def __exit__(self, *reason: Any) -> None:
        self._context.__exit__(*reason)

"""``python -m training``: list ground truth, train, score and export models."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import CascadeError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .run import Run

__all__ = ["main"]

CONFIGS = Path(__file__).parent / "configs"


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
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    except (CascadeError, OSError, ModuleNotFoundError) as error:
        print(f"training: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    shared = Path(os.environ.get("CASCADE_RT_SHARED", "../shared"))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--ground-truth", type=Path, default=shared / "ground_truth", help="default %(default)s")
    common.add_argument("--published", type=Path, default=shared / "cascade_models", help="default %(default)s")
    common.add_argument(
        "--runs", type=Path, default=Path("training_runs"), help="checkpoints and scores; default %(default)s"
    )
    common.add_argument("-v", "--verbose", action="store_true", help="also list what was irregular in the files")
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("ground-truth", _ground_truth, "list the datasets and what is irregular in them")
    command = add("fit", _fit, "train; run it again to go on after a stop")
    command.add_argument("config", help="YAML file, or the name of one in training/configs")
    command.add_argument("--folds", action="store_true", help="train the folds of the cross-validation as well")
    command = add("evaluate", _evaluate, "score a trained model (trains what is not trained yet)")
    command.add_argument("config", metavar="NAME", help="YAML file, or the name of one in training/configs")
    command = add("export", _export, "write the bundle of a trained model, with its card")
    command.add_argument("config", metavar="NAME", help="YAML file, or the name of one in training/configs")
    command.add_argument("--to", type=Path, default=Path("exported_models"), help="default %(default)s")
    command.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    return parser


def _run(args: Any) -> Run:
    from .config import load_config
    from .run import Run

    path = Path(args.config)
    if not path.is_file():
        path = CONFIGS / f"{args.config}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise TrainingError(f"no configuration {args.config!r}: give a YAML file or one of {known}")
    config = load_config(path)
    return Run(config, ground_truth=args.ground_truth, folder=args.runs / config.name, published=args.published)


def _ground_truth(args: Any) -> int:
    from .ground_truth import dataset_folders, read_datasets

    print(
        f"{'dataset':44s}{'neurons':>8s}{'recordings':>11s}{'minutes':>8s}{'spikes':>8s}  {'rates (Hz)':14s}irregular"
    )
    for name in dataset_folders(args.ground_truth):
        recordings, problems = read_datasets(args.ground_truth, [name])
        rates = [r.frame_rate_hz for r in recordings]
        span = "" if not rates else f"{min(rates):.1f}-{max(rates):.1f}"
        minutes = sum(r.dff.size / r.frame_rate_hz for r in recordings) / 60
        spikes = sum(r.spike_times_s.size for r in {(r.neuron, r.number): r for r in recordings}.values())
        neurons = len({r.neuron for r in recordings})
        print(f"{name:44s}{neurons:8d}{len(recordings):11d}{minutes:8.0f}{spikes:8d}  {span:14s}{len(problems)}")
        for problem in problems if args.verbose else ():
            print(f"    {problem}")
    return 0


def _fit(args: Any) -> int:
    run = _run(args)
    with _Progress(run.config.name) as progress:
        run.fit(progress=progress)
    for number, left in enumerate(run.folds() if args.folds else ()):
        with _Progress(f"fold {number}, {len(left)} neurons left out") as progress:
            run.fit(leave_out=left, part=f"fold{number}", progress=progress)
    print(f"trained; kept in {run.folder}. Next: python -m training evaluate {args.config}")
    return 0


def _evaluate(args: Any) -> int:
    from .tables import to_markdown

    run = _run(args)
    with _Progress(run.config.name) as progress:
        tables = run.evaluate(progress=progress)
    if not tables:
        raise TrainingError(f"{run.config.name} has neither folds nor test_datasets: nothing to score it on")
    print(to_markdown(tables))
    return 0


def _export(args: Any) -> int:
    run = _run(args)
    with _Progress(run.config.name) as progress:
        folder, difference = run.export(args.to / run.config.name, overwrite=args.overwrite, progress=progress)
    print(f"{folder}: largest difference to Keras {difference:.2g}")
    return 0


class _Progress:
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

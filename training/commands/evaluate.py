"""``python -m training evaluate``: score a model on neurons that it never saw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.commands._common import add_json, positive_float, print_json
from cascade_rt.errors import TrainingError

from ._common import CONFIGS, Progress, open_run

if TYPE_CHECKING:
    from training.summary import Table

_HELP = "score a model: correlation, error, bias and timing, with intervals"
_DESCRIPTION = """\
NAME is a configuration (a YAML file, or the name of one in training/configs): it is scored by cross-validation and on
its test datasets, and what is not trained yet is trained. Or it is a finished model (the name of a shipped or installed
one, its folder, or a folder of published CASCADE weights): it is scored as it is, on every dataset that it was not
trained on unless --datasets names others. A name that is both is the configuration; --model asks for the model.

Tables are printed; the scores of every neuron go to scores.json (of a configuration) or evaluation.json (of a model)
in the folder of that name below --runs."""

_EXAMPLES = """\
examples:
  python -m training evaluate GCaMP8_EXC_30Hz_smoothing25ms --plot scores.png
  python -m training evaluate exported_models/GCaMP8_EXC_30Hz_smoothing25ms --datasets DS09 DS14 --noise-levels 2 4
  python -m training evaluate Global_EXC_30Hz_smoothing50ms --model --against Global_EXC_30Hz_smoothing50ms_causalkernel
"""
EVALUATION = "evaluation.json"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``evaluate``."""
    command = subparsers.add_parser(
        "evaluate",
        parents=parents,
        help=_HELP,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", metavar="NAME", help="a configuration or a finished model")
    command.add_argument("--model", action="store_true", help="NAME is a finished model, even if a configuration too")
    command.add_argument(
        "--datasets", nargs="+", default=[], metavar="DS", help="score a finished model on these (names or numbers)"
    )
    command.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="other models to score on the same traces: names, bundle folders, folders of published weights",
    )
    add_output(command)


def add_output(command: argparse.ArgumentParser) -> None:
    """Add what concerns scores and how they are shown: ``--noise-levels``, ``--plot``, ``--json``."""
    command.add_argument(
        "--noise-levels",
        nargs="+",
        type=positive_float,
        metavar="NU",
        default=[],
        help="that recordings are brought to, %% Hz^-1/2 (default: 2 4 8)",
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the scores into this .png, .pdf or .svg")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Score, write, and print tables."""
    from training.pictures import check_format, plot_scores
    from training.scoring import load_any
    from training.tables import read_document, to_markdown

    if args.plot is not None:
        check_format(args.plot)
    rivals = [load_any(name, published=args.published) for name in args.against]
    tables, path = (_finished_model if _is_model(args) else _configuration)(args, rivals)
    if args.plot is not None:
        plot_scores(args.plot, tables)
    if args.json:
        print_json(read_document(path))
    else:
        print(to_markdown(tables))
    return 0


def _is_model(args: argparse.Namespace) -> bool:
    return bool(args.model or not (Path(args.config).is_file() or (CONFIGS / f"{args.config}.yaml").is_file()))


def _configuration(args: argparse.Namespace, rivals: list[Any]) -> tuple[list[Table], Path]:
    from training.noised import NOISE_LEVELS
    from training.run import SCORES

    if args.datasets:
        raise TrainingError(
            f"{args.config} is a configuration, which is scored on its own folds and test_datasets; to score the "
            "finished model on other datasets add --model, or give the folder of its bundle"
        )
    run = open_run(args)
    with Progress(run.config.name) as progress:
        tables = run.evaluate(noise_levels=args.noise_levels or NOISE_LEVELS, rivals=rivals, progress=progress)
    if not tables:
        raise TrainingError(f"{run.config.name} has neither folds nor test_datasets: nothing to score it on")
    return tables, run.folder / SCORES


def _finished_model(args: argparse.Namespace, rivals: list[Any]) -> tuple[list[Table], Path]:
    from cascade_rt.progress import progress
    from training.noised import NOISE_LEVELS
    from training.scoring import bundle_tables, load_any
    from training.tables import to_document, write_document

    try:
        model = load_any(args.config, published=args.published)
    except TrainingError as error:
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise TrainingError(f"{error}. Configurations are {known}") from error
    with progress("scoring") as show:
        tables = bundle_tables(
            model,
            args.ground_truth,
            datasets=args.datasets,
            rivals=rivals,
            noise_levels=args.noise_levels or NOISE_LEVELS,
            show=show,
        )
    spec = model.spec
    path: Path = args.runs / spec.name / EVALUATION
    document = to_document(
        tables,
        model=spec.name,
        source_sha256=spec.source_sha256,
        frame_rate_hz=spec.frame_rate_hz,
        smoothing_s=spec.smoothing_s,
        causal_kernel=spec.causal_kernel,
    )
    write_document(path, document)
    return tables, path

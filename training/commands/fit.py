"""``python -m training fit``: train one model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ._common import Progress, add_config, open_run

if TYPE_CHECKING:
    from training.run import Run

_HELP = "train; run it again to go on after a stop"
_EPILOG = """\
CONFIG is YAML with the entries of training.config.TrainingConfig, or the config.yaml of a published CASCADE model:
its settings are taken over, and those that have no counterpart here are told with what is used instead.

Your own ground truth goes into a folder of your own (--ground-truth FOLDER): FOLDER/DATASET/*.mat, one file for each
neuron, as in the CASCADE database: a cell array CAttached with one struct for each uninterrupted recording, with
fluo_time (s, one for each frame), fluo_mean (dF/F as a fraction) and events_AP (spike times in units of 0.1 ms).

To fine-tune a shipped model on it:

  name: my_indicator_30Hz
  from_model: GCaMP8_EXC_30Hz_smoothing25ms    # or --from on the command line
  datasets: all
  fit: {validation_share: 0.2}                 # stop early by a fifth of the neurons

Network, frame rate, smoothing and kernel are then the model's, and the fit is short (4 million frames, half the
learning rate) unless the file says otherwise.
"""


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``fit``."""
    command = subparsers.add_parser(
        "fit",
        parents=parents,
        help=_HELP,
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(command)
    command.add_argument("--folds", action="store_true", help="train the folds of the cross-validation as well")


def run(args: argparse.Namespace) -> int:
    """Train, or go on training."""
    run = open_run(args)
    config = run.config
    with Progress(config.name) as progress:
        run.fit(progress=progress)
    print(_done(run))
    for number, left in enumerate(run.folds() if args.folds else ()):
        with Progress(f"fold {number}, {len(left)} neurons left out") as progress:
            run.fit(leave_out=left, part=f"fold{number}", progress=progress)
        print(_done(run, f"fold{number}"))
    print(f"Next: python -m training evaluate {args.config}")
    return 0


def _done(run: Run, part: str = "all") -> str:
    """What a finished fit did, in a few words."""
    from training.fit import PICTURE, read_record

    folder = run.folder / part
    record = read_record(folder)
    start = f", starting from {record['from_model']}" if record["from_model"] else ""
    told = f"{run.config.name}, {part}: {record['steps']} steps, {record['frames'] / 1e6:.1f} million frames{start}"
    if record["held_out"]:
        n_held = len(record["held_out"])
        told += (
            f"; {'stopped early' if record['stopped_early'] else 'ran to the end'}, weights of step "
            f"{record['kept_step']} kept ({n_held} neuron{'s' if n_held > 1 else ''} held out, "
            f"loss {record['validation_loss']:.4f})"
        )
    return f"{told}. Loss curve: {folder / PICTURE}"

"""``python -m training ground-truth``: the datasets, and what is irregular in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

_HELP = "list the datasets and what is irregular in them"


def add_parser(subparsers: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command ``ground-truth``."""
    subparsers.add_parser("ground-truth", parents=parents, help=_HELP, description=_HELP)


def run(args: argparse.Namespace) -> int:
    """List the datasets."""
    from training.ground_truth import dataset_folders, read_datasets

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

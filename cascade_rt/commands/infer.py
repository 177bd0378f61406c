"""``cascade-rt infer``: from what an analysis pipeline left to spikes, in one command."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_device, add_json, add_overwrite, print_json
from ._infer import add_infer_options, infer_options

if TYPE_CHECKING:
    from cascade_rt.progress import Progress
    from cascade_rt.session import Inference

_DESCRIPTION = """\
Reads a recording that an analysis pipeline left, checks it, computes dF/F where needed, chooses a model,
infers spikes, and writes them back where the pipeline would look for them, with a report. PATH is a Suite2p
or Minian folder, a CaImAn or NWB file, .mat, .npy, .npz, HDF5, zarr, CSV, Parquet, or a recorded run.

Written beside the source, or into --out FOLDER:
  *_cascade.h5            the result, to go on with in Python: cascade_rt.open_result(FILE)
  *_cascade_report.html   what was found, pictures, warnings, a paragraph for the methods section
  and the same in the source's own convention, for example suite2p/plane0/cascade_spike_prob.npy"""

_EXAMPLES = """\
examples:
  cascade-rt infer data/mouse1/suite2p --indicator GCaMP8m
  cascade-rt infer session.nwb
  cascade-rt infer memmap_results.hdf5 --out results/
  cascade-rt infer traces.csv --frame-rate 15 --percent"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``infer``."""
    parser = subparsers.add_parser(
        "infer",
        help="spikes from a Suite2p, CaImAn, Minian, NWB, ... recording, in one command",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for the results (default: beside the source)"
    )
    add_infer_options(parser)
    parser.add_argument("--no-report", action="store_true", help="write no report")
    parser.add_argument("--no-beside", action="store_true", help="write nothing in the source's own convention")
    add_device(parser)
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Infer, and say what was found, decided and written."""
    from cascade_rt.inference import infer

    with ExitStack() as stack:
        inference = infer(
            args.path,
            infer_options(args),
            out=args.out,
            overwrite=args.overwrite,
            report=not args.no_report,
            beside=not args.no_beside,
            device=args.device,
            threads=args.threads,
            progress=_Stages(stack),
            announce=None if args.json else lambda sentence: print(sentence, flush=True),
        )
    if args.json:
        print_json(inference.to_dict())
    else:
        _print_summary(inference)
    return 0


class _Stages:
    """Shows each stage with a progress of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._stage = ""
        self._shown: Progress | None = None

    def __call__(self, stage: str, fraction: float) -> None:
        from cascade_rt.progress import progress

        if stage != self._stage or self._shown is None:
            self._stack.close()
            self._stage = stage
            self._shown = self._stack.enter_context(progress(stage, stream=sys.stderr))
        self._shown(fraction)


def _print_summary(inference: Inference) -> None:
    from ._recording import noise_histogram

    for plane in inference.planes:
        print(f"\n{plane.name}" if plane.name else "")
        print("noise level ν (% Hz^-1/2) of the neurons:")
        for line in noise_histogram(plane.noise_levels):
            print(f"  {line}")
        print(f"{plane.expected_spikes:.0f} spikes expected, {plane.mean_rate_hz:.2g} Hz per neuron on average")
        if plane.n_discrete is not None:
            print(f"{plane.n_discrete} single spikes found")
    print(
        f"\n{inference.seconds:.1f} s, {inference.neuron_frames_per_s:,.0f} neuron-frames/s on {inference.device}, "
        f"{inference.threads} threads"
    )
    print("written:")
    for path in inference.outputs:
        print(f"  {path}")

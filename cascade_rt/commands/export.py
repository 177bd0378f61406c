"""``cascade-rt export``: a result in another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._common import add_json, add_overwrite, print_json

_DESCRIPTION = """\
Writes a result in the format that the suffix of OUT names. RESULT is what `cascade-rt infer` (.h5), `cascade-rt
predict` or a live run wrote; the folder or file that an interrupted program left can be exported too.

  .mat      MATLAB, all arrays (each below 2 GiB; MATLAB reads larger ones from the .h5 with h5read)
  .npz      NumPy, all arrays
  .npy      NumPy, spike probabilities alone; the rest stands in OUT.json
  .csv      a row for each frame: frame, time_s, and a column for each neuron
  .parquet  the same table (needs pyarrow)
  .h5       the portable result (docs/result-format.md)"""

_EXAMPLES = """\
examples:
  cascade-rt export session_cascade.h5 session.mat
  cascade-rt export suite2p/cascade.h5 plane0.csv --plane plane0"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``export``."""
    parser = subparsers.add_parser(
        "export",
        help="a result as .mat, .npz, .npy, .csv, .parquet or .h5",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", type=Path, metavar="RESULT", help="result: .h5, .npz, .npy, .mat, or a run's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write; its suffix says what")
    parser.add_argument(
        "--plane",
        metavar="NAME",
        help="this imaging plane only; needed for .npy, .csv and .parquet if there are several",
    )
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Open, write, and say what was written."""
    from cascade_rt.results import export_result, open_result

    with open_result(args.result) as result:
        export_result(result, args.out, plane=args.plane, overwrite=args.overwrite)
        planes = result.recordings if args.plane is None else (result[args.plane],)
        summary = {
            "out": str(args.out),
            "complete": result.complete,
            "planes": [
                {"name": plane.name, "n_neurons": plane.n_neurons, "n_frames": plane.n_frames} for plane in planes
            ],
        }
    if args.json:
        print_json(summary)
        return 0
    for plane in planes:
        name = f"{plane.name}: " if plane.name else ""
        print(f"{name}{plane.n_neurons} neurons, {plane.n_frames} frames")
    if not summary["complete"]:
        print("the result is incomplete: the program that wrote it was interrupted")
    print(f"written: {args.out}")
    return 0

"""Options of the commands that go from a file to spikes in one step: `infer` and `batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._common import add_values, positive_float

if TYPE_CHECKING:
    import argparse

    from cascade_rt.session import InferOptions


def add_infer_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`infer_options` reads."""
    reading = parser.add_argument_group("what the source is", "left out, it is recognised")
    reading.add_argument(
        "--format", metavar="NAME", help="suite2p, caiman, minian, nwb, matlab, numpy, hdf5, zarr, table"
    )
    reading.add_argument("--key", metavar="NAME", help="name of the array in the file, or its path (/processed/dff)")
    reading.add_argument(
        "--frame-rate", type=positive_float, metavar="HZ", help="frames per second, if not in the file"
    )
    kind = reading.add_mutually_exclusive_group()
    kind.add_argument("--fluorescence", action="store_const", const="fluorescence", dest="kind", help="values are F")
    kind.add_argument("--dff", action="store_const", const="dff", dest="kind", help="values are ΔF/F, as a fraction")
    reading.add_argument("--percent", action="store_true", help="values are ΔF/F in percent")
    reading.add_argument("--neuropil-key", metavar="NAME", help="name of the array with the neuropil's fluorescence")
    reading.add_argument("--transposed", action="store_const", const=True, help="the array is (n_frames, n_neurons)")
    reading.add_argument(
        "--plane", action="append", default=[], metavar="NAME", help="only this plane (may be repeated)"
    )
    reading.add_argument("--all-rois", action="store_true", help="process ROIs that are not accepted as cells too")

    baseline = parser.add_argument_group("ΔF/F, if the source holds fluorescence")
    baseline.add_argument("--baseline-window", type=positive_float, metavar="S", help="moving window (default: 60 s)")
    baseline.add_argument("--baseline-percentile", type=float, metavar="P", help="percentile in it")
    baseline.add_argument(
        "--neuropil-coefficient",
        type=float,
        metavar="C",
        help="F - C × neuropil; 0 for none (default: as the source says, else 0.7)",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME|FOLDER", help="(default: the one that fits best)")
    model.add_argument("--indicator", metavar="NAME", help="such as GCaMP8s: for a model made for it")
    model.add_argument("--species", choices=("mouse", "zebrafish"))
    model.add_argument("--lookahead", type=int, metavar="FRAMES", help="(default: the model's longest)")
    model.add_argument(
        "--resample",
        action="store_true",
        help="if no model fits the frame rate: resample to the nearest one's; results come back at the source's rate",
    )
    add_values(model)

    what = parser.add_argument_group("results")
    what.add_argument("--spikes", action="store_true", help="find single spikes too")
    what.add_argument("--keep-dff", action="store_true", help="store ΔF/F in the result too")
    what.add_argument(
        "--fill-gaps", type=int, default=0, metavar="N", help="hold the last value over up to N frames that are NaN"
    )
    what.add_argument("--force", action="store_true", help="go on where results would be meaningless")


def infer_options(args: argparse.Namespace) -> InferOptions:
    """Turn what was given on the command line into options."""
    from cascade_rt.baseline import BaselineOptions
    from cascade_rt.session import InferOptions

    baseline: dict[str, Any] = {"window_s": args.baseline_window, "percentile": args.baseline_percentile}
    return InferOptions(
        model=args.model,
        indicator=args.indicator,
        species=args.species,
        frame_rate_hz=args.frame_rate,
        format=args.format,
        key=args.key,
        kind="dff" if args.percent else args.kind,
        percent=args.percent,
        neuropil_key=args.neuropil_key,
        transposed=args.transposed,
        planes=tuple(args.plane),
        all_rois=args.all_rois,
        baseline=BaselineOptions(**{name: value for name, value in baseline.items() if value is not None}),
        neuropil_coefficient=args.neuropil_coefficient,
        lookahead_frames=args.lookahead,
        threshold=args.threshold,
        alignment=args.alignment,
        resample=args.resample,
        force=args.force,
        fill_gaps=args.fill_gaps,
        discrete=args.spikes,
        keep_dff=args.keep_dff,
    )

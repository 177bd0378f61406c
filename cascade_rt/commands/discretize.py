"""``cascade-rt discretize``: single spikes from spike probabilities."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, add_overwrite, check_free, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cascade_rt.results import RecordingResult

_DESCRIPTION = """\
Finds the single spikes behind spike probabilities: those whose smoothed sum explains the probabilities best.
RESULT is what `cascade-rt infer`, `cascade-rt predict` or a live run wrote.

The spikes go into a .npz (arrays neuron, frame, time_s: one entry for each spike) or a .csv with these columns.
time_s is the beginning of the frame."""

#: Values handled at a time.
_BLOCK = 4_000_000


def add_parser(subparsers: Any) -> None:
    """Add the command ``discretize``."""
    parser = subparsers.add_parser(
        "discretize",
        help="single spikes from spike probabilities",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", type=Path, metavar="RESULT", help="result: .h5, .npz, .npy, .mat, or a run's folder")
    parser.add_argument("--plane", metavar="NAME", help="imaging plane, where the result has several")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="spikes: .npz or .csv (default: RESULT_spikes.npz, here)"
    )
    parser.add_argument(
        "--model", metavar="NAME|FOLDER", help="the model that made the result (default: what the result says)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for methods that draw numbers (default: 0)")
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Find the spikes, write them, and say how well they explain the probabilities."""
    import numpy as np

    from cascade_rt.progress import progress
    from cascade_rt.results import open_result
    from cascade_rt.results.flat import described

    out = args.out or Path(f"{args.result.stem}_spikes.npz")
    _check_out(out, overwrite=args.overwrite)
    with open_result(args.result) as result:
        plane = result.only() if args.plane is None else result[args.plane]
        metadata = {**result.metadata, **described(plane)}
        n_neurons, n_frames = plane.n_neurons, plane.n_frames
        frame, timestamps = plane.frame_index, plane.timestamps
        kernel = _kernel(args.model, metadata, args.result)
        with progress(f"finding the spikes of {n_neurons} neurons") as report:
            found = _find(plane, kernel, args.seed, report)
    neuron = np.repeat(np.arange(n_neurons), [len(columns) for columns in found["columns"]]).astype(np.int64)
    column = np.concatenate([*found["columns"], np.empty(0, np.int64)]).astype(np.int64)
    time_s = frame / kernel["frame_rate_hz"] if timestamps is None else timestamps
    spikes = {"neuron": neuron, "frame": frame[column], "time_s": time_s[column]}
    summary = {
        "out": str(out),
        "n_neurons": n_neurons,
        "n_frames": n_frames,
        "spikes": len(neuron),
        "expected_spikes": found["expected"],
        "fit_error": found["misfit"] / found["expected"] if found["expected"] else None,
        "count_error": abs(len(neuron) - found["expected"]) / found["expected"] if found["expected"] else None,
        "silent_neurons": sum(len(columns) == 0 for columns in found["columns"]),
        **kernel,
    }
    _write(out, spikes, {**metadata, **{f"discretize_{name}": value for name, value in summary.items()}}, args)
    if args.json:
        print_json(summary)
        return 0
    print(f"{args.result.name}: {n_neurons} neurons, {n_frames} frames at {kernel['frame_rate_hz']:g} Hz")
    print(
        f"  {len(neuron)} spikes; the probabilities sum to {found['expected']:.1f}. "
        f"{summary['silent_neurons']} neurons have no spike"
    )
    if summary["fit_error"] is not None:
        print(
            f"  the smoothed spikes differ from the probabilities by {100 * summary['fit_error']:.0f} % of their sum "
            "(summed absolute difference)"
        )
    print(f"written: {out}")
    return 0


def _check_out(out: Path, *, overwrite: bool) -> None:
    from cascade_rt.errors import InputError

    if out.suffix.lower() not in (".npz", ".csv"):
        raise InputError(f"{out}: spikes are written as .npz or .csv")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder {out.absolute().parent} does not exist")
    check_free([out], overwrite=overwrite)


def _kernel(model: str | None, metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """Smoothing, frame rate and kind of kernel, from the result or from the model named."""
    from cascade_rt.bundle import find_bundle, read_spec
    from cascade_rt.errors import InputError

    names = ("smoothing_s", "causal_kernel")
    rate = metadata.get("frame_rate_hz")
    if model is None and rate and all(metadata.get(name) is not None for name in names):
        return {"frame_rate_hz": float(rate), **{name: metadata[name] for name in names}}
    model = model or metadata.get("model")
    if not model:
        raise InputError(f"{path}: does not say which model made it; name it with --model")
    spec = read_spec(find_bundle(model))
    return {
        "frame_rate_hz": float(rate or spec.frame_rate_hz),
        "smoothing_s": spec.smoothing_s,
        "causal_kernel": spec.causal_kernel,
    }


def _find(plane: RecordingResult, kernel: dict[str, Any], seed: int, report: Callable[[float], None]) -> dict[str, Any]:
    """Columns of the spikes of each neuron, the summed probability, and the summed absolute difference."""
    import numpy as np

    from cascade_rt.discretization import discretize
    from cascade_rt.smoothing import smooth_spikes

    columns: list[NDArray[np.int64]] = []
    expected = misfit = 0.0
    block = max(1, _BLOCK // plane.n_frames)
    for first in range(0, plane.n_neurons, block):
        part = np.asarray(plane.spike_prob[first : first + block], np.float32)
        if plane.valid is not None:
            part = np.where(np.asarray(plane.valid[first : first + block], bool), part, np.float32(np.nan))
        found = discretize(part, seed=seed, **kernel)
        counts = np.zeros(part.shape, np.float32)
        for row, spikes in zip(counts, found, strict=True):
            np.add.at(row, spikes, 1)
        explained = smooth_spikes(counts, **kernel)
        misfit += float(np.nansum(np.abs(part - explained), dtype=np.float64))
        expected += float(np.nansum(part, dtype=np.float64))
        columns += found
        report(min(1.0, (first + block) / plane.n_neurons))
    return {"columns": columns, "expected": expected, "misfit": misfit}


def _write(out: Path, spikes: dict[str, Any], metadata: dict[str, Any], args: argparse.Namespace) -> None:
    if out.suffix.lower() == ".npz":
        from cascade_rt.endpoints.files import write_result

        write_result(out, spikes, metadata, overwrite=args.overwrite)
        return
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("neuron,frame,time_s\n")
            for neuron, frame, time_s in zip(spikes["neuron"], spikes["frame"], spikes["time_s"], strict=True):
                file.write(f"{neuron},{frame},{time_s:.6f}\n")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)

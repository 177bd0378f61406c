"""``cascade-rt discretize``: single spikes from spike probabilities."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, add_overwrite, check_free, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

_DESCRIPTION = """\
Finds the single spikes behind spike probabilities: those whose smoothed sum explains the probabilities best.
RESULT is what `cascade-rt predict` or a live run wrote.

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
    parser.add_argument("result", type=Path, metavar="RESULT", help="result of predict or run: .npz, .npy or .mat")
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

    out = args.out or Path(f"{args.result.stem}_spikes.npz")
    _check_out(out, overwrite=args.overwrite)
    prob, frame, metadata = _read(args.result)
    kernel = _kernel(args.model, metadata, args.result)
    with progress(f"finding the spikes of {len(prob)} neurons") as report:
        found = _find(prob, kernel, args.seed, report)
    neuron = np.repeat(np.arange(len(prob)), [len(columns) for columns in found["columns"]]).astype(np.int64)
    spike_frame = frame[np.concatenate([*found["columns"], np.empty(0, np.int64)]).astype(np.int64)]
    spikes = {"neuron": neuron, "frame": spike_frame, "time_s": spike_frame / kernel["frame_rate_hz"]}
    summary = {
        "out": str(out),
        "n_neurons": len(prob),
        "n_frames": prob.shape[1],
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
    print(f"{args.result.name}: {len(prob)} neurons, {prob.shape[1]} frames at {kernel['frame_rate_hz']:g} Hz")
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


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, Any]]:
    """Probabilities (NaN where not valid), the frame of each column, and what the result says of itself."""
    import numpy as np

    from cascade_rt.endpoints.files import read_recording

    if path.suffix.lower() == ".npy":
        prob = read_recording(path).dff
        beside = path.with_name(path.name + ".json")
        metadata = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        first = int(metadata.get("first_frame") or 0)
        return prob, np.arange(first, first + prob.shape[1], dtype=np.int64), metadata
    prob = read_recording(path, "spike_prob").dff
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            rest = {name: stored[name] for name in ("valid", "frame", "metadata") if name in stored}
    else:
        from scipy import io

        stored = io.loadmat(path, variable_names=["valid", "frame", "metadata"])
        rest = {name: value for name, value in stored.items() if not name.startswith("__")}
    if "valid" in rest and rest["valid"].shape == prob.shape:
        prob = np.where(rest["valid"].astype(bool), prob, np.float32(np.nan))
    frame = rest["frame"].ravel() if "frame" in rest else np.arange(prob.shape[1])
    text = str(rest["metadata"].ravel()[0]) if "metadata" in rest else "{}"
    return prob, frame.astype(np.int64), json.loads(text)


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


def _find(
    prob: NDArray[np.float32], kernel: dict[str, Any], seed: int, report: Callable[[float], None]
) -> dict[str, Any]:
    """Columns of the spikes of each neuron, the summed probability, and the summed absolute difference."""
    import numpy as np

    from cascade_rt.discretization import discretize
    from cascade_rt.smoothing import smooth_spikes

    columns: list[NDArray[np.int64]] = []
    expected = misfit = 0.0
    block = max(1, _BLOCK // prob.shape[1])
    for first in range(0, len(prob), block):
        part = np.asarray(prob[first : first + block], np.float32)
        found = discretize(part, seed=seed, **kernel)
        counts = np.zeros(part.shape, np.float32)
        for row, spikes in zip(counts, found, strict=True):
            np.add.at(row, spikes, 1)
        explained = smooth_spikes(counts, **kernel)
        misfit += float(np.nansum(np.abs(part - explained), dtype=np.float64))
        expected += float(np.nansum(part, dtype=np.float64))
        columns += found
        report(min(1.0, (first + block) / len(prob)))
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

"""``cascade-rt predict``: spike probabilities of a finished recording."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_device, add_json, add_overwrite, add_values, positive_float, print_json, read_noise_levels
from ._recording import noise_histogram

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec

_DESCRIPTION = """\
Reads the dF/F traces of a finished recording and writes, for each neuron and frame, the expected number
of spikes. RECORDING is a .npy, .npz or .mat file with an array (n_neurons, n_frames), or a folder written by
`cascade-rt run --record`. dF/F is a fraction: 0.1 means 10 %.

The result (.npz, .npy or .mat) holds spike_prob (n_neurons, n_frames), noise_levels (one per neuron), frame
and metadata. spike_prob summed over frames is a number of spikes; times the frame rate it is a rate in Hz.
With a .npy recording and a .npy result, recordings larger than the memory are fine."""

_EXAMPLES = """\
examples:
  cascade-rt predict traces.npy --model GCaMP8_EXC_30Hz_smoothing25ms --frame-rate 30
  cascade-rt predict session.mat --key dF_traces --model Global_EXC_30Hz_smoothing50ms --frame-rate 30.2 \\
                     --out session_spikes.npz --plot session.png"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``predict``."""
    parser = subparsers.add_parser(
        "predict",
        help="spike probabilities of a finished recording",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="file with the dF/F traces")
    parser.add_argument(
        "--model", required=True, metavar="NAME|FOLDER", help="a model's name (see `cascade-rt models`) or its folder"
    )
    parser.add_argument(
        "--frame-rate",
        type=positive_float,
        metavar="HZ",
        help="imaging frames per second; may be left out if the file tells it",
    )
    parser.add_argument("--key", metavar="NAME", help="name of the array in a .npz or .mat file")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="result: .npz, .npy or .mat (default: RECORDING_spike_prob.npz, here)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw some neurons into this .png, .pdf or .svg")
    parser.add_argument(
        "--lookahead",
        type=int,
        metavar="FRAMES",
        help="frames after each frame that its estimate may use (default: the most that the model can use)",
    )
    add_values(parser)
    parser.add_argument(
        "--noise-levels",
        type=Path,
        metavar="FILE",
        help=".npy with the noise level of each neuron, %% Hz^-1/2 (default: measured from the recording)",
    )
    parser.add_argument(
        "--resample",
        action="store_true",
        help="if the frame rate is more than 5 %% from the model's: resample to the model's and go on",
    )
    add_device(parser)
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Read, predict, write, and say what was found."""
    import numpy as np

    from cascade_rt.bundle import find_bundle, read_spec
    from cascade_rt.endpoints.files import check_output
    from cascade_rt.engine import load_model
    from cascade_rt.formats import read_recording
    from cascade_rt.formats.timeline import frame_rate, whole_timeline
    from cascade_rt.noise import noise_levels

    out = args.out or Path(f"{args.recording.stem}_spike_prob.npz")
    check_output(out, overwrite=args.overwrite)
    _check_picture(args.plot, overwrite=args.overwrite)
    spec = read_spec(find_bundle(args.model))
    recording = read_recording(args.recording, args.key)
    rate = frame_rate(recording, args.frame_rate)
    lookahead = spec.lookaheads[-1] if args.lookahead is None else spec.check_lookahead(args.lookahead)
    dff, first_frame = whole_timeline(recording)
    source_rate = rate
    if args.resample:
        dff, rate = _resampled(dff, rate, spec)
        first_frame = 0 if rate != source_rate else first_frame
    model = load_model(args.model, device=args.device, threads=args.threads)
    if args.noise_levels is not None:
        nu = read_noise_levels(args.noise_levels, recording.n_neurons)
    else:
        nu = noise_levels(dff, frame_rate_hz=rate)
    metadata: dict[str, Any] = {
        "model": spec.name,
        "source_sha256": spec.source_sha256,
        "alignment": args.alignment,
        "threshold": args.threshold,
        "lookahead_frames": lookahead,
        "lookaheads": [lookahead],
        "frame_rate_hz": rate,
        "source_frame_rate_hz": source_rate,
        "smoothing_s": spec.smoothing_s,
        "causal_kernel": spec.causal_kernel,
        "recording": recording.path.name,
        "key": recording.key,
        "first_frame": first_frame,
        "complete": True,
    }
    started = time.perf_counter()
    prob = _predict_into(out, dff, model, nu, metadata, args)
    took = time.perf_counter() - started
    if args.plot is not None:
        _plot(args.plot, dff, prob, nu, rate, f"{recording.path.name}: spike probabilities by {spec.name}")
    summary = {
        **metadata,
        "out": str(out),
        "plot": None if args.plot is None else str(args.plot),
        "n_neurons": dff.shape[0],
        "n_frames": dff.shape[1],
        "noise_levels": {"median": float(np.nanmedian(nu)) if np.isfinite(nu).any() else None},
        "trained_noise_levels": list(spec.noise_range),
        "integration_time_s": spec.integration_time_s(lookahead),
        **_totals(prob, rate),
        "seconds": took,
        "neuron_frames_per_s": dff.size / took,
        "device": model.device,
        "threads": model.threads,
    }
    if args.json:
        print_json(summary)
    else:
        _print_summary(summary, nu, spec)
    return 0


def _check_picture(path: Path | None, *, overwrite: bool) -> None:
    from cascade_rt.errors import InputError
    from cascade_rt.plots import FORMATS

    from ._common import check_free

    if path is not None and path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a picture is written as one of {', '.join(FORMATS)}")
    check_free([path], overwrite=overwrite)


def _resampled(dff: NDArray[Any], rate: float, spec: ModelSpec) -> tuple[NDArray[Any], float]:
    """Bring the recording to the model's frame rate if it is not near it anyway."""
    from cascade_rt.catalogue import fits_frame_rate
    from cascade_rt.resample import resample

    if fits_frame_rate(spec.frame_rate_hz, rate):
        return dff, rate
    return resample(dff, frame_rate_hz=rate, new_rate_hz=spec.frame_rate_hz)


def _predict_into(
    out: Path,
    dff: NDArray[Any],
    model: Any,
    nu: NDArray[np.float64],
    metadata: dict[str, Any],
    args: argparse.Namespace,
) -> NDArray[np.float32]:
    """Predict and write the result; a .npy is filled in place and never held in memory."""
    import numpy as np

    from cascade_rt.endpoints.files import allocate_result, write_result
    from cascade_rt.offline import predict
    from cascade_rt.progress import progress

    options: dict[str, Any] = {
        "frame_rate_hz": metadata["frame_rate_hz"],
        "noise_levels": nu,
        "lookahead_frames": metadata["lookahead_frames"],
        "threshold": args.threshold,
        "alignment": args.alignment,
    }
    with progress(f"predicting {dff.shape[0]} neurons") as report:
        if out.suffix.lower() == ".npy":
            described = {**metadata, "noise_levels": nu}
            with allocate_result(out, dff.shape, described, overwrite=args.overwrite) as target:
                predict(dff, model, **options, out=target, progress=report)
            return np.asarray(np.load(out, mmap_mode="r"))
        prob = predict(dff, model, **options, progress=report)
    first = metadata["first_frame"]
    arrays = {
        "spike_prob": prob,
        "valid": np.isfinite(prob),
        "frame": np.arange(first, first + prob.shape[1], dtype=np.int64),
        "noise_levels": nu,
    }
    write_result(out, arrays, metadata, overwrite=args.overwrite)
    return prob


def _totals(prob: NDArray[np.float32], rate: float) -> dict[str, Any]:
    """Spikes expected in all, their rate, and neurons without any value."""
    import numpy as np

    spikes, seconds, undefined = 0.0, 0.0, 0
    for row in prob:
        defined = int(np.isfinite(row).sum())
        undefined += defined == 0
        seconds += defined / rate
        spikes += float(np.nansum(row, dtype=np.float64))
    return {
        "undefined_neurons": undefined,
        "expected_spikes": spikes,
        "mean_spike_rate_hz": spikes / seconds if seconds else None,
    }


def _plot(
    path: Path, dff: NDArray[Any], prob: NDArray[np.float32], nu: NDArray[np.float64], rate: float, title: str
) -> None:
    from cascade_rt.plots import Curve, plot_traces

    plot_traces(path, dff, [Curve(spike_prob=prob)], frame_rate_hz=rate, noise_levels=nu, title=title)


def _print_summary(summary: dict[str, Any], nu: NDArray[np.float64], spec: ModelSpec) -> None:
    rate, n_frames = summary["frame_rate_hz"], summary["n_frames"]
    minutes, seconds = divmod(round(n_frames / rate), 60)
    size = f"{summary['n_neurons']} neurons, {n_frames} frames"
    print(f"{summary['recording']}: {size} at {rate:g} Hz ({minutes} min {seconds} s)")
    if rate != summary["source_frame_rate_hz"]:
        print(f"  resampled from {summary['source_frame_rate_hz']:g} Hz; the result is at {rate:g} Hz")
    if summary["undefined_neurons"]:
        print(f"  {summary['undefined_neurons']} neurons have no defined value")
    print(f"  noise level ν (% Hz^-1/2); the model was trained for {spec.noise_range[0]:g} to {spec.noise_range[1]:g}:")
    for line in noise_histogram(nu):
        print(f"    {line}")
    kernel = "causal" if spec.causal_kernel else "symmetric"
    print(f"model {spec.name}: smoothing {1000 * spec.smoothing_s:g} ms, {kernel} kernel")
    print(
        f"  look-ahead {summary['lookahead_frames']} frames (with the frame itself "
        f"{1000 * summary['integration_time_s']:.0f} ms), alignment {summary['alignment']}, "
        f"threshold {summary['threshold']}"
    )
    if summary["mean_spike_rate_hz"] is not None:
        print(
            f"  {summary['expected_spikes']:.0f} spikes expected in all, "
            f"{summary['mean_spike_rate_hz']:.2g} Hz per neuron on average"
        )
    print(
        f"  {summary['seconds']:.2f} s: {summary['neuron_frames_per_s']:,.0f} neuron-frames/s on {summary['device']}, "
        f"{summary['threads']} threads"
    )
    print(f"written: {summary['out']}" + (f", {summary['plot']}" if summary["plot"] else ""))

"""``cascade-rt run``: spike probabilities from a live stream, published while the experiment runs."""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_device, add_json, add_overwrite, add_values, positive_float, positive_int, print_json
from ._keeping import describe_recordings, is_complete, recording_sink
from ._monitor import Watching, add_monitor
from ._signals import stop_on_signals
from ._triggers import Triggering, add_triggers, describe_triggers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.baseline import BaselineOptions, RunningBaseline
    from cascade_rt.chunks import ModelSpec
    from cascade_rt.ports import LiveStream, Sink, Source
    from cascade_rt.runner import Runner
    from cascade_rt.runstats import RunSummary
    from cascade_rt.stream import SpikeStream

#: Frames of a finished recording that are looked at before the run.
LOOKED_AT_FRAMES = 2000

_DESCRIPTION = """\
Receives dF/F frames, infers the expected number of spikes of each neuron in each frame, and publishes the
result at once. Ends when the source ends, or with Ctrl-C, after everything received has been processed."""

_EPILOG = """\
addresses: tcp://HOST:PORT with options ?type=sub|pull (source) or pub|push (sink), &bind=true|false,
  &hwm=N, &overrun=drop|wait, CURVE keys; a source is SUB and connects, a sink is PUB and binds, unless told
  otherwise. PUSH/PULL loses nothing; PUB/SUB lets any number of programs watch.
files: .npy, .npz, .mat (source and sink), .h5 (sink). docs/wire-format.md describes the messages.

examples:
  cascade-rt run --model GCaMP8_EXC_30Hz_smoothing25ms --frame-rate 30 \\
      --source tcp://127.0.0.1:5555 --sink tcp://127.0.0.1:5556 --noise-levels nu.npy
  cascade-rt run --model … --frame-rate 30 --source "tcp://127.0.0.1:5555?type=pull&bind=true" \\
      --sink "tcp://127.0.0.1:5556?type=push" --lookahead 2,15 --record session1
  cascade-rt run --model … --source … --sink tcp://127.0.0.1:5556 --rules stimulate.yaml \\
      --event-sink serial:/dev/ttyACM0 --control tcp://127.0.0.1:5600"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``run``."""
    parser = subparsers.add_parser(
        "run",
        help="infer spikes live: frames in, spike probabilities out, while the experiment runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="a model's name, or the folder of a bundle")
    parser.add_argument("--source", required=True, metavar="ADDRESS|FILE", help="where frames come from")
    parser.add_argument(
        "--sink", action="append", default=[], metavar="ADDRESS|FILE", help="where results go; may be given repeatedly"
    )
    parser.add_argument("--frame-rate", type=positive_float, metavar="HZ", help="if the source does not tell it")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="keep frames, results and the summary there")
    add_overwrite(parser)
    _add_timing(parser)
    _add_values(parser)
    _add_fluorescence(parser)
    add_triggers(parser)
    add_monitor(parser)
    wire = parser.add_argument_group("connection")
    wire.add_argument(
        "--wire", type=_wire, default=None, metavar="raw:N",
        help="plain messages [topic, float32 samples] of N neurons instead of JSON headers",
    )  # fmt: skip
    wire.add_argument(
        "--insecure", action="store_true", help="allow unencrypted connections to and from other machines"
    )
    add_device(parser)
    parser.add_argument(
        "--view", choices=("auto", "terminal", "lines", "none"), default="auto",
        help="what to show on stderr meanwhile (default: a panel on a terminal, lines elsewhere)",
    )  # fmt: skip
    add_json(parser)


def _add_timing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("delay")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--lookahead", type=_lookaheads, metavar="N[,N…]",
        help="frames to wait for before a frame is described; further numbers add revisions (default: 2)",
    )  # fmt: skip
    choice.add_argument(
        "--max-delay-ms", type=positive_float, metavar="MS",
        help="take the longest look-ahead whose result is known this long after the frame's start",
    )  # fmt: skip
    group.add_argument(
        "--allow-offline-model", action="store_true",
        help="use a model with a long look-ahead, made for finished recordings, knowing that its results are late",
    )  # fmt: skip


def _add_values(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("values")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--noise-levels", type=Path, metavar="FILE", help="noise level of each neuron (.npy, or .npz of a result)"
    )
    choice.add_argument(
        "--calibration-s", type=positive_float, default=60.0, metavar="S",
        help="measure the noise levels during the first S seconds (default: 60)",
    )  # fmt: skip
    group.add_argument(
        "--gap", choices=("hold", "nan", "stop"), default="hold",
        help="missing frames: repeat the last one, NaN, or end the run (default: hold)",
    )  # fmt: skip
    add_values(group)
    group.add_argument(
        "--max-neurons", type=positive_int, metavar="N",
        help="rows of the results altogether, where the source tells ids and neurons may join (default: as at first)",
    )  # fmt: skip
    group.add_argument(
        "--allow-rate-mismatch", action="store_true", help="use a model made for another frame rate, knowingly"
    )


def _add_fluorescence(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fluorescence (docs/baseline.md)")
    group.add_argument(
        "--fluorescence", action="store_true",
        help="frames are fluorescence, not ΔF/F: compute ΔF/F with a baseline that looks back",
    )  # fmt: skip
    group.add_argument(
        "--baseline-window", type=positive_float, default=60.0, metavar="S",
        help="window of the baseline (default: 60 s); results are provisional until it is full",
    )  # fmt: skip


def _wire(text: str) -> int | None:
    kind, _, number = text.partition(":")
    if text == "json":
        return None
    if kind != "raw" or not (number.isascii() and number.isdigit() and int(number) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected json, or raw:N with N neurons")
    return int(number)


def _lookaheads(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of frames such as 2 or 2,15")
    return numbers


def run(args: argparse.Namespace) -> int:
    """Run live inference until the source ends or Ctrl-C."""
    from cascade_rt.bundle import find_bundle, read_spec
    from cascade_rt.endpoints import open_sink, open_source
    from cascade_rt.engine import load_model

    source = open_source(args.source, frame_rate_hz=args.frame_rate, raw_neurons=args.wire, insecure=args.insecure)
    sinks: list[Sink] = [
        open_sink(text, insecure=args.insecure, overwrite=args.overwrite, lossless=source.lossless)
        for text in args.sink
    ]
    folder = find_bundle(args.model)
    spec = read_spec(folder)
    check_live(spec, source, allow_offline_model=args.allow_offline_model)
    if not args.fluorescence:
        check_values(source, args.frame_rate or spec.frame_rate_hz)
    noise = None if args.noise_levels is None else read_noise(args.noise_levels)
    model = load_model(folder, device=args.device, threads=args.threads)
    make_stream = _StreamMaker(args, model, noise)
    if args.record is not None:
        sinks.append(recording_sink(args, model, source, noise))
    for sentence in make_stream.settle(args.frame_rate or spec.frame_rate_hz):
        print(sentence, file=sys.stderr)
    triggering = Triggering(
        args,
        spec,
        lookaheads=make_stream.lookaheads,
        n_neurons=None if args.max_neurons else make_stream.n_neurons,
        patient=source.finite,
    )
    watching = Watching(args, None if triggering.host is None else triggering.submit)
    with watching, triggering:
        runner = _make_runner(
            args, model, source, [*sinks, *triggering.sinks, *watching.sinks], make_stream, triggering
        )
        watching.watch(runner.statistics, None if triggering.host is None else triggering.host.describe)
        _carry_out(runner, args)
    summary = _report(runner, args)
    return 0 if summary.complete and is_complete(summary.values["recordings"]) else 1


def _make_runner(
    args: argparse.Namespace,
    model: Any,
    source: Source,
    sinks: list[Sink],
    make_stream: _StreamMaker,
    triggering: Triggering,
) -> Runner:
    from cascade_rt.runner import Runner

    return Runner(
        source,
        sinks,
        make_stream,
        frame_rate_hz=args.frame_rate,
        gap=args.gap,
        metadata={
            "alignment": args.alignment,
            "threshold": args.threshold,
            "gap": args.gap,
            "device": model.device,
            "source_sha256": model.spec.source_sha256,
            **triggering.metadata,
            **({"fluorescence": True, "baseline": asdict(baseline_options(args))} if args.fluorescence else {}),
        },
        triggers=triggering.host,
        controls=triggering.controls,
        make_baseline=_baseline_maker(args),
        max_neurons=args.max_neurons,
        make_joined=make_stream.joined,
    )


def baseline_options(args: argparse.Namespace) -> BaselineOptions:
    """How ΔF/F is made of fluorescence: with what lies behind, as nothing else can be had live."""
    from cascade_rt.baseline import BaselineOptions

    return BaselineOptions(window_s=args.baseline_window, position="trailing")


def _baseline_maker(args: argparse.Namespace) -> Callable[[int, float], RunningBaseline] | None:
    if not args.fluorescence:
        return None
    from cascade_rt.baseline import RunningBaseline
    from cascade_rt.errors import InputError

    if args.max_neurons:
        raise InputError(
            "--fluorescence with --max-neurons: send ΔF/F where neurons join, each has a baseline of its own"
        )

    options = baseline_options(args)
    return lambda n_neurons, rate: RunningBaseline(n_neurons, rate, options)


def _carry_out(runner: Runner, args: argparse.Namespace) -> None:
    """Let it run, with a view."""
    from cascade_rt.errors import CascadeError
    from cascade_rt.liveview import TerminalView, make_view

    gc.collect()
    gc.freeze()  # what was loaded stays: the collector need not look at it between frames
    try:
        with make_view(args.view, runner.statistics, sys.stderr) as view:
            runner.observer = view
            with stop_on_signals(runner.stop, announce=not isinstance(view, TerminalView)):
                runner.run()
    except (CascadeError, OSError):
        _report(runner, args)
        raise
    finally:
        gc.unfreeze()


def check_live(spec: ModelSpec, source: Source, *, allow_offline_model: bool) -> None:
    """Refuse a model that can only describe the distant past, unless the source is a finished recording."""
    from cascade_rt.chunks import LONGEST_LIVE_LOOKAHEAD
    from cascade_rt.errors import InputError

    shortest = spec.lookaheads[0]
    if shortest <= LONGEST_LIVE_LOOKAHEAD or allow_offline_model or source.finite:
        return
    raise InputError(
        f"model {spec.name!r} describes a frame only {shortest} frames later "
        f"({1000 * spec.integration_time_s(shortest):.0f} ms): it was made for finished recordings. Choose one "
        f"with a look-ahead of at most {LONGEST_LIVE_LOOKAHEAD} frames (cascade-rt models), or accept the delay with "
        "--allow-offline-model"
    )


def check_values(source: Source, rate: float) -> None:
    """Refuse a finished recording that is clearly not ΔF/F as a fraction, before anything is written."""
    from cascade_rt.endpoints.files import FileSource
    from cascade_rt.noise import check_dff, noise_levels

    if isinstance(source, FileSource):
        dff = source.read().dff[:, :LOOKED_AT_FRAMES]
        check_dff(dff, noise_levels(dff, frame_rate_hz=rate), frame_rate_hz=rate)


def read_noise(path: Path) -> NDArray[np.float64]:
    """Read noise levels from a .npy file, or from the .npz of an earlier result."""
    import numpy as np

    from cascade_rt.errors import InputError
    from cascade_rt.formats.numpy_files import read_array, read_noise_archive

    array = read_noise_archive(path) if path.suffix.lower() == ".npz" else read_array(path)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds {array.dtype} {array.shape}: expected one noise level for each neuron")
    return np.array(array, np.float64)


class _StreamMaker:
    """Makes the stream of a run once the number of neurons is known; checks its options before."""

    def __init__(self, args: argparse.Namespace, model: Any, noise: NDArray[np.float64] | None) -> None:
        self._model = model
        self._noise = noise
        self._n_neurons: int | None = args.wire if noise is None else noise.size
        self._ready: tuple[int, float, LiveStream] | None = None
        self._max_delay_ms: float | None = args.max_delay_ms
        self._lookaheads: tuple[int, ...] | None = args.lookahead
        self._options: dict[str, Any] = {
            "threshold": args.threshold,
            "alignment": args.alignment,
            "allow_rate_mismatch": args.allow_rate_mismatch,
            "calibration_s": args.calibration_s,
        }

    @property
    def lookaheads(self) -> tuple[int, ...] | None:
        """Look-aheads that will be published, once settled."""
        return self._lookaheads

    @property
    def n_neurons(self) -> int | None:
        """Number of neurons, if the options tell it."""
        return self._n_neurons

    def settle(self, rate: float) -> list[str]:
        """Decide on the look-aheads, checking every option on the way; returns what to tell the user."""
        from cascade_rt.errors import InputError

        spec = self._model.spec
        probe = self._make(1, rate, None if self._noise is None else self._noise[:1])
        if self._max_delay_ms is not None:
            delays = {n: 1000 * (n + probe.delay_frames + 1) / rate for n in spec.lookaheads}
            fitting = [n for n, ms in delays.items() if ms <= self._max_delay_ms]
            if not fitting:
                shortest = min(delays, key=lambda n: delays[n])
                raise InputError(
                    f"--max-delay-ms {self._max_delay_ms:g}: the earliest result of {spec.name!r} is known "
                    f"{delays[shortest]:.0f} ms after the frame's start (look-ahead {shortest})"
                )
            self._lookaheads = (max(fitting),)
        else:
            self._lookaheads = probe.lookahead_frames
        self._prepare(rate)
        told = [f"model {spec.name}: {1000 * spec.smoothing_s:g} ms smoothing, made for {spec.frame_rate_hz:g} Hz"]
        for number, n in enumerate(self._lookaheads):
            n_frames = n + probe.delay_frames + 1
            told.append(
                f"{'integration time' if number == 0 else 'revised at':>16}: {n_frames} frames = "
                f"{1000 * n_frames / rate:.0f} ms (look-ahead {n}, at {rate:g} Hz)"
            )
        if self._noise is None:
            seconds = self._options["calibration_s"]
            told.append(f"noise levels are measured during the first {seconds:g} s; results are provisional until then")
        return told

    def __call__(self, n_neurons: int, rate: float) -> LiveStream:
        ready, self._ready = self._ready, None
        if ready is not None and ready[:2] == (n_neurons, rate):
            return ready[2]
        return self._make(n_neurons, rate, self._noise)

    def joined(self, n_neurons: int, rate: float) -> SpikeStream:
        """Make the stream of neurons that join; their noise levels are not known."""
        return self._make(n_neurons, rate, None)

    def _prepare(self, rate: float) -> None:
        """Let everything be compiled and allocated now that would otherwise hold up the first frames."""
        import numpy as np

        from cascade_rt.stream import SpikeStream

        spec = self._model.spec
        n_frames = spec.windowsize + 2
        frames = np.random.default_rng(0).normal(0, 0.1, (1, n_frames + 2)).astype(np.float32)
        options = {**self._options, "calibration_s": n_frames / rate}
        for noise in (None, [spec.noise_levels[0]]):
            trial = SpikeStream(
                self._model,
                n_neurons=1, frame_rate_hz=rate, noise_levels=noise, lookahead_frames=self._lookaheads, **options,
            )  # fmt: skip
            trial.push(frames)
            trial.flush()
        if self._n_neurons is not None:
            stream = self._make(self._n_neurons, rate, self._noise)
            for _ in range(3):
                stream.push(np.zeros((self._n_neurons, 1), np.float32))
                stream.prepare()
            stream.reset()
            self._ready = self._n_neurons, rate, stream

    def _make(self, n_neurons: int, rate: float, noise: NDArray[np.float64] | None) -> SpikeStream:
        from cascade_rt.stream import SpikeStream

        return SpikeStream(
            self._model,
            n_neurons=n_neurons,
            frame_rate_hz=rate,
            noise_levels=noise,
            lookahead_frames=self._lookaheads,
            **self._options,
        )


def _report(runner: Runner, args: argparse.Namespace) -> RunSummary:
    """Print the summary."""
    summary = runner.summary
    assert summary is not None
    if args.json:
        print_json(summary.to_dict())
    else:
        for text in describe(summary):
            print(text)
    return summary


def describe(summary: RunSummary) -> list[str]:
    """Put a summary into a few lines of words."""
    values, frames, latency = summary.values, summary.frames, summary.latency
    how = {"end": "the source ended", "interrupted": "stopped", "error": f"failed: {summary.error}"}
    lines = [f"{how[summary.exit_reason]} after {values['duration_s']:.1f} s"]
    if values["model"] is None:
        return [*lines, "no frame was received"]
    lost = f"{frames['lost']} lost" + (f" in {frames['gaps']} gaps" if frames["gaps"] else "")
    odd = [f"{frames[name]} {name}" for name in ("duplicate", "late", "overrun") if frames[name]]
    odd += [f"{n} messages rejected ({reason})" for reason, n in values["messages"]["rejected"].items()]
    odd += [f"{values['sink_dropped']} results not taken by their receiver"] if values["sink_dropped"] else []
    lines.append(f"frames: {frames['processed']} processed, {', '.join([lost, *odd])}")
    if frames["before_start"]:
        lines.append(f"  joined at frame {frames['before_start']}")
    for entry in values["integration"]:
        n = values["published_frames"].get(str(entry["lookahead_frames"]), 0)
        lines.append(f"look-ahead {entry['lookahead_frames']}: {n} frames published, {entry['ms']:.0f} ms integration")
    if latency["count"] and latency["deadline_ms"] is not None:
        lines.append(
            f"receive to publish: p50 {latency['p50_ms']:.2f} ms, p99 {latency['p99_ms']:.2f} ms, "
            f"p99.9 {latency['p99.9_ms']:.2f} ms, max {latency['max_ms']:.2f} ms; "
            f"{latency['deadline_misses']} later than a frame ({latency['deadline_ms']:.1f} ms)"
        )
    lines += describe_triggers(values)
    lines += describe_recordings(values["recordings"])
    neurons = values["neurons"]
    unusable = [f"{neurons[key]} {name}" for key, name in _UNUSABLE.items() if neurons[key]]
    lines.append(f"neurons: {neurons['total']}" + (f", of which {', '.join(unusable)}" if unusable else ""))
    if values["noise_levels"]:
        noise = values["noise_levels"]
        lines.append(f"noise level: median {noise['median']:.2f}, {noise['min']:.2f} to {noise['max']:.2f} % Hz^-1/2")
    if not values["calibration_finished"]:
        lines.append("the calibration was not finished: all results are provisional")
    if not values["baseline_filled"]:
        lines.append("the window of the baseline had not been filled: all results are provisional (--baseline-window)")
    return lines


_UNUSABLE = {
    "all_nan": "without any value",
    "constant": "constant",
    "infinite": "with infinite values",
    "without_noise_level": "without a noise level",
}

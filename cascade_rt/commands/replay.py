"""``cascade-rt replay``: a fake microscope that sends a recording as an acquisition program would."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, positive_float, positive_int, print_json
from ._signals import stop_on_signals

if TYPE_CHECKING:
    from cascade_rt.endpoints.replaying import ReplaySummary
    from cascade_rt.progress import Progress

_DESCRIPTION = """\
Sends the frames of a recording to a socket at its frame rate, as an acquisition program would, and then the
end of the stream: to try a live run without a microscope. RECORDING is a .npy, .npz or .mat file, the folder
of a recorded run, or the word demo for the simulated recording that comes with the program."""

_EPILOG = """\
example, in two terminals:
  cascade-rt run --model GCaMP8_EXC_30Hz_smoothing25ms --source "tcp://127.0.0.1:5555?type=pull"
  cascade-rt replay demo --sink "tcp://127.0.0.1:5555?type=push" """


def add_parser(subparsers: Any) -> None:
    """Add the command ``replay``."""
    parser = subparsers.add_parser(
        "replay",
        help="a fake microscope: send a recording to a socket at its frame rate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", metavar="RECORDING", help="a file, a recorded folder, or demo")
    parser.add_argument(
        "--sink", required=True, metavar="ADDRESS", help="where to send: tcp://HOST:PORT?type=pub|push&bind=true|false"
    )
    parser.add_argument("--frame-rate", type=positive_float, metavar="HZ", help="if the file does not tell it")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=positive_float, default=1.0, metavar="X", help="times real time (default: 1)")
    pace.add_argument("--as-fast-as-possible", action="store_true", help="as fast as the receiver takes it")
    parser.add_argument("--loop", type=positive_int, default=1, metavar="N", help="send it N times, counting on")
    parser.add_argument("--chunk", type=positive_int, default=1, metavar="K", help="frames per message (default: 1)")
    parser.add_argument("--key", metavar="NAME", help="name of the array in the file")
    parser.add_argument("--stream", metavar="NAME", help="name told to the receiver (default: the file's name)")
    parser.add_argument("--wire", choices=("json", "raw"), default="json", help="raw: messages without a header")
    parser.add_argument(
        "--wait-for-subscriber", action="store_true", help="start when somebody receives (push always does)"
    )
    parser.add_argument("--insecure", action="store_true", help="allow unencrypted connections to other machines")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Send a recording."""
    from cascade_rt.endpoints import FileEndpoint, parse_endpoint
    from cascade_rt.endpoints.files import FileSource
    from cascade_rt.endpoints.replaying import Microscope
    from cascade_rt.errors import InputError
    from cascade_rt.formats import read_recording
    from cascade_rt.progress import progress

    endpoint = parse_endpoint(args.sink, "sink")
    if isinstance(endpoint, FileEndpoint):
        raise InputError(f"--sink {args.sink}: expected an address such as tcp://127.0.0.1:5555")
    endpoint.check_safe(insecure=args.insecure)
    path = demo_recording() if args.recording == "demo" else Path(args.recording)
    rate = args.frame_rate or read_recording(path, args.key).frame_rate_hz
    if rate is None:
        raise InputError(f"{path} does not tell its frame rate: give it with --frame-rate HZ")
    microscope = Microscope(
        FileSource(path, key=args.key, frame_rate_hz=rate, chunk_frames=args.chunk),
        endpoint,
        frame_rate_hz=rate,
        speed=None if args.as_fast_as_possible else args.speed,
        loops=args.loop,
        stream=path.stem[:200] if args.stream is None else args.stream,
        raw=args.wire == "raw",
        wait_for_subscriber=args.wait_for_subscriber,
    )
    print(f"sending {path.name} at {rate:g} Hz to {endpoint.address} ({endpoint.socket_type})", file=sys.stderr)
    with stop_on_signals(microscope.stop), ExitStack() as stack:
        shown: list[Progress] = []

        def report(fraction: float) -> None:
            if not shown:  # only now: nobody knows how long a receiver takes to come
                shown.append(stack.enter_context(progress("sending")))
            shown[0](fraction)

        summary = microscope.run(report)
    if args.json:
        print_json({"recording": str(path), "frame_rate_hz": rate, "sink": microscope.address, **summary.to_dict()})
    else:
        for text in describe(summary, rate):
            print(text)
    return 0


def demo_recording() -> Path:
    """Tell where the recording is that comes with the program."""
    import cascade_rt

    return Path(cascade_rt.__file__).parent / "data" / "demo.npz"


def describe(summary: ReplaySummary, rate: float) -> list[str]:
    """Put into words what was sent."""
    values = summary.to_dict()
    how = "stopped" if summary.stopped else "sent"
    lines = [
        f"{how}: {summary.frames} frames of {summary.n_neurons} neurons in {summary.messages} messages, "
        f"{summary.seconds:.1f} s"
    ]
    if values["frames_per_s"] is not None:
        lines[0] += f" ({values['frames_per_s']:.1f} frames/s, recorded at {rate:g})"
    late = values["lateness"]
    if late["count"]:
        lines.append(
            f"later than its schedule: p50 {late['p50_ms']:.2f} ms, p99 {late['p99_ms']:.2f} ms, "
            f"max {late['max_ms']:.2f} ms"
        )
    return lines

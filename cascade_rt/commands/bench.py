"""``cascade-rt bench``: how fast this machine is."""

from __future__ import annotations

import argparse
from typing import Any

from ._common import add_device, add_json, positive_float, positive_int, print_json

_DESCRIPTION = """\
Measures on this machine: how fast finished recordings are processed, how long one live frame takes, and
whether a live recording at the model's frame rate can be followed without being late. The reference is
what the processor does in plain matrix products (sgemm) in the same run."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``bench``."""
    parser = subparsers.add_parser(
        "bench",
        help="measure the speed of this machine, offline and live",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", metavar="NAME|FOLDER", help="model to run (default: the first of those shipped)")
    parser.add_argument(
        "--neurons", type=positive_int, default=500, metavar="N", help="neurons of the live part (default: 500)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_float,
        default=10.0,
        metavar="S",
        help="length of the run at the model's frame rate (default: 10)",
    )
    add_device(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from cascade_rt.benchmarks import benchmark
    from cascade_rt.bundle import list_models
    from cascade_rt.engine import load_model
    from cascade_rt.errors import ModelNotFoundError
    from cascade_rt.progress import progress

    names = [args.model] if args.model else list_models()
    if not names:
        raise ModelNotFoundError("no model is installed; `cascade-rt import --download NAME` fetches a published one")
    model = load_model(names[0], device=args.device, threads=args.threads)
    with progress(f"running live at {model.spec.frame_rate_hz:g} Hz") as report:
        answer = benchmark(model, n_neurons=args.neurons, seconds=args.seconds, report=report)
    if args.json:
        print_json(answer)
        return 0
    offline, live, paced, here = answer["offline"], answer["live"], answer["sustained"], answer["machine"]
    print(f"{answer['model']} on {answer['device']}, {answer['threads']} threads of {here['processor']}")
    print(f"  reference     {answer['sgemm_gflops']:g} GFLOP/s in matrix products ({here['blas']})")
    print(
        f"  offline       {offline['neuron_frames_per_s']:,} neuron-frames/s, "
        f"{100 * offline['share_of_sgemm']:.0f} % of the reference"
    )
    print(
        f"  one frame     {live['latency']['p50_ms']:.2f} ms (p50), {live['latency']['p99_ms']:.2f} ms (p99) "
        f"for {live['n_neurons']} neurons"
    )
    print(
        f"    whole work  {live['whole']['p50_ms']:.2f} ms (p50), {live['whole']['p99_ms']:.2f} ms (p99): "
        f"{live['whole_p50_over_sgemm']:.1f} and {live['whole_p99_over_sgemm']:.1f} times the reference"
    )
    print(
        f"  at {paced['frame_rate_hz']:g} Hz      {paced['deadline_misses']} of {paced['n_frames']} frames late; "
        f"p99 {paced['latency']['p99_ms']:.2f} ms, longest {paced['latency']['max_ms']:.2f} ms; "
        f"{100 * paced['busy_fraction']:.0f} % busy"
    )
    return 0

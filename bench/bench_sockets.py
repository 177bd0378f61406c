"""Through the sockets: 500 neurons at 30 Hz for 60 s, from a replay process into a run process and on to this one.

Bounds: no frame lost, every frame described exactly once for each look-ahead, and from receiving to having
published below 15 ms (p99).
"""

from __future__ import annotations

import numpy as np
from _common import Checks, conditioned_bundle, parse

from cascade_rt.benchmarks import synthetic_dff
from cascade_rt.rehearsal import rehearse

RATE = 30.0


def main() -> None:
    args = parse(
        __doc__,
        ("--neurons", {"type": int, "default": 500, "help": "neurons"}),
        ("--seconds", {"type": float, "default": 60.0, "help": "length (s)"}),
        ("--lookahead", {"default": "2,15", "help": "look-aheads to publish (frames)"}),
    )
    checks = Checks(args)
    n_neurons, seconds = (20, 4.0) if args.smoke else (args.neurons, args.seconds)
    nu = np.linspace(1.5, 8, n_neurons)
    dff = synthetic_dff(n_neurons, round(seconds * RATE), frame_rate_hz=RATE, noise_levels=nu)
    received, summary = rehearse(
        dff,
        nu,
        model=conditioned_bundle(),
        frame_rate_hz=RATE,
        lookaheads=[int(lag) for lag in args.lookahead.split(",")],
        run_options=["--threads", str(args.threads)] if args.threads else [],
    )
    checks.at_most("frames lost or twice", received.lost(), 0)
    checks.at_most("frames that the run counted as lost", summary["frames"]["lost"], 0)
    checks.at_most("unexpected messages", len(received.unexpected), 0)
    checks.at_most("receive to publish, p99 (ms)", summary["latency"]["p99_ms"], 15.0)
    checks.finish(
        "sockets",
        n_neurons=n_neurons,
        n_frames=dff.shape[1],
        seconds=seconds,
        **{name: summary[name] for name in ("model", "latency", "load", "frames", "integration")},
    )


if __name__ == "__main__":
    main()

"""Speed of live frames: latency of one frame at a time, and holding 30 Hz for a minute.

Bounds: 1000 neurons with 5 members take at most 2 (p50) and 4 (p99) times what sgemm takes for the same
multiply-adds, preparation of the next frame included, whether the neurons have all noise levels or one;
1000 neurons with the conditioned model and all its look-aheads at most 1.5 ms (p50); 4000 neurons (5 members)
and 10,000 neurons (conditioned) are never late at 30 Hz for 60 s.
"""

from __future__ import annotations

from _common import Checks, conditioned_bundle, parse, published_ensemble

from cascade_rt.benchmarks import live_latency, sgemm_flops, sustained
from cascade_rt.engine import load_model


def main() -> None:
    args = parse(__doc__, ("--seconds", {"type": float, "default": 60.0, "help": "length of the paced runs (s)"}))
    checks = Checks(args)
    small, frames, seconds, repeats = (20, 10, 0.5, 2) if args.smoke else (1000, 600, args.seconds, 8)
    with published_ensemble(args) as folder:
        ensemble = load_model(folder, threads=args.threads)
        single = load_model(conditioned_bundle(), threads=args.threads)
        before = sgemm_flops(ensemble.threads, repeats=repeats)
        members = live_latency(ensemble, n_neurons=small, n_frames=frames, sgemm=before)
        lowest = ensemble.spec.noise_levels[0]
        alike = live_latency(ensemble, n_neurons=small, n_frames=frames, sgemm=before, noise_range=(lowest, lowest))
        conditioned = live_latency(single, n_neurons=small, n_frames=frames, sgemm=before)
        after = sgemm_flops(ensemble.threads, repeats=repeats)
        paced = {
            "ensemble": sustained(ensemble, n_neurons=4 * small, frame_rate_hz=30.0, seconds=seconds),
            "conditioned": sustained(single, n_neurons=10 * small, frame_rate_hz=30.0, seconds=seconds),
        }
    checks.at_most("5 members, whole work over sgemm, p50", members["whole_p50_over_sgemm"], 2.0)
    checks.at_most("5 members, whole work over sgemm, p99", members["whole_p99_over_sgemm"], 4.0)
    checks.at_most("5 members, neurons of one noise level, p50", alike["whole_p50_over_sgemm"], 2.0)
    checks.at_most("5 members, neurons of one noise level, p99", alike["whole_p99_over_sgemm"], 4.0)
    checks.at_most("conditioned, whole work of a frame, p50 (ms)", conditioned["whole"]["p50_ms"], 1.5)
    for name, run in paced.items():
        checks.at_most(f"{name}, {run['n_neurons']} neurons, frames late at 30 Hz", run["deadline_misses"], 0)
    checks.finish(
        "live",
        threads=ensemble.threads,
        sgemm_gflops=[round(before / 1e9, 1), round(after / 1e9, 1)],
        ensemble=members,
        ensemble_of_one_level=alike,
        conditioned={"model": single.spec.name, **conditioned},
        sustained=paced,
    )


if __name__ == "__main__":
    main()

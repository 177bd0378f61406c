"""Speed of training: one pass over whole segments, against one window for each target frame.

The convolutions are the same: on segments they are those of the conditioned network that this project trains, with all
of its look-aheads and fresh noise drawn for every segment; on windows those of CASCADE's network, with one output, on
windows that lie ready in memory. Each is compiled in the way that is faster for it (for windows that is without XLA).
They take turns.

Bound: on segments at least 8 times as many target frames/s as on windows.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from _common import Checks, parse

#: Windows of a step; each has one target frame.
WINDOWS = 1024
RATE_HZ = 30.0


def recordings(n: int, minutes: float) -> list[Any]:
    """Neurons with known spikes."""
    from cascade_rt.benchmarks import synthetic_dff
    from training.ground_truth import Trace

    n_frames = round(60 * RATE_HZ * minutes)
    dff = synthetic_dff(n, n_frames, frame_rate_hz=RATE_HZ, noise_levels=np.full(n, 1.0))
    counts = np.random.default_rng(0).poisson(0.03, dff.shape).astype(np.float32)
    return [
        Trace(
            dataset="synthetic",
            neuron=str(number),
            number=0,
            dff=trace,
            spike_counts=spikes,
            frame_rate_hz=RATE_HZ,
            noise_level=1.0,
        )
        for number, (trace, spikes) in enumerate(zip(dff, counts, strict=True))
    ]


class OnSegments:
    """The steps of a fit, with the drawing of their data."""

    def __init__(self, traces: list[Any], n_steps: int) -> None:
        from training.architecture import build_conditioned
        from training.config import TrainingConfig
        from training.fit import compile_model, segment_source

        config = TrainingConfig(name="bench", frame_rate_hz=RATE_HZ, smoothing_s=0.05, datasets=("synthetic",))
        self.model = build_conditioned(config.network)
        compile_model(self.model, config.fit, 10_000)
        self.source = segment_source(traces, config)
        self.options = replace(config.fit, block_steps=max(n_steps // 4, 1))
        self.n_steps, self.done = n_steps, 0

    def __call__(self) -> int:
        """Train some steps as a fit does, data drawn beside it; returns the target frames."""
        from training.fit import drawn_ahead

        first, self.done = self.done, self.done + self.n_steps
        n_frames = 0
        for block in drawn_ahead(self.source, self.options, first, self.done):
            for dff, nu, target, weight in zip(block.dff, block.nu, block.target, block.weight, strict=True):
                self.model.train_on_batch([dff, nu], target, sample_weight=weight)
            n_frames += int(block.weight.size)
        return n_frames


class OnWindows:
    """Steps on windows drawn at random."""

    def __init__(self, traces: list[Any], n_steps: int) -> None:
        from training.architecture import ConditionedShape, WindowedShape, build_windowed
        from training.config import FitOptions
        from training.fit import compile_model
        from training.targets import smooth_spikes

        same = ConditionedShape()
        shape = WindowedShape(
            windowsize=same.receptive_field,
            filter_sizes=same.filter_sizes,
            filter_numbers=same.filter_numbers,
            dense_expansion=same.dense_expansion,
        )
        self.model = build_windowed(shape)
        compile_model(self.model, FitOptions(jit=False), 10_000)
        windows, targets = [], []
        for trace in traces[:2]:
            target = smooth_spikes(trace.spike_counts, smoothing_s=0.05, frame_rate_hz=RATE_HZ)
            windows.append(np.lib.stride_tricks.sliding_window_view(trace.dff, shape.windowsize))
            targets.append(target[shape.windowsize // 2 :][: len(windows[-1])])
        self.windows, self.targets = np.concatenate(windows)[..., None], np.concatenate(targets)[:, None]
        self.n_steps, self.rng = n_steps, np.random.default_rng(0)

    def __call__(self) -> int:
        """Train some steps; returns the number of windows."""
        for _ in range(self.n_steps):
            drawn = self.rng.integers(0, len(self.windows), WINDOWS)
            self.model.train_on_batch(self.windows[drawn], self.targets[drawn])
        return self.n_steps * WINDOWS


def main() -> None:
    args = parse(__doc__)
    checks = Checks(args)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if find_spec("keras") is None:
        checks.finish("training", skipped="Keras is not installed (the extra 'train')")
    import keras

    rounds, segment_steps, window_steps = (1, 4, 1) if args.smoke else (6, 400, 40)
    traces = recordings(*((2, 1.0) if args.smoke else (20, 5.0)))
    ways = {"segments": OnSegments(traces, segment_steps), "windows": OnWindows(traces, window_steps)}
    done: dict[str, list[tuple[int, float]]] = {name: [] for name in ways}
    for train in ways.values():
        train()  # compiles
    for _ in range(rounds):
        for name, train in ways.items():
            started = time.perf_counter()
            samples = train()
            done[name].append((samples, time.perf_counter() - started))
    answers = {
        name: {
            "samples_per_s": round(sum(n for n, _ in done[name]) / sum(took for _, took in done[name])),
            "slowest_round": round(min(n / took for n, took in done[name])),
            "fastest_round": round(max(n / took for n, took in done[name])),
            "samples": sum(n for n, _ in done[name]),
            "steps": rounds * train.n_steps,
            "weights": int(train.model.count_params()),
        }
        for name, train in ways.items()
    }
    ratio = answers["segments"]["samples_per_s"] / answers["windows"]["samples_per_s"]
    checks.at_least("samples/s on segments, times those on windows", round(ratio, 2), 8.0)
    backend = keras.backend.backend()
    checks.finish("training", keras={"backend": backend, "versions": _versions("keras", backend)}, **answers)


def _versions(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main()

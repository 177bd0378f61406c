"""A fit that takes a moment: its network, its data; and as a program that dies at the moment it is told to.

``python small_fit.py FOLDER [MOMENT]`` trains, prints the steps it started from and a hash of the final weights as
JSON. MOMENT is "block:N" (after that step), "checkpoint:N" (half of the N-th checkpoint of this process is written),
"replacing:N" (it is written beside the old one), or "validation:N" (within the N-th scoring of held-out neurons).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from training.architecture import ConditionedShape
from training.config import FitOptions, TrainingConfig
from training.ground_truth import Trace

SMALL = ConditionedShape(
    filter_sizes=(9, 5, 3),
    filter_numbers=(4, 5, 6),
    dense_expansion=4,
    lookahead_frames=(0, 1, 7),
    noise_hidden=4,
    noise_range=(1.0, 10.0),
)


def small_config(*, from_model: str = "", **fit: Any) -> TrainingConfig:
    """16 steps in 4 blocks, each with a checkpoint; averaging over the last 2 or 3."""
    options = {
        "target_frames": 16 * 4 * 64,
        "segment_frames": SMALL.receptive_field + 63,
        "batch": 4,
        "warmup_steps": 4,
        "block_steps": 4,
        "checkpoint_blocks": 1,
        "average_share": 0.6,
        "jit": False,
    }
    return TrainingConfig(
        name="small",
        frame_rate_hz=30.0,
        smoothing_s=0.05,
        datasets=("A",),
        from_model=from_model,
        network=SMALL,
        fit=FitOptions(**{**options, **fit}),
    )


def small_traces(seconds: float = 60.0, n: int = 2, seed: int = 0) -> list[Trace]:
    """Sharp transients, one neuron each: a network can learn them in seconds."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(n):
        counts = (rng.random(round(30 * seconds)) < 0.04).astype(np.float32)
        clean = np.convolve(counts, np.exp(-np.arange(40) / 6.0))[: counts.size]
        dff = (clean + 0.01 * rng.standard_normal(counts.size)).astype(np.float32)
        out.append(
            Trace(
                dataset="A",
                neuron=str(number),
                number=0,
                dff=dff,
                spike_counts=counts,
                frame_rate_hz=30.0,
                noise_level=0.0,
            )
        )
    return out


def write_start(folder: Path, shape: ConditionedShape = SMALL, **changes: Any) -> Path:
    """Write a conditioned model of that shape (with 5 units on log ν), random weights everywhere."""
    from networks import Stage, random_network, write_conditioned

    *stages, last = (Stage(layer.taps, layer.channels, layer.dilation, layer.pool) for layer in shape.layers)
    network = random_network(
        np.random.default_rng(0),
        outputs=len(shape.lookahead_frames),
        stages=tuple(stages),
        last=last,
        noise_range=shape.noise_range,
    )
    values: dict[str, Any] = {"lookaheads": shape.lookahead_frames, "network": network, "source_sha256": "5e" * 32}
    return write_conditioned(folder, **(values | changes))


def weights_hash(model: Any) -> str:
    """Hash of the weights, bit for bit."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())).hexdigest()


def main() -> None:
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # not needed: an import would fail
    from training.fit import fit

    steps: list[int] = []
    die_at = [*sys.argv[2:], ""][0]
    _prepare_death(die_at)

    def progress(step: int, *_: Any) -> None:
        steps.append(step)
        if die_at == f"block:{step}":
            _die()

    # 10 blocks, held-out neurons scored after every 2.
    options = {"validation_share": 0.3, "validation_blocks": 2, "checkpoint_blocks": 2, "jit": True}
    config = small_config(target_frames=40 * 4 * 64, **options)
    model = fit(small_traces(n=3), config, Path(sys.argv[1]), progress=progress)
    print(json.dumps({"steps": steps, "weights": weights_hash(model)}))


def _prepare_death(moment: str) -> None:
    """Wrap what is called at that moment."""
    import training.checkpoint
    import training.fit

    kind, _, number = moment.partition(":")
    calls = itertools.count(1)

    def now() -> bool:
        return next(calls) == int(number)

    if kind == "checkpoint":
        savez = np.savez

        def half_written(file: Any, **arrays: Any) -> None:
            if now():
                file.write(b"PK half of a checkpoint")
                file.flush()
                _die()
            savez(file, **arrays)

        training.checkpoint.np.savez = half_written  # type: ignore[assignment]
    elif kind == "replacing":
        replace = Path.replace

        def not_replaced(path: Path, target: Any) -> Path:
            if Path(target).name == training.checkpoint.CHECKPOINT and now():
                _die()
            return replace(path, target)

        Path.replace = not_replaced  # type: ignore[assignment]
    elif kind == "validation":
        score = training.fit.held_out_loss

        def scored(model: Any, weights: Any, block: Any) -> float:
            if now():
                model.set_weights(weights)
                _die()
            return score(model, weights, block)

        training.fit.held_out_loss = scored


def _die() -> None:
    """End at once, without any cleaning up, as a power cut would."""
    sys.stdout.flush()
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


if __name__ == "__main__":
    main()

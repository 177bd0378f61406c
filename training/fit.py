"""Train the conditioned network densely on segments: seeded, and resumable after a kill at any moment."""

from __future__ import annotations

import itertools
import logging
import os
import time
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import TrainingError

from .architecture import build_conditioned
from .ground_truth import Trace, resample
from .segments import SegmentSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .config import TrainingConfig
    from .ground_truth import Recording

    #: Called with (steps done, steps in all, mean loss of the last block, seconds left).
    Report = Callable[[int, int, float, float], None]

__all__ = ["fit", "training_traces"]

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.npz"


def training_traces(
    recordings: Sequence[Recording], config: TrainingConfig, *, leave_out: Collection[tuple[str, str]] = ()
) -> list[Trace]:
    """All versions of the recordings to learn from: each stretch, way of resampling and start of the frame grid.

    Parameters
    ----------
    recordings : sequence of Recording
    config : TrainingConfig
    leave_out : collection of (dataset, neuron)
        Neurons kept aside.
    """
    out: list[Trace] = []
    for recording in recordings:
        if (recording.dataset, recording.neuron) in leave_out:
            continue
        seen: set[bytes] = set()
        for stretch, method, phase in itertools.product(
            config.fit.stretches, config.fit.methods, range(config.fit.phases)
        ):
            rate = config.frame_rate_hz * stretch
            trace = resample(recording, rate, method=method, phase=phase / config.fit.phases)  # type: ignore[arg-type]
            if trace is None or trace.dff.tobytes() in seen:
                continue
            seen.add(trace.dff.tobytes())
            out.append(trace if stretch == 1.0 else replace(trace, frame_rate_hz=trace.frame_rate_hz / stretch))
    return out


def fit(
    traces: Sequence[Trace],
    config: TrainingConfig,
    folder: Path,
    *,
    progress: Report | None = None,
) -> Any:
    """Train, or go on training.

    The data of each block of steps follow from the seed and the number of the block, and a checkpoint holds all
    that the optimizer remembers, so a run that was killed and started again ends with the weights of one that
    was not.

    Parameters
    ----------
    traces : sequence of Trace
    config : TrainingConfig
    folder : Path
        For the checkpoint; made if missing. A finished run found here is returned as it is.
    progress : callable, optional
        Called after each block with steps done, steps in all, mean loss and seconds left.

    Returns
    -------
    keras.Model
        With the averaged weights.

    Raises
    ------
    TrainingError
        The folder holds a checkpoint of another configuration or other data, or the training diverged.
    """
    import keras

    keras.utils.set_random_seed(config.fit.seed)
    options, n_steps = config.fit, config.n_steps
    source = SegmentSource(
        traces,
        segment_frames=options.segment_frames,
        receptive_field=config.network.receptive_field,
        lookahead_frames=config.network.lookahead_frames,
        smoothing_s=config.smoothing_s,
        causal_kernel=config.causal_kernel,
        noise_range=config.network.noise_range,
        balance=options.balance,
        amplitude_sd=options.amplitude_sd,
        seed=options.seed,
    )
    model = build_conditioned(config.network, seed=options.seed)
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(
            0.0,
            max(n_steps - options.warmup_steps, 1),
            warmup_target=options.learning_rate,
            warmup_steps=options.warmup_steps,
        ),
        global_clipnorm=options.clip_norm,
    )
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, loss=_summed_square_error, jit_compile=options.jit)

    run = config.digest() + _digest(traces)
    path = folder / CHECKPOINT
    step, average = _restore(path, run, model, optimizer)
    block_steps = options.block_steps
    start_average = int((1.0 - options.average_share) * n_steps)
    started, first_step = time.monotonic(), step
    while step < n_steps:
        number = step // block_steps
        block = source.block(number, block_steps, options.batch)
        losses = [
            model.train_on_batch([block.dff[i], block.nu[i]], block.target[i], sample_weight=block.weight[i])
            for i in range(block_steps)
        ]
        loss = float(np.mean(losses))
        if not np.isfinite(loss):
            raise TrainingError(f"training diverged at step {step} (loss {loss}): lower learning_rate or clip_norm")
        step += block_steps
        if step > start_average:
            average = _averaged(average, model.get_weights(), options.average_momentum)
        if (number + 1) % options.checkpoint_blocks == 0 or step >= n_steps:
            _save(path, run, step, model, optimizer, average)
        left = (time.monotonic() - started) / (step - first_step) * (n_steps - step)
        logger.debug("step %d of %d, loss %.5f, %.0f s left", step, n_steps, loss, left)
        if progress is not None:
            progress(step, n_steps, loss, left)
    if average is not None:
        model.set_weights(average)
    return model


def _summed_square_error(target: Any, output: Any) -> Any:
    """Square error, summed over look-aheads; (batch, frames)."""
    from keras import ops

    return ops.sum(ops.square(target - output), axis=-1)


def _averaged(
    average: list[NDArray[np.float32]] | None, weights: list[NDArray[np.float32]], momentum: float
) -> list[NDArray[np.float32]]:
    if average is None:
        return [w.copy() for w in weights]
    return [
        (np.float32(momentum) * a + np.float32(1.0 - momentum) * w).astype(np.float32)
        for a, w in zip(average, weights, strict=True)
    ]


def _digest(traces: Sequence[Trace]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for trace in traces:
        digest.update(f"{trace.dataset}/{trace.neuron}/{trace.number}/{trace.frame_rate_hz!r}".encode())
        digest.update(trace.dff.tobytes())
        digest.update(trace.spike_counts.tobytes())
    return digest.hexdigest()


def _save(
    path: Path, run: str, step: int, model: Any, optimizer: Any, average: list[NDArray[np.float32]] | None
) -> None:
    """Write the checkpoint beside the old one, then put it in its place: a kill leaves one or the other whole."""
    from keras import ops

    arrays = {f"weight_{i}": w for i, w in enumerate(model.get_weights())}
    arrays |= {f"optimizer_{i}": ops.convert_to_numpy(v) for i, v in enumerate(optimizer.variables)}
    arrays |= {f"average_{i}": a for i, a in enumerate(average or [])}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        np.savez(file, run=np.array(run), step=np.array(step), **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _restore(path: Path, run: str, model: Any, optimizer: Any) -> tuple[int, list[NDArray[np.float32]] | None]:
    """Load a checkpoint if there is one; steps done and averaged weights."""
    if not path.exists():
        return 0, None
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: checkpoint not readable ({error}); delete it to start again") from error
    if str(arrays["run"]) != run:
        raise TrainingError(
            f"{path} belongs to another configuration or other data; use another folder, or delete it to start again"
        )
    n = len(model.get_weights())
    model.set_weights([arrays[f"weight_{i}"] for i in range(n)])
    for i, variable in enumerate(optimizer.variables):
        variable.assign(arrays[f"optimizer_{i}"])
    average = [arrays[f"average_{i}"] for i in range(n)] if "average_0" in arrays else None
    return int(arrays["step"]), average

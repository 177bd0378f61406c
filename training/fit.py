"""Train the conditioned network densely on segments: seeded, and resumable after a kill at any moment."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.chunks import RATE_TOLERANCE
from cascade_rt.errors import TrainingError

from .architecture import build_conditioned
from .augment import quickened, without_lag
from .checkpoint import CHECKPOINT, Checkpoint, replaced
from .ground_truth import Trace, resample
from .segments import Block, SegmentSource
from .transfer import read_start, set_weights
from .validation import held_out_loss, hold_out

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from .config import FitOptions, TrainingConfig
    from .ground_truth import Recording

    #: Called with (steps done, steps in all, mean loss of the last block, seconds left).
    Report = Callable[[int, int, float, float], None]

__all__ = ["compile_model", "drawn_ahead", "fit", "loss_function", "read_record", "segment_source", "training_traces"]

logger = logging.getLogger(__name__)

TABLE, PICTURE, RECORD = "loss.csv", "loss.png", "fit.json"
#: Slope of the rectification in the loss, so that an output below 0 can still learn.
_BELOW_ZERO = 0.02
#: Expected spikes per frame below which the absolute error is rounded off.
_ROUNDED = 1e-3
#: The picture is drawn at the end, and while training at most this often.
DRAW_EVERY_S = 60.0


def training_traces(
    recordings: Sequence[Recording], config: TrainingConfig, *, leave_out: Collection[tuple[str, str]] = ()
) -> list[Trace]:
    """All versions of the recordings to learn from: rise, stretch, way of resampling and start of the frame grid.

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
        recorded = without_lag(recording, config.lags_s)
        out += _versions(recorded, config)
        if recording.frame_rate_hz >= (1 - RATE_TOLERANCE) * config.frame_rate_hz:
            for rise_s in config.fit.quicken_s:
                out += _versions(quickened(recorded, rise_s), config)
    return out


def _versions(recording: Recording, config: TrainingConfig) -> list[Trace]:
    out: list[Trace] = []
    seen: set[bytes] = set()
    for stretch, method, phase in itertools.product(config.fit.stretches, config.fit.methods, range(config.fit.phases)):
        rate = config.frame_rate_hz * stretch
        trace = resample(recording, rate, method=method, phase=phase / config.fit.phases)  # type: ignore[arg-type]
        if trace is None or trace.dff.tobytes() in seen:
            continue
        seen.add(trace.dff.tobytes())
        out.append(trace if stretch == 1.0 else replace(trace, frame_rate_hz=trace.frame_rate_hz / stretch))
    return out


def segment_source(traces: Sequence[Trace], config: TrainingConfig, *, augment: bool = True) -> SegmentSource:
    """Make the source of segments; without ``augment`` only noise is added to what was recorded."""
    options = config.fit
    return SegmentSource(
        traces,
        segment_frames=options.segment_frames,
        receptive_field=config.network.receptive_field,
        lookahead_frames=config.network.lookahead_frames,
        smoothing_s=config.smoothing_s,
        causal_kernel=config.causal_kernel,
        noise_range=config.network.noise_range,
        balance=options.balance,
        amplitude_sd=options.amplitude_sd if augment else 0.0,
        activity_balance=options.activity_balance,
        seed=options.seed,
    )


def compile_model(model: Any, options: FitOptions, n_steps: int) -> None:
    """Give a Keras model its loss and optimizer, ready for ``train_on_batch`` on any Keras backend."""
    import keras

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
    model.compile(optimizer=optimizer, loss=loss_function(options.absolute_error), jit_compile=options.jit)


def loss_function(absolute_error: float) -> Callable[[Any, Any], Any]:
    """Make the loss: square error plus a share of absolute error, summed over look-aheads; (batch, frames).

    Square error alone asks for the mean of what may have been: a little activity in every silent frame, which adds
    up to spikes that were not there. Absolute error asks for the median, which in those frames is 0. What is below
    0 will be set to 0 when the network is used, so there it hardly counts.

    Parameters
    ----------
    absolute_error : float
        Weight of the absolute error (1 / expected spikes per frame); 0 for the square error alone.
    """
    from keras import ops

    def loss(target: Any, output: Any) -> Any:
        if not absolute_error:
            return ops.sum(ops.square(target - output), axis=-1)
        square = ops.square(ops.where(output > 0, output, _BELOW_ZERO * output) - target)
        absolute = ops.sqrt(square + _ROUNDED**2) - _ROUNDED
        return ops.sum(square + absolute_error * absolute, axis=-1)

    return loss


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
    was not. With ``config.from_model`` the weights start from that model's instead of random ones.

    Parameters
    ----------
    traces : sequence of Trace
    config : TrainingConfig
    folder : Path
        Made if missing. Gets the checkpoint, the loss curve (``loss.csv``, ``loss.png``) and, at the end, what was
        done (``fit.json``). A finished run found here is returned as it is.
    progress : callable, optional
        Called after each block with steps done, steps in all, mean loss and seconds left.

    Returns
    -------
    keras.Model
        With the averaged weights; with ``config.fit.validation_share``, with those that did best on the neurons
        held out.

    Raises
    ------
    TrainingError
        The folder holds a checkpoint of another configuration or other data, or the training diverged.
    """
    import keras

    keras.utils.set_random_seed(config.fit.seed)
    run = _Fit(traces, config, folder)
    run.train(progress)
    return run.finish()


class _Fit:
    """One fit: its network, its data and where it is."""

    def __init__(self, traces: Sequence[Trace], config: TrainingConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.learnt, self.held_out = hold_out(traces, config.fit.validation_share, config.fit.seed)
        self.start = read_start(config.from_model) if config.from_model else None
        self.model = build_conditioned(config.network, seed=config.fit.seed)
        if self.start is not None:
            set_weights(self.model, self.start.network)
        compile_model(self.model, config.fit, config.n_steps)
        origin = self.start.spec.source_sha256 if self.start else ""
        self.checkpoint = Checkpoint(folder / CHECKPOINT, config.digest() + origin + _digest(traces))
        self.state = self.checkpoint.restore(self.model)
        self.drawn = time.monotonic()

    @property
    def done(self) -> bool:
        """All steps are done, or the held-out neurons say that more would not help."""
        if self.held_out and self.state.curve.without_improvement >= self.config.fit.patience:
            return True
        return self.state.step >= self.config.n_steps

    def train(self, progress: Report | None) -> None:
        """Do the steps that are left, block by block."""
        if self.done:
            return
        options, state, n_steps = self.config.fit, self.state, self.config.n_steps
        self._note_backend()
        (self.folder / RECORD).unlink(missing_ok=True)  # of an earlier run, whose checkpoint was deleted
        validation = None
        if self.held_out:
            source = segment_source(self.held_out, self.config, augment=False)
            validation = source.block(0, options.block_steps, options.batch)
        resumed = first_step = state.step
        started = time.monotonic()
        for block in drawn_ahead(segment_source(self.learnt, self.config), options, state.step, n_steps):
            loss = self._learn(block)
            self._average()
            if validation is not None:
                self._validate(validation)
            if self.done or len(state.curve.training) % options.checkpoint_blocks == 0:
                self._save()
            left = (time.monotonic() - started) / (state.step - first_step) * (n_steps - state.step)
            if state.step == resumed + options.block_steps:  # the first block, which also compiled the step
                started, first_step = time.monotonic(), state.step
            logger.debug("step %d of %d, loss %.5f, %.0f s left", state.step, n_steps, loss, left)
            if progress is not None:
                progress(state.step, n_steps, loss, left)
            if self.done:
                break

    def finish(self) -> Any:
        """Return the network with the weights to keep; writes the curve and the record if a kill prevented it."""
        state = self.state
        if not all((self.folder / name).exists() for name in (RECORD, TABLE, PICTURE)):
            self._write_curve(picture=True)
            with replaced(self.folder / RECORD) as file:
                file.write(json.dumps(self._record(), indent=1).encode())
        kept = state.best or state.average
        if kept is not None:
            self.model.set_weights(kept)
        return self.model

    # ── parts ──

    def _learn(self, block: Block) -> float:
        """Do the steps of a block; returns their mean loss."""
        losses = [
            self.model.train_on_batch([dff, nu], target, sample_weight=weight)
            for dff, nu, target, weight in zip(block.dff, block.nu, block.target, block.weight, strict=True)
        ]
        loss = float(np.mean(losses))
        if not np.isfinite(loss):
            raise TrainingError(
                f"training diverged after step {self.state.step} (loss {loss}): lower learning_rate or clip_norm"
            )
        self.state.step += len(losses)
        self.state.curve.training.append(loss)
        return loss

    def _average(self) -> None:
        """Take the weights into the average, if it has begun: a plain mean until it is as long as its memory."""
        options, state = self.config.fit, self.state
        first = 0 if self.held_out else int((1.0 - options.average_share) * self.config.n_steps)
        if state.step <= first:
            return
        number = len(state.curve.training) - first // options.block_steps
        keep = min(options.average_momentum, 1.0 - 1.0 / number)
        weights = self.model.get_weights()
        state.average = [
            (np.float32(keep) * a + np.float32(1.0 - keep) * w).astype(np.float32)
            for a, w in zip(state.average or weights, weights, strict=True)
        ]

    def _validate(self, validation: Block) -> None:
        """Score the averaged weights on the held-out neurons, if it is time, and keep them if they are the best."""
        state, blocks = self.state, len(self.state.curve.training)
        last = state.step >= self.config.n_steps
        if state.average is None or not (last or blocks % self.config.fit.validation_blocks == 0):
            return
        state.curve.validation.append((blocks, held_out_loss(self.model, state.average, validation)))
        if state.curve.without_improvement == 0:
            state.best = state.average

    def _save(self) -> None:
        self.checkpoint.save(self.model, self.state)
        late = time.monotonic() - self.drawn > DRAW_EVERY_S
        self._write_curve(picture=late)
        if late:
            self.drawn = time.monotonic()

    def _write_curve(self, *, picture: bool) -> None:
        config, curve = self.config, self.state.curve
        with replaced(self.folder / TABLE) as file:
            curve.write_csv(file, block_steps=config.fit.block_steps, block_frames=config.block_frames)
        if picture:
            with replaced(self.folder / PICTURE) as file:
                curve.draw(file, title=f"{config.name}: {self.folder.name}", block_frames=config.block_frames)

    def _note_backend(self) -> None:
        import keras

        backend = keras.backend.backend()
        if self.state.backend not in ("", backend):
            logger.warning(
                "%s: begun with Keras on %s, going on with it on %s: the weights will not be, to the last bit, "
                "those of a run on one of them",
                self.folder,
                self.state.backend,
                backend,
            )
        self.state.backend = backend

    def _record(self) -> dict[str, Any]:
        """What was done, for whoever describes the model."""
        config, state = self.config, self.state
        best = state.curve.best
        return {
            "configuration_sha256": config.digest(),
            "steps": state.step,
            "steps_planned": config.n_steps,
            "frames": len(state.curve.training) * config.block_frames,
            "stopped_early": state.step < config.n_steps,
            "training_loss": state.curve.training[-1],
            "held_out": sorted({(t.dataset, t.neuron) for t in self.held_out}),
            "kept_step": best[0] * config.fit.block_steps if best else state.step,
            "validation_loss": best[1] if best else None,
            "from_model": config.from_model,
            "from_model_sha256": self.start.spec.source_sha256 if self.start else "",
            "backend": state.backend,
        }


def read_record(folder: Path) -> dict[str, Any]:
    """What a finished fit wrote about itself.

    Parameters
    ----------
    folder : Path
        Of the fit.

    Returns
    -------
    dict
        ``configuration_sha256``, ``steps``, ``steps_planned``, ``frames``, ``stopped_early``, ``training_loss``,
        ``held_out`` (dataset and neuron of those that decided when to stop), ``kept_step``, ``validation_loss``,
        ``from_model``, ``from_model_sha256``, ``backend``.

    Raises
    ------
    TrainingError
        No fit has finished there.
    """
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: no finished fit ({error})") from error


def drawn_ahead(source: SegmentSource, options: FitOptions, step: int, n_steps: int) -> Iterator[Block]:
    """Blocks from ``step`` to ``n_steps``, each drawn while the one before it is learnt from."""
    with ThreadPoolExecutor(1) as pool:

        def draw(number: int) -> Future[Block]:
            return pool.submit(source.block, number, options.block_steps, options.batch)

        last = n_steps // options.block_steps
        drawn = draw(step // options.block_steps)
        for number in range(step // options.block_steps, last):
            block = drawn.result()
            if number + 1 < last:
                drawn = draw(number + 1)
            yield block


def _digest(traces: Sequence[Trace]) -> str:
    digest = hashlib.sha256()
    for trace in traces:
        digest.update(f"{trace.dataset}/{trace.neuron}/{trace.number}/{trace.frame_rate_hz!r}".encode())
        digest.update(trace.dff.tobytes())
        digest.update(trace.spike_counts.tobytes())
    return digest.hexdigest()

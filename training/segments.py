"""Segments for training: drawn at random, balanced over datasets and neurons, with fresh noise each time.

Which segments a training step sees depends on the seed and the number of its block alone, so that a training
run can stop anywhere and go on with the very same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cascade_rt.errors import TrainingError

from .noising import NoiseTable, noise_shape
from .targets import smooth_spikes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .ground_truth import Trace

__all__ = ["Block", "SegmentSource"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Segments of several training steps.

    Parameters
    ----------
    dff : ndarray, (n_steps, batch, n_frames, 1), float32
    nu : ndarray, (n_steps, batch, 1), float32
        Noise level of the whole noised trace that the segment was cut from, % Hz^-1/2.
    target : ndarray, (n_steps, batch, n_frames - receptive_field + 1, n_lookaheads), float32
    weight : ndarray, (n_steps, batch, n_frames - receptive_field + 1), float32
        Of the error in each frame: the neuron's share, and 0 where the target is undefined.
    """

    dff: NDArray[np.float32]
    nu: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]


class SegmentSource:
    """Draws training segments from traces.

    Parameters
    ----------
    traces : sequence of Trace
        Several versions of one recording (resampled in other ways) may be among them.
    segment_frames : int
    receptive_field : int
    lookahead_frames : sequence of int
    smoothing_s : float
    causal_kernel : bool
    noise_range : (float, float)
        ν is drawn log-uniformly between the trace's own (at least the lowest) and the highest.
    balance : float
        A dataset, and a neuron within it, is drawn in proportion to its number of frames to this power:
        1 is no balancing, 0 gives all the same share.
    amplitude_sd : float
        Standard deviation of the logarithm of a factor on the clean trace; 0 for none.
    activity_balance : float
        The error on a neuron counts in inverse proportion to the variance of its target to this power: 0 lets
        neurons that fire a lot decide, 1 gives all the same say, as scores per neuron do.
    seed : int
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        *,
        segment_frames: int,
        receptive_field: int,
        lookahead_frames: Sequence[int],
        smoothing_s: float,
        causal_kernel: bool = False,
        noise_range: tuple[float, float] = (1.0, 10.0),
        balance: float = 0.5,
        amplitude_sd: float = 0.0,
        activity_balance: float = 0.0,
        seed: int = 0,
    ) -> None:
        if segment_frames < receptive_field:
            raise TrainingError(f"segments of {segment_frames} frames: expected at least {receptive_field}")
        usable = [t for t in traces if t.n_frames >= receptive_field]
        if not usable:
            raise TrainingError(
                f"none of {len(traces)} traces has the {receptive_field} frames that the network looks at"
            )
        self.segment_frames, self.receptive_field = segment_frames, receptive_field
        self.lookahead_frames = tuple(lookahead_frames)
        self.noise_range, self.amplitude_sd, self.seed = noise_range, amplitude_sd, seed
        self.n_traces = len(usable)
        pad = [max(segment_frames - t.n_frames, 0) for t in usable]
        self._dff = [np.pad(t.dff, (0, p)) for t, p in zip(usable, pad, strict=True)]
        self._shape = [np.pad(noise_shape(t.dff), (0, p)) for t, p in zip(usable, pad, strict=True)]
        targets = [
            smooth_spikes(
                t.spike_counts, smoothing_s=smoothing_s, frame_rate_hz=t.frame_rate_hz, causal_kernel=causal_kernel
            )
            for t in usable
        ]
        self._target = [np.pad(t, (0, p)) for t, p in zip(targets, pad, strict=True)]
        self._frames = np.array([t.n_frames for t in usable])
        self._noise = [NoiseTable(t.dff, t.frame_rate_hz) for t in usable]
        shares = _shares(usable, receptive_field, balance)
        self._share = np.cumsum(shares)
        self._weight = _weights(usable, targets, shares, activity_balance)

    def block(self, number: int, n_steps: int, batch: int) -> Block:
        """Draw the segments of block ``number``; the same number gives the same segments."""
        rng = np.random.default_rng([self.seed, number])
        n, length = n_steps * batch, self.segment_frames
        which = np.minimum(np.searchsorted(self._share, rng.random(n), side="right"), self.n_traces - 1)
        u = rng.random((n, 2))
        factor = np.exp(self.amplitude_sd * rng.standard_normal(n)) if self.amplitude_sd else np.ones(n)
        noise = rng.standard_normal((n, length), dtype=np.float32)
        dff, nu = np.empty((n, length), np.float32), np.empty(n, np.float32)
        target = np.empty((n, length - self.receptive_field + 1, len(self.lookahead_frames)), np.float32)
        weight = np.empty(target.shape[:2], np.float32)
        low, high = self.noise_range
        for row, trace in enumerate(which):
            start = int(u[row, 0] * (max(self._frames[trace] - length, 0) + 1))
            own = self._noise[trace].own * factor[row]
            aim = max(own, low)
            if aim < high:
                aim = aim * (high / aim) ** u[row, 1]
            sd = np.float32(factor[row] * self._noise[trace].noise_sd(aim / factor[row]))
            nu[row] = aim
            part = slice(start, start + length)
            dff[row] = np.float32(factor[row]) * self._dff[trace][part] + sd * self._shape[trace][part] * noise[row]
            newest = start + self.receptive_field - 1
            for k, lookahead in enumerate(self.lookahead_frames):
                first = newest - lookahead
                target[row, :, k] = self._target[trace][first : first + target.shape[1]]
            weight[row] = self._weight[trace]
            weight[row, max(self._frames[trace] - newest, 0) :] = 0.0
        steps = (n_steps, batch)
        return Block(
            dff=dff.reshape(*steps, length, 1),
            nu=nu.reshape(*steps, 1),
            target=target.reshape(*steps, *target.shape[1:]),
            weight=weight.reshape(*steps, weight.shape[1]),
        )


def _shares(traces: Sequence[Trace], receptive_field: int, balance: float) -> NDArray[np.float64]:
    """Probability with which each trace is drawn."""
    frames = np.array([t.n_frames - receptive_field + 1 for t in traces], float)
    neurons = [(t.dataset, t.neuron) for t in traces]
    per_neuron: dict[tuple[str, str], float] = {}
    for key, n in zip(neurons, frames, strict=True):
        per_neuron[key] = per_neuron.get(key, 0.0) + n
    per_dataset: dict[str, float] = {}
    norm: dict[str, float] = {}
    for (dataset, _), n in per_neuron.items():
        per_dataset[dataset] = per_dataset.get(dataset, 0.0) + n
        norm[dataset] = norm.get(dataset, 0.0) + n**balance
    share = np.array(
        [
            per_dataset[key[0]] ** balance * (per_neuron[key] ** balance / norm[key[0]]) * (n / per_neuron[key])
            for key, n in zip(neurons, frames, strict=True)
        ]
    )
    return np.asarray(share / share.sum())


#: Neurons that hardly fire count as if their target varied at least this much, relative to the median neuron.
_LEAST_VARIANCE = 0.1


def _weights(
    traces: Sequence[Trace], targets: Sequence[NDArray[np.float32]], shares: NDArray[np.float64], power: float
) -> NDArray[np.float32]:
    """Weight of each trace's error, 1 on average over the segments drawn."""
    neurons = [(t.dataset, t.neuron) for t in traces]
    pieces: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    for key, target in zip(neurons, targets, strict=True):
        pieces.setdefault(key, []).append(target)
    variance = {key: float(np.concatenate(own).var()) for key, own in pieces.items()}
    positive = [v for v in variance.values() if v > 0]
    if not positive:
        return np.ones(len(traces), np.float32)
    middle = float(np.median(positive))
    weights = np.array([max(variance[key] / middle, _LEAST_VARIANCE) ** -power for key in neurons])
    return np.asarray(weights / (weights @ shares), np.float32)

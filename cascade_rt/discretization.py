"""From spike probabilities to single spikes: batch, and incremental.

The spikes found are those whose kernels, added up, explain the spike probability: the summed absolute difference is
made small, and the number of spikes close to the summed probability. Events that lie further apart than the kernel
reaches are solved one by one as soon as they are over, and long stretches of activity piece by piece; the batch is the
incremental algorithm run over everything, so both give the same spikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _kernels
from .errors import InputError, StreamError
from .smoothing import spike_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DiscretizeStream", "SpikeEvents", "discretize"]

#: Part of the kernel's maximum below which kernel values are left out, and spike probabilities open no event.
KERNEL_CUT, FLOOR = 2e-3, 0.05
#: Length, in kernel lengths, at which an event is cut.
LONGEST = 6
#: Default weight of the number of spikes against the fit, for Gaussian and causal kernels.
COUNT_WEIGHT = 0.1
COUNT_WEIGHT_CAUSAL = 0.35
#: Array elements held in memory at a time.
BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class SpikeEvents:
    """Single spikes.

    Parameters
    ----------
    frames : ndarray, (n_spikes,), int64
        Frame of each spike, ascending; several spikes of a neuron in one frame are several entries.
    neurons : ndarray, (n_spikes,), int64
        Their neurons.
    decided_frames : int
        All spikes in frames before this one have now been given out.
    """

    frames: NDArray[np.int64]
    neurons: NDArray[np.int64]
    decided_frames: int


@dataclass(frozen=True)
class _Options:
    kernel: NDArray[np.float64]
    origin: int
    floor: float
    longest: int
    weight: float

    @property
    def n_entries(self) -> int:
        """Frames of each neuron that the search keeps: an event, the kernel on both sides, and room to move."""
        return self.longest + 4 * self.kernel.size + 64

    @property
    def shared(self) -> tuple[Any, ...]:
        return self.kernel, self.origin, self.floor, self.longest, self.weight


def discretize(
    prob: Any,
    model: Any = None,
    *,
    seed: int = 0,
    smoothing_s: float | None = None,
    frame_rate_hz: float | None = None,
    causal_kernel: bool | None = None,
    count_weight: float | None = None,
) -> list[NDArray[np.int64]]:
    """Find the single spikes behind spike probabilities.

    Parameters
    ----------
    prob : array_like, (n_neurons, n_frames)
        Expected spikes per frame, from :func:`cascade_rt.predict`; NaN where undefined. Not modified.
    model : Model or ModelSpec, optional
        What made ``prob``; it says which kernel one spike has. May be replaced by the next three.
    seed : int
        Kept for callers of random methods; this one is deterministic and does not use it.
    smoothing_s, frame_rate_hz, causal_kernel
        As in :func:`cascade_rt.smoothing.spike_kernel`; each overrides the model's.
    count_weight : float, optional
        How much a wrong number of spikes counts, where a spike's worth of misfit counts 1. Small values put a spike
        only where most of its kernel is there, large ones also where probability is spread thinly. Default: 0.1,
        and 0.35 for causal kernels, which are narrower than what networks resolve.

    Returns
    -------
    list of ndarray, (n_spikes,), int64
        For each neuron the frames of its spikes, ascending; a frame with several spikes is repeated. No spike lies in
        a frame where ``prob`` is NaN.

    Raises
    ------
    InputError
        If ``prob`` is not two-dimensional, or the kernel is not known.
    """
    options = _options(model, smoothing_s, frame_rate_hz, causal_kernel, count_weight)
    array = np.asarray(prob)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(f"prob is {array.dtype} of shape {array.shape}: expected numbers, (n_neurons, n_frames)")
    n_neurons, n_frames = array.shape
    block = max(1, BLOCK // max(n_frames, 4 * options.n_entries))
    spikes: list[NDArray[np.int64]] = []
    for start in range(0, n_neurons, block):
        values = np.ascontiguousarray(array[start : start + block], np.float32)
        rows = _Rows(values.shape[0], options)
        counts = np.zeros(values.shape, np.int16)
        rows.advance(values, counts, 0)
        rows.advance(rows.nothing, counts, 0)
        for row in counts:
            frames = np.flatnonzero(row)
            spikes.append(np.repeat(frames, row[frames]).astype(np.int64))
    return spikes


class DiscretizeStream:
    """Running twin of :func:`discretize`: the same spikes, however the frames are cut into chunks.

    Parameters
    ----------
    n_neurons : int
    model, seed, smoothing_s, frame_rate_hz, causal_kernel, count_weight
        As in :func:`discretize`.

    Raises
    ------
    InputError
        If an option is unusable, or the kernel is not known.

    Notes
    -----
    A spike is given out when its event is over, that is when as many quiet frames as the kernel has have followed, or
    at the latest after ``max_delay_frames``.
    """

    def __init__(
        self,
        n_neurons: int,
        model: Any = None,
        *,
        seed: int = 0,
        smoothing_s: float | None = None,
        frame_rate_hz: float | None = None,
        causal_kernel: bool | None = None,
        count_weight: float | None = None,
    ) -> None:
        if n_neurons < 1:
            raise InputError(f"n_neurons={n_neurons}: expected at least 1")
        self._options = _options(model, smoothing_s, frame_rate_hz, causal_kernel, count_weight)
        self._n_neurons = int(n_neurons)
        self.reset()
        # Compiles, if this is the first time; the stream must not wait for that later.
        self._take(np.full((self._n_neurons, 0), np.nan, np.float32))

    def reset(self) -> None:
        """Forget all frames."""
        self._rows = _Rows(self._n_neurons, self._options)
        self._counts = np.zeros((self._n_neurons, 0), np.int16)
        self._frame = 0

    @property
    def frame(self) -> int:
        """Index of the next frame expected."""
        return self._frame

    @property
    def max_delay_frames(self) -> int:
        """Frames after a spike within which it is given out, whatever follows."""
        return self._options.longest + self._options.kernel.size

    def push(self, prob: Any) -> SpikeEvents:
        """Take in the next frames.

        Parameters
        ----------
        prob : array_like, (n_neurons, k)
            Expected spikes per frame; NaN where undefined. Not modified.

        Returns
        -------
        SpikeEvents
            The spikes that are now decided, with frames counted from the first frame pushed.

        Raises
        ------
        StreamError
            If the number of neurons differs from the stream's.
        """
        values = np.ascontiguousarray(prob, np.float32)
        if values.ndim != 2 or values.shape[0] != self._n_neurons:
            raise StreamError(f"prob has shape {values.shape}: expected ({self._n_neurons}, k)")
        self._frame += values.shape[1]
        return self._take(values)

    def flush(self) -> SpikeEvents:
        """Give out the spikes still waiting, as at the end of the recording; then :meth:`reset`."""
        events = self._take(self._rows.nothing)
        events = SpikeEvents(events.frames, events.neurons, self._frame)
        self.reset()
        return events

    def _take(self, values: NDArray[np.float32]) -> SpikeEvents:
        first, width = self._rows.oldest_frame, self._options.n_entries + values.shape[1]
        if self._counts.shape[1] < width:
            self._counts = np.zeros((self._n_neurons, width), np.int16)
        found = np.flatnonzero(self._rows.advance(values, self._counts, first))
        counts = self._counts[found]
        self._counts[found] = 0
        frames, rows = np.nonzero(counts.T)
        repeats = counts[rows, frames]
        return SpikeEvents(
            np.repeat(frames + first, repeats).astype(np.int64),
            np.repeat(found[rows], repeats).astype(np.int64),
            self._rows.decided_frames,
        )


class _Rows:
    """State of the search, for each neuron; see the notes in ``_kernels``."""

    def __init__(self, n_neurons: int, options: _Options) -> None:
        reach = options.kernel.size
        self._options = options
        self._residual = np.zeros((n_neurons, options.n_entries))
        self._known = np.zeros((n_neurons, options.n_entries))
        # Entries before the first frame stand for frames of which nothing is known.
        self._state = np.tile(np.array([reach, -reach, -1, -1, reach, reach], np.int64), (n_neurons, 1))
        self._balance = np.zeros(n_neurons)

    @property
    def nothing(self) -> NDArray[np.float32]:
        """Unknown frames, as many as close every event."""
        return np.full((self._balance.size, self._options.kernel.size), np.nan, np.float32)

    @property
    def oldest_frame(self) -> int:
        return int(self._state[:, 1].min())

    @property
    def decided_frames(self) -> int:
        size, base, start, _, free, _ = self._state.T
        before = np.where(start < 0, size, start) - (self._options.kernel.size - 1 - self._options.origin)
        return max(0, int((base + np.maximum(before, free)).min()))

    def advance(self, prob: NDArray[np.float32], counts: NDArray[np.int16], first_frame: int) -> NDArray[np.int64]:
        """Take in frames and add the spikes decided to ``counts``, whose first column is ``first_frame``.

        Returns the number of these spikes for each neuron.
        """
        found = np.zeros(self._balance.size, np.int64)
        _kernels.over_rows(
            _kernels.discretize_rows,
            (prob, counts, found, self._residual, self._known, self._state, self._balance),
            (first_frame, *self._options.shared),
        )
        return found


def _options(
    model: Any,
    smoothing_s: float | None,
    frame_rate_hz: float | None,
    causal_kernel: bool | None,
    count_weight: float | None,
) -> _Options:
    spec = getattr(model, "spec", model)
    smoothing = _choose(smoothing_s, spec, "smoothing_s")
    rate = _choose(frame_rate_hz, spec, "frame_rate_hz")
    causal = bool(_choose(causal_kernel, spec, "causal_kernel"))
    kernel, origin = spike_kernel(smoothing, rate, causal)
    kept = np.flatnonzero(kernel >= KERNEL_CUT * kernel.max())
    first, last = min(int(kept[0]), origin), max(int(kept[-1]), origin)
    kernel = kernel[first : last + 1] / kernel[first : last + 1].sum()
    weight = (COUNT_WEIGHT_CAUSAL if causal else COUNT_WEIGHT) if count_weight is None else float(count_weight)
    if not 0 <= weight < 1:
        raise InputError(f"count_weight={count_weight!r}: expected a number from 0 to below 1")
    return _Options(kernel, origin - first, FLOOR * float(kernel.max()), LONGEST * kernel.size, weight)


def _choose(given: Any, spec: Any, name: str) -> Any:
    value = getattr(spec, name, None) if given is None else given
    if value is None:
        raise InputError(
            f"{name} is not known: pass the model that made the spike probabilities, or smoothing_s, frame_rate_hz and "
            "causal_kernel"
        )
    return value

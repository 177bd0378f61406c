"""What is done with values too small to be a spike: batch, and running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _kernels
from .chunks import Alignment, Threshold, check_choice
from .errors import InputError, StreamError
from .smoothing import noise_floor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ThresholdStream", "apply_threshold"]


def apply_threshold(
    prob: Any,
    mode: Threshold,
    *,
    smoothing_s: float,
    frame_rate_hz: float,
    alignment: Alignment = "target",
) -> NDArray[np.float32]:
    """Threshold the spike probabilities of a whole recording.

    Parameters
    ----------
    prob : array_like, (n_neurons, n_frames)
        Expected spikes per frame as the networks give them; NaN where undefined. Not modified.
    mode : "zero", "noise_floor" or "none"
        ``"zero"`` sets negative values to 0. ``"noise_floor"`` also sets to 0 what is further than
        ``int(smoothing_s · frame_rate_hz)`` frames from every value above 1/e of a single spike's height.
        ``"none"`` changes nothing. They are CASCADE's 0, 1 and False.
    smoothing_s, frame_rate_hz : float
        Of the model.
    alignment : "target" or "cascade"
        With ``"target"`` NaN stays NaN. With ``"cascade"`` the noise floor also reproduces two properties of
        CASCADE's: it turns NaN into 0 outside of what is kept; and where smoothing × frame rate is below 1, one value
        above the floor keeps the neuron's whole recording (its dilation then has no end).

    Returns
    -------
    ndarray, (n_neurons, n_frames), float32
        A new array.

    Raises
    ------
    InputError
        If an option is unknown, or ``prob`` is not two-dimensional.

    Notes
    -----
    CASCADE thresholds before it blanks the ends of a recording: a value there can keep its neighbours.
    """
    rule = _Rule(mode, smoothing_s, frame_rate_hz, alignment)
    values = np.asarray(prob)
    if values.ndim != 2:
        raise InputError(f"prob has shape {values.shape}: expected (n_neurons, n_frames)")
    return rule.apply(values, values.shape[1] if rule.endless else rule.reach)


class ThresholdStream:
    """Running twin of :func:`apply_threshold`: the same values, however the frames are cut into chunks.

    Parameters
    ----------
    n_neurons : int
    mode, smoothing_s, frame_rate_hz, alignment
        As in :func:`apply_threshold`.

    Raises
    ------
    InputError
        If an option is unknown; also for CASCADE's endless dilation, which needs the whole recording.
    """

    def __init__(
        self,
        n_neurons: int,
        mode: Threshold,
        *,
        smoothing_s: float,
        frame_rate_hz: float,
        alignment: Alignment = "target",
    ) -> None:
        self._rule = _Rule(mode, smoothing_s, frame_rate_hz, alignment)
        if self._rule.endless:
            raise InputError(
                f"threshold 'noise_floor' with alignment 'cascade', smoothing {smoothing_s:g} s and {frame_rate_hz:g} "
                "Hz depends on the whole recording, since CASCADE's dilation has no end there; live, use alignment "
                "'target' or threshold 'zero'"
            )
        self._n_neurons = int(n_neurons)
        self.reset()
        # Compiles, if this is the first time; the stream must not wait for that later.
        self.push(np.empty((self._n_neurons, 0), np.float32))

    @property
    def delay_frames(self) -> int:
        """Frames that must follow a frame before it is given out."""
        return self._rule.reach

    def reset(self) -> None:
        """Forget all frames."""
        self._recent = np.empty((self._n_neurons, 0), np.float32)
        self._waiting = 0

    def take_over(self, streams: Sequence[ThresholdStream]) -> None:
        """Go on where others are, which are at the same frame, with the neurons of all of them."""
        size = min(stream._recent.shape[1] for stream in streams)
        self._recent = np.concatenate([stream._recent[:, stream._recent.shape[1] - size :] for stream in streams])
        self._waiting = streams[0]._waiting

    def push(self, prob: Any) -> NDArray[np.float32]:
        """Take in the next frames.

        Parameters
        ----------
        prob : array_like, (n_neurons, k)
            Not modified.

        Returns
        -------
        ndarray, (n_neurons, m), float32
            The frames that are decided, in order, each once; ``m`` may be 0. A new array.

        Raises
        ------
        StreamError
            If the number of neurons differs from the stream's.
        """
        values = np.asarray(prob)
        if values.ndim != 2 or values.shape[0] != self._n_neurons:
            raise StreamError(f"prob has shape {values.shape}: expected ({self._n_neurons}, k)")
        if not self._rule.reach:
            return self._rule.apply(values, 0)
        return self._emit(values, self._rule.reach)

    def flush(self) -> NDArray[np.float32]:
        """Give out the frames that are still waiting, as at the end of the recording; then :meth:`reset`."""
        out = self._emit(np.empty((self._n_neurons, 0), np.float32), 0)
        self.reset()
        return out

    def _emit(self, values: NDArray[Any], delay: int) -> NDArray[np.float32]:
        recent = np.concatenate([self._recent, values.astype(np.float32)], axis=1)
        waiting = self._waiting + values.shape[1]
        self._waiting = min(waiting, delay)
        size = recent.shape[1]
        done = self._rule.apply(recent, self._rule.reach)[:, size - waiting : size - self._waiting]
        # A frame still to be decided looks back as far as the dilation reaches.
        self._recent = recent[:, max(size - self._waiting - self._rule.reach, 0) :]
        return done


class _Rule:
    """The threshold itself, which batch and stream share."""

    def __init__(self, mode: Threshold, smoothing_s: float, frame_rate_hz: float, alignment: Alignment) -> None:
        check_choice("threshold", mode, Threshold)
        check_choice("alignment", alignment, Alignment)
        self.mode = mode
        self.floor = noise_floor(smoothing_s, frame_rate_hz)
        self.unknown_to_zero = alignment == "cascade"
        self.reach = int(smoothing_s * frame_rate_hz) if mode == "noise_floor" else 0
        self.endless = mode == "noise_floor" and alignment == "cascade" and self.reach == 0

    def apply(self, values: NDArray[Any], reach: int) -> NDArray[np.float32]:
        if self.mode == "none":
            return values.astype(np.float32)
        if self.mode == "zero":
            return np.asarray(np.maximum(values.astype(np.float32), np.float32(0)))
        rows = np.ascontiguousarray(values, np.float32)
        out = np.empty_like(rows)
        _kernels.over_rows(_kernels.threshold_rows, (rows, out), (self.floor, reach, self.unknown_to_zero))
        return out

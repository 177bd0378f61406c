"""Fluorescence → ΔF/F: of a recording, and running.

The baseline F0 is a low percentile, over a moving window, of the fluorescence averaged over a short time. It is exact
at every frame. Why these choices, and what others cost: ``docs/baseline.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import _kernels
from .errors import InputError, StreamError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BaselineOptions", "DeltaF", "RunningBaseline", "delta_f_over_f"]

#: Array elements of a recording that are converted at a time.
BLOCK = 4_000_000
#: Lowest values of a window that are kept in order beyond those that the percentile needs.
LOWEST = 64


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """How the baseline F0 is found.

    Parameters
    ----------
    window_s : float
        Length of the moving window, s. Shorter windows follow bleaching more closely and take more of the activity of
        busy neurons for baseline.
    percentile : float
        Of the values in the window, 0 to 100.
    smoothing_s : float
        Time over which fluorescence is averaged before the percentile is taken, s; 0: not at all. Without it, a low
        percentile lies below the baseline by more than the standard deviation of the noise.
    position : {"centered", "trailing"}
        Whether the window lies around the frame or ends with it. Trailing is what can be had live.
    neuropil_coefficient : float
        Share of the neuropil's fluorescence that is subtracted; made use of only where neuropil is given.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    window_s: float = 60.0
    percentile: float = 8.0
    smoothing_s: float = 1.0
    position: Literal["centered", "trailing"] = "centered"
    neuropil_coefficient: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("window_s", 0.0, math.inf),
            ("percentile", 0.0, 100.0),
            ("smoothing_s", 0.0, math.inf),
            ("neuropil_coefficient", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise InputError(f"{name}={value!r}: expected a number")
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(
                    f"{name}={value!r}: expected a number {'from 0 to 100' if high == 100 else 'that is not negative'}"
                )
        if self.window_s == 0:
            raise InputError("window_s=0: expected a positive number of seconds, such as 60")
        if self.smoothing_s >= self.window_s:
            raise InputError(
                f"smoothing_s={self.smoothing_s!r} and window_s={self.window_s!r}: expected a smoothing far shorter "
                "than the window, such as 1 and 60"
            )
        if self.position not in ("centered", "trailing"):
            raise InputError(f'position={self.position!r}: expected "centered" or "trailing"')


@dataclass(frozen=True, kw_only=True, eq=False)
class DeltaF:
    """ΔF/F of a recording, and what must be known about its baseline.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames), float32
        ΔF/F as a fraction; NaN where the fluorescence is not finite, and throughout the neurons named in
        ``non_positive``.
    f0 : ndarray, (n_neurons,), float64
        Median of the baseline over frames, in the unit of the fluorescence; NaN for a neuron without a finite value.
    f0_lowest, f0_highest : ndarray, (n_neurons,), float64
        Its range: how much it bleached or drifted, and how near it came to 0.
    non_positive : ndarray, (n_neurons,), bool
        Neurons whose baseline is 0 or negative somewhere: there is no ΔF/F.
    """

    dff: NDArray[np.float32]
    f0: NDArray[np.float64]
    f0_lowest: NDArray[np.float64]
    f0_highest: NDArray[np.float64]
    non_positive: NDArray[np.bool_]

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Neurons without a single finite value, (n_neurons,)."""
        return np.asarray(np.isnan(self.f0))


def delta_f_over_f(
    fluorescence: Any, *, frame_rate_hz: float, options: BaselineOptions | None = None, neuropil: Any = None
) -> DeltaF:
    """ΔF/F = (F - F0) / F0 of each neuron.

    F0 is the percentile ``options.percentile``, over a window of ``options.window_s``, of the mean of F over
    ``options.smoothing_s``. Of the n finite values in a window, it is the one that ``min(int(n * percentile / 100),
    n - 1)`` values precede in their order (the rule of ``scipy.ndimage.percentile_filter``; no interpolation). A window
    of w frames begins w // 2 frames before the frame, or w - 1 if trailing. At the ends of the recording, windows are
    shorter.

    Parameters
    ----------
    fluorescence : array_like, (n_neurons, n_frames)
        Any unit in which no light is 0; evaluated in single precision. Not modified. Neurons are independent: large
        files can be worked through in blocks of neurons.
    frame_rate_hz : float
        Frames per second.
    options : BaselineOptions, optional
    neuropil : array_like, (n_neurons, n_frames), optional
        Fluorescence around each neuron; ``options.neuropil_coefficient`` times it is subtracted first.

    Returns
    -------
    DeltaF
        Values that are NaN or infinite do not count in windows, and are NaN in the result.

    Raises
    ------
    InputError
        If an array is not two-dimensional or does not hold real numbers, shapes differ, or the frame rate is not
        positive.
    """
    chosen = BaselineOptions() if options is None else options
    shape = _Shape(chosen, frame_rate_hz)
    array = _numbers(fluorescence, "fluorescence")
    around = None if neuropil is None else _numbers(neuropil, "neuropil")
    _check_shapes(array, around)
    n_neurons, n_frames = array.shape
    dff = np.empty(array.shape, np.float32)
    levels = np.full((n_neurons, 3), np.nan)
    block = max(1, BLOCK // max(n_frames, 1))
    for start in range(0, n_neurons if n_frames else 0, block):
        rows = slice(start, start + block)
        frames = _corrected(array[rows], None if around is None else around[rows], chosen.neuropil_coefficient)
        _kernels.over_rows(
            _kernels.delta_rows,
            (frames, dff[rows], levels[rows]),
            (shape.m, shape.m_after, shape.w - 1 - shape.after, shape.after, shape.ranks(n_frames)),
        )
    f0, lowest, highest = (np.ascontiguousarray(column) for column in levels.T)
    return DeltaF(dff=dff, f0=f0, f0_lowest=lowest, f0_highest=highest, non_positive=lowest <= 0)


class RunningBaseline:
    """ΔF/F while the recording is made.

    Exact: the result is that of :func:`delta_f_over_f` with ``position="trailing"`` at every frame, however frames
    were cut into chunks. (Except for neurons whose baseline is not positive somewhere: that cannot be known before, so
    they are NaN at these frames only.)

    Parameters
    ----------
    n_neurons : int
    frame_rate_hz : float
        Frames per second.
    options : BaselineOptions, optional
        Default: the usual ones, with a trailing window.

    Raises
    ------
    InputError
        If an argument is out of range, or the options ask for a centered window.

    Notes
    -----
    A missing frame is pushed as NaN. Until the window is :attr:`full`, the baseline comes from fewer frames than later:
    in the first seconds, it follows the fluorescence itself. The state takes 5 to 8 bytes for each neuron and frame of
    the window (5 with low percentiles).
    """

    def __init__(self, n_neurons: int, frame_rate_hz: float, options: BaselineOptions | None = None) -> None:
        self._options = BaselineOptions(position="trailing") if options is None else options
        if self._options.position != "trailing":
            raise InputError(
                f'position="{self._options.position}": frames that have not arrived cannot be in a window; expected '
                'BaselineOptions(position="trailing")'
            )
        if isinstance(n_neurons, bool) or not isinstance(n_neurons, (int, np.integer)) or n_neurons < 1:
            raise InputError(f"n_neurons={n_neurons!r}: expected a positive whole number")
        self._n_neurons = int(n_neurons)
        self._shape = _Shape(self._options, frame_rate_hz)
        self._ranks = self._shape.ranks(self._shape.w)
        self.reset()
        # Compiles, if this is the first time; the stream must not wait for that later.
        self.push(np.empty((self._n_neurons, 0)))

    def reset(self) -> None:
        """Forget all frames."""
        n, m, w = self._n_neurons, self._shape.m, self._shape.w
        self._ring = np.full((n, w), np.nan, np.float32)
        # About three times as many of the lowest values as the percentile needs: it rarely runs short of them.
        self._low = np.zeros((n, 1 + min(w, 3 * int(self._ranks[-1]) + LOWEST)), np.float32)
        self._counts = np.zeros((n, 2), np.int64)
        self._recent = np.zeros((n, m), np.float32)
        self._sums = np.zeros((n, 2, m + 2))
        self._non_positive = np.zeros(n, np.bool_)
        self._n_frames = 0

    @property
    def options(self) -> BaselineOptions:
        """How the baseline is found."""
        return self._options

    @property
    def n_frames(self) -> int:
        """Frames pushed so far."""
        return self._n_frames

    @property
    def window_frames(self) -> int:
        """Length of the window, frames."""
        return self._shape.w

    @property
    def full(self) -> bool:
        """Whether as many frames have been pushed as the window is long."""
        return self._n_frames >= self._shape.w

    @property
    def non_positive(self) -> NDArray[np.bool_]:
        """Neurons whose baseline has been 0 or negative at a frame since the start, (n_neurons,)."""
        return np.array(self._non_positive)

    def push(self, frames: Any, neuropil: Any = None) -> NDArray[np.float32]:
        """Take in the next frames.

        Parameters
        ----------
        frames : array_like, (n_neurons, k)
            Fluorescence. Not modified.
        neuropil : array_like, (n_neurons, k), optional
            Fluorescence around each neuron.

        Returns
        -------
        ndarray, (n_neurons, k), float32
            ΔF/F as a fraction of the same frames.

        Raises
        ------
        StreamError
            If the number of neurons differs from that at the start.
        InputError
            If an array is not two-dimensional or does not hold real numbers, or shapes differ.
        """
        array = _numbers(frames, "frames")
        if array.shape[0] != self._n_neurons:
            raise StreamError(f"frames have shape {array.shape}: expected ({self._n_neurons}, k)")
        around = None if neuropil is None else _numbers(neuropil, "neuropil")
        _check_shapes(array, around)
        block = _corrected(array, around, self._options.neuropil_coefficient)
        dff = np.empty(block.shape, np.float32)
        state = (self._non_positive, self._counts, self._ring, self._low, self._recent, self._sums)
        _kernels.over_rows(_kernels.running_delta_rows, (block, dff, *state), (self._n_frames, self._ranks))
        self._n_frames += block.shape[1]
        return dff


class _Shape:
    """Lengths in frames: ``w`` of the window, ``m`` of the mean, and how much of them lies after the frame."""

    def __init__(self, options: BaselineOptions, frame_rate_hz: float) -> None:
        if not (math.isfinite(frame_rate_hz) and frame_rate_hz > 0):
            raise InputError(f"frame_rate_hz={frame_rate_hz!r}: expected a positive number of frames per second")
        self.w, self.m = (max(1, round(s * frame_rate_hz)) for s in (options.window_s, options.smoothing_s))
        centered = options.position == "centered"
        self.after, self.m_after = ((n - 1 - n // 2 if centered else 0) for n in (self.w, self.m))
        self._percentile = options.percentile

    def ranks(self, n_frames: int) -> NDArray[np.int64]:
        """Which of n values in order is the percentile, for n from 0 to as many as a window can hold."""
        n = np.arange(min(self.w, n_frames) + 1)
        return np.minimum((n * self._percentile / 100.0).astype(np.int64), np.maximum(n - 1, 0))


def _numbers(values: Any, name: str) -> NDArray[Any]:
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise InputError(
            f"{name} is {array.dtype} of shape {array.shape}: expected real numbers of shape (n_neurons, n_frames)"
        )
    return array


def _check_shapes(array: NDArray[Any], around: NDArray[Any] | None) -> None:
    if around is not None and around.shape != array.shape:
        raise InputError(
            f"neuropil has shape {around.shape}, the fluorescence {array.shape}: expected the same neurons and frames"
        )


def _corrected(array: NDArray[Any], around: NDArray[Any] | None, coefficient: float) -> NDArray[np.float32]:
    """Fluorescence without the neuropil's, NaN where it is not finite; never the caller's array."""
    # Values beyond single precision become infinite, and infinity less infinity is not a number: neither counts.
    with np.errstate(over="ignore", invalid="ignore"):
        if around is None:
            frames = np.array(array, np.float32, order="C")
        else:
            frames = np.subtract(array, np.multiply(around, coefficient, dtype=np.float64), dtype=np.float64)
            frames = np.ascontiguousarray(frames, np.float32)
    np.copyto(frames, np.float32(np.nan), where=~np.isfinite(frames))
    return frames

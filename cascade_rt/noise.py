"""Noise level ν of each neuron: batch, running, and what it tells about unusable input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _kernels
from .errors import InputError, StreamError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NoiseTracker", "Remark", "check_dff", "check_orientation", "look_at_values", "noise_levels"]

#: Array elements of a recording held in memory at a time.
BLOCK = 4_000_000

# The bounds below lie well outside of what the ground truth and the example recordings contain: ν from 0.19 to 7.7 for
# single neurons; a ratio of the differences over two frames and over one of at most 1.13 for whole datasets.

#: Median ν from which values cannot be fractions, and from which that is doubtful.
IMPOSSIBLE_NU, DOUBTFUL_NU = 50.0, 20.0
#: ν below which a trace has no noise that a microscope would leave.
DENOISED_NU = 0.05
#: Ratio of the median difference over two frames to that over one: 1 for white noise, 2 for a line.
#: Unsmoothed: up to 1.47 at native rates, 1.72 where slow indicators were averaged to 7.5 Hz; of these, two datasets
#: (DS06, DS15) remain above in quiet frames too, with 1.53 and 1.61. White noise smoothed with a standard deviation of
#: one frame: 1.7, in quiet frames 1.57.
SMOOTHED_RATIO = 1.5
#: Percentile of a trace below which its frames are quiet.
QUIET = 60
#: Neurons from which a median over neurons says something.
FEW_NEURONS = 5
#: ν above the trained levels by this factor is worth a word.
FAR_ABOVE = 1.5
#: Height on which ΔF/F does not rest.
RAISED_BASELINE = 0.5
#: Correlation of neighbouring rows, beyond 1.5 times that of neighbouring columns, that rows have if they are frames.
TRANSPOSED_MARGIN = 0.04
#: Part of the recording looked at, (neurons, frames).
LOOK = (512, 2048)
#: What makes a recording impossible to process.
IMPOSSIBLE = ("percent", "fluorescence")


def noise_levels(dff: Any, *, frame_rate_hz: float) -> NDArray[np.float64]:
    """Noise level of each neuron.

    ν is the median of ``abs(dff[t + 1] - dff[t]) · 100 / sqrt(frame_rate_hz)``: the noise of one frame, in percent,
    brought to a common frame rate (Rupprecht et al., Nature Neuroscience 2021).

    Parameters
    ----------
    dff : array_like, (n_neurons, n_frames)
        ΔF/F as a fraction. A memory-mapped array, or one of h5py or zarr, is read in pieces. Not modified.
    frame_rate_hz : float
        Frames per second.

    Returns
    -------
    ndarray, (n_neurons,), float64
        ν, unit % · Hz^-½. Differences with a value that is NaN or infinite do not count; NaN for a neuron that has no
        others.

    Raises
    ------
    InputError
        If ``dff`` is not two-dimensional or does not hold numbers, or the frame rate is not positive.
    """
    scale = _scale(frame_rate_hz)
    # What is sliced like an array, a dataset in a file for example, stays where it is.
    sliced = all(hasattr(dff, name) for name in ("shape", "dtype", "ndim", "__getitem__"))
    array = dff if sliced else np.asarray(dff)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise InputError(
            f"dff is {array.dtype} of shape {array.shape}: expected real numbers of shape (n_neurons, n_frames)"
        )
    n_neurons, n_frames = array.shape
    out = np.full(n_neurons, np.nan)
    if n_frames < 2:
        return out
    block = max(1, BLOCK // n_frames)
    for start in range(0, n_neurons, block):
        frames = np.ascontiguousarray(array[start : start + block], np.float64)
        differences = np.empty((frames.shape[0], n_frames - 1), np.float32)
        before = frames[:, 0].copy()
        _kernels.over_rows(_noise_rows, (frames, before, differences, out[start : start + block]))
    return out * scale


def _noise_rows(
    frames: NDArray[np.float64],
    before: NDArray[np.float64],
    differences: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    _kernels.absolute_differences(frames[:, 1:], before, differences)
    _kernels.median_rows(differences, out)


def _scale(frame_rate_hz: float) -> float:
    if not (math.isfinite(frame_rate_hz) and frame_rate_hz > 0):
        raise InputError(f"frame_rate_hz={frame_rate_hz!r}: expected a positive number of frames per second")
    return 100.0 / math.sqrt(frame_rate_hz)


class NoiseTracker:
    """Noise levels of a recording while it is made.

    Exact: as long as no more than ``capacity_frames`` frames were pushed, the levels are those that
    :func:`noise_levels` gives for these frames, however they were cut into chunks. Later, they are those of the most
    recent ``capacity_frames`` frames.

    Parameters
    ----------
    n_neurons : int
    frame_rate_hz : float
        Frames per second.
    capacity_frames : int, optional
        Frames remembered, 4 bytes each and neuron; default: 60 s.

    Raises
    ------
    InputError
        If an argument is out of range.

    Notes
    -----
    A missing frame is pushed as NaN: a difference across a gap is not noise.
    """

    def __init__(self, n_neurons: int, frame_rate_hz: float, *, capacity_frames: int | None = None) -> None:
        self._scale = _scale(frame_rate_hz)
        capacity = round(60 * frame_rate_hz) if capacity_frames is None else int(capacity_frames)
        if n_neurons < 1 or capacity < 2:
            raise InputError(f"n_neurons={n_neurons}, capacity_frames={capacity}: expected at least 1 and 2")
        self._n_neurons = int(n_neurons)
        self._n_slots = capacity - 1
        self.reset()
        # Compiles, if this is the first time; the stream must not wait for that later.
        self.push(np.empty((self._n_neurons, 0)))
        self.levels()

    def reset(self) -> None:
        """Forget all frames."""
        # One row for each frame, so that a new frame is written in one piece.
        self._differences = np.full((self._n_slots, self._n_neurons), np.nan, np.float32)
        self._last = np.full(self._n_neurons, np.nan)
        self._n_frames = 0

    @property
    def n_frames(self) -> int:
        """Frames pushed so far."""
        return self._n_frames

    def push(self, frames: Any) -> None:
        """Take in the next frames.

        Parameters
        ----------
        frames : array_like, (n_neurons, k)
            ΔF/F as a fraction. Not modified.

        Raises
        ------
        StreamError
            If the number of neurons differs from the tracker's.
        """
        block = np.ascontiguousarray(frames, np.float64)
        if block.ndim != 2 or block.shape[0] != self._n_neurons:
            raise StreamError(f"frames have shape {block.shape}: expected ({self._n_neurons}, k)")
        differences = np.empty(block.shape, np.float32)
        _kernels.over_rows(_kernels.absolute_differences, (block, self._last, differences))
        k = block.shape[1]
        kept = min(k, self._n_slots)
        slots = np.arange(self._n_frames + k - kept, self._n_frames + k) % self._n_slots
        self._differences[slots] = differences[:, k - kept :].T
        self._n_frames += k

    def levels(self) -> NDArray[np.float64]:
        """ν of the frames remembered, (n_neurons,), % · Hz^-½; NaN where there is no difference between values."""
        out = np.empty(self._n_neurons)
        rows = min(self._n_frames, self._n_slots)
        block = max(1, BLOCK // max(rows, 1))
        for start in range(0, self._n_neurons, block):
            part = np.ascontiguousarray(self._differences[:rows, start : start + block].T)
            _kernels.over_rows(_kernels.median_rows, (part, out[start : start + block]))
        return out * self._scale


def check_dff(
    dff: Any,
    noise_levels: Any,
    *,
    frame_rate_hz: float,
    noise_range: tuple[float, float] | None = None,
) -> list[str]:
    """Look for the usual mistakes in a recording.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames)
        ΔF/F; only a part of a large recording is read.
    noise_levels : array_like, (n_neurons,)
        ν of its neurons, % · Hz^-½; NaN or 0 where unknown.
    frame_rate_hz : float
        Frames per second.
    noise_range : (float, float), optional
        Lowest and highest ν that the model was trained for.

    Returns
    -------
    list of str
        A sentence for each thing that the user should look at: what was seen, what was expected, what to do. Empty
        if nothing was found.

    Raises
    ------
    InputError
        If the values cannot be ΔF/F as a fraction: percent, or fluorescence.
    """
    remarks = look_at_values(dff, noise_levels, frame_rate_hz=frame_rate_hz, noise_range=noise_range)
    for remark in remarks:
        if remark.code in IMPOSSIBLE:
            raise InputError(remark.text)
    return [remark.text for remark in remarks]


class Remark(NamedTuple):
    """What was noticed about a recording.

    Parameters
    ----------
    code : str
        ``transposed``, ``fluorescence``, ``percent``, ``scale`` (doubtful), ``baseline``, ``denoised``, ``smoothed`` or
        ``noise_range``.
    text : str
        What was seen, what was expected, what to do.
    neurons : tuple of int
        Rows concerned; empty: all.
    """

    code: str
    text: str
    neurons: tuple[int, ...] = ()


def look_at_values(
    dff: Any,
    noise_levels: Any,
    *,
    frame_rate_hz: float,
    noise_range: tuple[float, float] | None = None,
) -> list[Remark]:
    """Like :func:`check_dff`, but raises nothing and says with a code what each sentence is about."""
    scale = _scale(frame_rate_hz)
    all_nu = np.asarray(noise_levels, np.float64)
    nu = all_nu[np.isfinite(all_nu) & (all_nu > 0)]
    if not nu.size or min(dff.shape) < 1:
        return []
    part = _middle(dff)
    transposed = _check_transposed(part, dff.shape, "dff")
    # A transposed recording has no meaningful ν, so what follows would mislead.
    if transposed is not None:
        return [transposed]
    rest = _resting_level(part)
    of_scale = _check_scale(float(np.median(nu)), rest, scale)
    remarks = (
        of_scale,
        # Fluorescence rests high, and this has been said.
        None if of_scale is not None else _check_baseline(rest, nu.size),
        _check_denoised(part, nu),
        _check_range(all_nu, noise_range),
    )
    return [remark for remark in remarks if remark is not None]


def check_orientation(traces: Any, name: str = "dff") -> Remark | None:
    """Tell whether the rows of (n_neurons, n_frames) look like frames; only a part is read."""
    return _check_transposed(_middle(traces), traces.shape, name) if min(traces.shape) >= 1 else None


def _middle(dff: NDArray[Any]) -> NDArray[np.float64]:
    """A contiguous part of the recording, for neighbours to stay neighbours; infinities as NaN."""
    cut = tuple(slice(max(0, (n - m) // 2), max(0, (n - m) // 2) + m) for n, m in zip(dff.shape, LOOK, strict=True))
    part = np.array(dff[cut], np.float64)
    part[~(np.abs(part) <= np.finfo(np.float32).max)] = np.nan
    known = ~np.isnan(part)
    return np.asarray(part[np.ix_(known.any(axis=1), known.any(axis=0))])


def _resting_level(part: NDArray[np.float64]) -> float:
    """Median over neurons of what 5 % of a neuron's values lie below."""
    return float(np.median(np.nanpercentile(part, 5, axis=1))) if part.size else 0.0


def _check_scale(nu: float, rest: float, scale: float) -> Remark | None:
    noise = nu / scale
    if nu < DOUBTFUL_NU:
        return None
    seen = f"the median noise level is ν = {nu:.3g} % Hz^-1/2, where recordings have 0.2 to 10"
    if rest > 3 * noise:
        return Remark(
            "fluorescence",
            f"the values look like fluorescence, not ΔF/F: they rest near {rest:.3g} and {seen}. "
            "Expected (F - F0) / F0 as a fraction, which rests near 0: subtract and divide by the baseline F0",
        )
    advice = "ΔF/F is expected as a fraction (0.1 = 10 %): if these are percent, divide by 100"
    if nu >= IMPOSSIBLE_NU:
        return Remark("percent", f"the values cannot be ΔF/F as a fraction: {seen}. {advice}")
    return Remark("scale", f"the values may not be ΔF/F as a fraction: {seen}. {advice}")


def _check_baseline(rest: float, n_neurons: int) -> Remark | None:
    # A single neuron may well be active all the time.
    if rest < RAISED_BASELINE or n_neurons < FEW_NEURONS:
        return None
    return Remark(
        "baseline",
        f"the traces rest near {rest:.2g}, where ΔF/F rests near 0: if these are F / F0, subtract 1; else look at how "
        "the baseline F0 was found",
    )


def _check_denoised(part: NDArray[np.float64], nu: NDArray[np.float64]) -> Remark | None:
    advice = "The models expect the recording's noise: give ΔF/F that is neither denoised, smoothed nor deconvolved"
    silent = int((nu < DENOISED_NU).sum())
    if 2 * silent > nu.size:
        return Remark(
            "denoised",
            f"{silent} of {nu.size} neurons have almost no noise (median ν = {np.median(nu):.2g} % Hz^-1/2, where "
            f"recordings have 0.2 to 10). {advice}",
        )
    ratio = _two_frames_to_one(part)
    if ratio <= SMOOTHED_RATIO:
        return None
    # Slow signals above little noise look the same; below the upper values of a trace there is less of them.
    quiet = np.where(part <= np.nanpercentile(part, QUIET, axis=1, keepdims=True), part, np.nan)
    if _two_frames_to_one(quiet) > SMOOTHED_RATIO:
        return Remark(
            "smoothed",
            f"the traces look smoothed in time: over two frames they change {ratio:.2g} times as much as "
            f"over one (1.0 to 1.3 in recordings). {advice}",
        )
    return None


def _two_frames_to_one(values: NDArray[np.float64]) -> float:
    """Median over neurons of the median difference over two frames by that over one; 0 for few neurons."""
    known = ~np.isnan(values[:, 2:] + values[:, 1:-1] + values[:, :-2])
    one, two = (
        _median_rows(np.where(known, np.abs(difference), np.nan))
        for difference in (values[:, 1:-1] - values[:, :-2], values[:, 2:] - values[:, :-2])
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = two / one
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if ratio.size >= FEW_NEURONS else 0.0


def _check_range(all_nu: NDArray[np.float64], noise_range: tuple[float, float] | None) -> Remark | None:
    if noise_range is None:
        return None
    low, high = noise_range
    nu = all_nu[np.isfinite(all_nu) & (all_nu > 0)]
    above = np.flatnonzero(np.isfinite(all_nu) & (all_nu > FAR_ABOVE * high))
    if not above.size:
        return None
    return Remark(
        "noise_range",
        f"{above.size} of {nu.size} neurons have a noise level far above what the model was trained for (ν up to "
        f"{nu.max():.3g}, trained {low:g} to {high:g} % Hz^-1/2): their spike probabilities are unreliable; leave "
        "these neurons out, or average more pixels or frames",
        tuple(above.tolist()),
    )


def _check_transposed(part: NDArray[np.float64], shape: tuple[int, ...], name: str) -> Remark | None:
    n_rows, n_columns = shape
    if min(part.shape) < 4:
        return None
    # Without the means, neither different baselines nor events common to all neurons make neighbours similar.
    deviation = part - np.nanmean(part, axis=1, keepdims=True)
    deviation -= np.nanmean(part, axis=0, keepdims=True) - np.nanmean(part)
    along_columns, along_rows = _neighbour_correlation(deviation), _neighbour_correlation(deviation.T)
    margin = TRANSPOSED_MARGIN if n_rows > n_columns else 3 * TRANSPOSED_MARGIN
    if along_rows < 1.5 * max(along_columns, 0) + margin:
        return None
    return Remark(
        "transposed",
        f"{name} looks transposed: of its {n_rows} rows and {n_columns} columns, neighbouring rows are alike "
        f"(correlation {along_rows:.2f}) and neighbouring columns are not ({along_columns:.2f}). "
        f"Expected (n_neurons, n_frames): give {name}.T if the rows are frames",
    )


def _neighbour_correlation(values: NDArray[np.float64]) -> float:
    """Median over rows of the correlation between neighbours in a row; 0 where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nansum(values[:, 1:] * values[:, :-1], axis=1) / np.nansum(values**2, axis=1)
    correlation = correlation[np.isfinite(correlation)]
    return float(np.median(correlation)) if correlation.size else 0.0


def _median_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty(values.shape[0])
    _kernels.over_rows(_kernels.median_rows, (np.ascontiguousarray(values, np.float32), out))
    return out

"""Finished recordings: :func:`predict` runs the live model's networks over whole recordings, in bounded memory."""

from __future__ import annotations

import mmap
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_frame_rate, check_matrix, check_noise_levels
from .chunks import Alignment, Threshold, check_choice
from .errors import CascadeWarning, InputError
from .noise import check_dff
from .noise import noise_levels as measure_noise_levels
from .threshold import apply_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from .engine import Model

__all__ = ["predict"]

#: Frames described in one row of a tile: long enough that the window's overlap costs little.
ROW_FRAMES = 2048
#: Neuron-frames in one call of the network: small enough for the processor's cache.
TILE_FRAMES = 16384
#: Neuron-frames held in memory at a time.
BLOCK_FRAMES = 2_000_000


def predict(
    dff: Any,
    model: Model,
    *,
    frame_rate_hz: float,
    noise_levels: Any = None,
    lookahead_frames: int | None = None,
    threshold: Threshold = "zero",
    alignment: Alignment = "target",
    allow_rate_mismatch: bool = False,
    out: NDArray[np.float32] | None = None,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """Spike probabilities of a finished recording.

    Parameters
    ----------
    dff : array_like, (n_neurons, n_frames)
        ΔF/F as a fraction (0.1 = 10 %). A memory-mapped array is read piece by piece; never modified.
    model : Model
        From :func:`cascade_rt.load_model`.
    frame_rate_hz : float
        Frames per second of the recording; within 5 % of the model's.
    noise_levels : array_like, (n_neurons,), optional
        ν, unit % · Hz^-½; measured from ``dff`` if not given.
    lookahead_frames : int, optional
        Which of the model's look-aheads to use; the longest if not given.
    threshold : "zero", "noise_floor" or "none"
        Set negative values to 0; set everything below the noise floor (1/e of a single spike's height) to 0,
        except next to what is above; or leave the values as the networks give them.
    alignment : "target" or "cascade"
        Describe the frame that the training target described, or place each value where CASCADE places it
        (one frame earlier).
    allow_rate_mismatch : bool
        Go on with a frame rate that the model was not made for.
    out : ndarray, (n_neurons, n_frames), float32, optional
        Where to write the result, for example a ``numpy.memmap``.
    progress : callable, optional
        Called with the finished fraction, 0 to 1.

    Returns
    -------
    ndarray, (n_neurons, n_frames), float32
        Expected spikes per frame. NaN where undefined: at both ends, where the window holds a value that is not
        finite, and for neurons without a noise level.

    Raises
    ------
    InputError
        If an argument is unusable, or the recording is clearly not ΔF/F as a fraction.

    Warns
    -----
    CascadeWarning
        For what should be looked at: short recordings, suspicious values, neurons left out.
    """
    check_choice("threshold", threshold, Threshold)
    check_choice("alignment", alignment, Alignment)
    dff = check_matrix(dff, "dff")
    spec = model.spec
    rate = check_frame_rate(frame_rate_hz, spec, allow_mismatch=allow_rate_mismatch)
    lookahead = spec.lookaheads[-1] if lookahead_frames is None else spec.check_lookahead(lookahead_frames)
    n_neurons, n_frames = dff.shape
    out = _check_out(out, dff.shape)
    if n_frames < spec.windowsize:
        turned = " If it is transposed, pass dff.T: (n_neurons, n_frames) is expected" if n_neurons > n_frames else ""
        _warn(
            f"the recording has {n_frames} frames, model {spec.name!r} needs at least its window of "
            f"{spec.windowsize}: every value is NaN.{turned}"
        )
        out[:] = np.nan
        return out
    measured = noise_levels is None
    nu = measure_noise_levels(dff, frame_rate_hz=rate) if measured else noise_levels
    nu = check_noise_levels(nu, n_neurons)
    for sentence in check_dff(dff, nu, frame_rate_hz=rate, noise_range=spec.noise_range):
        _warn(sentence)
    _let_go(dff)
    place = _Placement(model, lookahead, alignment, threshold)
    block = max(1, min(n_neurons, BLOCK_FRAMES // n_frames))
    left_out: dict[str, list[int]] = {}
    for start in range(0, n_neurons, block):
        rows = slice(start, min(start + block, n_neurons))
        out[rows], broken = _predict_block(np.asarray(dff[rows]), nu[rows], model, place)
        for why, which in broken.items():
            left_out.setdefault(why, []).extend(start + np.flatnonzero(which))
        _let_go(dff)
        _let_go(out)
        if progress is not None:
            progress(rows.stop / n_neurons)
    if any(left_out.values()):
        _warn(_describe_left_out(left_out, n_neurons))
    return out


def _warn(sentence: str) -> None:
    warnings.warn(sentence, CascadeWarning, stacklevel=3)


def _let_go(array: NDArray[Any]) -> None:
    """Tell the system that the pages of a memory-mapped file are not needed for now; the file keeps what was written.

    Without it, a process seems to hold all of a file that it went through. Systems that have no such call manage.
    """
    # Not for mode "c": what was changed there exists in memory alone.
    if not isinstance(array, np.memmap) or array.mode not in ("r", "r+", "w+"):
        return
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _describe_left_out(left_out: dict[str, list[int]], n_neurons: int) -> str:
    total = sum(map(len, left_out.values()))
    reasons = [
        f"{why}: {', '.join(map(str, which[:10]))}{' …' if len(which) > 10 else ''}"
        for why, which in left_out.items()
        if which
    ]
    return f"{total} of {n_neurons} neurons are NaN throughout ({'; '.join(reasons)})"


def _check_out(out: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise InputError(f"out is {out.dtype} {out.shape}: expected float32 {shape}")
    return out


class _Placement:
    """Which frame each output describes, and what is undefined; one rule for the whole recording."""

    def __init__(self, model: Model, lookahead: int, alignment: Alignment, threshold: Threshold) -> None:
        spec = model.spec
        self.output = spec.lookaheads.index(lookahead)
        self.window = spec.windowsize
        shift = spec.cascade_shift if alignment == "cascade" else 0
        #: Frame described by the window that starts at frame 0.
        self.first = spec.windowsize - 1 - lookahead - shift
        #: CASCADE discards its first window.
        self.dropped = int(alignment == "cascade" and spec.family == "binned")
        self.alignment, self.threshold = alignment, threshold
        self.smoothing_s, self.rate = spec.smoothing_s, spec.frame_rate_hz

    def finish(self, prob: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the threshold to placed values (n, n_frames), and blank both ends."""
        end = prob.shape[1] - (self.window - 1 - self.first)
        start = max(self.first, 0)
        begin = max(self.first + self.dropped, 0)
        done = np.full_like(prob, np.nan)
        inside = prob[:, start:end]
        inside = apply_threshold(
            inside,
            self.threshold,
            smoothing_s=self.smoothing_s,
            frame_rate_hz=self.rate,
            alignment=self.alignment,
        )
        done[:, begin:end] = inside[:, begin - start :]
        return done

    def put(self, row: NDArray[np.float32], start: int, values: NDArray[np.float32]) -> None:
        """Write the values of the windows from ``start`` on to the frames that they describe."""
        begin = self.first + start
        # With the longest look-ahead of all, CASCADE's placement of the first window is before the recording.
        row[max(begin, 0) : begin + values.size] = values[max(-begin, 0) :]


def _predict_block(
    raw: NDArray[Any], nu: NDArray[np.float64], model: Model, place: _Placement
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.bool_]]]:
    """Predict some neurons over all frames; also says which of them have no value at all, and why."""
    with np.errstate(over="ignore"):
        x = raw.astype(np.float32)
    finite = np.isfinite(x)
    broken = _broken(x, finite, nu)
    x[~finite] = 0
    prob = np.full(x.shape, np.nan, np.float32)
    usable = np.flatnonzero(~np.logical_or.reduce(list(broken.values())))
    keys = model.network_keys(nu[usable])
    for key in dict.fromkeys(keys):
        members = usable[[k == key for k in keys]]
        for rows, starts, tile in _tiles(x, members, place.window):
            values = model.run_dense(key, tile, nu[rows])[:, place.output]
            for row, start, value in zip(rows, starts, values, strict=True):
                place.put(prob[row], start, value)
    if not finite[usable].all():
        _blank_windows(prob, finite, place)
    return place.finish(prob), broken


def _broken(x: NDArray[np.float32], finite: NDArray[np.bool_], nu: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Which neurons cannot be predicted, by the first reason that holds."""
    # An infinite value means a broken ΔF/F; NaN is how a source marks missing frames.
    infinite = np.isinf(x).any(axis=1)
    empty = ~finite.any(axis=1)
    noiseless = ~(np.isfinite(nu) | infinite | empty)
    still = np.where(finite, x, np.inf).min(axis=1) == np.where(finite, x, -np.inf).max(axis=1)
    return {
        "with infinite values": infinite,
        "without a finite value": empty & ~infinite,
        "constant": noiseless & still,
        "without a noise level, as after denoising, or where spikes were deconvolved": noiseless & ~still,
    }


def _tiles(
    x: NDArray[np.float32], members: NDArray[np.intp], window: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]]:
    """Cut neurons into rows of equal length: their neurons, first frames and values (rows, frames)."""
    described = x.shape[1] - window + 1
    pieces = -(-described // ROW_FRAMES)
    length = -(-described // pieces)
    # The last piece begins early enough to be as long as the others; what it repeats is the same.
    first = np.minimum(np.arange(pieces) * length, described - length)
    rows = np.repeat(members, pieces)
    starts = np.tile(first, members.size)
    at_once = max(1, TILE_FRAMES // length)
    for i in range(0, rows.size, at_once):
        some, begin = rows[i : i + at_once], starts[i : i + at_once]
        yield some, begin, np.stack([x[r, s : s + length + window - 1] for r, s in zip(some, begin, strict=True)])


def _blank_windows(prob: NDArray[np.float32], finite: NDArray[np.bool_], place: _Placement) -> None:
    """Set to NaN what made use of a value that is not finite."""
    for row in np.flatnonzero(~finite.all(axis=1)):
        bad = np.concatenate([[0], np.cumsum(~finite[row])])
        touched = bad[place.window :] > bad[: -place.window]
        values = np.zeros(touched.size, np.float32)
        values[touched] = np.nan
        shifted = np.zeros(prob.shape[1], np.float32)
        place.put(shifted, 0, values)
        prob[row] += shifted

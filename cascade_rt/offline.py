"""Finished recordings: :func:`predict` runs the live model's networks over whole recordings, in bounded memory."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_frame_rate, check_matrix, check_noise_levels
from .chunks import Alignment, Threshold, check_choice
from .dask_arrays import is_dask, over_blocks
from .errors import CascadeWarning, InputError
from .lazy import BLOCK_VALUES, block_rows, by_neuron, let_go
from .noise import check_dff
from .noise import noise_levels as measure_noise_levels
from .threshold import apply_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from .engine import Model

__all__ = ["BlockPredictor", "predict"]

#: Frames described in one row of a tile: long enough that the window's overlap costs little.
ROW_FRAMES = 2048
#: Neuron-frames in one call of the network: small enough for the processor's cache.
TILE_FRAMES = 16384
#: Neuron-frames held in memory at a time.
BLOCK_FRAMES = BLOCK_VALUES


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
    out: Any = None,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """Spike probabilities of a finished recording.

    Parameters
    ----------
    dff : array_like, (n_neurons, n_frames)
        ΔF/F as a fraction (0.1 = 10 %). Arrays that are memory-mapped, of h5py or of zarr are read piece by piece.
        For an array of dask, nothing is computed yet. Never modified.
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
    out : array, (n_neurons, n_frames), float32, optional
        Where to write the result: a NumPy array, a ``numpy.memmap``, or a dataset of h5py or zarr.
    progress : callable, optional
        Called with the finished fraction, 0 to 1.

    Returns
    -------
    array, (n_neurons, n_frames), float32
        Expected spikes per frame. NaN where undefined: at both ends, where the window holds a value that is not
        finite, and for neurons without a noise level. ``out``, if it was given; an array of dask for one of dask.

    Raises
    ------
    InputError
        If an argument is unusable, or the recording is clearly not ΔF/F as a fraction.

    Warns
    -----
    CascadeWarning
        For what should be looked at: short recordings, suspicious values, neurons left out.
    """
    options: dict[str, Any] = {"lookahead_frames": lookahead_frames, "threshold": threshold, "alignment": alignment}
    place = BlockPredictor(model, **options)
    rate = check_frame_rate(frame_rate_hz, model.spec, allow_mismatch=allow_rate_mismatch)
    if is_dask(dff):
        if out is not None:
            raise InputError("out is for arrays in memory and in files: store the result with dask.array.store")
        options |= {"frame_rate_hz": rate, "allow_rate_mismatch": allow_rate_mismatch}
        planned: NDArray[np.float32] = over_blocks(dff, noise_levels, partial(predict, model=model, **options))
        return planned
    dff = check_matrix(dff, "dff")
    n_neurons, n_frames = dff.shape
    filled: NDArray[np.float32] = _check_out(out, dff.shape)
    if n_frames < place.window:
        turned = " If it is transposed, pass dff.T: (n_neurons, n_frames) is expected" if n_neurons > n_frames else ""
        _warn(
            f"the recording has {n_frames} frames, model {model.spec.name!r} needs at least its window of "
            f"{place.window}: every value is NaN.{turned}"
        )
        filled[:] = np.nan
        return filled
    block = block_rows(dff, BLOCK_FRAMES)
    left_out: dict[str, list[int]] = {}
    with by_neuron(dff, block) as rows_of:
        measured = noise_levels is None
        nu = measure_noise_levels(rows_of, frame_rate_hz=rate) if measured else noise_levels
        nu = check_noise_levels(nu, n_neurons)
        for sentence in check_dff(dff, nu, frame_rate_hz=rate, noise_range=model.spec.noise_range):
            _warn(sentence)
        let_go(dff)
        for start in range(0, n_neurons, block):
            rows = slice(start, min(start + block, n_neurons))
            filled[rows], broken = place.predict(np.asarray(rows_of[rows]), nu[rows])
            for why, which in broken.items():
                left_out.setdefault(why, []).extend(start + np.flatnonzero(which))
            let_go(rows_of)
            let_go(filled)
            if progress is not None:
                progress(rows.stop / n_neurons)
    if any(left_out.values()):
        _warn(_describe_left_out(left_out, n_neurons))
    return filled


def _warn(sentence: str) -> None:
    warnings.warn(sentence, CascadeWarning, stacklevel=3)


def _describe_left_out(left_out: dict[str, list[int]], n_neurons: int) -> str:
    total = sum(map(len, left_out.values()))
    reasons = [
        f"{why}: {', '.join(map(str, which[:10]))}{' …' if len(which) > 10 else ''}"
        for why, which in left_out.items()
        if which
    ]
    return f"{total} of {n_neurons} neurons are NaN throughout ({'; '.join(reasons)})"


def _check_out(out: Any, shape: tuple[int, ...]) -> Any:
    if out is None:
        return np.empty(shape, np.float32)
    if tuple(out.shape) != shape or out.dtype != np.float32:
        raise InputError(f"out is {out.dtype} {out.shape}: expected float32 {shape}")
    return out


class BlockPredictor:
    """Predicts some neurons at a time, over all frames; one rule of which frame an output describes.

    Parameters
    ----------
    model : Model
    lookahead_frames, threshold, alignment
        As for :func:`predict`.
    """

    def __init__(
        self,
        model: Model,
        *,
        lookahead_frames: int | None = None,
        threshold: Threshold = "zero",
        alignment: Alignment = "target",
    ) -> None:
        check_choice("threshold", threshold, Threshold)
        check_choice("alignment", alignment, Alignment)
        spec = model.spec
        self.lookahead = spec.lookaheads[-1] if lookahead_frames is None else spec.check_lookahead(lookahead_frames)
        self._model = model
        self._output = spec.lookaheads.index(self.lookahead)
        self.window = spec.windowsize
        shift = spec.cascade_shift if alignment == "cascade" else 0
        #: Frame described by the window that starts at frame 0.
        self._first = spec.windowsize - 1 - self.lookahead - shift
        #: CASCADE discards its first window.
        self._dropped = int(alignment == "cascade" and spec.family == "binned")
        self._alignment, self._threshold = alignment, threshold
        self._smoothing_s, self._rate = spec.smoothing_s, spec.frame_rate_hz

    def predict(
        self, dff: NDArray[Any], noise_levels: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.bool_]]]:
        """Predict a block of neurons.

        Parameters
        ----------
        dff : ndarray, (n, n_frames)
            ΔF/F as a fraction, at least one window long. Not modified.
        noise_levels : ndarray, (n,)
            ν, % · Hz^-½; NaN where unknown.

        Returns
        -------
        spike_prob : ndarray, (n, n_frames), float32
        left_out : dict of str to ndarray, (n,), bool
            Neurons that have no value at all, by the reason.
        """
        with np.errstate(over="ignore"):
            x = dff.astype(np.float32)
        finite = np.isfinite(x)
        broken = _broken(x, finite, noise_levels)
        x[~finite] = 0
        prob = np.full(x.shape, np.nan, np.float32)
        usable = np.flatnonzero(~np.logical_or.reduce(list(broken.values())))
        keys = self._model.network_keys(noise_levels[usable])
        for key in dict.fromkeys(keys):
            members = usable[[k == key for k in keys]]
            for rows, starts, tile in _tiles(x, members, self.window):
                values = self._model.run_dense(key, tile, noise_levels[rows])[:, self._output]
                for row, start, value in zip(rows, starts, values, strict=True):
                    self._put(prob[row], start, value)
        if not finite[usable].all():
            self._blank_windows(prob, finite)
        return self._finish(prob), broken

    def _finish(self, prob: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the threshold to placed values (n, n_frames), and blank both ends."""
        end = prob.shape[1] - (self.window - 1 - self._first)
        start = max(self._first, 0)
        begin = max(self._first + self._dropped, 0)
        done = np.full_like(prob, np.nan)
        inside = prob[:, start:end]
        inside = apply_threshold(
            inside,
            self._threshold,
            smoothing_s=self._smoothing_s,
            frame_rate_hz=self._rate,
            alignment=self._alignment,
        )
        done[:, begin:end] = inside[:, begin - start :]
        return done

    def _put(self, row: NDArray[np.float32], start: int, values: NDArray[np.float32]) -> None:
        """Write the values of the windows from ``start`` on to the frames that they describe."""
        begin = self._first + start
        # With the longest look-ahead of all, CASCADE's placement of the first window is before the recording.
        row[max(begin, 0) : begin + values.size] = values[max(-begin, 0) :]

    def _blank_windows(self, prob: NDArray[np.float32], finite: NDArray[np.bool_]) -> None:
        """Set to NaN what made use of a value that is not finite."""
        for row in np.flatnonzero(~finite.all(axis=1)):
            bad = np.concatenate([[0], np.cumsum(~finite[row])])
            touched = bad[self.window :] > bad[: -self.window]
            values = np.zeros(touched.size, np.float32)
            values[touched] = np.nan
            shifted = np.zeros(prob.shape[1], np.float32)
            self._put(shifted, 0, values)
            prob[row] += shifted


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

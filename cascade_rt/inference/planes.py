"""The ΔF/F of one imaging plane, made block by block from whatever its file holds."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.baseline import delta_f_over_f
from cascade_rt.errors import InputError
from cascade_rt.formats.timeline import Timeline
from cascade_rt.lazy import block_rows, by_neuron, let_go
from cascade_rt.resample import resample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.formats import Recording
    from cascade_rt.session import InferOptions

__all__ = ["Block", "Plane"]

#: Factor of the neuropil where neither the user nor the file tells one: Suite2p's default.
NEUROPIL_COEFFICIENT = 0.7


class Block(NamedTuple):
    """ΔF/F of some neurons over all frames.

    Parameters
    ----------
    rows : ndarray, (k,), int
        Their rows in the source.
    dff : ndarray, (k, n_frames)
        As a fraction, at the frame rate of the source.
    f0 : ndarray, (k,), float64, or None
        Baseline, if it was computed.
    non_positive : ndarray, (k,), bool
        Neurons without ΔF/F, since their baseline is 0 or negative.
    """

    rows: NDArray[np.intp]
    dff: NDArray[Any]
    f0: NDArray[np.float64] | None
    non_positive: NDArray[np.bool_]


class Plane:
    """One plane of a source; a context manager, in which its blocks may be read as often as needed.

    Parameters
    ----------
    recording : Recording
    options : InferOptions
    frame_rate_hz : float
        Of the recording.
    scratch : Path
        Folder for a scratch file, where the source has an unsuitable order.
    """

    def __init__(self, recording: Recording, options: InferOptions, frame_rate_hz: float, scratch: Path) -> None:
        self.recording = recording
        self.frame_rate_hz = frame_rate_hz
        self.timeline = Timeline(recording.frames, recording.n_frames)
        self.n_frames = self.timeline.n_frames
        self._fill_gaps = options.fill_gaps
        self._percent = options.percent
        self._scratch = scratch
        self._stack = ExitStack()
        self.is_cell = recording.is_cell
        cells = np.ones(recording.n_neurons, bool) if recording.is_cell is None else recording.is_cell
        self.rows = np.flatnonzero(cells | options.all_rois)
        self.coefficient = _coefficient(recording, options)
        self._baseline = replace(options.baseline, neuropil_coefficient=self.coefficient)

    def __enter__(self) -> Plane:
        recording = self.recording
        self._block = block_rows(recording.traces)
        with ExitStack() as stack:
            self._traces: Any = stack.enter_context(by_neuron(recording.traces, self._block, folder=self._scratch))
            self._neuropil: Any = None
            if recording.neuropil is not None and self.coefficient:
                self._neuropil = stack.enter_context(by_neuron(recording.neuropil, self._block, folder=self._scratch))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._traces = self._neuropil = None
        self._stack.close()

    @property
    def dff_description(self) -> str:
        """How ΔF/F came about, in a sentence."""
        if self.recording.kind == "dff":
            return "ΔF/F as the file has it" + (", divided by 100" if self._percent else "")
        base = self._baseline
        smoothed = f" of traces averaged over {base.smoothing_s:g} s" if base.smoothing_s else ""
        told = f"F0: percentile {base.percentile:g}{smoothed} in a {base.position} moving window of {base.window_s:g} s"
        if self.recording.neuropil is None:
            return f"{told}; no neuropil subtracted, as the file has none"
        if not self.coefficient:
            return f"{told}; no neuropil subtracted (coefficient 0)"
        return f"{told}, after subtracting {self.coefficient:g} × neuropil"

    def blocks(self, progress: Callable[[float], None] | None = None) -> Iterator[Block]:
        """Give ΔF/F of the rows to process, some neurons at a time."""
        for start in range(0, self.recording.n_neurons, self._block):
            stop = min(start + self._block, self.recording.n_neurons)
            rows = self.rows[np.searchsorted(self.rows, start) : np.searchsorted(self.rows, stop)]
            if rows.size:
                block = self._compute(rows, self._rows_of(self._traces, rows), self._rows_of(self._neuropil, rows))
                yield block._replace(dff=fill_short_gaps(block.dff, self._fill_gaps))
            let_go(self._traces)
            if progress is not None:
                progress(stop / self.recording.n_neurons)

    def view(self) -> DffView:
        """Return the ΔF/F of the rows to process as a matrix, computed when sliced."""
        return DffView(self)

    def part(self, rows: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """ΔF/F of some neurons in some frames, exactly as in the blocks, but for gaps that are filled there."""
        if self.timeline.n_missing:
            return self._compute(rows, self._rows_of(self._traces, rows), self._rows_of(self._neuropil, rows)).dff[
                :, columns
            ]
        start, stop, _ = columns.indices(self.n_frames)
        margin = 0
        if self.recording.kind == "fluorescence":
            margin = math.ceil((self._baseline.window_s + self._baseline.smoothing_s) * self.frame_rate_hz) + 2
        first, last = max(0, start - margin), min(self.n_frames, stop + margin)
        read = slice(first, last)
        block = self._compute(
            rows, self._rows_of(self._traces, rows, read), self._rows_of(self._neuropil, rows, read), placed=True
        )
        return block.dff[:, start - first : stop - first]

    def _rows_of(self, matrix: Any, rows: NDArray[np.intp], columns: slice = slice(None)) -> Any:
        if matrix is None:
            return None
        low, high = int(rows[0]), int(rows[-1]) + 1
        # Neighbouring rows are read in one piece; scattered ones, of which there may be few, one by one.
        if high - low <= 4 * rows.size:
            together = np.asarray(matrix[low:high, columns])
            return together if high - low == rows.size else together[rows - low]
        return np.concatenate([np.asarray(matrix[row : row + 1, columns]) for row in rows.tolist()])

    def _compute(self, rows: NDArray[np.intp], traces: Any, neuropil: Any, *, placed: bool = False) -> Block:
        if not placed:
            traces = self.timeline.place(traces)
            neuropil = None if neuropil is None else self.timeline.place(neuropil)
        f0, non_positive = None, np.zeros(rows.size, bool)
        if self.recording.kind == "fluorescence":
            found = delta_f_over_f(traces, frame_rate_hz=self.frame_rate_hz, options=self._baseline, neuropil=neuropil)
            traces, f0, non_positive = found.dff, found.f0, found.non_positive
        elif self._percent:
            traces = np.asarray(traces, np.float32) / 100
        return Block(rows, traces, f0, non_positive)


class DffView:
    """ΔF/F of a plane as a matrix, (n_processed, n_frames), of which slices are computed; for looking at parts."""

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.shape = (plane.rows.size, plane.n_frames)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        chosen = np.atleast_1d(self._plane.rows[rows])
        columns = slice(*columns.indices(self.shape[1]))
        if not chosen.size or columns.start >= columns.stop:
            return np.empty((chosen.size, len(range(self.shape[1])[columns])), self.dtype)
        part = self._plane.part(chosen, columns)
        return part if isinstance(rows, slice) or np.ndim(rows) else part[0]


def at_rate(dff: NDArray[Any], frame_rate_hz: float, model_rate_hz: float | None) -> tuple[NDArray[Any], float]:
    """Resample a block to a model's frame rate; None: leave it as it is."""
    if model_rate_hz is None:
        return dff, frame_rate_hz
    return resample(dff, frame_rate_hz=frame_rate_hz, new_rate_hz=model_rate_hz)


def fill_short_gaps(dff: NDArray[Any], longest: int) -> NDArray[Any]:
    """Hold the last value over runs of at most ``longest`` frames that are NaN; never at the beginning.

    Parameters
    ----------
    dff : ndarray, (n, n_frames)
        Not modified.
    longest : int
    """
    missing = np.isnan(dff)
    if not longest or not missing.any():
        return dff
    filled = np.array(dff)
    for values, gaps in zip(filled, missing, strict=True):
        edges = np.flatnonzero(np.diff(gaps.astype(np.int8), prepend=0, append=0))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if start > 0 and stop - start <= longest:
                values[start:stop] = values[start - 1]
    return filled


def _coefficient(recording: Recording, options: InferOptions) -> float:
    if recording.kind == "dff" or recording.neuropil is None:
        return 0.0
    if options.neuropil_coefficient is not None:
        if not (math.isfinite(options.neuropil_coefficient) and options.neuropil_coefficient >= 0):
            raise InputError(f"neuropil_coefficient={options.neuropil_coefficient!r}: expected 0 or more")
        return options.neuropil_coefficient
    return NEUROPIL_COEFFICIENT if recording.neuropil_coefficient is None else recording.neuropil_coefficient

"""Matrices that stay in their file until rows are asked for, whatever the order in which the file holds them.

What follows works on blocks of neurons over all frames. Files that hold frame after frame (NWB, HDF5 written during
an acquisition) would have to be gone through once for each block; :func:`by_neuron` turns such a file round once, into
a scratch file, so that a recording larger than the memory costs two readings.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["LazyMatrix", "Matrix", "as_matrix", "block_rows", "by_neuron", "let_go"]

#: Values in a block of neurons: what is aimed at, and what is accepted to read no part of a file twice.
BLOCK_VALUES, MOST_BLOCK_VALUES = 2_000_000, 16_000_000
#: Times that a file may be gone through before turning it round is cheaper.
MOST_PASSES = 3
#: Values held in memory while a file is turned round.
SLAB_VALUES = 16_000_000


@runtime_checkable
class Matrix(Protocol):
    """What an (n_neurons, n_frames) argument must have: a NumPy array, or something that is sliced like one."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any) -> Any: ...


class LazyMatrix:
    """Numbers in a file, seen as (n_neurons, n_frames); slicing reads.

    Parameters
    ----------
    *stored : array, h5py.Dataset or zarr.Array
        Anything with ``shape``, ``dtype`` and slices that give arrays. Several of the same shape are added up.
    transposed : bool
        The file holds (n_frames, n_neurons).
    n_frames : int, optional
        Use only that many frames from the start.

    Raises
    ------
    InputError
        The arrays are not two-dimensional, or not of one shape.
    """

    ndim = 2

    def __init__(self, *stored: Any, transposed: bool = False, n_frames: int | None = None) -> None:
        shapes = {tuple(array.shape) for array in stored}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise InputError(f"arrays of shapes {sorted(shapes)}: expected two dimensions, and all alike")
        self.stored = stored
        self.transposed = transposed
        shape = tuple(int(n) for n in next(iter(shapes)))
        rows, columns = shape[::-1] if transposed else shape
        self.shape = (rows, columns if n_frames is None else min(columns, n_frames))
        self.dtype = np.result_type(*(array.dtype for array in stored))

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read rows (a slice, an index or ascending indices), and of these a slice of frames."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if not isinstance(rows, slice) and not np.ndim(rows):
            row = range(self.shape[0])[int(rows)]
            return np.asarray(self[row : row + 1, columns][0])
        # NumPy's slices may run out of the array, or backwards, those of files not all.
        columns, column_step = _forwards(columns, self.shape[1])
        if isinstance(rows, slice):
            rows, row_step = _forwards(rows, self.shape[0])
            if rows.start >= rows.stop or columns.start >= columns.stop:
                return np.empty((len(range(self.shape[0])[rows]), len(range(self.shape[1])[columns])), self.dtype)
            if row_step < 0 or column_step < 0:
                return self[rows, columns][::row_step, ::column_step]
        elif column_step < 0:
            return self[rows, columns][:, ::-1]
        where = (columns, rows) if self.transposed else (rows, columns)
        total = np.asarray(self.stored[0][where])
        for array in self.stored[1:]:
            total = total + np.asarray(array[where])
        return np.asarray(total.T if self.transposed else total)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        del copy
        return np.asarray(self[:], dtype)


def as_matrix(values: Any) -> Any:
    """Return an array in memory, or one that is read when sliced: arrays of h5py and zarr stay in their files.

    Parameters
    ----------
    values : array_like
    """
    if isinstance(values, (np.ndarray, LazyMatrix)):
        return values
    if type(values).__module__.partition(".")[0] in ("h5py", "zarr") and len(getattr(values, "shape", ())) == 2:
        return LazyMatrix(values)
    return np.asarray(values)


def block_rows(matrix: Matrix, values: int | None = None) -> int:
    """Neurons to take at a time: about ``values`` values, and whole pieces of the file if these are not too large."""
    values = BLOCK_VALUES if values is None else values
    n_rows, n_frames = matrix.shape
    unit = _rows_read_together(matrix)
    rows = max(1, values // max(1, n_frames))
    if unit > 1:
        whole = unit * max(1, rows // unit)
        rows = whole if whole * n_frames <= max(values, MOST_BLOCK_VALUES) else rows
    return int(min(n_rows, rows))


@contextmanager
def by_neuron(
    matrix: Matrix, rows: int, *, folder: Path | None = None, progress: Callable[[float], None] | None = None
) -> Iterator[Matrix]:
    """Give a matrix of which blocks of ``rows`` neurons are cheap to read.

    Parameters
    ----------
    matrix : Matrix, (n_neurons, n_frames)
    rows : int
        Neurons read at a time.
    folder : Path, optional
        Where a scratch file may be put; the system's folder for temporary files by default.
    progress : callable, optional
        Called with the finished fraction while the scratch file is written.

    Yields
    ------
    Matrix
        ``matrix`` itself, or a scratch file that is deleted at the end of the ``with`` block.
    """
    passes = math.ceil(_rows_read_together(matrix) / max(1, rows))
    if passes <= MOST_PASSES:
        yield matrix
        return
    # A memory-mapped file cannot be deleted on Windows before the last reference to it is gone.
    with tempfile.TemporaryDirectory(prefix="cascade-rt-", dir=folder, ignore_cleanup_errors=True) as scratch:
        turned = _turn_round(matrix, Path(scratch) / "by_neuron.raw", progress)
        try:
            yield turned
        finally:
            del turned


def let_go(array: Any) -> None:
    """Tell the system that the pages of a memory-mapped file are not needed for now; the file keeps what was written.

    Without it, a process seems to hold all of a file that it went through. Systems that have no such call manage.
    """
    for part in array.stored if isinstance(array, LazyMatrix) else (array,):
        if isinstance(part, LazyMatrix):
            let_go(part)
            continue
        # Not for mode "c": what was changed there exists in memory alone.
        if not isinstance(part, np.memmap) or part.mode not in ("r", "r+", "w+"):
            continue
        mapped = getattr(part, "_mmap", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _forwards(part: slice, length: int) -> tuple[slice, int]:
    """Return the same indices in ascending order, and 1 or -1: the direction in which they were asked for."""
    wanted = range(length)[part]
    if wanted.step > 0:
        return slice(wanted.start, wanted.stop, wanted.step), 1
    return slice(wanted[-1], wanted[0] + 1, -wanted.step) if wanted else slice(0, 0), -1


def _turn_round(matrix: Matrix, path: Path, progress: Callable[[float], None] | None) -> NDArray[Any]:
    n_rows, n_frames = matrix.shape
    dtype = np.dtype(matrix.dtype).newbyteorder("=")
    unit = _frames_read_together(matrix)
    step = max(1, SLAB_VALUES // n_rows)
    step = unit * max(1, step // unit) if unit * n_rows <= 4 * SLAB_VALUES else step
    with path.open("wb") as file:
        for start in range(0, n_frames, step):
            slab = np.ascontiguousarray(matrix[:, start : start + step], dtype)
            for row, values in enumerate(slab):
                file.seek((row * n_frames + start) * dtype.itemsize)
                file.write(values.tobytes())
            let_go(matrix)
            if progress is not None:
                progress(min(1.0, (start + step) / n_frames))
    return np.memmap(path, dtype, mode="r", shape=(n_rows, n_frames))


def _extents(matrix: Matrix) -> list[tuple[int, int]]:
    """Neurons and frames of the pieces in which a file is read."""
    found = []
    for array in matrix.stored if isinstance(matrix, LazyMatrix) else (matrix,):
        if type(array) is np.ndarray:  # in memory: nothing is read
            found.append((1, 1))
            continue
        turned = isinstance(matrix, LazyMatrix) and matrix.transposed
        if isinstance(array, LazyMatrix):
            found += [inner[::-1] if turned else inner for inner in _extents(array)]
            continue
        shape = tuple(int(n) for n in array.shape)
        # A shard of a zarr array is read piece by piece, but its index each time.
        pieces = getattr(array, "shards", None) or getattr(array, "chunks", None)
        if pieces is None or not all(isinstance(n, int) for n in pieces):
            flags = getattr(array, "flags", None)
            last_first = flags is not None and flags["F_CONTIGUOUS"] and not flags["C_CONTIGUOUS"]
            pieces = (shape[0], 1) if last_first else (1, shape[1])
        found.append(tuple(pieces[::-1]) if turned else tuple(pieces))
    return found


def _rows_read_together(matrix: Matrix) -> int:
    return min(int(matrix.shape[0]), max(rows for rows, _ in _extents(matrix)))


def _frames_read_together(matrix: Matrix) -> int:
    return min(int(matrix.shape[1]), max(frames for _, frames in _extents(matrix)))

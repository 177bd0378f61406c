"""Results while they grow: ``.npy`` files that can be read at any moment.

While a result is being written it stands in a folder ``NAME.incomplete`` as plain ``.npy`` files that can be read
at any moment, also after a crash. The file asked for appears at the end, whole, by renaming. A run that ended
before its recording did leaves ``stem.incomplete.npz`` (or ``.npy``, ``.mat``) instead.

What a result holds, and how it is written as a whole, stands in :mod:`cascade_rt.results.arrays`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import InputError
from cascade_rt.results.arrays import (
    allocate_result,
    check_output,
    incomplete_path,
    remove,
    work_folder,
    write_json,
    write_result,
)

if TYPE_CHECKING:
    from io import RawIOBase
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "NpyAppender",
    "allocate_result",
    "check_output",
    "incomplete_path",
    "remove",
    "work_folder",
    "write_json",
    "write_result",
]

_HEADER_BYTES = 128
#: Bytes of a growing file that are written together.
_WRITE_BYTES = 256 * 1024


class NpyAppender:
    """A ``.npy`` file that grows by columns and can be read at any moment.

    The array is stored column by column (Fortran order), so that appending never moves what is there. The header
    is renewed by :meth:`sync`; after a crash the file holds the columns of the last one.

    Parameters
    ----------
    path : Path
        Must not exist.
    n_rows : int or None
        None: a one-dimensional array.
    dtype : dtype
    """

    def __init__(self, path: Path, n_rows: int | None, dtype: Any) -> None:
        self.path = path
        self._n_rows = n_rows
        self._dtype = np.dtype(dtype)
        self.n_columns = 0
        self._synced = -1
        # Not buffered by Python: its buffers try once more, and fail once more, when they are closed on a full disk.
        self._file: RawIOBase | None = path.open("xb", buffering=0)
        self._waiting = bytearray()
        self.sync()

    def append(self, columns: NDArray[Any]) -> None:
        """Add columns: (n_rows, k), or (k,) for a one-dimensional array."""
        expected = (self._n_rows, columns.shape[-1]) if self._n_rows is not None else (columns.size,)
        if columns.shape != expected:
            raise InputError(f"{self.path.name}: columns of shape {columns.shape}: expected {expected}")
        if self._file is None:
            raise ValueError(f"{self.path.name} is closed")
        self._waiting += np.ascontiguousarray(columns.T, self._dtype).tobytes()
        self.n_columns += columns.shape[-1]
        if len(self._waiting) >= _WRITE_BYTES:
            self._write_waiting()

    def sync(self) -> None:
        """Make what was appended readable."""
        if self._file is None or self._synced == self.n_columns:
            return
        self._write_waiting()  # the data first: the header never promises what is not there
        self._file.seek(0)
        _write(self._file, self._header())
        self._file.seek(0, os.SEEK_END)
        self._synced = self.n_columns

    def close(self) -> None:
        """Finish the file; may be called more than once."""
        if self._file is not None:
            try:
                self.sync()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close the file as it is: it holds the columns of the last :meth:`sync`."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._waiting.clear()

    def _write_waiting(self) -> None:
        assert self._file is not None
        _write(self._file, self._waiting)
        self._waiting.clear()

    def _header(self) -> bytes:
        shape = f"({self.n_columns},)" if self._n_rows is None else f"({self._n_rows}, {self.n_columns})"
        order = self._n_rows is not None
        text = f"{{'descr': {self._dtype.str!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
        length = _HEADER_BYTES - 10
        return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


def _write(file: RawIOBase, data: bytes | bytearray) -> None:
    """Write all of it; a raw file may take less at once."""
    with memoryview(data) as view:
        done = 0
        while done < len(data):
            done += file.write(view[done:]) or 0

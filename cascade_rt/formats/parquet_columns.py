"""Columns of a Parquet file as a matrix whose slices are read from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError

from .extras import require

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ParquetColumns", "open_parquet"]


def open_parquet(path: Path, stack: ExitStack) -> Any:
    """Open a Parquet file; ``stack`` closes it.

    Raises
    ------
    InputError
        The package pyarrow is missing.
    FileFormatError
        It is not Parquet, or truncated.
    """
    parquet = require("pyarrow.parquet", "tables", "reading Parquet files")
    try:
        return stack.enter_context(parquet.ParquetFile(path))
    except Exception as error:
        size = path.stat().st_size
        raise FileFormatError(f"{path}: not a readable Parquet file ({size} bytes): {error}") from error


class ParquetColumns:
    """Columns as rows: (n_columns, n_rows), read when sliced.

    Parameters
    ----------
    path : Path
    file : pyarrow.parquet.ParquetFile
    names : list of str
        Of the columns.
    text : bool
        Columns may hold text; only for :meth:`labels`.
    """

    ndim = 2

    def __init__(self, path: Path, file: Any, names: list[str], *, text: bool = False) -> None:
        self._path = path
        self._file = file
        self._names = names
        types = require("pyarrow", "tables", "reading Parquet files").types
        single = True
        for name in names:
            kind = file.schema_arrow.field(name).type
            if not text and not (types.is_floating(kind) or types.is_integer(kind)):
                raise FileFormatError(f"{path}: column {name!r} holds {kind}: expected numbers")
            single &= bool(types.is_float32(kind) or types.is_float16(kind))
        self.dtype = np.dtype(np.float32 if single else np.float64)
        metadata = file.metadata
        self._edges = np.cumsum([0, *(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))])
        self.shape = (len(names), int(self._edges[-1]))
        #: What is read together: a column of a group of rows.
        self.chunks = (1, max(1, int(np.diff(self._edges).max(initial=0))))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, columns = key
        names = [self._names[row] for row in np.atleast_1d(np.arange(self.shape[0])[rows])]
        start, stop, step = columns.indices(self.shape[1])
        first = int(np.searchsorted(self._edges, start, side="right")) - 1
        last = int(np.searchsorted(self._edges, stop, side="left"))
        table = self._read(list(range(first, last)), names)
        base = int(self._edges[first])
        out = np.empty((len(names), len(range(start, stop, step))), self.dtype)
        for place, name in enumerate(names):
            # A value that is missing becomes NaN, in columns of integers too.
            values = np.asarray(table.column(name).to_numpy(), self.dtype)
            out[place] = values[start - base : stop - base : step]
        return out

    def labels(self) -> tuple[int | str, ...]:
        """The values of the first column, as names or numbers."""
        found = self._read(list(range(len(self._edges) - 1)), self._names[:1]).column(self._names[0]).to_pylist()
        return tuple(item if isinstance(item, int) else str(item) for item in found)

    def _read(self, groups: list[int], names: list[str]) -> Any:
        try:
            return self._file.read_row_groups(groups, columns=names)
        except Exception as error:
            raise FileFormatError(f"{self._path}: cannot be read, the file is damaged: {error}") from error

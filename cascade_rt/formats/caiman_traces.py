"""Fluorescence of CaImAn's components with the level of their background, computed when it is sliced."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.lazy import LazyMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Background", "Fluorescence", "read_sparse", "to_sparse"]

#: Values of the background computed at a time.
BLOCK = 8_000_000


class Background(NamedTuple):
    """The background of each component: ``weights @ temporal``."""

    weights: NDArray[np.float64]
    temporal: NDArray[np.float64]


class Fluorescence(LazyMatrix):
    """Fluorescence of components, the slow level of their background included, computed when sliced.

    Parameters
    ----------
    *stored : h5py.Dataset, (n_components, n_frames)
        Added up.
    scale : ndarray, (n_components,)
    background : Background or None
    block_frames : int
        Frames over which the background is summarised by its median.
    n_frames : int
    """

    def __init__(
        self,
        *stored: Any,
        scale: NDArray[np.float64],
        background: Background | None,
        block_frames: int,
        n_frames: int,
    ) -> None:
        super().__init__(*stored, n_frames=n_frames)
        self.dtype = np.result_type(self.dtype, np.float32)
        self._scale = scale
        self._background = background
        self._block_frames = block_frames

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        values = super().__getitem__(key)
        if not isinstance(rows, slice) and not np.ndim(rows):
            return values  # read as a slice of one row, so by way of what follows
        chosen = np.arange(self.shape[0])[rows]
        scaled: NDArray[Any] = values * self._scale[chosen, None]
        if self._background is not None and scaled.size:
            centres, levels = self._levels
            frames = np.arange(self.shape[1])[columns]
            for row, component in zip(scaled, chosen, strict=True):
                row += np.interp(frames, centres, levels[component])
        return scaled.astype(self.dtype, copy=False)

    @cached_property
    def _levels(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of pieces of the recording, and the median of each component's background there."""
        assert self._background is not None
        weights, temporal = self._background
        n_frames = self.shape[1]
        n_pieces = max(1, round(n_frames / self._block_frames))
        edges = np.linspace(0, n_frames, n_pieces + 1).astype(int)
        levels = np.empty((self.shape[0], n_pieces))
        for piece, (start, stop) in enumerate(pairwise(edges.tolist())):
            step = max(1, BLOCK // max(1, stop - start))
            for row in range(0, self.shape[0], step):
                values = weights[row : row + step] @ temporal[:, start:stop]
                levels[row : row + step, piece] = np.median(values, axis=1)
        return (edges[:-1] + edges[1:] - 1) / 2, levels


def read_sparse(stored: Any) -> Any:
    """Read a matrix, sparse (a group with data, indices, indptr and shape) or not, as a sparse one; None if missing."""
    from scipy import sparse

    if stored is None:
        return None
    if hasattr(stored, "keys"):
        if not {"data", "indices", "indptr", "shape"} <= set(stored):
            return None
        shape = tuple(int(n) for n in stored["shape"][...])
        parts = tuple(stored[name][...] for name in ("data", "indices", "indptr"))
        # By columns; rows only where the pointers can be nothing else.
        make = sparse.csc_matrix if parts[2].size == shape[1] + 1 else sparse.csr_matrix
        return make(parts, shape=shape).tocsc()
    if len(stored.shape) != 2 or 0 in stored.shape or stored.dtype.kind not in "fiu":
        return None
    return to_sparse(np.asarray(stored[...], np.float64))


def to_sparse(values: NDArray[np.float64]) -> Any:
    """Return an array as a sparse matrix, by columns."""
    from scipy import sparse

    return sparse.csc_matrix(values)

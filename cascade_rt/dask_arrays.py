"""Arrays of dask: what is done with each block of neurons is planned, and computed when the result is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_noise_levels
from .errors import InputError
from .lazy import BLOCK_VALUES, MOST_BLOCK_VALUES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["is_dask", "over_blocks"]


def is_dask(values: Any) -> bool:
    """Whether it is an array of dask; imports nothing."""
    return type(values).__module__.startswith("dask.array")


def over_blocks(dff: Any, noise_levels: Any, compute: Callable[..., NDArray[np.float32]]) -> Any:
    """Plan a computation on blocks of neurons, each over all frames.

    Parameters
    ----------
    dff : dask.array.Array, (n_neurons, n_frames)
    noise_levels : array_like, (n_neurons,), optional
        ν of each neuron; by default ``compute`` measures it.
    compute : callable
        Called as ``compute(block, noise_levels=…)``; gives float32 of the same shape. On a cluster it is pickled.

    Returns
    -------
    dask.array.Array, (n_neurons, n_frames), float32
    """
    da: Any = import_module("dask.array")

    if dff.ndim != 2 or dff.dtype.kind not in "fiu":
        raise InputError(f"dff is {dff.dtype} of shape {dff.shape}: expected real numbers, (n_neurons, n_frames)")
    n_neurons, n_frames = dff.shape
    if np.isnan(n_neurons) or np.isnan(n_frames):
        raise InputError("dff has chunks of unknown size: call its compute_chunk_sizes() first")
    rows = max(dff.chunks[0])
    if not BLOCK_VALUES // 8 <= rows * n_frames <= MOST_BLOCK_VALUES:
        rows = max(1, BLOCK_VALUES // n_frames)
    dff = dff.rechunk({0: rows, 1: -1})
    if noise_levels is None:
        return dff.map_blocks(compute, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    nu = da.from_array(check_noise_levels(noise_levels, n_neurons)[:, None], chunks=(dff.chunks[0], 1))

    return da.map_blocks(
        _with_levels, dff, nu, compute=compute, dtype=np.float32, chunks=dff.chunks, meta=np.empty((0, 0), np.float32)
    )


def _with_levels(
    block: NDArray[Any], nu: NDArray[np.float64], *, compute: Callable[..., NDArray[np.float32]]
) -> NDArray[np.float32]:
    return compute(block, noise_levels=nu[:, 0])

"""How kernels are compiled, and spread over cores."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from numba.core import config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_F = TypeVar("_F", bound="Callable[..., Any]")

#: Threads allowed, and whether numba is switched off (for coverage).
_THREADS = int(getattr(config, "NUMBA_NUM_THREADS", 1))
_INTERPRETED = bool(getattr(config, "DISABLE_JIT", False))

#: Array elements below which threads cost more than they save.
SMALL = 200_000


def compiled(function: _F) -> _F:
    return cast("_F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_loosely(function: _F) -> _F:
    """Let sums be reordered, for vector instructions; NaN keeps its meaning."""
    loosely = {"reassoc", "contract", "nsz"}
    return cast("_F", numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=loosely)(function))


def over_rows(kernel: Callable[..., None], per_row: Sequence[NDArray[Any]], shared: tuple[Any, ...] = ()) -> None:
    """Call ``kernel(*per_row, *shared)`` on blocks of rows, on all cores if the arrays are large.

    Parameters
    ----------
    kernel : callable
        Writes into some of its arrays; must treat rows independently.
    per_row : sequence of ndarray
        Arrays whose first axis is the row; the size of the first decides whether threads are worth while.
    shared : tuple
        Arguments that every block gets unchanged.

    Notes
    -----
    The environment variable ``NUMBA_NUM_THREADS`` limits the number of threads.
    """
    n_rows, size = per_row[0].shape[0], per_row[0].size
    threads = min(_THREADS, n_rows)
    if threads <= 1 or size < SMALL or _INTERPRETED:
        # Compiled code does not warn of infinities either.
        with np.errstate(all="ignore"):
            kernel(*per_row, *shared)
        return
    from concurrent.futures import ThreadPoolExecutor

    # Several blocks for each thread, as some neurons cost more than others.
    edges = np.unique(np.linspace(0, n_rows, 8 * threads + 1).astype(int))
    with ThreadPoolExecutor(threads) as pool:
        blocks = [
            pool.submit(kernel, *(array[start:stop] for array in per_row), *shared) for start, stop in pairwise(edges)
        ]
        for block in blocks:
            block.result()

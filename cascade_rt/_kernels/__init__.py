"""Compiled loops: plain arrays in and out, no checks. Each has a slow numpy twin in the tests.

Kernels run on blocks of rows (neurons) without the interpreter's lock; :func:`over_rows` spreads them over cores.
They do not use numba's own threads: those abort the process when two Python threads enter (workqueue layer) or after
a fork (GNU OpenMP), and spin beside onnxruntime's.
"""

from __future__ import annotations

from .baseline import delta_rows, moving_rank_rows, running_delta_rows
from .compiling import over_rows
from .spikes import discretize_rows
from .traces import absolute_differences, fluorescence_rows, median_rows, smooth_rows, threshold_rows

__all__ = [
    "absolute_differences",
    "delta_rows",
    "discretize_rows",
    "fluorescence_rows",
    "median_rows",
    "moving_rank_rows",
    "over_rows",
    "running_delta_rows",
    "smooth_rows",
    "threshold_rows",
]

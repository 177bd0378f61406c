"""Bring a recording to another frame rate."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rebin", "resample"]

#: Largest numerator and denominator of the ratio of two frame rates.
_LARGEST = 1000
#: Values handled at a time.
_BLOCK = 2_000_000


def resample(dff: Any, *, frame_rate_hz: float, new_rate_hz: float) -> tuple[NDArray[np.float32], float]:
    """Resample traces with an anti-aliasing filter; the first frames of both recordings are at the same time.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames)
        ΔF/F. Not modified.
    frame_rate_hz : float
        Its frame rate.
    new_rate_hz : float
        The frame rate wanted.

    Returns
    -------
    (ndarray, (n_neurons, n_new), float32, float)
        The traces, and their exact frame rate (Hz): the ratio of the rates is taken as a fraction of numbers up
        to 1000, so it may differ by up to 0.1 % from the one wanted. A new frame is NaN if the old frame nearest
        to it is not finite.

    Raises
    ------
    InputError
        If a rate is not positive, or they differ more than 50-fold.
    """
    from scipy.signal import resample_poly

    if not all(math.isfinite(rate) and rate > 0 for rate in (frame_rate_hz, new_rate_hz)):
        raise InputError(f"frame rates of {frame_rate_hz} and {new_rate_hz} Hz: expected positive numbers")
    ratio = Fraction(new_rate_hz / frame_rate_hz).limit_denominator(_LARGEST)
    if not Fraction(1, 50) <= ratio <= 50:
        raise InputError(
            f"from {frame_rate_hz:g} to {new_rate_hz:g} Hz: expected rates that differ less than 50-fold; "
            "choose a model nearer to the recording's frame rate"
        )
    up, down = ratio.numerator, ratio.denominator
    n_neurons, n_frames = dff.shape
    n_new = -(-n_frames * up // down)
    out = np.empty((n_neurons, n_new), np.float32)
    nearest = np.minimum((2 * np.arange(n_new) * down + up) // (2 * up), n_frames - 1)
    block = max(1, _BLOCK // n_frames)
    for start in range(0, n_neurons, block):
        rows = slice(start, start + block)
        part = np.array(dff[rows], np.float32)
        bad = ~np.isfinite(part)
        for trace, gaps in zip(part, bad, strict=True):
            if gaps.any():
                trace[gaps] = (
                    np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), trace[~gaps]) if not gaps.all() else 0
                )
        out[rows] = resample_poly(part, up, down, axis=1, padtype="edge")
        out[rows][bad[:, nearest]] = np.nan
    return out, frame_rate_hz * up / down


def rebin(spike_prob: Any, *, frame_rate_hz: float, new_rate_hz: float, n_frames: int) -> NDArray[np.float32]:
    """Bring spike probabilities to another frame rate: each new frame gets the spikes expected in its time.

    Parameters
    ----------
    spike_prob : ndarray, (n_neurons, n_old)
        Expected spikes per frame, the first at the same time as the first new one. Not modified.
    frame_rate_hz, new_rate_hz : float
        Old and new frame rate.
    n_frames : int
        Number of new frames.

    Returns
    -------
    ndarray, (n_neurons, n_frames), float32
        Sums over time are kept. NaN where a part of the new frame is undefined.
    """
    n_neurons, n_old = spike_prob.shape
    # A frame reaches half its length to both sides of its time.
    old_edges = (np.arange(n_old + 1) - 0.5) / frame_rate_hz
    new_edges = (np.arange(n_frames + 1) - 0.5) / new_rate_hz
    out = np.empty((n_neurons, n_frames), np.float32)
    # Differences of sums this small are rounding.
    touched = 1e-6 * min(1.0, frame_rate_hz / new_rate_hz)
    for row, values in zip(out, spike_prob, strict=True):
        known = np.isfinite(values)
        total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0), dtype=np.float64)])
        missing = np.concatenate([[0.0], np.cumsum(~known, dtype=np.float64)])
        row[:] = np.diff(np.interp(new_edges, old_edges, total))
        row[np.diff(np.interp(new_edges, old_edges, missing)) > touched] = np.nan
    outside = (new_edges[:-1] < old_edges[0] - 1e-9) | (new_edges[1:] > old_edges[-1] + 1e-9)
    out[:, outside] = np.nan
    return out

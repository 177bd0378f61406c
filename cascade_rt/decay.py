"""How fast the transients of a recording decay, and whether an indicator can be that fast or slow.

A frame rate that is wrong by a large factor shows in it: at twice the true rate, everything seems to last half as long.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HalfDecay", "measure_half_decay", "plausible_half_decay"]

#: Part of the recording looked at, (neurons, frames).
LOOK = (64, 16_384)
#: Frames are averaged as long as at least this rate (Hz) remains.
FASTEST_HZ = 30.0
#: A transient rises by this many median differences over two frames.
RISE = 8.0
#: After this time (s) another may begin; its peak is looked for within this time (s).
PAUSE_S, PEAK_S = 0.3, 0.15
#: Time (s) before the rise that is taken for its level.
BEFORE_S = 0.3

#: Half-decay times (s), the least and the most, that medians over the neurons of a dataset had in the ground truth at
#: 7.5 to 60 Hz, and simulated recordings.
_PLAUSIBLE = (
    (r"gcamp8f|gc8f", 0.045, 0.14),
    (r"gcamp8m|gc8m", 0.055, 0.14),
    (r"gcamp8s|gc8s", 0.13, 0.25),
    (r"gcamp8|gc8", 0.045, 0.25),
    (r"gcamp[67]f|gc[67]f", 0.09, 0.75),
    (r"gcamp[67]s|gc[67]s", 0.25, 1.45),
    (r"gcamp[567]|gc[567]", 0.09, 1.45),
    (r"rcamp", 0.23, 0.95),
    (r"ogb|oregongreen|cal520|dye", 0.25, 0.9),
)


class HalfDecay(NamedTuple):
    """Median time (s) in which transients fall to half of their height, and the number of transients."""

    seconds: float
    n_transients: int


def measure_half_decay(dff: Any, *, frame_rate_hz: float) -> HalfDecay:
    """Measure the decay of large transients in a part of a recording.

    Parameters
    ----------
    dff : Matrix, (n_neurons, n_frames)
    frame_rate_hz : float
        Frames per second.

    Returns
    -------
    HalfDecay
        NaN seconds if there is no transient that falls to half of its height before the next begins.
    """
    n_neurons, n_frames = dff.shape
    step = max(1, -(-n_neurons // LOOK[0]))
    start = max(0, (n_frames - LOOK[1]) // 2)
    part = np.array(dff[0:n_neurons:step, start : start + LOOK[1]], np.float64)
    # Noise of fast recordings would be taken for transients.
    together = max(1, int(frame_rate_hz / FASTEST_HZ))
    part = part[:, : part.shape[1] // together * together].reshape(part.shape[0], -1, together).mean(axis=2)
    rate = frame_rate_hz / together
    found = [_half_times(row, rate) for row in part]
    times = np.concatenate(found) if found else np.empty(0)
    return HalfDecay(float(np.median(times)) / rate if times.size else float("nan"), int(times.size))


def plausible_half_decay(indicator: str) -> tuple[float, float] | None:
    """Least and largest half-decay (s) seen with an indicator, or with a family of which the name is a part.

    Parameters
    ----------
    indicator : str
        Such as ``GCaMP6s`` or ``GCaMP8``.

    Returns
    -------
    (float, float) or None
        None for indicators of which there is no ground truth.
    """
    plain = re.sub("[^a-z0-9]", "", indicator.lower())
    return next(((low, high) for pattern, low, high in _PLAUSIBLE if re.search(pattern, plain)), None)


def _half_times(trace: NDArray[np.float64], frame_rate_hz: float) -> NDArray[np.float64]:
    """Frames from the peak of each large transient to half of its height."""
    trace = trace[np.isfinite(trace)]
    if trace.size < 16:
        return np.empty(0)
    typical = float(np.median(np.abs(np.diff(trace))))
    if typical <= 0:
        return np.empty(0)
    rises = np.flatnonzero(trace[2:] - trace[:-2] > RISE * typical) + 2
    pause, reach = max(2, round(PAUSE_S * frame_rate_hz)), max(2, round(PEAK_S * frame_rate_hz) + 1)
    before = max(2, round(BEFORE_S * frame_rate_hz))
    starts, peaks, free = [], [], 0
    for rise in rises.tolist():
        if rise >= free:
            peak = rise + int(np.argmax(trace[rise : rise + reach]))
            starts.append(rise - 2)
            peaks.append(peak)
            free = peak + pause
    out = []
    for start, peak, following in zip(starts, peaks, [*starts, trace.size][1:], strict=True):
        level = float(np.median(trace[max(0, start - before) : start + 1]))
        half = level + 0.5 * (trace[peak] - level)
        # Two frames, since one may be low by noise.
        below = np.flatnonzero(np.maximum(trace[peak : following - 1], trace[peak + 1 : following]) < half)
        if below.size and below[0] > 0:
            k = int(below[0])
            over, under = trace[peak + k - 1], trace[peak + k]
            out.append(k - 1 + (over - half) / (over - under))
    return np.array(out)

"""What the networks learn: spikes counted per frame and smoothed.

Frame ``t`` of a trace stands for the time from half a frame before to half a frame after its time stamp; a spike
belongs to the frame within which it fell (the nearest stamp). Nothing here shifts: the Gaussian has its maximum
in the spike's own frame. The kernels are those of :mod:`cascade_rt.smoothing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cascade_rt.errors import TrainingError
from cascade_rt.smoothing import smooth_spikes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bin_spikes", "smooth_spikes"]


def bin_spikes(spike_times_s: NDArray[np.float64], frame_times_s: NDArray[np.float64]) -> NDArray[np.float32]:
    """Count the spikes of each frame.

    Parameters
    ----------
    spike_times_s : ndarray, (n_spikes,)
    frame_times_s : ndarray, (n_frames,)
        Middle of each frame, increasing (s).

    Returns
    -------
    ndarray, (n_frames,), float32
        Spikes before the first and after the last frame are not counted.
    """
    if frame_times_s.size < 2:
        raise TrainingError(f"{frame_times_s.size} frames: expected at least 2, to know how long a frame is")
    inner = 0.5 * (frame_times_s[1:] + frame_times_s[:-1])
    first = frame_times_s[0] - (inner[0] - frame_times_s[0])
    last = frame_times_s[-1] + (frame_times_s[-1] - inner[-1])
    edges = np.concatenate([[first], inner, [last]])
    frame = np.searchsorted(edges, np.asarray(spike_times_s, np.float64), side="right") - 1
    inside = (frame >= 0) & (frame < frame_times_s.size)
    return np.bincount(frame[inside], minlength=frame_times_s.size).astype(np.float32)

"""What the times of frames tell: the frame rate, and frames that were dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sampling", "sampling_of"]

#: Parts of an interval by which times may be off and still belong to a frame.
JITTER = 0.25
#: Intervals from which a gap is a pause, which need not be a multiple of the others.
PAUSE = 10


class Sampling(NamedTuple):
    """What was found out about the times of frames.

    Parameters
    ----------
    frame_rate_hz : float or None
    frames : ndarray, (n_frames,), int64, or None
        Index of each frame, counting those that were dropped; None: none was, or it cannot be told which.
    problems : tuple of str
    """

    frame_rate_hz: float | None
    frames: NDArray[np.int64] | None
    problems: tuple[str, ...]


def sampling_of(times_s: Any, what: str) -> Sampling:
    """Find frame rate and dropped frames from the times of frames.

    Parameters
    ----------
    times_s : array_like, (n_frames,)
        Seconds.
    what : str
        Where they are from, for the sentences.
    """
    times = np.asarray(times_s, np.float64)
    if times.size < 2 or not np.isfinite(times).all():
        return Sampling(None, None, (f"{what}: times are missing, so they tell no frame rate",))
    intervals = np.diff(times)
    if not (intervals > 0).all():
        where = int(np.flatnonzero(intervals <= 0)[0]) + 1
        return Sampling(None, None, (f"{what}: times do not increase at frame {where}, so they tell no frame rate",))
    typical = float(np.median(intervals))
    # The mean is not misled by times that were rounded, to milliseconds for example.
    typical = float(intervals[np.abs(intervals - typical) <= JITTER * typical].mean())
    steps = np.round(intervals / typical)
    if ((np.abs(intervals / typical - steps) > JITTER) & (steps < PAUSE)).any() or (steps < 1).any():
        longest = float(intervals.max()) / typical
        return Sampling(
            1 / typical,
            None,
            (
                f"{what}: intervals between frames vary, up to {longest:.1f} times the typical {typical * 1000:.1f} "
                "ms; the frames are treated as evenly spaced",
            ),
        )
    index = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    rate = float(index[-1] / (times[-1] - times[0]))
    n_missing = int(index[-1]) + 1 - index.size
    if not n_missing:
        return Sampling(rate, None, ())
    return Sampling(
        rate, index, (f"{what}: {n_missing} frames are missing, by the times of the others; their place is kept",)
    )

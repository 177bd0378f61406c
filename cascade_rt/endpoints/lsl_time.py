"""Times of samples: which are missing, and when a frame was. Nothing here knows LSL itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.chunks import SpikeChunk

    Sample = tuple[NDArray[np.float64], float, float, int]

__all__ = ["FrameTimes", "LossFinder"]

#: Frames by which a sample may be late before one before it may be missing.
LATE_FRAMES = 0.5
#: How long it may stay open whether samples are missing or only late (frames).
DECIDE_FRAMES = 2.0


class LossFinder:
    """Tells from the times of samples whether some before them were lost.

    A jump in time has two causes: samples were lost, or the sender was held up and catches up in a burst. The latter
    is betrayed by the samples that follow: they come faster than the rate. So a sample after a jump is held until the
    next ones have shown which it was, at most for two frames.

    Parameters
    ----------
    rate_hz : float
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate = rate_hz
        self._before: float | None = None
        self._held: list[tuple[NDArray[np.float64], float, float]] = []
        self._late: list[float] = []

    def add(self, sample: NDArray[np.float64], t: float, t_recv: float) -> list[Sample]:
        """Take a sample; returns those that are certain: sample, time, receive time, number lost before it."""
        if self._before is None:
            self._before = t
            return [(sample, t, t_recv, 0)]
        late = (t - self._before) * self._rate - (len(self._held) + 1)
        self._held.append((sample, t, t_recv))
        self._late.append(late)
        if late <= LATE_FRAMES:
            return self._release(0)
        catching_up = len(self._late) == 1 or late < self._late[-2] - LATE_FRAMES
        return [] if catching_up else self._release(round(min(self._late)))

    def settle(self, now: float) -> list[Sample]:
        """Decide what is held if nothing has followed for long enough; ``now`` on the clock of ``t_recv``."""
        if not self._held or (now - self._held[-1][2]) * self._rate < DECIDE_FRAMES:
            return []
        return self._release(round(min(self._late)))

    def _release(self, lost: int) -> list[Sample]:
        released = [(sample, t, t_recv, lost if n == 0 else 0) for n, (sample, t, t_recv) in enumerate(self._held)]
        self._before = self._held[-1][1]
        self._held, self._late = [], []
        return released


class FrameTimes:
    """Times of the frames that results describe.

    Parameters
    ----------
    rate_hz : float
    offset : float
        Added to the times found (s), to bring them to the clock of the receiver.
    of_source : bool
        Take the source's times; otherwise those of receiving.
    """

    def __init__(self, rate_hz: float, *, offset: float, of_source: bool) -> None:
        self._rate = rate_hz
        self._offset = offset
        self._of_source = of_source
        self._anchor: tuple[int, float] | None = None

    def of(self, chunk: SpikeChunk, *, now: float) -> list[float]:
        """Return the time of each frame of a chunk (s).

        The chunk's own time belongs to the newest frame that was used. Where it has none (frames that were filled in,
        the end), the times go on from the last one; ``now`` is used where there was none before.
        """
        newest = chunk.first_frame + chunk.n_frames - 1 + chunk.lookahead_frames
        t = chunk.t_source if self._of_source else chunk.t_recv
        if t is not None:
            self._anchor = newest, t + self._offset
        if self._anchor is None:
            self._anchor = newest, now
        frame, t_frame = self._anchor
        first = chunk.first_frame
        return [t_frame + (first + n - frame) / self._rate for n in range(chunk.n_frames)]

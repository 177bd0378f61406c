"""Loops over traces: noise levels, smoothing, thresholds, simulated fluorescence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .compiling import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled
def _median(values: NDArray[np.float32], n: int, scratch: NDArray[np.uint32]) -> float:
    """Median of the first ``n >= 1`` values, which are not negative nor NaN; ``scratch`` is room for ``n``.

    The bits of such numbers order as the numbers do. So the histogram of their upper 12 bits tells which values share
    these bits with the median, the next 12 bits which of those, and the last 8 bits leave equal ones.
    """
    scratch[:n] = values[:n].view(np.uint32)
    middle = n // 2
    rank, left = middle, n
    for shift in (20, 8, 0):
        histogram = np.zeros(4096, np.int64)
        width = 4095 if shift else 255
        for t in range(left):
            histogram[(scratch[t] >> shift) & width] += 1
        bucket = 0
        while histogram[bucket] <= rank:
            rank -= histogram[bucket]
            bucket += 1
        kept = 0
        for t in range(left):
            if (scratch[t] >> shift) & width == bucket:
                scratch[kept] = scratch[t]
                kept += 1
        left = kept
    upper = scratch[:1].view(np.float32)[0]
    if n % 2:
        return float(upper)
    lower, smaller = np.float32(0), 0
    for t in range(n):
        if values[t] < upper:
            smaller += 1
            lower = max(lower, values[t])
    return float(upper) if smaller < middle else 0.5 * (float(lower) + float(upper))


@compiled
def median_rows(values: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    """Median of the non-NaN entries of each row (n, m), none negative; NaN where there is none."""
    buffer, scratch = np.empty(values.shape[1], np.float32), np.empty(values.shape[1], np.uint32)
    for i in range(values.shape[0]):
        n = 0
        for t in range(values.shape[1]):
            value = values[i, t]
            if value == value:
                buffer[n] = value
                n += 1
        out[i] = _median(buffer, n, scratch) if n else np.nan


@compiled
def absolute_differences(frames: NDArray[np.float64], last: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """|x[t] - x[t-1]| for rows (n, k), the frame before the first being ``last`` (n,); NaN where one is not finite.

    Leaves the newest frame in ``last``. Differences are rounded to single precision, which keeps a running tracker
    small and its result identical to the batch.
    """
    for i in range(frames.shape[0]):
        before = last[i]
        for t in range(frames.shape[1]):
            now = frames[i, t]
            difference = abs(now - before)
            out[i, t] = difference if np.isfinite(difference) else np.nan
            before = now
        last[i] = before


@compiled
def smooth_rows(
    counts: NDArray[np.float64], out: NDArray[np.float64], kernel: NDArray[np.float64], origin: int
) -> None:
    """Add ``kernel`` to ``out`` (n, frames) around each spike of ``counts`` (n, frames)."""
    n_frames = counts.shape[1]
    for i in range(counts.shape[0]):
        for s in range(n_frames):
            count = counts[i, s]
            if count != 0.0:
                start = s - origin
                for j in range(max(0, -start), min(kernel.size, n_frames - start)):
                    out[i, start + j] += count * kernel[j]


@compiled
def threshold_rows(
    prob: NDArray[np.float32], out: NDArray[np.float32], floor: float, reach: int, unknown_to_zero: bool
) -> None:
    """Keep what lies within ``reach`` frames of a value above ``floor``, negatives as 0; the rest becomes 0.

    NaN stays NaN, or becomes 0 outside of what is kept if ``unknown_to_zero``.
    """
    n_frames = prob.shape[1]
    for i in range(prob.shape[0]):
        kept_until = -1
        for t in range(n_frames):
            if prob[i, t] > floor:
                for s in range(max(t - reach, kept_until + 1, 0), min(t + reach + 1, n_frames)):
                    value = prob[i, s]
                    # NaN fails the comparison and is kept.
                    out[i, s] = np.float32(0) if value < 0 else value
                kept_until = t + reach
            elif t > kept_until:
                out[i, t] = np.nan if prob[i, t] != prob[i, t] and not unknown_to_zero else 0.0


@compiled
def fluorescence_rows(
    out: NDArray[np.float64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    gains: NDArray[np.float64],
    times: NDArray[np.float64],
    frame_s: float,
    substeps: int,
    rise_s: float,
    decays_s: tuple[float, float],
    weights: tuple[float, float],
    hill: float,
    half: float,
) -> None:
    """Mean over each frame's exposure of ``gain * c**hill / (c**hill + half)`` into ``out`` (n, frames).

    ``c`` is the sum of ``sum_k weights[k] * (exp(-t / decays_s[k]) - exp(-t * (1 / decays_s[k] + 1 / rise_s)))`` over
    the spikes; those of row ``i`` are ``times[starts[i]:stops[i]]``, ascending.
    """
    rates = np.array([1 / decays_s[0], 1 / decays_s[1], 1 / decays_s[0] + 1 / rise_s, 1 / decays_s[1] + 1 / rise_s])
    parts = np.array([weights[0], weights[1], -weights[0], -weights[1]])
    step = frame_s / substeps
    fade = np.exp(-rates * step)
    for i in range(out.shape[0]):
        level = np.zeros(4)
        spike = starts[i]
        for t in range(out.shape[1]):
            total = 0.0
            for u in range(substeps):
                now = t * frame_s + (u + 0.5) * step
                for k in range(4):
                    level[k] *= fade[k]
                while spike < stops[i] and times[spike] <= now:
                    for k in range(4):
                        level[k] += np.exp(-rates[k] * (now - times[spike]))
                    spike += 1
                c = 0.0
                for k in range(4):
                    c += parts[k] * level[k]
                if c > 0.0:
                    power = c**hill
                    total += power / (power + half)
            out[i, t] = gains[i] * total / substeps

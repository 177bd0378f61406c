"""How far from an isolated spike its bump in the spike probability lies, and how many are found.

An *isolated event* is a frame with spikes, or two neighbouring frames (a spike pair that straddles the border of
two frames), with no other spike within 0.5 s before and 0.3 s after, and never within 4 frames: the bumps of its
neighbours must not run into its own at low frame rates.

Its bump is the highest local maximum of the spike probability within 0.15 s (at least 2 frames) of where the
smoothed true spikes have theirs; both maxima are placed between frames by the parabola through three values. The
timing error is the difference between the two, so a perfect output has none, whatever the kernel: a causal kernel
has its maximum after the spike, and is compared with that. The true spikes are known to the frame that they fell
in, hence to half a frame either way; that is not part of the error.

An event is *detected* if its bump is higher than 1/e of the maximum that one spike gives. Local maxima of that
height more than 0.5 s from every true spike are false events: without their number, the share detected says little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cascade_rt.smoothing import spike_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FEWEST_EVENTS", "Timing", "TraceTiming", "isolated_events", "timing", "trace_timing"]

#: No other spike this long before and after an isolated event (s), nor within so many frames.
BEFORE_S, AFTER_S, APART_FRAMES = 0.5, 0.3, 4
#: Its bump is looked for this far from where it should be: the larger of the two.
SEARCH_S, SEARCH_FRAMES = 0.15, 2
#: A bump this far from every true spike (s) is a false event.
QUIET_S = 0.5
#: A neuron with fewer isolated events has no share detected, and with fewer detected ones no timing errors.
FEWEST_EVENTS = 5


class Timing(NamedTuple):
    """Timing of one neuron.

    Parameters
    ----------
    absolute_error_s, signed_error_s : float
        Medians over the detected events (s); positive where the bump is late.
    detected : float
        Share of the isolated events.
    false_per_min : float
        False events per minute without spikes.
    events : int
        Isolated events.
    """

    absolute_error_s: float
    signed_error_s: float
    detected: float
    false_per_min: float
    events: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceTiming:
    """Isolated events of one trace, for each look-ahead.

    Parameters
    ----------
    judged : ndarray, (n_lookaheads, n_events), bool
        The spike probability is defined around the event.
    error_s : ndarray, (n_lookaheads, n_events)
        Of its bump (s); NaN where it was not detected or not judged.
    false_events : ndarray, (n_lookaheads,)
    quiet_s : ndarray, (n_lookaheads,)
        Time far from every spike for which the spike probability is defined (s).
    """

    judged: NDArray[np.bool_]
    error_s: NDArray[np.float64]
    false_events: NDArray[np.int64]
    quiet_s: NDArray[np.float64]


def isolated_events(counts: NDArray[np.floating], frame_rate_hz: float) -> NDArray[np.intp]:
    """Find the isolated events of a trace.

    Parameters
    ----------
    counts : ndarray, (n_frames,)
        Spikes in each frame.
    frame_rate_hz : float

    Returns
    -------
    ndarray, (n_events, 2), int
        First and last frame of each (the same, or neighbours). Events too near the ends of the recording, beyond
        which there may be spikes, are left out.
    """
    frames = np.flatnonzero(np.asarray(counts) > 0)
    if not frames.size:
        return np.empty((0, 2), np.intp)
    breaks = np.flatnonzero(np.diff(frames) > 1)
    first, last = frames[np.append(0, breaks + 1)], frames[np.append(breaks, frames.size - 1)]
    before, after = (max(math.ceil(s * frame_rate_hz), APART_FRAMES) for s in (BEFORE_S, AFTER_S))
    since, until = first - np.append(-1, last[:-1]), np.append(first[1:], len(counts)) - last
    kept = (last - first <= 1) & (since > before) & (until > after)
    return np.stack([first[kept], last[kept]], axis=1)


def trace_timing(
    prediction: NDArray[np.floating],
    truth: NDArray[np.floating],
    counts: NDArray[np.floating],
    *,
    frame_rate_hz: float,
    smoothing_s: float,
    causal_kernel: bool = False,
) -> TraceTiming:
    """Find the bumps of the isolated events of one trace.

    Parameters
    ----------
    prediction : ndarray, (n_lookaheads, n_frames)
        Expected spikes per frame; NaN where undefined.
    truth, counts : ndarray, (n_frames,)
        True spikes, smoothed and as counts.
    frame_rate_hz, smoothing_s : float
    causal_kernel : bool
        What ``truth`` was smoothed with.
    """
    kernel, origin = spike_kernel(smoothing_s, frame_rate_hz, causal_kernel)
    threshold = float(kernel.max()) / math.e
    events = isolated_events(counts, frame_rate_hz)
    centre = np.rint(events.mean(axis=1) + int(kernel.argmax()) - origin).astype(np.intp)
    expected, _ = _highest(truth[None].astype(np.float64), centre, SEARCH_FRAMES)
    known = np.isfinite(expected[0])
    expected = expected[0, known]
    reach = max(int(SEARCH_S * frame_rate_hz + 1e-6), SEARCH_FRAMES)
    found, height = _highest(prediction.astype(np.float64), np.rint(expected).astype(np.intp), reach)
    error = np.where(height > threshold, found - expected, np.nan) / frame_rate_hz
    quiet = _quiet(counts, frame_rate_hz)[None] & np.isfinite(prediction)
    with np.errstate(invalid="ignore"):
        inner = prediction[:, 1:-1]
        bump = (inner > prediction[:, :-2]) & (inner >= prediction[:, 2:]) & (inner > threshold) & quiet[:, 1:-1]
    return TraceTiming(
        judged=~np.isnan(height),
        error_s=error,
        false_events=bump.sum(axis=1),
        quiet_s=quiet.sum(axis=1) / frame_rate_hz,
    )


def timing(traces: Sequence[TraceTiming]) -> list[Timing]:
    """Timing of one neuron from all its traces; one for each look-ahead.

    The share detected of fewer than :data:`FEWEST_EVENTS` events that could be judged, and the errors of fewer
    detected ones, are NaN.
    """
    judged = np.concatenate([t.judged for t in traces], axis=1)
    error = np.concatenate([t.error_s for t in traces], axis=1)
    false_events = np.sum([t.false_events for t in traces], axis=0)
    quiet_s = np.sum([t.quiet_s for t in traces], axis=0)
    out = []
    for row, of in enumerate(judged):
        events, errors = int(of.sum()), error[row, of & np.isfinite(error[row])]
        enough = errors.size >= FEWEST_EVENTS
        out.append(
            Timing(
                absolute_error_s=float(np.median(np.abs(errors))) if enough else np.nan,
                signed_error_s=float(np.median(errors)) if enough else np.nan,
                detected=errors.size / events if events >= FEWEST_EVENTS else np.nan,
                false_per_min=float(60 * false_events[row] / quiet_s[row]) if quiet_s[row] > 0 else np.nan,
                events=events,
            )
        )
    return out


def _highest(
    values: NDArray[np.float64], centre: NDArray[np.intp], reach: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Highest local maximum within ``reach`` frames of each centre.

    Returns
    -------
    position, height : ndarray, (n_rows, n_centres)
        Position in frames, between frames by a parabola. Without a maximum: position NaN, height -inf. Where a
        value near the centre is undefined or outside the trace, both are NaN.
    """
    n = values.shape[1]
    index = centre[:, None] + np.arange(-reach - 1, reach + 2)
    window = values[:, np.clip(index, 0, n - 1)]
    defined = np.isfinite(window).all(axis=2) & ((index[:, 0] >= 0) & (index[:, -1] < n))[None]
    left, middle, right = window[..., :-2], window[..., 1:-1], window[..., 2:]
    with np.errstate(invalid="ignore"):
        heights = np.where((middle > left) & (middle >= right), middle, -np.inf)
    best = heights.argmax(axis=2)[..., None]
    height = np.take_along_axis(heights, best, axis=2)[..., 0]
    a, b, c = (np.take_along_axis(part, best, axis=2)[..., 0] for part in (left, middle, right))
    peaked = defined & np.isfinite(height)
    bend = np.where(peaked, a - 2 * b + c, -1.0)
    position = centre[None] + best[..., 0] - reach + 0.5 * (a - c) / bend
    return np.where(peaked, position, np.nan), np.where(defined, height, np.nan)


def _quiet(counts: NDArray[np.floating], frame_rate_hz: float) -> NDArray[np.bool_]:
    """Frames farther than QUIET_S from every frame with a spike."""
    reach = max(math.ceil(QUIET_S * frame_rate_hz), APART_FRAMES)
    total = np.concatenate([[0], np.cumsum(np.asarray(counts) > 0)])
    n = len(counts)
    frame = np.arange(n)
    return np.asarray(total[np.minimum(frame + reach + 1, n)] == total[np.maximum(frame - reach, 0)])

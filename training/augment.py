"""Versions of recorded traces to learn from besides those recorded: an indicator that rises faster, a delay less.

An indicator's fluorescence rises with a time constant of its own, about 10 ms (GCaMP8) to 200 ms (GCaMP6s). A
network that has only seen slow ones places the spikes of a fast one too early, because it takes the delay of the
rise for granted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .ground_truth import Recording

__all__ = ["quickened", "without_lag"]


def quickened(recording: Recording, rise_s: float) -> Recording:
    """Return the recording as a faster indicator would have given it: x + rise dx/dt.

    This turns a rise 1 - exp(-t/rise) into a step and makes a slower one faster; noise grows with it.

    Parameters
    ----------
    recording : Recording
        Not written to.
    rise_s : float
        Time constant to take off the rise (s).
    """
    dff = recording.dff.astype(np.float64)
    faster = dff + rise_s * np.gradient(dff) * recording.frame_rate_hz
    return replace(recording, dff=faster.astype(np.float32))


def without_lag(recording: Recording, lags_s: Mapping[str, float]) -> Recording:
    """Take the delay that is given for the recording's dataset off its frame times.

    Parameters
    ----------
    recording : Recording
        Not written to.
    lags_s : mapping
        From a dataset's name or number ("DS15") to seconds; those not in it stay as they are.
    """
    lag = lags_s.get(recording.dataset, lags_s.get(recording.dataset.split("-")[0], 0.0))
    return replace(recording, frame_times_s=recording.frame_times_s - lag) if lag else recording

"""When the frames of a recording were: its frame rate, and frames that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.chunks import RATE_TOLERANCE
from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .recording import Recording

__all__ = ["Timeline", "frame_rate", "whole_timeline"]


def frame_rate(recording: Recording, given: float | None) -> float:
    """Frame rate of a recording (Hz): the one given, or else the one that the file tells.

    Parameters
    ----------
    recording : Recording
    given : float or None
        What the user said (Hz).

    Raises
    ------
    InputError
        Neither is there, or they are more than 5 % apart.
    """
    stored = recording.frame_rate_hz
    if given is None:
        if stored is None:
            raise InputError(f"{recording.path}: does not tell its frame rate; give it with --frame-rate HZ")
        return stored
    if stored is not None and abs(stored - given) > RATE_TOLERANCE * given:
        raise InputError(f"{recording.path} was recorded at {stored:g} Hz, --frame-rate says {given:g} Hz")
    return given


class Timeline:
    """Puts frames where they belong, so that what follows a gap is not joined to what precedes it.

    Parameters
    ----------
    frames : ndarray, (n_columns,), int64, or None
        Index of each column, ascending; None: none is missing.
    n_columns : int

    Attributes
    ----------
    first_frame : int
        Index of the first column.
    n_frames : int
        Frames from the first to the last, the missing ones included.
    n_missing : int
    """

    def __init__(self, frames: NDArray[np.int64] | None, n_columns: int) -> None:
        self.first_frame = 0 if frames is None else int(frames[0])
        self.n_frames = n_columns if frames is None else int(frames[-1]) - self.first_frame + 1
        self.n_missing = self.n_frames - n_columns
        self._columns = None if frames is None or not self.n_missing else frames - self.first_frame

    def place(self, columns: NDArray[Any]) -> NDArray[Any]:
        """Return (n_neurons, n_frames) with NaN where frames are missing; ``columns`` itself if none is."""
        if self._columns is None:
            return columns
        whole = np.full((columns.shape[0], self.n_frames), np.nan, np.float32)
        whole[:, self._columns] = columns
        return whole


def whole_timeline(recording: Recording) -> tuple[Any, int]:
    """ΔF/F of a recording with NaN where frames are missing.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    dff : ndarray or LazyMatrix, (n_neurons, n_frames)
        As stored, if no frame is missing.
    first_frame : int
        Index of its first column.
    """
    timeline = Timeline(recording.frames, recording.n_frames)
    return (timeline.place(recording.dff[:]) if timeline.n_missing else recording.dff), timeline.first_frame

"""What commands that read a finished recording share: its frame rate, its timeline, its noise levels as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.endpoints.recordings import Recording


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
    from cascade_rt.catalogue import fits_frame_rate

    stored = recording.frame_rate_hz
    if given is None:
        if stored is None:
            raise InputError(f"{recording.path}: does not tell its frame rate; give it with --frame-rate HZ")
        return stored
    if stored is not None and not fits_frame_rate(given, stored):
        raise InputError(f"{recording.path} was recorded at {stored:g} Hz, --frame-rate says {given:g} Hz")
    return given


def whole_timeline(recording: Recording) -> tuple[NDArray[Any], int]:
    """Put NaN where frames are missing, so that what follows a gap is not joined to what precedes it.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    dff : ndarray, (n_neurons, n_frames)
        As stored, if no frame is missing.
    first_frame : int
        Index of its first column.
    """
    import numpy as np

    frames = recording.frames
    if frames is None:
        return recording.dff, 0
    first, last = int(frames[0]), int(frames[-1])
    if last - first + 1 == frames.size:
        return recording.dff, first
    whole = np.full((recording.n_neurons, last - first + 1), np.nan, np.float32)
    whole[:, frames - first] = recording.dff
    return whole, first


def noise_histogram(nu: NDArray[np.float64], *, width: int = 40) -> list[str]:
    """Lines of a histogram of noise levels.

    Parameters
    ----------
    nu : ndarray, (n_neurons,)
        ν, % Hz^-1/2; NaN where unknown.
    width : int
        Characters of the longest bar.
    """
    import numpy as np

    known = nu[np.isfinite(nu)]
    if not known.size:
        return ["unknown for all neurons"]
    edges = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, np.inf])
    counts = np.histogram(known, edges)[0]
    lines = []
    used = np.flatnonzero(counts)
    for place in range(used[0], used[-1] + 1):
        low, high = edges[place], edges[place + 1]
        label = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
        bar = "#" * int(np.ceil(width * counts[place] / counts.max()))
        lines.append(f"{label:>10}  {bar} {counts[place]}".rstrip())
    return lines

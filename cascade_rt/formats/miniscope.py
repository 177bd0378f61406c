"""Times of frames as the Miniscope's acquisition programs write them, beside the video."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FrameTimes", "find_times"]

#: Names of the files, of the present program and of the older one.
NAMES = ("timeStamps.csv", "timestamp.dat")


class FrameTimes(NamedTuple):
    """What a file of times told.

    Parameters
    ----------
    path : Path
    times_s : ndarray, (n_frames,), or None
        Time of each frame asked for (s); None: the file does not tell them.
    problems : tuple of str
    """

    path: Path
    times_s: NDArray[np.float64] | None
    problems: tuple[str, ...]


def find_times(folder: Path, frames: NDArray[np.int64]) -> FrameTimes | None:
    """Look for times in a folder, in the one above, and in that of the Miniscope there.

    Parameters
    ----------
    folder : Path
    frames : ndarray, (n_frames,)
        Frames of the video, counted from 0.

    Returns
    -------
    FrameTimes or None
        None: there is no such file.
    """
    for place in (folder, folder.parent, folder.parent / "Miniscope", folder.parent / "My_V4_Miniscope"):
        for name in NAMES:
            if (place / name).is_file():
                return _read(place / name, frames)
    return None


def _read(path: Path, frames: NDArray[np.int64]) -> FrameTimes:
    separator = "," if path.suffix.lower() == ".csv" else None
    try:
        with path.open(encoding="utf-8-sig") as file:
            names = [name.strip().lower() for name in file.readline().split(separator)]
            values = np.loadtxt(file, np.float64, delimiter=separator, ndmin=2)
    except (OSError, ValueError) as error:
        return FrameTimes(path, None, (f"{path.name} cannot be read: {error}",))
    wanted = ("frame number", "time stamp (ms)") if path.suffix.lower() == ".csv" else ("framenum", "sysclock")
    if not set(wanted) <= set(names) or values.shape[1] < len(names):
        return FrameTimes(
            path, None, (f"{path.name} has the columns {', '.join(names)}: expected {' and '.join(wanted)}",)
        )
    numbers, clock = (values[:, names.index(name)] for name in wanted)
    chosen = (
        _camera(values[:, names.index("camnum")], numbers, frames) if "camnum" in names else np.arange(numbers.size)
    )
    if chosen is None:
        return FrameTimes(path, None, (f"{path.name}: several cameras, and which is the Miniscope's cannot be told",))
    # The older program counts from 1.
    numbers, clock = numbers[chosen] - (0 if path.suffix.lower() == ".csv" else 1), clock[chosen] / 1000
    order = np.argsort(numbers, kind="stable")
    numbers, clock = numbers[order], clock[order]
    places = np.searchsorted(numbers, frames)
    if numbers.size == 0 or places[-1] >= numbers.size or not np.array_equal(numbers[places], frames):
        return FrameTimes(
            path,
            None,
            (f"{path.name} has {numbers.size} frames, Minian's go to {int(frames[-1])}: not of this recording?",),
        )
    times = clock[places]
    # The clock of the first frame may not have been set yet.
    if times.size > 3 and not 0 < times[1] - times[0] < 10 * np.median(np.diff(times)):
        times[0] = times[1] - float(np.median(np.diff(times[1:])))
    return FrameTimes(path, times, ())


def _camera(
    cameras: NDArray[np.float64], numbers: NDArray[np.float64], frames: NDArray[np.int64]
) -> NDArray[np.intp] | None:
    """Rows of the camera whose number of frames is that of the recording, or the only one with enough."""
    rows = {int(camera): np.flatnonzero(cameras == camera) for camera in np.unique(cameras)}
    enough = [of for of in rows.values() if numbers[of].max() - 1 >= frames[-1]]
    exact = [of for of in enough if numbers[of].max() - 1 == frames[-1]]
    for candidates in (exact, enough):
        if len(candidates) == 1:
            return candidates[0]
    return None

"""Read recordings with known spikes, bring them to a frame rate, and add noise.

The files are MATLAB files of the CASCADE ground-truth database (``CAttached``: one struct for each
uninterrupted recording of one neuron). They are irregular; nothing is dropped in silence: whatever could not
be used as it stands is listed as a :class:`Problem`. A neuron is named by its file; where two files hold the same
recording, both say so (:attr:`training.recordings.Source.cell`), and :mod:`training.splits` keeps them on one side.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from cascade_rt.chunks import RATE_TOLERANCE
from cascade_rt.errors import TrainingError
from cascade_rt.noise import noise_levels

from .copies import shared_recordings
from .recordings import Problem, Recording, Source, Trace
from .splits import leave_one_dataset_out, split_neurons
from .targets import bin_spikes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Problem",
    "Recording",
    "Source",
    "Trace",
    "dataset_folders",
    "find_dataset",
    "leave_one_dataset_out",
    "neuron_files",
    "read_datasets",
    "read_files",
    "read_neuron",
    "resample",
    "resample_recordings",
    "split_neurons",
]

logger = logging.getLogger(__name__)

#: Spike times in the files are in units of 0.1 ms.
EVENTS_PER_SECOND = 1e4
#: Recordings with fewer frames than this are of no use to any network here.
SHORTEST_FRAMES = 16

#: What scipy raises for files that are truncated, of another format (NotImplementedError: MATLAB 7.3) or not MATLAB's.
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, EOFError, NotImplementedError, MatReadError, zlib.error)

Method = Literal["average", "fourier"]


def read_neuron(path: str | Path) -> tuple[list[Recording], list[Problem]]:
    """Read all recordings of one neuron.

    Parameters
    ----------
    path : str or Path
        A ``*_mini.mat`` file; its folder names the dataset.

    Returns
    -------
    recordings : list of Recording
    problems : list of Problem
        What was irregular, by file and recording. An unreadable file is one problem and no recordings.
    """
    path = Path(path)
    label = _label(path)
    try:
        cells = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=["CAttached"])["CAttached"]
    except _UNREADABLE as error:
        return [], [Problem(file=label, recording=None, what=f"not readable ({error})", action="skipped")]
    recordings: list[Recording] = []
    problems: list[Problem] = []
    for number, struct in enumerate(np.atleast_1d(cells)):
        pieces, found = _pieces(struct)
        problems += [Problem(file=label, recording=number, what=what, action=action) for what, action in found]
        recordings += [
            Recording(
                dataset=path.parent.name,
                neuron=_neuron(path),
                number=number,
                dff=dff,
                frame_times_s=times,
                spike_times_s=spikes,
            )
            for dff, times, spikes in pieces
        ]
    return recordings, problems


def dataset_folders(root: str | Path) -> dict[str, Path]:
    """Datasets in a ground-truth folder: name of the folder → its path.

    Raises
    ------
    TrainingError
        There is no such folder, or no dataset in it.
    """
    root = Path(root)
    folders = {p.name: p for p in sorted(root.iterdir()) if any(p.glob("*.mat"))} if root.is_dir() else {}
    if not folders:
        raise TrainingError(
            f"no ground-truth datasets in {root}: expected folders such as DS30-GCaMP8f-m-V1 with *_mini.mat files; "
            "give their folder with --ground-truth, or fetch the public ones: "
            "python -m training ground-truth --download FOLDER"
        )
    return folders


def neuron_files(folder: Path) -> list[Path]:
    """Files of a dataset, one for each neuron, in the order of their names."""
    return sorted(folder.glob("*.mat"))


def find_dataset(root: str | Path, name: str) -> Path:
    """Folder of the dataset ``name``: its whole name, or its number ("DS30")."""
    folders = dataset_folders(root)
    found = [p for n, p in folders.items() if n == name or n.split("-")[0] == name]
    if len(found) != 1:
        raise TrainingError(f"ground truth {name!r}: found {len(found)} in {root}; there are {', '.join(folders)}")
    return found[0]


def read_datasets(root: str | Path, names: Iterable[str]) -> tuple[list[Recording], list[Problem]]:
    """Read whole datasets, in the order of ``names`` and of their file names.

    Returns
    -------
    recordings : list of Recording
    problems : list of Problem
    """
    recordings, problems = read_files([path for name in names for path in neuron_files(find_dataset(root, name))])
    for problem in problems:
        logger.info("%s", problem)
    return recordings, problems


def read_files(
    paths: Sequence[Path], *, progress: Callable[[float], None] | None = None
) -> tuple[list[Recording], list[Problem]]:
    """Read neurons, and find out which files hold the same recording.

    Parameters
    ----------
    paths : sequence of Path
        One file for each neuron.
    progress : callable, optional
        Called with the part of the files that has been read.

    Returns
    -------
    recordings : list of Recording
        In the order of the files.
    problems : list of Problem
        Likewise.
    """
    recordings: list[Recording] = []
    problems: dict[tuple[str, str], list[Problem]] = {}
    labels: dict[tuple[str, str], str] = {}
    for done, path in enumerate(paths, start=1):
        key = (path.parent.name, _neuron(path))
        labels[key] = _label(path)
        found, problems[key] = read_neuron(path)
        recordings += found
        if progress is not None:
            progress(done / len(paths))
    same = shared_recordings(recordings)
    for key, original in same.items():
        what = f"holds the same recording as {labels[original]}"
        problems[key].append(Problem(file=labels[key], recording=None, what=what, action="joined"))
    joined = [replace(r, same_as=same.get((r.dataset, r.neuron))) for r in recordings]
    return joined, [problem for found in problems.values() for problem in found]


def resample(
    recording: Recording, frame_rate_hz: float, *, method: Method = "average", phase: float = 0.0
) -> Trace | None:
    """Bring a recording to a frame rate and count its spikes per frame.

    Rates within 5 % of the target are kept. To a lower rate, ``"average"`` integrates over each new frame, as a
    slower microscope would; to a higher one it interpolates linearly. ``"fourier"`` cuts the spectrum, as
    CASCADE does (the recording is mirrored at its ends, so that they do not ring).

    Parameters
    ----------
    recording : Recording
    frame_rate_hz : float
        Rate wanted.
    method : {"average", "fourier"}
    phase : float
        Start of the new frames, as a fraction of a new frame after the start of the recording, in [0, 1).

    Returns
    -------
    Trace or None
        None if fewer than 16 frames would be left.
    """
    native = recording.frame_rate_hz
    times, dff = recording.frame_times_s, recording.dff.astype(np.float64)
    if abs(native - frame_rate_hz) <= RATE_TOLERANCE * native:
        rate, middles, values = native, times, dff
    else:
        rate = frame_rate_hz
        if method == "fourier":
            middles, values = _fourier(times, dff, rate / native, phase / rate)
        else:
            middles, values = _average(times, dff, native, rate, phase)
    if middles.size < SHORTEST_FRAMES:
        return None
    values32 = values.astype(np.float32)
    return Trace(
        dataset=recording.dataset,
        neuron=recording.neuron,
        number=recording.number,
        same_as=recording.same_as,
        dff=values32,
        spike_counts=bin_spikes(recording.spike_times_s, middles),
        frame_rate_hz=rate,
        noise_level=float(noise_levels(values32[None], frame_rate_hz=rate)[0]),
    )


def resample_recordings(
    recordings: Iterable[Recording],
    frame_rate_hz: float,
    *,
    shortest_frames: int = SHORTEST_FRAMES,
    method: Method = "average",
    phase: float = 0.0,
) -> tuple[list[Trace], list[Problem]]:
    """Bring recordings to a frame rate, and say which of them are too short there.

    Parameters
    ----------
    recordings : iterable of Recording
    frame_rate_hz : float
    shortest_frames : int
        Frames that a network looks at: a trace with fewer is of no use to it.
    method, phase
        As in :func:`resample`.

    Returns
    -------
    traces : list of Trace
    problems : list of Problem
        One for each recording that was left out.
    """
    traces: list[Trace] = []
    problems: list[Problem] = []
    for recording in recordings:
        trace = resample(recording, frame_rate_hz, method=method, phase=phase)
        if trace is not None and trace.n_frames >= shortest_frames:
            traces.append(trace)
            continue
        what = f"{recording.duration_s:.1f} s are fewer than {shortest_frames} frames at {frame_rate_hz:g} Hz"
        file = f"{recording.dataset}/{recording.neuron}"
        problems.append(Problem(file=file, recording=recording.number, what=what, action="skipped"))
    return traces, problems


# ── reading ──


def _label(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _neuron(path: Path) -> str:
    return path.stem.removesuffix("_mini")


def _pieces(struct: Any) -> tuple[list[tuple[Any, Any, Any]], list[tuple[str, Any]]]:
    """Clean pieces (dff, times, spikes) of one recording, and what was irregular."""
    missing = [name for name in ("fluo_time", "fluo_mean", "events_AP") if not hasattr(struct, name)]
    if missing:
        return [], [(f"no field {', '.join(missing)}", "skipped")]
    try:
        times, dff, events = (
            np.atleast_1d(np.asarray(getattr(struct, name), np.float64)).ravel()
            for name in ("fluo_time", "fluo_mean", "events_AP")
        )
    except (TypeError, ValueError) as error:
        return [], [(f"fields that are not numbers ({error})", "skipped")]
    found: list[tuple[str, Any]] = []
    if dff.size != times.size:
        found.append((f"{dff.size} fluorescence values for {times.size} frame times", "trimmed"))
        n = min(dff.size, times.size)
        dff, times = dff[:n], times[:n]
    good = np.isfinite(dff) & np.isfinite(times)
    if int(good.sum()) < SHORTEST_FRAMES:
        return [], [*found, (f"only {int(good.sum())} usable frames", "skipped")]
    steps = np.diff(times[good])
    step = float(np.median(steps))
    if step <= 0 or steps.min() <= 0:
        return [], [*found, ("frame times that do not increase", "skipped")]
    shut = _shutter(dff[good])
    if shut:
        good[np.flatnonzero(good)[:shut]] = False
        found.append((f"{shut} dark frames at the start (shutter closed)", "trimmed"))
    index = np.flatnonzero(good)
    cuts = np.flatnonzero((np.diff(index) > 1) | (np.diff(times[index]) > 1.5 * step)) + 1
    parts = [part for part in np.split(index, cuts) if part.size >= SHORTEST_FRAMES]
    lost = dff.size - sum(part.size for part in parts) - shut
    if lost:
        found.append((f"{lost} frames without a value or a time", "trimmed"))
    if len(parts) > 1:
        found.append((f"gaps: {len(parts)} pieces", "split"))
    spikes = np.sort(events[np.isfinite(events)]) / EVENTS_PER_SECOND
    return [(dff[part].astype(np.float32), times[part], spikes) for part in parts], found


def _shutter(dff: NDArray[np.float64]) -> int:
    """Frames at the start that were taken before light reached the detector (at most 10)."""
    for n in range(1, min(11, dff.size)):
        head, after = dff[:n], dff[n]
        if head.max() >= -0.5:
            return 0
        if after - head.max() > 0.4:
            return n
    return 0


# ── resampling ──


def _average(
    times: NDArray[np.float64], dff: NDArray[np.float64], native: float, rate: float, phase: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    start, stop = times[0] - 0.5 / native, times[-1] + 0.5 / native
    n = int(np.floor((stop - start) * rate - phase + 1e-9))
    edges = start + (np.arange(n + 1) + phase) / rate
    middles = 0.5 * (edges[1:] + edges[:-1])
    if rate > native:
        return middles, np.interp(middles, times, dff)
    native_edges = np.concatenate([times - 0.5 / native, [stop]])
    integral = np.concatenate([[0.0], np.cumsum(dff * np.diff(native_edges))])
    return middles, np.diff(np.interp(edges, native_edges, integral)) * rate


def _fourier(
    times: NDArray[np.float64], dff: NDArray[np.float64], ratio: float, delay: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.signal import resample as fft_resample

    n = round(dff.size * ratio)
    step = (times[-1] - times[0]) / (dff.size - 1)
    mirrored = np.concatenate([dff, dff[::-1]])
    if delay:
        frequencies = np.fft.rfftfreq(mirrored.size, step)
        mirrored = np.fft.irfft(np.fft.rfft(mirrored) * np.exp(2j * np.pi * frequencies * delay), mirrored.size)
    values = np.asarray(fft_resample(mirrored, 2 * n))[:n]
    middles = times[0] + delay + np.arange(n) * step * dff.size / n
    keep = middles <= times[-1]
    return middles[keep], values[keep]

"""What a ground-truth folder holds: neurons, recordings, spikes, noise levels, and what is irregular in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.noise import noise_levels

from .ground_truth import dataset_folders, neuron_files, read_files, resample_recordings
from .targets import bin_spikes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .recordings import Problem, Recording

__all__ = ["Census", "summary", "take_census", "to_table", "total"]


#: Frames that a network looks at: shorter recordings are of no use to it.
WINDOW_FRAMES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Census:
    """One dataset, or all of them together.

    Parameters
    ----------
    name : str
    recordings : tuple of Recording
        Every usable piece.
    spikes : ndarray, (n_recordings,)
        Spikes within the frames of each.
    noise_levels : ndarray, (n_recordings,)
        ν of each at its own frame rate, % Hz^-1/2.
    problems : tuple of Problem
    """

    name: str
    recordings: tuple[Recording, ...]
    spikes: NDArray[np.float64]
    noise_levels: NDArray[np.float64]
    problems: tuple[Problem, ...]

    @property
    def neurons(self) -> list[tuple[str, str]]:
        """(dataset, neuron), in order."""
        return list(dict.fromkeys((r.dataset, r.neuron) for r in self.recordings))

    @property
    def durations_s(self) -> NDArray[np.float64]:
        """Length of each recording (s)."""
        return np.array([r.duration_s for r in self.recordings])

    @property
    def spike_rates_hz(self) -> NDArray[np.float64]:
        """Mean spike rate of each neuron, (n_neurons,)."""
        neurons = self.neurons
        place = {neuron: n for n, neuron in enumerate(neurons)}
        owner = np.array([place[r.dataset, r.neuron] for r in self.recordings], np.intp)
        spikes = np.bincount(owner, self.spikes, len(neurons))
        return np.asarray(spikes / np.bincount(owner, self.durations_s, len(neurons)))


def take_census(
    root: Path, *, frame_rate_hz: float = 30.0, progress: Callable[[float], None] | None = None
) -> list[Census]:
    """Read every dataset in a folder.

    Parameters
    ----------
    root : Path
    frame_rate_hz : float
        Rate at which a recording must be as long as a window of 64 frames, or else is one of the ``problems``.
    progress : callable, optional
        Called with the part of the files that has been read.

    Returns
    -------
    list of Census
        In the order of the names; a dataset without one usable recording too.

    Raises
    ------
    TrainingError
        There is no dataset in the folder.
    """
    folders = dataset_folders(root)
    recordings, problems = read_files([f for p in folders.values() for f in neuron_files(p)], progress=progress)
    problems += resample_recordings(recordings, frame_rate_hz, shortest_frames=WINDOW_FRAMES)[1]
    return [
        _census(name, [r for r in recordings if r.dataset == name], [p for p in problems if p.dataset == name])
        for name in folders
    ]


def total(rows: Sequence[Census]) -> Census:
    """All datasets as one."""
    return Census(
        name="total",
        recordings=tuple(r for row in rows for r in row.recordings),
        spikes=np.concatenate([row.spikes for row in rows]),
        noise_levels=np.concatenate([row.noise_levels for row in rows]),
        problems=tuple(p for row in rows for p in row.problems),
    )


def summary(census: Census) -> dict[str, Any]:
    """Numbers of a dataset, as JSON takes them; None where there is no usable recording.

    Returns
    -------
    dict
        ``dataset``, ``neurons``, ``recordings``, ``minutes``, ``spikes``, ``spike_rate_hz`` (all spikes by all time),
        ``frame_rates_hz`` {min, max}, ``noise_level`` {median, min, max} (of recordings at their own rate) and
        ``problems``.
    """
    seconds, spikes = float(census.durations_s.sum()), int(census.spikes.sum())
    rates = [r.frame_rate_hz for r in census.recordings]
    nu = census.noise_levels
    return {
        "dataset": census.name,
        "neurons": len(census.neurons),
        "recordings": len({(r.dataset, r.neuron, r.number) for r in census.recordings}),
        "minutes": round(seconds / 60, 2),
        "spikes": spikes,
        "spike_rate_hz": round(spikes / seconds, 4) if seconds else None,
        "frame_rates_hz": {"min": round(min(rates), 3), "max": round(max(rates), 3)} if rates else None,
        "noise_level": {k: round(float(getattr(np, k)(nu)), 3) for k in ("median", "min", "max")} if rates else None,
        "problems": [asdict(p) for p in census.problems],
    }


def to_table(rows: Sequence[Census], *, problems: bool = False) -> list[str]:
    """Lines of a table for reading, with a line for all datasets together.

    Parameters
    ----------
    rows : sequence of Census
    problems : bool
        List the irregularities of each dataset below its line.
    """
    width = max(len(name) for name in ("dataset", *(row.name for row in rows)))
    head = (
        f"{'dataset':{width}}{'neurons':>9}{'record.':>9}{'minutes':>9}{'spikes':>9}{'spikes/s':>10}"
        f"{'frames/s':>13}{'ν median (range)':>24}{'irregular':>11}"
    )
    lines = [head]
    for row in rows:
        lines.append(_line(row, width))
        lines += [f"    {problem}" for problem in row.problems if problems]
    return [*lines, "─" * len(head), _line(total(rows), width)]


def _line(row: Census, width: int) -> str:
    values = summary(row)
    rate = rates = noise = "–"
    if row.recordings:
        rate = f"{values['spike_rate_hz']:.2f}"
        low, high = (f"{values['frame_rates_hz'][k]:.1f}" for k in ("min", "max"))
        rates = low if low == high else f"{low}–{high}"
        noise = "{median:.2f} ({min:.2f}–{max:.2f})".format(**values["noise_level"])
    return (
        f"{row.name:{width}}{values['neurons']:>9}{values['recordings']:>9}{values['minutes']:>9.0f}"
        f"{values['spikes']:>9}{rate:>10}{rates:>13}{noise:>24}{len(row.problems):>11}"
    )


def _census(name: str, recordings: Sequence[Recording], problems: Sequence[Problem]) -> Census:
    return Census(
        name=name,
        recordings=tuple(recordings),
        spikes=np.array([bin_spikes(r.spike_times_s, r.frame_times_s).sum() for r in recordings], float),
        noise_levels=np.array([noise_levels(r.dff[None], frame_rate_hz=r.frame_rate_hz)[0] for r in recordings], float),
        problems=tuple(problems),
    )

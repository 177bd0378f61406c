"""What the ground truth consists of: recordings with known spikes, traces made of them, and what was irregular."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Problem", "Recording", "Source", "Trace"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something irregular in a file and what was done about it.

    Parameters
    ----------
    file : str
        Dataset and file name.
    recording : int or None
        Which recording of the file, from 0; None for the whole file.
    what : str
        What was found.
    action : "skipped", "trimmed", "split" or "joined"
        Joined: counts as one neuron with another file in every split.
    """

    file: str
    recording: int | None
    what: str
    action: Literal["skipped", "trimmed", "split", "joined"]

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.file.partition("/")[0]

    def __str__(self) -> str:
        where = self.file if self.recording is None else f"{self.file}, recording {self.recording}"
        return f"{where}: {self.what}; {self.action}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a recording comes from.

    Parameters
    ----------
    dataset, neuron : str
        Folder and file name of the neuron.
    number : int
        Recording within the file, from 0; a recording with gaps gives several pieces of the same number.
    same_as : (dataset, neuron) or None
        An earlier neuron whose file holds the same recording.
    """

    dataset: str
    neuron: str
    number: int
    same_as: tuple[str, str] | None = None

    @property
    def cell(self) -> tuple[str, str]:
        """The neuron that was measured: equal for all files that hold the same recording."""
        return self.same_as or (self.dataset, self.neuron)


@dataclass(frozen=True, kw_only=True)
class Recording(Source):
    """An uninterrupted piece of a recording, free of NaN.

    Parameters
    ----------
    dataset, neuron, number, same_as
        As in :class:`Source`.
    dff : ndarray, (n_frames,), float32
        ΔF/F as a fraction.
    frame_times_s : ndarray, (n_frames,), float64
        Middle of each frame (s), on the clock of the spikes.
    spike_times_s : ndarray, (n_spikes,), float64
        Sorted (s); those before the first or after the last frame too.
    """

    dff: NDArray[np.float32]
    frame_times_s: NDArray[np.float64]
    spike_times_s: NDArray[np.float64]

    @property
    def frame_rate_hz(self) -> float:
        """Mean frame rate."""
        return float((self.frame_times_s.size - 1) / (self.frame_times_s[-1] - self.frame_times_s[0]))

    @property
    def duration_s(self) -> float:
        """Length of all frames together."""
        return self.dff.size / self.frame_rate_hz


@dataclass(frozen=True, kw_only=True)
class Trace(Source):
    """A recording on a frame grid, with its spikes counted per frame.

    Parameters
    ----------
    dataset, neuron, number, same_as
        As in :class:`Source`.
    dff : ndarray, (n_frames,), float32
    spike_counts : ndarray, (n_frames,), float32
        Spikes within half a frame of the middle of each frame.
    frame_rate_hz : float
    noise_level : float
        ν of ``dff``, % Hz^-1/2.
    """

    dff: NDArray[np.float32]
    spike_counts: NDArray[np.float32]
    frame_rate_hz: float
    noise_level: float

    @property
    def n_frames(self) -> int:
        """Length of the trace."""
        return int(self.dff.size)

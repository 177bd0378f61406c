"""What :func:`cascade_rt.open_result` gives: a result with one recording for each imaging plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.lazy import LazyMatrix

__all__ = ["RecordingResult", "Result"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RecordingResult:
    """The spike probabilities of one imaging plane.

    Parameters
    ----------
    spike_prob : ndarray or LazyMatrix, (n_neurons, n_frames), float32
        Expected spikes per frame; NaN where undefined. Read from the file when sliced.
    name : str
        Of the plane, where there are several.
    frame_rate_hz : float or None
        Frames per second; None where the file does not tell it.
    noise_levels : ndarray, (n_neurons,), float64, or None
        ν, % · Hz^-½; NaN where unknown.
    is_cell : ndarray, (n_neurons,), bool, or None
        Which rows the source accepts as cells; None: it does not say.
    why_undefined : tuple of str, (n_neurons,)
        Why a neuron has no value at all; empty where it has. Empty tuple: not known.
    neuron_ids : tuple of int or str
        What the source calls the rows; empty: their index.
    first_frame : int
        Index, counted by the source, of the first column.
    frames : ndarray, (n_frames,), int64, or None
        The same for each column, where some are missing.
    timestamps : ndarray, (n_frames,), float64, or None
        Time of each frame (s), if the source has them.
    f0 : ndarray, (n_neurons,), float64, or None
        Baseline of the fluorescence.
    dff : ndarray or LazyMatrix, (n_neurons, n_frames), or None
        ΔF/F as a fraction, if it was kept.
    valid : ndarray or LazyMatrix, (n_neurons, n_frames), bool or uint8, or None
        0 where the value is undefined or was touched by a gap; None: wherever ``spike_prob`` is a number, it is valid.
    spikes : tuple of ndarray, (n_spikes,), int64, or None
        For each neuron the columns of its single spikes, ascending; None: they were not looked for.
    done : ndarray, (n_neurons,), bool, or None
        Which neurons' values have been written, where the program that wrote them did not finish.
    lookahead_frames : int or None
        Frames after each frame of which its value made use.
    revisions : mapping of int to RecordingResult
        A live run's results with shorter look-aheads (frames).
    metadata : mapping
        About this plane.
    """

    spike_prob: NDArray[np.float32] | LazyMatrix
    name: str = ""
    frame_rate_hz: float | None = None
    noise_levels: NDArray[np.float64] | None = None
    is_cell: NDArray[np.bool_] | None = None
    why_undefined: tuple[str, ...] = ()
    neuron_ids: tuple[int | str, ...] = ()
    first_frame: int = 0
    frames: NDArray[np.int64] | None = None
    timestamps: NDArray[np.float64] | None = None
    f0: NDArray[np.float64] | None = None
    dff: NDArray[Any] | LazyMatrix | None = None
    valid: NDArray[Any] | LazyMatrix | None = None
    spikes: tuple[NDArray[np.int64], ...] | None = None
    done: NDArray[np.bool_] | None = None
    lookahead_frames: int | None = None
    revisions: Mapping[int, RecordingResult] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"RecordingResult({self._described()})"

    @property
    def n_neurons(self) -> int:
        return int(self.spike_prob.shape[0])

    @property
    def n_frames(self) -> int:
        return int(self.spike_prob.shape[1])

    @property
    def frame_index(self) -> NDArray[np.int64]:
        """Index, counted by the source, of the frame that each column describes, (n_frames,)."""
        if self.frames is not None:
            return self.frames
        return np.arange(self.first_frame, self.first_frame + self.n_frames, dtype=np.int64)

    @property
    def times(self) -> NDArray[np.float64]:
        """Time (s) of each column, (n_frames,): the source's, else the frame's index over the frame rate.

        Raises
        ------
        InputError
            Neither is known.
        """
        if self.timestamps is not None:
            return self.timestamps
        if self.frame_rate_hz is None:
            raise InputError("neither times nor a frame rate are known: divide frame_index by the frame rate")
        return self.frame_index / self.frame_rate_hz

    def to_pynapple(self) -> Any:
        """Spike probabilities as a ``pynapple.TsdFrame``: one column for each neuron, numbered as the rows.

        Noise levels and the source's names of the neurons are its metadata. Reads everything into memory. Needs
        pynapple (``pip install "cascade-rt[views]"``).
        """
        from .views import prob_to_pynapple

        return prob_to_pynapple(self)

    def spikes_to_pynapple(self) -> Any:
        """Single spikes as a ``pynapple.TsGroup``, each at the beginning of its frame.

        Raises
        ------
        InputError
            They were not looked for; or pynapple is missing.
        """
        from .views import spikes_to_pynapple

        return spikes_to_pynapple(self)

    def to_xarray(self) -> Any:
        """All that is known of the plane as an ``xarray.Dataset`` with the dimensions neuron and time (s).

        Reads everything into memory. Needs xarray (``pip install "cascade-rt[views]"``).
        """
        from .views import to_xarray

        return to_xarray(self)

    def _described(self) -> str:
        rate = f" at {self.frame_rate_hz:g} Hz" if self.frame_rate_hz else ""
        said = f"{self.n_neurons} neurons, {self.n_frames} frames{rate}"
        if self.is_cell is not None:
            said += f", {int(self.is_cell.sum())} cells"
        if self.done is not None and not self.done.all():
            said += f", {int(self.done.sum())} neurons done"
        if self.spikes is not None:
            said += f", {sum(one.size for one in self.spikes)} single spikes"
        if self.revisions:
            said += f", also with look-ahead {', '.join(map(str, sorted(self.revisions)))}"
        return f"{self.name}: {said}" if self.name else said


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """What was inferred from a source; a context manager that closes the file.

    A result of one plane has the attributes of its :class:`RecordingResult` itself: ``result.spike_prob``,
    ``result.noise_levels``, ``result.times`` and so on. Others give theirs by name: ``result["plane0"]``.

    Parameters
    ----------
    path : Path
        As it was given.
    recordings : tuple of RecordingResult
        One for each imaging plane.
    metadata : mapping
        Model, alignment, threshold, look-ahead, source, options, versions, warnings, …
    complete : bool
        False: the program that wrote it was interrupted.
    on_close : callable, optional
        Closes what is open.
    """

    path: Path
    recordings: tuple[RecordingResult, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    on_close: Callable[[], None] | None = None

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[RecordingResult]:
        return iter(self.recordings)

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, name: str) -> RecordingResult:
        for recording in self.recordings:
            if recording.name == name:
                return recording
        names = ", ".join(repr(recording.name) for recording in self.recordings) or "none"
        raise InputError(f"{self.path} has no plane {name!r}; its planes are {names}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in _OF_ONE_PLANE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.only(), name)

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *_OF_ONE_PLANE])

    def __repr__(self) -> str:
        said = [] if self.complete else ["incomplete"]
        if self.metadata.get("model"):
            said.append(f"model {self.metadata['model']}")
        if self.metadata.get("lookahead_frames") is not None:
            said.append(f"look-ahead {self.metadata['lookahead_frames']}")
        planes = "".join(f"\n  {recording._described()}" for recording in self.recordings)
        return f"<Result {str(self.path)!r}{': ' if said else ''}{', '.join(said)}{planes}>"

    def close(self) -> None:
        """Close the file; what was not read cannot be read afterwards."""
        if self.on_close is not None:
            self.on_close()

    def only(self) -> RecordingResult:
        """Return the recording of a result that has one plane.

        Raises
        ------
        InputError
            There are several.
        """
        if len(self.recordings) != 1:
            names = ", ".join(recording.name for recording in self.recordings) or "none"
            raise InputError(f"{self.path} has {len(self.recordings)} planes ({names}): take one, result[NAME]")
        return self.recordings[0]


_OF_ONE_PLANE = frozenset(
    name for name in (*RecordingResult.__dataclass_fields__, *vars(RecordingResult)) if not name.startswith("_")
) - {"metadata"}

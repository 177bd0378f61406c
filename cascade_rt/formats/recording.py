"""What a file of any format is read as: a source with one recording for each imaging plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade_rt.chunks import check_choice
from cascade_rt.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.lazy import LazyMatrix

__all__ = ["Kind", "ReadOptions", "Recording", "Source", "check_traces"]

Kind = Literal["dff", "fluorescence"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a user may say about a file that it does not tell itself.

    Parameters
    ----------
    key : str, optional
        Name of the array, or its path inside of the file, such as ``/processed/dff``.
    kind : "dff" or "fluorescence", optional
        What the values are, where the format or the array's name do not tell.
    neuropil_key : str, optional
        Name of the array with the neuropil's fluorescence.
    transposed : bool, optional
        Whether the array is (n_frames, n_neurons); by default as the format has it.
    """

    key: str | None = None
    kind: Kind | None = None
    neuropil_key: str | None = None
    transposed: bool | None = None

    def __post_init__(self) -> None:
        if self.kind is not None:
            check_choice("kind", self.kind, Kind)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """The traces of one imaging plane.

    Parameters
    ----------
    traces : ndarray or LazyMatrix, (n_neurons, n_frames), numbers
        As stored; may be memory-mapped and read-only.
    path : Path
        File or folder.
    kind : "dff" or "fluorescence"
        ΔF/F as a fraction, or fluorescence in any unit.
    name : str
        Of the plane, where there are several: ``plane0``.
    key : str
        Name of the array in the file, empty where it has none.
    frame_rate_hz : float or None
        Frames per second of this plane, if the file tells it.
    neuropil : ndarray or LazyMatrix, (n_neurons, n_frames), or None
        Fluorescence around each neuron, to be subtracted.
    neuropil_coefficient : float or None
        Factor of it, if the file tells it.
    is_cell : ndarray, (n_neurons,), bool, or None
        Which rows were accepted as cells; None: all.
    bad_frames : ndarray, (n_frames,), bool, or None
        Frames that the pipeline marked as unusable (motion).
    frames : ndarray, (n_frames,), int64, or None
        Index of each column where some are missing; None: counted from 0.
    timestamps : ndarray, (n_frames,), float64, or None
        Time of each frame (s), if the file has them.
    neuron_ids : tuple
        What the pipeline calls the rows (numbers or names); empty: their index.
    noise_levels : ndarray, (n_neurons,), or None
        If the file holds them, % · Hz^-½.
    facts, problems : tuple of str
        Sentences for the user: what was found and decided while reading, and what to look at.
    native : mapping
        What the writer of this format needs to put results beside the source.
    """

    traces: NDArray[Any] | LazyMatrix
    path: Path
    kind: Kind = "dff"
    name: str = ""
    key: str = ""
    frame_rate_hz: float | None = None
    neuropil: NDArray[Any] | LazyMatrix | None = None
    neuropil_coefficient: float | None = None
    is_cell: NDArray[np.bool_] | None = None
    bad_frames: NDArray[np.bool_] | None = None
    frames: NDArray[np.int64] | None = None
    timestamps: NDArray[np.float64] | None = None
    neuron_ids: tuple[int | str, ...] = ()
    noise_levels: NDArray[np.float64] | None = None
    facts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    native: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        what = f"{self.path}: {self.name}".rstrip(": ")
        n_neurons, n_frames = self.traces.shape
        sizes = {
            "is_cell": (self.is_cell, n_neurons),
            "bad_frames": (self.bad_frames, n_frames),
            "frames": (self.frames, n_frames),
            "timestamps": (self.timestamps, n_frames),
        }
        for field_name, (values, expected) in sizes.items():
            if values is not None and values.shape != (expected,):
                raise FileFormatError(f"{what}: {field_name} has shape {values.shape}: expected ({expected},)")
        if self.neuropil is not None and self.neuropil.shape != self.traces.shape:
            raise FileFormatError(
                f"{what}: the neuropil has shape {self.neuropil.shape}: expected {self.traces.shape}, as the traces"
            )
        if self.neuron_ids and len(self.neuron_ids) != n_neurons:
            raise FileFormatError(f"{what}: {len(self.neuron_ids)} names for {n_neurons} neurons")

    @property
    def dff(self) -> NDArray[Any] | LazyMatrix:
        """The traces, if they are ΔF/F.

        Raises
        ------
        InputError
            They are fluorescence.
        """
        if self.kind != "dff":
            raise InputError(
                f"{self.path} holds fluorescence, not ΔF/F: `cascade-rt infer` computes ΔF/F and goes on from there"
            )
        return self.traces

    @property
    def n_neurons(self) -> int:
        return int(self.traces.shape[0])

    @property
    def n_frames(self) -> int:
        return int(self.traces.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What :func:`cascade_rt.open_source` found; a context manager that closes the files.

    Parameters
    ----------
    path : Path
        As it was given.
    format : str
        Name of the format, such as ``suite2p``.
    title : str
        The same for a person, such as ``Suite2p 1.x folder``.
    recordings : tuple of Recording
        One for each imaging plane, at least one.
    files : tuple of Path
        Every file that the results depend on, for recognising whether any has changed.
    on_close : callable, optional
        Closes what is open.
    """

    path: Path
    format: str
    title: str
    recordings: tuple[Recording, ...]
    files: tuple[Path, ...]
    on_close: Callable[[], None] | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the traces of the recordings cannot be read afterwards."""
        if self.on_close is not None:
            self.on_close()

    def only(self) -> Recording:
        """Return the recording of a source that has one plane.

        Raises
        ------
        InputError
            There are several.
        """
        if len(self.recordings) != 1:
            names = ", ".join(recording.name for recording in self.recordings)
            raise InputError(f"{self.path} has {len(self.recordings)} planes ({names}): name one of them")
        return self.recordings[0]


def check_traces(array: Any, path: Path, key: str = "") -> Any:
    """Return ``array`` if it can be traces: two-dimensional, not empty, real numbers.

    Raises
    ------
    FileFormatError
        Naming file and array.
    """
    what = f"{path}: array {key!r}" if key else f"{path}: the array"
    if len(array.shape) != 2 or 0 in array.shape:
        raise FileFormatError(f"{what} has shape {tuple(array.shape)}: expected (n_neurons, n_frames)")
    if np.dtype(array.dtype).kind not in "fiu":
        raise FileFormatError(f"{what} holds {array.dtype}: expected real numbers")
    return array

"""Files that hold several arrays by name: which of them is the recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError
from cascade_rt.lazy import LazyMatrix

from .recording import Kind, ReadOptions, Recording, check_traces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Archive", "choose_recording"]

#: Names under which traces are looked for, in this order, when none is given.
DFF_KEYS = ("dff", "dF_traces", "dF_F", "dFF", "F_dff", "traces")
FLUORESCENCE_KEYS = ("F", "fluorescence", "raw_traces", "F_raw")
NEUROPIL_KEYS = ("Fneu", "neuropil", "F_neu")
RATE_KEYS = ("frame_rate_hz", "frame_rate", "framerate", "fs", "rate")


class Archive:
    """The arrays of a file by name, read when asked for.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to tuple
        Shape of each array, as :attr:`read` gives it.
    read : callable
        Gives an array by its name: in memory, or something that is read when sliced.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Any]) -> None:
        self.path = path
        self.shapes = shapes
        self.read = read

    def scalar(self, names: tuple[str, ...]) -> float | None:
        """Return the first of these that is a single positive number; names inside of groups count too."""
        for name in names:
            for full in self.shapes:
                if full.rpartition("/")[2] == name and np.prod(self.shapes[full]) == 1:
                    value: NDArray[Any] = np.asarray(self.read(full)[...]).reshape(())
                    if value.dtype.kind in "fiu" and value > 0:
                        return float(value)
        return None

    def listed(self) -> str:
        """Names and shapes, for an error message."""
        return ", ".join(f"{name} {tuple(shape)}" for name, shape in self.shapes.items()) or "nothing"


def choose_recording(archive: Archive, options: ReadOptions) -> Recording:
    """Find the traces in an archive: by the name given, by the usual names, or as the only matrix.

    Parameters
    ----------
    archive : Archive
    options : ReadOptions

    Raises
    ------
    FileFormatError
        There is no such array, or several and no usual name; lists what there is.
    """
    path = archive.path
    key = _find_key(archive, options.key)
    traces = _matrix(archive, key, options)
    neuropil_key = options.neuropil_key
    name = key.rpartition("/")[2]
    kind: Kind = options.kind or ("fluorescence" if name in FLUORESCENCE_KEYS else "dff")
    if neuropil_key is None and kind == "fluorescence":
        folder = key[: len(key) - len(name)]
        neuropil_key = next((folder + other for other in NEUROPIL_KEYS if folder + other in archive.shapes), None)
    elif neuropil_key is not None:
        neuropil_key = _existing(archive, neuropil_key)
    noise = np.asarray(archive.read("noise_levels")).ravel() if "noise_levels" in archive.shapes else np.empty(0)
    return Recording(
        traces=traces,
        path=path,
        kind=kind,
        key=key,
        frame_rate_hz=archive.scalar(RATE_KEYS),
        neuropil=None if neuropil_key is None else _matrix(archive, neuropil_key, options),
        noise_levels=noise.astype(float) if noise.size == traces.shape[0] and noise.dtype.kind in "fiu" else None,
        facts=(f"array {key!r}",) + (() if neuropil_key is None else (f"neuropil {neuropil_key!r}",)),
    )


def _matrix(archive: Archive, key: str, options: ReadOptions) -> Any:
    array = check_traces(archive.read(key), archive.path, key)
    if isinstance(array, np.ndarray):
        return array.T if options.transposed else array
    return LazyMatrix(array, transposed=bool(options.transposed))


def _find_key(archive: Archive, key: str | None) -> str:
    if key is not None:
        return _existing(archive, key)
    matrices = [name for name, shape in archive.shapes.items() if len(shape) == 2 and np.prod(shape) > 1]
    usual = [
        name for wanted in (*DFF_KEYS, *FLUORESCENCE_KEYS) for name in matrices if name.rpartition("/")[2] == wanted
    ]
    # The same name in several groups, one for each plane for example, tells as little as none.
    same = [name for name in usual if name.rpartition("/")[2] == usual[0].rpartition("/")[2]]
    if (not usual and len(matrices) != 1) or len(same) > 1:
        raise FileFormatError(
            f"{archive.path}: which array holds the traces? Expected {', '.join((*DFF_KEYS, *FLUORESCENCE_KEYS))}, or "
            f"say which (key=…, --key); the file holds {archive.listed()}"
        )
    return usual[0] if usual else matrices[0]


def _existing(archive: Archive, key: str) -> str:
    plain = key.strip("/")
    if plain not in archive.shapes:
        raise FileFormatError(f"{archive.path}: has no array {key!r}; it holds {archive.listed()}")
    return plain

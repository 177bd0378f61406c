"""Recordings on disk: ``.npy``, ``.npz``, ``.mat`` and folders written by ``cascade-rt run --record``.

Arrays are (n_neurons, n_frames). A ``.npy`` file is memory-mapped, so its size does not matter.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["Recording", "read_array", "read_recording"]

#: Names under which an array of traces is looked for, in this order, when no key is given.
TRACE_KEYS = ("dff", "dF_traces", "dF_F", "dFF", "traces")
RATE_KEYS = ("frame_rate_hz", "frame_rate", "framerate", "fs")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Traces read from a file.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames), numbers
        As stored; may be memory-mapped and read-only.
    path : Path
    key : str
        Name of the array in the file, empty for ``.npy``.
    frame_rate_hz : float or None
        If the file tells it.
    noise_levels : ndarray, (n_neurons,), or None
        If the file holds them, % · Hz^-½.
    frames : ndarray, (n_frames,), int64, or None
        Index of each column where some are missing; None: counted from 0.
    """

    dff: NDArray[Any]
    path: Path
    key: str = ""
    frame_rate_hz: float | None = None
    noise_levels: NDArray[np.float64] | None = None
    frames: NDArray[np.int64] | None = None

    @property
    def n_neurons(self) -> int:
        return int(self.dff.shape[0])

    @property
    def n_frames(self) -> int:
        return int(self.dff.shape[1])


def read_recording(path: str | os.PathLike[str], key: str | None = None) -> Recording:
    """Open a recording.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz``, ``.mat`` (also version 7.3), or the folder of a recorded run.
    key : str, optional
        Name of the array in ``.npz`` and ``.mat``. Otherwise ``dff``, ``dF_traces`` and some more are tried, then
        the only matrix that there is.

    Returns
    -------
    Recording

    Raises
    ------
    FileFormatError
        The file is missing, unreadable, truncated or holds no such array.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FileFormatError(f"{path}: there is no such file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        if key is not None:
            raise FileFormatError(f"{path}: a .npy file holds one array without a name; leave out the key {key!r}")
        return Recording(dff=_check(read_array(path), path, ""), path=path)
    if suffix == ".npz":
        return _choose(_open_npz(path), path, key)
    if suffix == ".mat":
        return _choose(_open_mat(path), path, key)
    raise FileFormatError(f"{path}: suffix {suffix!r}: expected .npy, .npz or .mat")


def read_array(path: Path) -> NDArray[Any]:
    """Memory-map a ``.npy`` file; FileFormatError names the position where a damaged one breaks off."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            start = file.tell()
        size = path.stat().st_size
        end = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject:
            raise FileFormatError(f"{path}: holds Python objects: expected an array of numbers")
        if size < end:
            raise FileFormatError(
                f"{path}: truncated: {shape} of {dtype} ends at byte {end}, the file has {size} bytes"
            )
        return np.load(path, mmap_mode="r" if end > start else None, allow_pickle=False)  # type: ignore[no-any-return]
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise FileFormatError(f"{path}: not a readable .npy file (at its start): {error}") from error


class _Archive:
    """The arrays of a file by name, read when asked for."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], NDArray[Any]]) -> None:
        self.shapes = shapes
        self.read = read

    def scalar(self, names: tuple[str, ...]) -> float | None:
        """Return the first of these that is a single positive number."""
        for name in names:
            if name in self.shapes and np.prod(self.shapes[name]) == 1:
                value = self.read(name).reshape(())
                if value.dtype.kind in "fiu" and value > 0:
                    return float(value)
        return None


def _choose(archive: _Archive, path: Path, key: str | None) -> Recording:
    matrices = [name for name, shape in archive.shapes.items() if len(shape) == 2 and np.prod(shape) > 1]
    if key is None:
        known = [name for name in TRACE_KEYS if name in matrices]
        if not known and len(matrices) != 1:
            listed = ", ".join(f"{n} {s}" for n, s in archive.shapes.items()) or "nothing"
            raise FileFormatError(
                f"{path}: which array holds the traces? Expected {', '.join(TRACE_KEYS)}, or say which (key=…, --key); "
                f"the file holds {listed}"
            )
        key = known[0] if known else matrices[0]
    elif key not in archive.shapes:
        raise FileFormatError(f"{path}: has no array {key!r}; it holds {', '.join(archive.shapes) or 'nothing'}")
    dff = _check(archive.read(key), path, key)
    noise = archive.read("noise_levels").ravel() if "noise_levels" in archive.shapes else np.empty(0)
    return Recording(
        dff=dff,
        path=path,
        key=key,
        frame_rate_hz=archive.scalar(RATE_KEYS),
        noise_levels=noise.astype(float) if noise.size == len(dff) and noise.dtype.kind in "fiu" else None,
    )


def _check(array: NDArray[Any], path: Path, key: str) -> NDArray[Any]:
    what = f"{path}: array {key!r}" if key else f"{path}: the array"
    if array.ndim != 2 or 0 in array.shape:
        raise FileFormatError(f"{what} has shape {array.shape}: expected (n_neurons, n_frames)")
    if array.dtype.kind not in "fiu":
        raise FileFormatError(f"{what} holds {array.dtype}: expected real numbers (dF/F as a fraction)")
    return array


def _open_npz(path: Path) -> _Archive:
    def read(name: str) -> NDArray[Any]:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return np.asarray(archive[name])
        except Exception as error:
            raise FileFormatError(f"{path}: array {name!r} cannot be read, the file is damaged: {error}") from error

    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        np.lib.format.read_magic(file)
                        shapes[member[:-4]] = np.lib.format.read_array_header_1_0(file)[0]
    except Exception as error:
        size = path.stat().st_size
        raise FileFormatError(f"{path}: not a readable .npz file ({size} bytes): {error}") from error
    return _Archive(shapes, read)


def _open_mat(path: Path) -> _Archive:
    from scipy import io

    try:
        shapes = {name: tuple(shape) for name, shape, _ in io.whosmat(path)}
    except NotImplementedError:
        return _open_mat73(path)
    except Exception as error:
        size = path.stat().st_size
        raise FileFormatError(f"{path}: not a readable MATLAB file ({size} bytes): {error}") from error

    def read(name: str) -> NDArray[Any]:
        try:
            return np.asarray(io.loadmat(path, variable_names=[name])[name])
        except Exception as error:
            raise FileFormatError(f"{path}: variable {name!r} cannot be read, the file is damaged: {error}") from error

    return _Archive(shapes, read)


def _open_mat73(path: Path) -> _Archive:
    """Open a MATLAB file of version 7.3: HDF5, with the dimensions in reverse order."""
    import h5py

    def read(name: str) -> NDArray[Any]:
        try:
            with h5py.File(path, "r") as file:
                values: Any = np.asarray(file[name])
            return np.asarray(values.T)
        except Exception as error:
            raise FileFormatError(f"{path}: variable {name!r} cannot be read, the file is damaged: {error}") from error

    try:
        with h5py.File(path, "r") as file:
            shapes = {name: item.shape[::-1] for name, item in file.items() if isinstance(item, h5py.Dataset)}
    except Exception as error:
        size = path.stat().st_size
        raise FileFormatError(f"{path}: not a readable MATLAB 7.3 file ({size} bytes): {error}") from error
    return _Archive(shapes, read)


def _read_folder(folder: Path) -> Recording:
    try:
        described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        rate = described.get("frame_rate_hz")
    except (OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{folder}: not the folder of a recorded run: run.json: {error}") from error
    dff = _check(read_array(folder / "dff.npy"), folder / "dff.npy", "")
    frames = np.array(read_array(folder / "dff_frame.npy"), np.int64)
    # Written one after the other: after a crash one may be a few frames longer.
    n_frames = min(dff.shape[1], frames.size)
    noise = folder / "noise_levels.npy"
    return Recording(
        dff=dff[:, :n_frames],
        path=folder,
        frame_rate_hz=float(rate) if isinstance(rate, (int, float)) and rate > 0 else None,
        noise_levels=np.array(read_array(noise), np.float64) if noise.is_file() else None,
        frames=frames[:n_frames],
    )


def read_noise_archive(path: Path) -> NDArray[Any]:
    """Read ``noise_levels`` from the ``.npz`` of a result; FileFormatError if it has none."""
    archive = _open_npz(path)
    if "noise_levels" not in archive.shapes:
        raise FileFormatError(f"{path}: has no array 'noise_levels'; it holds {', '.join(archive.shapes) or 'nothing'}")
    return archive.read("noise_levels")

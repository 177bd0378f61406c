"""``.npy`` and ``.npz``. A ``.npy`` file is memory-mapped, so its size does not matter."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError
from cascade_rt.lazy import LazyMatrix

from .archive import Archive, choose_recording
from .recording import ReadOptions, Recording, Source, check_traces

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["open_file", "read_array", "read_noise_archive", "recognises"]

NAME = "numpy"
TITLE = "NumPy file"
WHAT = ".npy or .npz"


def recognises(path: Path) -> bool:
    """Whether the name ends as NumPy's files do."""
    return path.suffix.lower() in (".npy", ".npz")


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open a ``.npy`` or ``.npz`` file."""
    if path.suffix.lower() == ".npz":
        recording = choose_recording(_open_npz(path), options)
    else:
        recording = _open_npy(path, options)
    return Source(path=path, format=NAME, title=TITLE, recordings=(recording,), files=(path,))


def _open_npy(path: Path, options: ReadOptions) -> Recording:
    if options.key is not None:
        raise FileFormatError(f"{path}: a .npy file holds one array without a name; leave out the key {options.key!r}")
    array = check_traces(read_array(path), path)
    traces = LazyMatrix(array, transposed=True) if options.transposed else array
    return Recording(traces=traces, path=path, kind=options.kind or "dff")


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


def read_noise_archive(path: Path) -> NDArray[Any]:
    """Read ``noise_levels`` from the ``.npz`` of a result; FileFormatError if it has none."""
    archive = _open_npz(path)
    if "noise_levels" not in archive.shapes:
        raise FileFormatError(f"{path}: has no array 'noise_levels'; it holds {', '.join(archive.shapes) or 'nothing'}")
    return np.asarray(archive.read("noise_levels"))


def _open_npz(path: Path) -> Archive:
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
    return Archive(path, shapes, read)

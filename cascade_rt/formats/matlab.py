"""MATLAB files: versions 5 to 7 with SciPy, version 7.3 (HDF5) with h5py."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError
from cascade_rt.lazy import LazyMatrix

from .archive import Archive, choose_recording
from .recording import ReadOptions, Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["open_file", "recognises"]

NAME = "matlab"
TITLE = "MATLAB file"
WHAT = ".mat, all versions"


def recognises(path: Path) -> bool:
    """Whether the name ends in ``.mat``."""
    return path.suffix.lower() == ".mat"


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open a MATLAB file of any version."""
    from scipy import io

    with ExitStack() as stack:
        try:
            shapes = {name: tuple(shape) for name, shape, _ in io.whosmat(path)}
            title, archive = TITLE, _version_5(path, shapes)
        except NotImplementedError:
            title, archive = f"{TITLE} (7.3)", _version_73(path, stack)
        except Exception as error:
            size = path.stat().st_size
            raise FileFormatError(f"{path}: not a readable MATLAB file ({size} bytes): {error}") from error
        recording = choose_recording(archive, options)
        close = stack.pop_all().close
    return Source(path=path, format=NAME, title=title, recordings=(recording,), files=(path,), on_close=close)


def _version_5(path: Path, shapes: dict[str, tuple[int, ...]]) -> Archive:
    from scipy import io

    def read(name: str) -> NDArray[Any]:
        try:
            return np.asarray(io.loadmat(path, variable_names=[name])[name])
        except Exception as error:
            raise FileFormatError(f"{path}: variable {name!r} cannot be read, the file is damaged: {error}") from error

    return Archive(path, shapes, read)


def _version_73(path: Path, stack: ExitStack) -> Archive:
    """HDF5, with the dimensions in reverse order."""
    import h5py

    try:
        file = stack.enter_context(h5py.File(path, "r"))
        shapes = {
            name: tuple(item.shape[::-1])
            for name, item in file.items()
            # Text is stored as numbers, and cells as references.
            if isinstance(item, h5py.Dataset) and item.attrs.get("MATLAB_class") not in (b"char", b"cell")
        }
    except Exception as error:
        size = path.stat().st_size
        raise FileFormatError(f"{path}: not a readable MATLAB 7.3 file ({size} bytes): {error}") from error

    def read(name: str) -> Any:
        try:
            stored = file[name]
            return LazyMatrix(stored, transposed=True) if stored.ndim == 2 and stored.size > 1 else np.asarray(stored).T
        except Exception as error:
            raise FileFormatError(f"{path}: variable {name!r} cannot be read, the file is damaged: {error}") from error

    return Archive(path, shapes, read)

"""Reading what other programs wrote: one file for each format, all read as a :class:`Source`.

A format is a module with

- ``NAME`` (for ``--format``), ``TITLE`` (for a person) and ``WHAT`` (in error messages: what it looks like),
- ``recognises(path)``: whether the file or folder looks like one, by names and first bytes alone; never raises,
- ``open_file(path, options)``: the :class:`Source`; reads descriptions, but no traces.

Traces stay in their files (:class:`~cascade_rt.lazy.LazyMatrix`, memory maps), (n_neurons, n_frames).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import FileFormatError, InputError

from .recording import Kind, ReadOptions, Recording, Source

if TYPE_CHECKING:
    import os
    from types import ModuleType

__all__ = ["FORMATS", "Kind", "ReadOptions", "Recording", "Source", "open_source", "read_recording"]

#: Modules of this package, in the order in which they are asked; the special ones before the general ones.
_MODULES = ("run_folder", "suite2p", "minian", "caiman", "nwb", "matlab", "numpy_files", "zarr_store", "hdf5", "tables")

#: Names for ``format=`` and ``--format``, each with its module.
FORMATS = {
    "run": "run_folder",
    "suite2p": "suite2p",
    "minian": "minian",
    "caiman": "caiman",
    "nwb": "nwb",
    "matlab": "matlab",
    "numpy": "numpy_files",
    "zarr": "zarr_store",
    "hdf5": "hdf5",
    "table": "tables",
}


def open_source(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    key: str | None = None,
    kind: Kind | None = None,
    neuropil_key: str | None = None,
    transposed: bool | None = None,
) -> Source:
    """Open a recording of any known format; its traces are read when they are sliced.

    Parameters
    ----------
    path : path
        File or folder: Suite2p, CaImAn, Minian, NWB, ``.mat``, ``.npy``, ``.npz``, HDF5, zarr, CSV, Parquet, or the
        folder of a recorded run.
    format : str, optional
        One of the names in ``cascade_rt.formats.FORMATS``; recognised by default.
    key, kind, neuropil_key, transposed : optional
        See :class:`ReadOptions`.

    Returns
    -------
    Source
        A context manager; ``source.recordings`` has one entry for each imaging plane, with ``traces`` (n_neurons,
        n_frames), ``kind``, ``frame_rate_hz``, ``is_cell`` and more.

    Raises
    ------
    FileFormatError
        There is no such file, no format recognises it, or it is damaged.
    InputError
        An option is unknown, or a package is missing that the format needs; names it.
    """
    path = Path(path)
    if not path.exists():
        raise FileFormatError(f"{path}: there is no such file or folder")
    options = ReadOptions(key=key, kind=kind, neuropil_key=neuropil_key, transposed=transposed)
    source: Source = _reader(path, format).open_file(path, options)
    return source


def read_recording(path: str | os.PathLike[str], key: str | None = None) -> Recording:
    """Open a source that has one plane; its files stay open as long as its traces are in use.

    Parameters
    ----------
    path : path
    key : str, optional
        Name of the array, where the file has several.

    Raises
    ------
    FileFormatError, InputError
        As :func:`open_source`; or the source has several planes.
    """
    return open_source(path, key=key).only()


def _reader(path: Path, format: str | None) -> ModuleType:
    if format is not None:
        if format not in FORMATS:
            raise InputError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
        return import_module(f".{FORMATS[format]}", __name__)
    for name in _MODULES:
        module = import_module(f".{name}", __name__)
        if module.recognises(path):
            return module
    raise FileFormatError(f"{path}: {_looks_like(path)}; known are {'; '.join(_described())}")


def _looks_like(path: Path) -> str:
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir())
        return f"a folder with {', '.join(inside[:8]) or 'nothing'}{' …' if len(inside) > 8 else ''} is not recognised"
    return f"suffix {path.suffix!r} is not recognised"


def _described() -> list[str]:
    modules: list[Any] = [import_module(f".{name}", __name__) for name in _MODULES]
    return [f"{module.NAME}: {module.WHAT}" for module in modules]

"""Zarr folders of any layout, versions 2 and 3 of the format; the array may be named by its path."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import FileFormatError

from .archive import Archive
from .extras import require
from .hierarchy import choose_in_hierarchy, refuse_result
from .recording import ReadOptions, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["array_files", "missing_chunks", "open_file", "open_zarr", "recognises"]

NAME = "zarr"
TITLE = "zarr folder"
WHAT = "a zarr folder, any array by its path"

#: Files that make a folder a zarr array or group, in the versions of the format.
MARKS = ("zarr.json", ".zarray", ".zgroup")
METADATA = (*MARKS, ".zattrs", ".zmetadata")
#: Name of a folder that is an array itself.
WHOLE = "array"


def recognises(path: Path) -> bool:
    """Whether it is a folder with the marks of zarr, or named so."""
    if not path.is_dir() or ".nwb" in path.suffixes:
        return False
    return path.suffix.lower() == ".zarr" or any((path / mark).is_file() for mark in MARKS)


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open a zarr folder; the traces stay in it."""
    root = open_zarr(path)
    refuse_result(path, root.attrs)
    try:
        arrays = {WHOLE: root} if hasattr(root, "shape") else dict(_arrays(root, ""))
    except Exception as error:
        raise FileFormatError(f"{path}: its arrays cannot be listed, the folder is damaged: {error}") from error

    def attributes(name: str) -> Mapping[str, Any]:
        if name in arrays:
            return dict(arrays[name].attrs)
        if not name or hasattr(root, "shape"):
            return dict(root.attrs)
        return dict(root[name].attrs)

    used: dict[str, None] = {}

    def read(name: str) -> Any:
        used[name] = None
        return arrays[name]

    archive = Archive(path, {name: tuple(array.shape) for name, array in arrays.items()}, read)
    recording = choose_in_hierarchy(archive, options, attributes)
    files: dict[Path, None] = {}
    problems = []
    for name in used:
        folder = path if hasattr(root, "shape") else path / name
        inside = array_files(folder)
        files.update(dict.fromkeys(inside))
        problems += missing_chunks(arrays[name], inside, name)
        for parent in (folder, *folder.parents):
            files.update(dict.fromkeys(parent / mark for mark in METADATA if (parent / mark).is_file()))
            if parent == path:
                break
    recording = replace(recording, problems=(*recording.problems, *problems))
    return Source(path=path, format=NAME, title=TITLE, recordings=(recording,), files=tuple(files))


def open_zarr(path: Path) -> Any:
    """Open a zarr folder, an array or a group, for reading.

    Raises
    ------
    InputError
        The package zarr is missing.
    FileFormatError
        It is not zarr, or damaged.
    """
    zarr = require("zarr", "zarr", "reading zarr folders")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zarr.open(str(path), mode="r")
    except Exception as error:
        raise FileFormatError(f"{path}: not a readable zarr folder: {type(error).__name__}: {error}") from error


def array_files(folder: Path) -> list[Path]:
    """Every file of a zarr array."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def missing_chunks(array: Any, files: list[Path], name: str) -> list[str]:
    """Tell whether pieces of an array are not there: zarr reads them as its fill value without a word."""
    pieces = getattr(array, "shards", None) or array.chunks
    expected = math.prod(math.ceil(n / piece) for n, piece in zip(array.shape, pieces, strict=True))
    found = sum(file.name not in METADATA for file in files)
    if found >= expected:
        return []
    return [
        f"{expected - found} of {expected} pieces of array {name!r} are not in the folder and are read as "
        f"{array.fill_value}: was the folder copied whole? (zarr may also have left out pieces with no other value)"
    ]


def _arrays(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        # Folders that are not zarr are passed over, which newer versions remark upon.
        warnings.simplefilter("ignore")
        arrays, groups = list(group.arrays()), list(group.groups())
    for name, array in sorted(arrays, key=lambda item: str(item[0])):
        yield prefix + name, array
    for name, inner in sorted(groups, key=lambda item: str(item[0])):
        yield from _arrays(inner, f"{prefix}{name}/")

"""Results as plain arrays: ``.npy``, ``.npz`` and ``.mat`` files, written whole.

What a result holds:

====================  =======================================================================================
``spike_prob``        (n_neurons, n) float32, of the longest look-ahead; NaN where undefined
``valid``             (n_neurons, n) bool: False where undefined or touched by a gap
``frame``             (n,) int64: index, counted by the source, of the frame that each column describes
``noise_levels``      (n_neurons,) float64, % · Hz^-½
``…_lookahead2``      the same arrays for each shorter look-ahead
``metadata``          JSON text: model, alignment, look-aheads, frame rate, threshold, versions, complete, …
====================  =======================================================================================

A ``.npy`` holds ``spike_prob`` alone, with NaN where not valid; the rest stands beside it in ``NAME.npy.json``.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError, InputError, OutputExistsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = [
    "SUFFIXES",
    "allocate_result",
    "check_mat_sizes",
    "check_output",
    "incomplete_path",
    "plain",
    "remove",
    "sidecar",
    "work_folder",
    "write_json",
    "write_result",
]

SUFFIXES = (".npy", ".npz", ".mat")
#: Size from which on MATLAB's version 5 cannot hold an array.
MAT_BYTES = 2**31


def incomplete_path(path: Path) -> Path:
    """Name of the file left by a run that did not come to its end."""
    return path.with_name(f"{path.stem}.incomplete{path.suffix}")


def work_folder(path: Path) -> Path:
    """Name of the folder in which a result grows."""
    return path.with_name(path.name + ".incomplete")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Find out, before anything is computed, whether a result can be written.

    Raises
    ------
    InputError
        The suffix is unknown or the folder does not exist.
    OutputExistsError
        Something is there already, and ``overwrite`` is False.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: results are written as {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder: expected the name of a file")
    if overwrite:
        return
    for there in (path, incomplete_path(path), work_folder(path)):
        if there.exists():
            rest = "" if there == path else " (left by an interrupted run; move it away to keep it)"
            raise OutputExistsError(f"{there} exists{rest}: choose another name, or allow --overwrite (overwrite=True)")


def write_result(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a result as a whole; the file appears by renaming, so that a half-written one never does.

    Parameters
    ----------
    path : path
        ``.npz`` and ``.mat`` take all arrays; ``.npy`` only ``spike_prob``, with NaN where ``valid`` is False, and
        the metadata go into ``NAME.npy.json``.
    arrays : mapping of str to ndarray
        ``spike_prob`` (n_neurons, n_frames) and others; may be memory-mapped.
    metadata : mapping
        Plain values.
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    InputError, OutputExistsError, FileFormatError
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(plain(metadata), allow_nan=False, ensure_ascii=False)
    try:
        if path.suffix.lower() == ".npy":
            _write_npy(temporary, arrays)
            write_json(sidecar(path), metadata)
        elif path.suffix.lower() == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, metadata=np.array(text), **arrays)  # type: ignore[arg-type]
        else:
            _write_mat(temporary, path, {**arrays, "metadata": text})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def allocate_result(
    path: str | os.PathLike[str], shape: tuple[int, int], metadata: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Make a memory-mapped ``.npy`` result to be filled in the ``with`` block, for results beyond memory.

    Parameters
    ----------
    path : path
        ``.npy``.
    shape : (n_neurons, n_frames)
    metadata : mapping
        Written into ``NAME.npy.json``; may be filled while the block runs.
    overwrite : bool

    Yields
    ------
    ndarray, (n_neurons, n_frames), float32
        The file appears under its name when the block ends; after an error there is none.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: only .npy can be written in place")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        try:
            yield array
            array.flush()
        finally:
            del array
        write_json(sidecar(path), metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sidecar(path: Path) -> Path:
    """Name of the JSON file beside a ``.npy`` result."""
    return path.with_name(path.name + ".json")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values; the file is replaced as a whole. NaN becomes null."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(
            json.dumps(plain(values), allow_nan=False, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a file or folder of ours if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_npy(temporary: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    prob = arrays["spike_prob"]
    valid = arrays.get("valid")
    out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=prob.shape, fortran_order=True)
    step = max(1, 4_000_000 // max(1, prob.shape[0]))
    for start in range(0, prob.shape[1], step):
        columns = slice(start, start + step)
        out[:, columns] = prob[:, columns]
        if valid is not None:
            out[:, columns][~np.asarray(valid[:, columns], bool)] = np.nan
    out.flush()


def _write_mat(temporary: Path, path: Path, values: Mapping[str, Any]) -> None:
    from scipy import io

    check_mat_sizes(path, {name: getattr(value, "nbytes", 0) for name, value in values.items()})
    with temporary.open("wb") as file:
        io.savemat(file, dict(values), do_compression=True)


def check_mat_sizes(path: Path, sizes: Mapping[str, int]) -> None:
    """Raise FileFormatError if an array is too large for a .mat file; ``sizes`` are in bytes."""
    for name, size in sizes.items():
        if size >= MAT_BYTES:
            raise FileFormatError(
                f"{path}: {name} has {size} bytes, a .mat file (version 5) holds arrays below 2 GiB; write .npy or "
                ".npz, or .h5, which MATLAB reads too (h5read)"
            )


def plain(value: Any) -> Any:
    """Turn numpy values, paths and NaN into what JSON has."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, os.PathLike) else value

"""Results in other formats: ``.mat``, ``.npz``, ``.npy``, tables, and back to ``.h5``."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import CascadeWarning, InputError, OutputExistsError
from cascade_rt.formats.extras import require
from cascade_rt.lazy import block_rows

from . import layout
from .arrays import check_mat_sizes, check_output, plain, write_result
from .flat import described, flatten, plain_name
from .portable import ResultWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from .model import RecordingResult, Result

__all__ = ["SUFFIXES", "export_result", "neuron_names"]

#: What can be written.
SUFFIXES = (".h5", ".npz", ".npy", ".mat", ".csv", ".parquet")
#: Values of a table that are held in memory.
TABLE_VALUES = 2_000_000


def export_result(
    result: Result,
    path: str | os.PathLike[str],
    *,
    plane: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a result in the format that the suffix of ``path`` names; the file appears whole, by renaming.

    Parameters
    ----------
    result : Result
    path : path
        ``.npz`` and ``.mat`` (below 2 GiB) hold all arrays, of several planes as ``plane0_spike_prob`` and so on;
        ``.npy`` holds ``spike_prob`` alone, with the rest in ``NAME.npy.json``; ``.csv`` and ``.parquet`` have a row
        for each frame (frame, time_s, and a column for each neuron); ``.h5`` is the portable result.
    plane : str, optional
        Write this plane only; needed for ``.npy`` and tables where there are several.
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    InputError
        The suffix is unknown, the plane is missing, or a package is that the format needs.
    OutputExistsError, FileFormatError
        A file of that name exists; an array is too large for ``.mat``.
    """
    path = Path(path)
    recordings = result.recordings if plane is None else (result[plane],)
    check_export(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    if suffix in (".npz", ".mat"):
        arrays, metadata = _together(result, recordings)
        if suffix == ".mat":
            check_mat_sizes(path, {name: _n_bytes(values) for name, values in arrays.items()})
            arrays = {name: _for_matlab(values) for name, values in arrays.items()}
        return write_result(path, arrays, metadata, overwrite=overwrite)
    if suffix in layout.SUFFIXES:
        return _write_portable(result, recordings, path, overwrite=overwrite)
    if len(recordings) != 1:
        names = ", ".join(recording.name for recording in recordings) or "none"
        raise InputError(f"{path}: a {suffix} file holds one plane; name one of {names} (plane=…, --plane)")
    (recording,) = recordings
    metadata = {**result.metadata, **described(recording)}
    if suffix == ".npy":
        beside: dict[str, Any] = {
            "noise_levels": recording.noise_levels,
            "neuron_ids": list(recording.neuron_ids) or None,
        }
        if recording.frames is not None:
            beside["segments"] = _segments(recording.frames)
        arrays = {"spike_prob": recording.spike_prob, "valid": recording.valid}
        known = {name: values for name, values in arrays.items() if values is not None}
        return write_result(path, known, {**metadata, **beside}, overwrite=overwrite)
    write = _write_csv if suffix == ".csv" else _write_parquet
    _renamed(path, lambda temporary: write(recording, metadata, temporary))
    return path


def check_export(path: Path, *, overwrite: bool) -> None:
    """Raise InputError or OutputExistsError if nothing can be written under this name."""
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, *layout.SUFFIXES):
        raise InputError(f"{path}: results are written as {', '.join(SUFFIXES)}")
    if suffix in layout.SUFFIXES:
        layout.check_target(path, overwrite=overwrite)
    elif suffix in (".npz", ".npy", ".mat"):
        check_output(path, overwrite=overwrite)
    elif not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    elif path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(f"{path} exists: choose another name, or allow --overwrite (overwrite=True)")
    if suffix == ".parquet":
        require("pyarrow", "tables", "writing Parquet files")


def neuron_names(recording: RecordingResult) -> list[str]:
    """Headings of the neurons in a table: the source's names, else ``neuron0``, ``neuron1`` and so on."""
    if recording.neuron_ids and all(isinstance(one, str) for one in recording.neuron_ids):
        return [str(one) for one in recording.neuron_ids]
    return [f"neuron{one}" for one in recording.neuron_ids or range(recording.n_neurons)]


def _together(result: Result, recordings: tuple[RecordingResult, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and metadata of all planes."""
    # A plane's own frame rate is its own, whatever an earlier file said about several.
    metadata = {name: value for name, value in result.metadata.items() if name != "planes"}
    metadata["complete"] = result.complete
    if len(recordings) == 1 and not recordings[0].name:
        return flatten(recordings[0]), {**metadata, **described(recordings[0])}
    arrays: dict[str, Any] = {}
    planes: dict[str, Any] = {}
    for recording in recordings:
        key = plain_name(recording.name)
        key = key if key not in planes else f"{key}_{len(planes)}"
        planes[key] = described(recording)
        arrays |= {f"{key}_{name}": values for name, values in flatten(recording).items()}
    return arrays, {**metadata, "planes": planes}


def _for_matlab(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    # Texts as a cell array: a matrix of characters would be padded with blanks.
    return array.astype(object) if array.dtype.kind == "U" else array


def _n_bytes(values: Any) -> int:
    return int(math.prod(values.shape) * np.dtype(values.dtype).itemsize)


def _write_portable(result: Result, recordings: tuple[RecordingResult, ...], path: Path, *, overwrite: bool) -> Path:
    if result.path.suffix.lower() in layout.SUFFIXES and result.complete and recordings == result.recordings:
        _renamed(path, lambda temporary: shutil.copyfile(result.path, temporary))
        return path
    if any(recording.revisions for recording in recordings):
        warnings.warn(
            f"{path}: takes the results of the longest look-ahead only; .npz and .mat hold the others too",
            CascadeWarning,
            stacklevel=3,
        )
    with ResultWriter(path, result.metadata, overwrite=overwrite) as writer:
        for recording in recordings:
            target = writer.begin(
                recording.name,
                recording.n_neurons,
                recording.n_frames,
                frame_rate_hz=recording.frame_rate_hz,
                first_frame=recording.first_frame,
                frames=recording.frames,
                timestamps=recording.timestamps,
                neuron_ids=recording.neuron_ids,
                is_cell=recording.is_cell,
                noise_levels=recording.noise_levels,
                f0=recording.f0,
                valid=recording.valid is not None,
                dff=recording.dff is not None,
                metadata=recording.metadata,
            )
            step = block_rows(recording.spike_prob)
            for start in range(0, recording.n_neurons, step):
                rows = slice(start, min(start + step, recording.n_neurons))
                target.write(
                    rows,
                    recording.spike_prob[rows],
                    dff=None if recording.dff is None else recording.dff[rows],
                    valid=None if recording.valid is None else recording.valid[rows],
                    spikes=None if recording.spikes is None else recording.spikes[rows],
                )
            if recording.why_undefined:
                target.set(why_undefined=recording.why_undefined)
        return writer.finish({"complete": result.complete})


def _write_csv(recording: RecordingResult, metadata: Mapping[str, Any], path: Path) -> None:
    del metadata  # a table in text has no place for it
    names = ["frame", "time_s", *neuron_names(recording)]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' if "," in name or '"' in name else name
                            for name in names) + "\n")  # fmt: skip
        for frames, times, prob in _by_frame(recording):
            for frame, time_s, values in zip(frames.tolist(), times.tolist(), prob.tolist(), strict=True):
                # Nothing between commas: what every program takes as a missing value.
                cells = ["" if value != value else f"{value:.7g}" for value in values]
                file.write(f"{frame},{time_s:.6f},{','.join(cells)}\n")


def _write_parquet(recording: RecordingResult, metadata: Mapping[str, Any], path: Path) -> None:
    pa = require("pyarrow", "tables", "writing Parquet files")
    parquet = require("pyarrow.parquet", "tables", "writing Parquet files")
    names = neuron_names(recording)
    fields = [("frame", pa.int64()), ("time_s", pa.float64()), *((name, pa.float32()) for name in names)]
    text = json.dumps(plain(metadata), ensure_ascii=False, allow_nan=False)
    schema = pa.schema(fields, metadata={"cascade_rt": text})
    with parquet.ParquetWriter(path, schema) as writer:
        for frames, times, prob in _by_frame(recording):
            writer.write_table(pa.Table.from_arrays([frames, times, *prob.T.copy()], schema=schema))


def _by_frame(
    recording: RecordingResult,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]]]:
    """Give frames, their times, and probabilities (k, n_neurons), NaN where not valid; some frames at a time."""
    frames, times = recording.frame_index, recording.times
    step = max(1, TABLE_VALUES // recording.n_neurons)
    for start in range(0, recording.n_frames, step):
        columns = slice(start, min(start + step, recording.n_frames))
        prob = np.asarray(recording.spike_prob[:, columns], np.float32)
        if recording.valid is not None:
            prob = np.where(np.asarray(recording.valid[:, columns], bool), prob, np.float32(np.nan))
        yield frames[columns], times[columns], prob.T


def _segments(frames: NDArray[np.int64]) -> list[list[int]]:
    """List the runs of consecutive frames, each [index of the first frame, number of frames]."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(frames) != 1) + 1])
    lengths = np.diff(starts, append=frames.size)
    return [[int(frames[start]), int(length)] for start, length in zip(starts, lengths, strict=True)]


def _renamed(path: Path, write: Callable[[Path], Any]) -> None:
    """Write into a file beside ``path`` that then takes its place."""
    temporary = layout.scratch_file(path)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

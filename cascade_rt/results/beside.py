"""Results where the source's own pipeline would look for them, as it would write them; never into its files.

Each format has a function that names its files and one that writes them. Of formats that have no convention of their
own (HDF5, zarr, folders of runs) the portable result is all there is.
"""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import CascadeWarning, FileFormatError, OutputExistsError
from cascade_rt.formats.extras import require
from cascade_rt.lazy import BLOCK_VALUES

from .arrays import plain, remove, write_json
from .exports import export_result
from .flat import described, spike_table
from .layout import scratch_file, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from cascade_rt.formats import Recording, Source

    from .model import RecordingResult, Result

__all__ = ["planned_paths", "write_beside"]

SUITE2P_FILES = ("cascade_spike_prob.npy", "cascade_spike_prob.json", "cascade_spikes.npz")


def planned_paths(source: Source, folder: Path | None = None) -> tuple[Path, ...]:
    """Name what :func:`write_beside` may write.

    Parameters
    ----------
    source : Source
    folder : Path, optional
        Instead of where the source is.

    Returns
    -------
    tuple of Path
        Files, and folders for zarr.
    """
    plan, _ = _FORMATS.get(source.format, (None, None))
    return () if plan is None else tuple(plan(source, folder))


def write_beside(
    source: Source, result: Result, *, folder: Path | None = None, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write a result next to its source, in the source's own convention.

    Parameters
    ----------
    source : Source
    result : Result
        Its planes are the source's, or some of them.
    folder : Path, optional
        Write the same files there instead.
    overwrite : bool
        Replace what an earlier call wrote.

    Returns
    -------
    tuple of Path
        What was written.

    Raises
    ------
    OutputExistsError
        Something is there already; nothing has been written.
    FileFormatError
        The result does not fit the source.
    """
    _, write = _FORMATS.get(source.format, (None, None))
    if write is None:
        return ()
    there = [path for path in planned_paths(source, folder) if path.exists()]
    if there and not overwrite:
        raise OutputExistsError(f"{there[0]} exists: choose another folder, or allow --overwrite (overwrite=True)")
    pairs = [(_recording(source, one), one) for one in result.recordings]
    for recording, one in pairs:
        _columns(recording, one)
    return tuple(write(source, result, folder))


def _recording(source: Source, result: RecordingResult) -> Recording:
    for recording in source.recordings:
        if recording.name == result.name:
            if recording.n_neurons != result.n_neurons:
                raise FileFormatError(
                    f"{recording.path} has {recording.n_neurons} neurons, the result {result.n_neurons}: it was made "
                    "from another recording"
                )
            return recording
    raise FileFormatError(f"{source.path} has no plane {result.name!r}, which the result has")


def _columns(recording: Recording, result: RecordingResult) -> NDArray[np.int64] | slice:
    """Columns of the result that belong to those of the source, which may lack some frames."""
    frames = np.arange(recording.n_frames) if recording.frames is None else recording.frames
    index = result.frame_index
    if np.array_equal(frames, index):
        return slice(None)
    columns = np.searchsorted(index, frames)
    if not np.array_equal(index[np.minimum(columns, index.size - 1)], frames):
        raise FileFormatError(
            f"{recording.path} has frames {frames[0]} to {frames[-1]}, the result {index[0]} to {index[-1]}: it was "
            "made from another recording, or at another frame rate"
        )
    return columns


def _blocks(recording: Recording, result: RecordingResult) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Give the probabilities of some neurons at a time, in the order and with the frames of the source."""
    columns = _columns(recording, result)
    step = max(1, BLOCK_VALUES // max(result.n_frames, recording.n_frames))
    for start in range(0, result.n_neurons, step):
        rows = slice(start, min(start + step, result.n_neurons))
        yield rows, np.ascontiguousarray(result.spike_prob[rows][:, columns], "<f4")


def _about(result: Result, plane: RecordingResult) -> dict[str, Any]:
    return {
        **result.metadata,
        **described(plane),
        "complete": result.complete,
        "units": "expected spikes per frame",
        "noise_levels": plane.noise_levels,
        "noise_level_units": "% Hz^-1/2",
    }


def _replace(path: Path, write: Callable[[Path], Any]) -> Path:
    temporary = scratch_file(path)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# --- Suite2p ---------------------------------------------------------------------------------------------


def _suite2p_folder(source: Source, recording: Recording, folder: Path | None) -> Path:
    plane = Path(recording.native.get("folder", recording.path))
    if folder is None:
        return plane
    return folder / _session(plane.parent) / plane.name


def _session(folder: Path) -> str:
    """Name of a session, whose folder pipelines call after themselves."""
    folder = folder.resolve()
    return folder.parent.name if folder.name in ("suite2p", "minian") else folder.name


def _plan_suite2p(source: Source, folder: Path | None) -> list[Path]:
    folders = [_suite2p_folder(source, recording, folder) for recording in source.recordings]
    return [place / name for place in folders for name in SUITE2P_FILES]


def _write_suite2p(source: Source, result: Result, folder: Path | None) -> list[Path]:
    written = []
    for plane in result.recordings:
        recording = _recording(source, plane)
        place = _suite2p_folder(source, recording, folder)
        place.mkdir(parents=True, exist_ok=True)
        prob, about, spikes = (place / name for name in SUITE2P_FILES)
        # Earlier spikes would be taken for those of the new probabilities.
        spikes.unlink(missing_ok=True)
        written.append(_replace(prob, partial(_stream_npy, recording, plane)))
        write_json(about, _about(result, plane))
        written.append(about)
        if plane.spikes is not None:
            neuron, column = spike_table(plane.spikes)
            arrays = {"neuron": neuron, "frame": plane.frame_index[column], "time_s": plane.times[column]}
            written.append(_replace(spikes, partial(_save_npz, arrays)))
    return written


def _stream_npy(recording: Recording, plane: RecordingResult, path: Path) -> None:
    with path.open("wb") as file:
        shape = (recording.n_neurons, recording.n_frames)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, block in _blocks(recording, plane):
            file.write(block.data)


def _save_npz(arrays: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


# --- CaImAn ----------------------------------------------------------------------------------------------


def _plan_caiman(source: Source, folder: Path | None) -> list[Path]:
    return [(folder or source.path.parent) / f"{source.path.stem}_cascade.hdf5"]


def _write_caiman(source: Source, result: Result, folder: Path | None) -> list[Path]:
    plane = result.only()
    recording = _recording(source, plane)
    return [_replace(_plan_caiman(source, folder)[0], partial(_fill_caiman, recording, result))]


def _fill_caiman(recording: Recording, result: Result, path: Path) -> None:
    import h5py

    plane = result.only()
    with h5py.File(path, "w") as file:
        file.attrs["metadata"] = to_json({**_about(result, plane), "noise_levels": None})
        estimates = file.create_group(str(recording.native.get("group") or "estimates"))
        stored = estimates.create_dataset("spike_prob", (recording.n_neurons, recording.n_frames), "<f4")
        stored.attrs["units"] = "expected spikes per frame"
        for rows, block in _blocks(recording, plane):
            stored[rows] = block
        if plane.noise_levels is not None:
            estimates["noise_level"] = plane.noise_levels
            estimates["noise_level"].attrs["units"] = "% Hz^-1/2"
        if plane.frame_rate_hz is not None:
            file["params/data/fr"] = plane.frame_rate_hz
        if plane.spikes is not None:
            estimates["spikes/neuron"], column = spike_table(plane.spikes)
            estimates["spikes/frame"] = plane.frame_index[column]


# --- Minian ----------------------------------------------------------------------------------------------


def _plan_minian(source: Source, folder: Path | None) -> list[Path]:
    variables = Path(source.recordings[0].native.get("folder", source.path))
    place = variables if folder is None else folder / _session(variables)
    return [place / "spike_prob.zarr"]


def _write_minian(source: Source, result: Result, folder: Path | None) -> list[Path]:
    target = _plan_minian(source, folder)[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    plane = result.only()
    temporary, old = target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.old")
    remove(temporary)
    remove(old)
    try:
        _fill_minian(_recording(source, plane), result, temporary)
        if target.exists():
            target.rename(old)  # a folder cannot be replaced in one step
        temporary.rename(target)
    finally:
        remove(temporary)
        if not target.exists() and old.exists():
            old.rename(target)
    remove(old)
    return [target]


def _fill_minian(recording: Recording, result: Result, path: Path) -> None:
    """Write a group as xarray lays it out: the variable, and a variable for each coordinate."""
    zarr = require("zarr", "zarr", "writing results into a Minian folder")
    plane = result.only()
    # Minian writes the second version of zarr's format, which all versions of zarr read.
    modern = int(zarr.__version__.partition(".")[0]) >= 3
    group = zarr.open_group(str(path), mode="w", **({"zarr_format": 2} if modern else {}))
    make = group.create_array if modern else group.create_dataset
    shape = (recording.n_neurons, recording.n_frames)
    step = max(1, BLOCK_VALUES // shape[1])
    coordinates = {
        "unit_id": np.asarray(recording.native["unit_id"]),
        "frame": np.asarray(recording.native["frame"]),
    }
    variable = make("spike_prob", shape=shape, chunks=(min(step, shape[0]), shape[1]), dtype="f4", fill_value=np.nan)
    variable.attrs.update(
        {
            "_ARRAY_DIMENSIONS": list(coordinates),
            "units": "expected spikes per frame",
            "metadata": json.dumps(plain(_about(result, plane)), ensure_ascii=False, allow_nan=False),
        }
    )
    for rows, block in _blocks(recording, plane):
        variable[rows] = block
    for name, values in coordinates.items():
        # Without a value that stands for nothing, else xarray takes it for missing and makes numbers of indices.
        stored = make(name, shape=values.shape, chunks=values.shape, dtype=values.dtype, fill_value=None)
        stored[:] = values
        stored.attrs["_ARRAY_DIMENSIONS"] = [name]
    with warnings.catch_warnings():
        # Zarr warns of consolidated metadata in its third format only; some releases do in all.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path), **({"zarr_format": 2} if modern else {}))


# --- NWB, and plain files --------------------------------------------------------------------------------


def _plan_nwb(source: Source, folder: Path | None) -> list[Path]:
    return [(folder or source.path.parent) / f"{source.path.stem}_cascade.nwb"]


def _write_nwb(source: Source, result: Result, folder: Path | None) -> list[Path]:
    from .nwb import write_nwb

    target = _plan_nwb(source, folder)[0]
    write_nwb(source, target, result, overwrite=True)
    return [target]


def _like(source: Source, folder: Path | None, *suffixes: str) -> list[Path]:
    """Return the source's name with an addition, and its suffix, if it is one of these."""
    suffix = source.path.suffix.lower()
    suffix = suffix if suffix in suffixes else suffixes[0]
    return [(folder or source.path.parent) / f"{source.path.stem}_spike_prob{suffix}"]


def _plan_matlab(source: Source, folder: Path | None) -> list[Path]:
    return _like(source, folder, ".mat")


def _plan_numpy(source: Source, folder: Path | None) -> list[Path]:
    return _like(source, folder, ".npz", ".npy")


def _plan_table(source: Source, folder: Path | None) -> list[Path]:
    return _like(source, folder, ".csv", ".parquet")


def _write_matlab(source: Source, result: Result, folder: Path | None) -> list[Path]:
    target = _plan_matlab(source, folder)[0]
    try:
        return [export_result(result, target, overwrite=True)]
    except FileFormatError as error:
        # All is in the portable result; hours of work shall not end in an error for this.
        warnings.warn(f"not written: {error}", CascadeWarning, stacklevel=4)
        return []


def _write_numpy(source: Source, result: Result, folder: Path | None) -> list[Path]:
    return [export_result(result, _plan_numpy(source, folder)[0], overwrite=True)]


def _write_table(source: Source, result: Result, folder: Path | None) -> list[Path]:
    return [export_result(result, _plan_table(source, folder)[0], overwrite=True)]


_FORMATS: dict[str, tuple[Any, Any]] = {
    "suite2p": (_plan_suite2p, _write_suite2p),
    "caiman": (_plan_caiman, _write_caiman),
    "minian": (_plan_minian, _write_minian),
    "nwb": (_plan_nwb, _write_nwb),
    "matlab": (_plan_matlab, _write_matlab),
    "numpy": (_plan_numpy, _write_numpy),
    "table": (_plan_table, _write_table),
}

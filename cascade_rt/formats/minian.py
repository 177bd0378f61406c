"""Folders of Minian: a zarr folder for each variable, and beside them the times of the Miniscope's frames.

``C`` and ``S`` are denoised. ``YrA`` is, in spite of its name, no residual: Minian computes it as ``C`` plus what the
model leaves unexplained, the raw trace of a neuron, and cuts negative values to 0. Minian works on a video of which it
has subtracted the background, so F0 is not in its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.lazy import LazyMatrix

from .denoised import noise_left
from .miniscope import find_times
from .recording import ReadOptions, Recording, Source, check_traces
from .sampling import sampling_of
from .zarr_store import METADATA, array_files, missing_chunks, open_zarr

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["open_file", "recognises"]

NAME = "minian"
TITLE = "Minian folder"
WHAT = "a folder with YrA.zarr and C.zarr"

#: The variable with the noise, and those without.
RAW, DENOISED = "YrA", ("C", "S", "b0", "c0")
#: Part of values that are exactly 0 from which they were cut off rather than measured.
MANY_ZEROS = 0.02
#: Rows and frames in which zeros are counted.
LOOK_ROWS, LOOK_FRAMES = 40, 3000
ADVICE = (
    'In Minian, save the raw traces: save_minian(YrA.rename("YrA"), dpath), or compute_trace(…).rename("YrA"); they '
    "may also lie in the folder for intermediate results (intpath): open that"
)


def recognises(path: Path) -> bool:
    """Whether it is a folder with variables of neurons, the folder of a session with one, or such a variable."""
    return _find_folder(path) is not None


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open a Minian folder; the traces stay in it."""
    folder = _find_folder(path)
    if folder is None:
        raise FileFormatError(f"{path}: has no folder YrA.zarr or C.zarr with unit_id and frame, as Minian writes them")
    if options.neuropil_key is not None or options.transposed is not None:
        raise InputError(f"{path}: Minian names its dimensions and has no neuropil; leave out transposed and neuropil")
    key = _variable(path, folder, options)
    opened = _Variable(folder, key)
    units, frames = opened.coordinate("unit_id"), opened.coordinate("frame")
    files, facts, problems = opened.files(), [f"variable {key}"], opened.problems()

    model = _Variable(folder, "C") if key != "C" and _is_variable(folder / "C.zarr") else None
    is_cell = None
    if model is not None:
        kept = model.coordinate("unit_id")
        files += model.coordinate_files("unit_id")
        if np.array_equal(units, kept):
            left = noise_left(opened.traces, model.traces, None, None)
            if left.denoised:
                raise FileFormatError(
                    f"{path}: {key} is denoised (noise level ν near 0: it changes as C does), which no model can "
                    f"use. {ADVICE}"
                )
        elif not np.isin(units, kept).all():
            is_cell = np.isin(units, kept)
            facts.append(
                f"{int(is_cell.sum())} of {units.size} units are left in C; the others Minian merged or dropped"
            )
    zeros = _zeros(opened.traces)
    if zeros > MANY_ZEROS:
        problems.append(
            f"{100 * zeros:.0f} % of the values are exactly 0, as Minian cuts negative values of {key} off: "
            "noise levels come out too low, and F0 may be 0, for which there is no ΔF/F"
        )
    problems.append(
        "Minian subtracts the background of the video, so F0 is not in its files: ΔF/F is relative to what is left of "
        "the baseline, and the number of spikes is on no known scale. The models were trained on 2-photon recordings; "
        "for 1-photon data, compare times and relative sizes only"
    )

    rate, columns, times, told = None, None, None, find_times(folder, frames)
    step = _step(frames)
    index = frames // step
    if told is None:
        problems.append("no times of the frames (timeStamps.csv or timestamp.dat) in or above the folder")
    else:
        files.append(told.path)
        problems += told.problems
        times = told.times_s
        if times is not None:
            sampling = sampling_of(times, told.path.name)
            problems += sampling.problems
            rate = sampling.frame_rate_hz
            if rate is not None:
                facts.append(f"frame rate {rate:.3f} Hz from {told.path.name}")
            if sampling.frames is not None:
                index = sampling.frames + int(index[0])
    if step > 1:
        facts.append(f"every {step}th frame of the video was used")
    if not np.array_equal(index, np.arange(index.size)):
        columns = index.astype(np.int64)
        n_missing = int(columns[-1]) - int(columns[0]) + 1 - columns.size
        facts.append(f"frames {int(frames[0])} to {int(frames[-1])} of the video, {n_missing} missing in between")
    recording = Recording(
        traces=opened.traces,
        path=path,
        kind=options.kind or "fluorescence",
        key=key,
        frame_rate_hz=rate,
        is_cell=is_cell,
        frames=columns,
        timestamps=times,
        neuron_ids=tuple(units.tolist()),
        facts=tuple(facts),
        problems=tuple(problems),
        native={"folder": folder, "unit_id": units, "frame": frames},
    )
    return Source(path=path, format=NAME, title=TITLE, recordings=(recording,), files=tuple(dict.fromkeys(files)))


class _Variable:
    """A variable of neurons and frames in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / f"{name}.zarr"
        self.group = open_zarr(self.folder)
        self.name = name
        try:
            self.array = self.group[name]
        except Exception as error:
            raise FileFormatError(f"{self.folder}: has no array {name!r}, as Minian writes it: {error}") from error
        check_traces(self.array, self.folder, name)
        dimensions = tuple(_dimensions(self.array))
        if set(dimensions) != {"unit_id", "frame"}:
            raise FileFormatError(
                f"{self.folder}: has the dimensions {dimensions}: expected unit_id and frame; it holds no "
                "traces of neurons"
            )
        self.traces = LazyMatrix(self.array, transposed=dimensions == ("frame", "unit_id"))

    def coordinate(self, name: str) -> NDArray[np.int64]:
        length = self.traces.shape[0 if name == "unit_id" else 1]
        try:
            values = np.asarray(self.group[name][...])
        except Exception as error:
            raise FileFormatError(f"{self.folder}: the coordinate {name} cannot be read: {error}") from error
        whole = values.astype(np.int64) if values.dtype.kind in "fiu" else None
        if whole is None or values.shape != (length,) or not np.array_equal(whole, values):
            raise FileFormatError(f"{self.folder}: coordinate {name}: expected {length} whole numbers")
        if name == "frame" and (np.diff(whole) <= 0).any():
            raise FileFormatError(f"{self.folder}: coordinate frame: expected ascending numbers")
        return whole

    def files(self) -> list[Path]:
        own = [
            *self.coordinate_files("unit_id"),
            *self.coordinate_files("frame"),
            *array_files(self.folder / self.name),
        ]
        return own + [self.folder / mark for mark in METADATA if (self.folder / mark).is_file()]

    def coordinate_files(self, name: str) -> list[Path]:
        return array_files(self.folder / name)

    def problems(self) -> list[str]:
        return missing_chunks(self.array, array_files(self.folder / self.name), self.name)


def _find_folder(path: Path) -> Path | None:
    if not path.is_dir():
        return None
    if path.suffix.lower() == ".zarr":
        return path.parent if _is_variable(path) else None
    for folder in (path, path / "minian"):
        if any(_is_variable(folder / f"{name}.zarr") for name in (RAW, *DENOISED[:2])):
            return folder
    return None


def _is_variable(path: Path) -> bool:
    return (path / "unit_id").is_dir() and (path / "frame").is_dir()


def _variable(path: Path, folder: Path, options: ReadOptions) -> str:
    named = path.stem if path != folder and path.suffix.lower() == ".zarr" else None
    key = options.key or named
    plain = RAW if key is None else key.strip("/").removesuffix(".zarr")
    if plain in DENOISED:
        raise InputError(
            f"{path}: {plain} is denoised, so its noise level ν would be near 0 and the result meaningless: models "
            f"need the noise of the recording, which is in YrA. {ADVICE}"
        )
    if not _is_variable(folder / f"{plain}.zarr"):
        inside = sorted(item.stem for item in folder.glob("*.zarr") if _is_variable(item))
        raise FileFormatError(
            f"{path}: has no {plain}.zarr; of the variables with neurons and frames it has "
            f"{', '.join(inside) or 'none'}, and C "
            f"and S are denoised (noise level ν near 0), which no model can use. {ADVICE}"
        )
    return plain


def _dimensions(array: Any) -> Any:
    found = array.attrs.get("_ARRAY_DIMENSIONS")  # xarray, in version 2 of the format
    return found or getattr(getattr(array, "metadata", None), "dimension_names", None) or ()


def _step(frames: NDArray[np.int64]) -> int:
    """Distance of the frames that were used in the video."""
    return int(np.gcd.reduce(np.diff(frames))) if frames.size > 1 else 1


def _zeros(traces: LazyMatrix) -> float:
    rows = np.unique(np.linspace(0, traces.shape[0] - 1, min(LOOK_ROWS, traces.shape[0])).astype(int))
    return float(np.mean([np.mean(traces[int(row), :LOOK_FRAMES] == 0) for row in rows]))

"""Folders written by Suite2p, 0.x and 1.x: ``suite2p/plane0``, ``plane1`` and so on.

``F.npy`` is (n_rois, n_frames) and stays on disk. ``iscell.npy`` is the only file that curation changes. Up to 0.x the
settings are in ``ops.npy``, flat; from 1.0 on they are in ``settings.npy``, in groups, and what the registration found
is in ``reg_outputs.npy``.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import CascadeWarning, FileFormatError, InputError

from .numpy_files import read_array
from .recording import ReadOptions, Recording, Source, check_traces
from .restricted import read_objects

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["open_file", "recognises"]

NAME = "suite2p"
TITLE = "Suite2p folder"
WHAT = "a folder with suite2p/plane0/F.npy, or suite2p or one plane of it"

#: The rate that Suite2p assumes where nobody has set one.
DEFAULT_RATE_HZ = 10.0
_COMPANIONS = ("Fneu.npy", "iscell.npy", "stat.npy", "ops.npy", "settings.npy")


def recognises(path: Path) -> bool:
    """Whether this is a plane, a folder of planes, or the folder around it."""
    try:
        return path.is_dir() and bool(_find_planes(path)[0])
    except OSError:
        return False


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open all planes of a Suite2p folder, or the one plane given.

    Parameters
    ----------
    path : Path
        A plane folder, the folder of the planes, or the folder that contains ``suite2p``.
    options : ReadOptions
        Suite2p's files say everything; only ``kind="fluorescence"`` is accepted.

    Returns
    -------
    Source
        One recording for each plane that has regions of interest. ``combined`` is read only where there are no planes:
        it fills shorter planes up with zeros.

    Raises
    ------
    FileFormatError
        A file is damaged, or files of a plane do not fit together.
    InputError
        An option that does not apply.
    """
    _check_options(options)
    folders, fact = _find_planes(path)
    if not folders:
        raise FileFormatError(f"{path}: not a Suite2p folder: expected {WHAT}")
    opened = [(folder, _open_plane(folder, fact)) for folder in folders]
    planes = [plane for _, plane in opened if plane is not None]
    if not planes:
        names = ", ".join(folder.name for folder in folders)
        raise FileFormatError(
            f"{path}: no plane has traces (seen: {names}): Suite2p found no regions of interest, or has not finished"
        )
    versions = sorted({plane.version for plane in planes if plane.version})
    return Source(
        path=path,
        format=NAME,
        title=f"Suite2p {' and '.join(versions)} folder" if versions else TITLE,
        recordings=tuple(plane.recording for plane in planes),
        files=tuple(file for plane in planes for file in plane.files),
    )


@dataclass(frozen=True)
class _Plane:
    recording: Recording
    version: str
    files: tuple[Path, ...]


class _Metadata:
    """Settings and results of one plane, whichever version wrote them; remembers which file said what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self.settings_file = "settings.npy"
        self.settings = self._read("settings.npy")
        if not self.settings:
            # A folder of version 1.x may hold an ops.npy too, which an earlier run with 0.x can have left behind.
            self.settings_file = "ops.npy"
            self.settings = self._read("ops.npy")
        self.registration_file = "reg_outputs.npy"
        self.registration = self._read("reg_outputs.npy")
        if not self.registration:
            self.registration_file, self.registration = self.settings_file, self.settings

    def _read(self, name: str) -> Mapping[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        values = read_objects(path)
        if not isinstance(values, dict):
            raise FileFormatError(f"{path}: holds {type(values).__name__}: expected Suite2p's settings, a dict")
        self.files.append(path)
        return values

    def number(self, *keys: str) -> float | None:
        """Return the number under these nested keys; None if there is none."""
        value: Any = self.settings
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise FileFormatError(
                f"{self.folder / self.settings_file}: {'/'.join(keys)} is {value!r}: expected a number"
            )
        return float(array.reshape(()))

    @property
    def version(self) -> str:
        return str(self.settings.get("version") or self.settings.get("suite2p_version") or "")


def _check_options(options: ReadOptions) -> None:
    given = {"key": options.key, "neuropil_key": options.neuropil_key, "transposed": options.transposed}
    named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if named:
        raise InputError(f"{', '.join(named)}: a Suite2p folder says this itself; leave it out")
    if options.kind == "dff":
        raise InputError("kind='dff': Suite2p's F.npy holds fluorescence, not ΔF/F; leave the kind out")


def _find_planes(path: Path) -> tuple[list[Path], str]:
    """Return the folders to read, and what to tell the user about the choice."""
    path = path.resolve()  # "." has no name
    around = path.parent
    if path.name == "combined" and (planes := _planes_in(around)):
        return planes, f"the planes in {around.name} were read in the place of {path.name}, which pads with zeros"
    if _is_plane(path):
        return [path], ""
    for folder in (path, path / "suite2p"):
        if planes := _planes_in(folder):
            return planes, ""
        if _is_plane(folder / "combined"):
            return [folder / "combined"], ""
    return [], ""


def _is_plane(folder: Path) -> bool:
    return (folder / "F.npy").is_file() and any((folder / name).is_file() for name in _COMPANIONS)


def _planes_in(folder: Path) -> list[Path]:
    """Plane folders by number; those without F.npy too, if Suite2p has been there."""
    if not folder.is_dir():
        return []
    numbered = [
        (int(name[1]), item)
        for item in folder.iterdir()
        if (name := re.fullmatch(r"plane(\d+)", item.name)) and item.is_dir()
    ]
    left_behind = ("F.npy", "ops.npy", "settings.npy", "db.npy")
    return [item for _, item in sorted(numbered) if any((item / file).is_file() for file in left_behind)]


def _open_plane(folder: Path, fact: str) -> _Plane | None:
    """Open one plane; None, and a warning, if nothing was found in it."""
    path = folder / "F.npy"
    fluorescence = read_array(path) if path.is_file() else None
    if fluorescence is None or (fluorescence.ndim == 2 and not len(fluorescence)):
        why = "has no F.npy" if fluorescence is None else "has no regions of interest"
        warnings.warn(f"{folder}: {why}: this plane is left out", CascadeWarning, stacklevel=5)
        return None
    check_traces(fluorescence, path)
    shape = fluorescence.shape
    metadata = _Metadata(folder)
    facts: list[str] = [fact] if fact else []
    problems: list[str] = []
    rate = _rate(metadata, facts, problems)
    neuropil = _neuropil(folder, shape)
    coefficient = _coefficient(metadata, facts, problems) if neuropil is not None else None
    if neuropil is None:
        problems.append(f"{folder.name} has no Fneu.npy: there is no neuropil to subtract")
    is_cell = _is_cell(folder, shape, facts, problems)
    if folder.name == "combined":
        bad = _padded(fluorescence, problems)
        flagged = None
    else:
        flagged = folder.parent.parent / "bad_frames.npy"
        bad = _bad_frames(metadata, flagged, shape[1], facts)
    recording = Recording(
        traces=fluorescence,
        path=folder,
        kind="fluorescence",
        name=folder.name,
        key="F",
        frame_rate_hz=rate,
        neuropil=neuropil,
        neuropil_coefficient=coefficient,
        is_cell=is_cell,
        bad_frames=bad,
        facts=tuple(facts),
        problems=tuple(problems),
        native={"folder": folder, "version": metadata.version},
    )
    files = [path, folder / "Fneu.npy", folder / "iscell.npy", *metadata.files, *([flagged] if flagged else [])]
    return _Plane(recording, metadata.version, tuple(file for file in files if file.is_file()))


def _rate(metadata: _Metadata, facts: list[str], problems: list[str]) -> float | None:
    rate = metadata.number("fs")
    if rate is None:
        problems.append(
            f"{metadata.folder.name} has neither settings.npy nor ops.npy with fs: the frame rate is unknown"
        )
        return None
    if rate <= 0:
        raise FileFormatError(f"{metadata.folder / metadata.settings_file}: fs is {rate:g}: expected a positive number")
    facts.append(f"{rate:g} Hz per plane ({metadata.settings_file}: fs)")
    if rate == DEFAULT_RATE_HZ:
        problems.append(f"fs is {rate:g} Hz, which is what Suite2p assumes if nobody sets it: check the frame rate")
    return rate


def _neuropil(folder: Path, shape: tuple[int, ...]) -> NDArray[Any] | None:
    path = folder / "Fneu.npy"
    if not path.is_file():
        return None
    neuropil = read_array(path)
    if neuropil.shape != shape:
        raise FileFormatError(
            f"{path} has shape {neuropil.shape}: expected {shape}, that of F.npy. The files are not from the same run: "
            "run Suite2p's extraction again"
        )
    return check_traces(neuropil, path)  # type: ignore[no-any-return]


def _coefficient(metadata: _Metadata, facts: list[str], problems: list[str]) -> float | None:
    for keys in (("extraction", "neuropil_coefficient"), ("neucoeff",)):
        value = metadata.number(*keys)
        if value is not None:
            facts.append(f"neuropil coefficient {value:g} ({metadata.settings_file}: {'/'.join(keys)})")
            return value
    problems.append(f"{metadata.folder.name}: no neuropil coefficient in its settings")
    return None


def _is_cell(folder: Path, shape: tuple[int, ...], facts: list[str], problems: list[str]) -> NDArray[np.bool_] | None:
    path = folder / "iscell.npy"
    if not path.is_file():
        problem = f"{folder} has no iscell.npy: all {shape[0]} rows are taken as cells"
        problems.append(problem)
        warnings.warn(problem, CascadeWarning, stacklevel=6)
        return None
    values = read_array(path)
    if values.ndim != 2 or values.shape[0] != shape[0] or not values.shape[1] or values.dtype.kind not in "biuf":
        raise FileFormatError(
            f"{path} has shape {values.shape} of {values.dtype}: expected ({shape[0]}, 2), one row for each of F.npy. "
            "The files are not from the same run: run Suite2p's classification again"
        )
    # A copy: curating while this is in use must not change what is a cell.
    is_cell: NDArray[np.bool_] = np.array(values[:, 0] > 0.5)
    facts.append(f"{int(is_cell.sum())} of {len(is_cell)} rows are cells (iscell.npy)")
    if not is_cell.any():
        problems.append(f"{folder.name}: no row is a cell in iscell.npy")
    return is_cell


def _bad_frames(metadata: _Metadata, flagged: Path, n_frames: int, facts: list[str]) -> NDArray[np.bool_] | None:
    """Frames that the registration gave up, and those that the user listed (not stored if nothing was registered)."""
    bad = np.zeros(n_frames, np.bool_)
    seen = []
    if "badframes" in metadata.registration:
        values = np.asarray(metadata.registration["badframes"])
        if values.shape != (n_frames,):
            raise FileFormatError(
                f"{metadata.folder / metadata.registration_file}: badframes has shape {values.shape}: expected "
                f"({n_frames},), one for each frame of F.npy"
            )
        bad |= values.astype(np.bool_)
        seen.append(metadata.registration_file)
    if flagged.is_file():
        listed = np.array(read_array(flagged)).ravel().astype(np.int64)
        # The list is for all planes: one of them may have a frame less.
        bad[listed[(listed >= 0) & (listed < n_frames)]] = True
        seen.append(flagged.name)
    if not seen:
        return None
    facts.append(f"{int(bad.sum())} of {n_frames} frames are bad ({', '.join(seen)})")
    return bad


def _padded(traces: NDArray[Any], problems: list[str]) -> NDArray[np.bool_] | None:
    """Find the zeros that fill shorter planes up, at the end."""
    n_frames = traces.shape[1]
    rows = np.flatnonzero(traces[:, -1] == 0)
    whole = n_frames
    while rows.size and whole:
        block = np.asarray(traces[rows, max(0, whole - 1000) : whole])
        filled = block == 0
        trailing = np.where(filled.all(axis=1), block.shape[1], np.argmin(filled[:, ::-1], axis=1))
        whole -= int(trailing.max())
        rows = rows[trailing == 1000]
    problems.append("this is Suite2p's combined view, read because its planes are missing")
    if whole == n_frames:
        return None
    problems.append(f"some rows end with {n_frames - whole} zeros, which stand for frames that a plane does not have")
    padded: NDArray[np.bool_] = np.arange(n_frames) >= whole
    return padded

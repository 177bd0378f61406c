"""What is in an NWB file: series of responses, what each seems to hold, when its samples were, whose they are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade_rt.catalogue import parse_indicator
from cascade_rt.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["USABLE", "Role", "Series", "Timing", "cells", "find_series", "imaging_rate", "indicator", "timing"]

#: Where series are looked for, in this order.
PLACES = ("processing", "analysis", "acquisition")
#: Nothing lies deeper in the files of any writer.
DEEPEST = 6
#: Columns that say which regions are cells, in this order; of CaImAn's, ``keep`` is filled more often.
CELL_COLUMNS = ("iscell", "is_cell", "keep", "accepted", "valid_roi")
#: An interval that many times longer than usual is a gap; one shorter than its inverse is irregular too.
GAP = 1.5
#: Disagreement of two frame rates that is mentioned.
RATES_DIFFER = 0.05

Role = Literal["dff", "corrected", "fluorescence", "second channel", "neuropil", "unusable"]
#: What can be traces, the best first.
USABLE: tuple[Role, ...] = ("dff", "corrected", "fluorescence", "second channel")

_NEVER = r"deconv|denois|spike|spks|event|inferr?ed|probab|smooth|z_?score"
#: Of a series, or of a group around it: the innermost that fits decides.
_PARTS: tuple[tuple[Role, str], ...] = (
    ("corrected", r"correct|subtract|demix"),
    ("neuropil", r"neuropil|npil|f_?neu(?![a-z])"),
    ("unusable", r"background|baseline|(?<![a-z])f_?0(?![0-9])|residual"),
)
_DFF = r"dff|(?<![a-z])df_?(over_?)?f|delta_?f"
_SECOND_CHANNEL = r"chan(nel)?_?2"


@dataclass(frozen=True, eq=False)
class Series:
    """A series of responses.

    Parameters
    ----------
    path : str
        In the file, by the way it was found.
    group : h5py.Group
    data : h5py.Dataset or None
        None: a link to a file that is not there.
    role : str
        What it seems to hold.
    table : h5py.Group or None
        Table of the regions of interest.
    rows : tuple of int
        Rows of the table, in the order of the responses.
    """

    path: str
    group: Any
    data: Any
    role: Role
    table: Any
    rows: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def regions(self) -> tuple[str, tuple[int, ...]]:
        """Equal for series of the same regions of interest."""
        return (self.table.name if self.table is not None else self.name, self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.data is None else tuple(self.data.shape)

    @property
    def is_background(self) -> bool:
        """Whether CaImAn wrote it for the background, beside denoised traces."""
        return self.name == "Background_Fluorescence_Response"

    @property
    def imaging_plane(self) -> Any:
        return None if self.table is None else _get(self.table, "imaging_plane")

    def table_rows(self, n_rois: int) -> NDArray[np.int64] | None:
        """Rows of the table that the neurons are, if they are told; (n_rois,)."""
        rows = np.asarray(self.rows, np.int64)
        if self.table is None or "id" not in self.table or rows.size != n_rois:
            return None
        return rows if rows.min() >= 0 and rows.max() < self.table["id"].shape[0] else None

    def frames_first(self, path: Path, transposed: bool | None, problems: list[str]) -> bool:
        """Whether it is (n_frames, n_rois), as it should be: older releases of Suite2p wrote (n_rois, n_frames)."""
        if self.data.ndim == 1:
            return True
        if transposed is not None:
            return transposed
        first, second = self.shape
        times = _get(self.group, "timestamps")
        n_rois, n_times = len(self.rows), -1 if times is None else times.size
        if first != second and n_rois in (first, second):
            return n_rois == second
        if first != second and n_times in (first, second):
            return bool(n_times == first)
        if n_rois not in (first, second):
            problems.append(
                f"{self.path} is {first} x {second}, which does not fit its {n_rois} regions of interest: taken as "
                f"{first} frames of {second} neurons, as NWB has it. If it is the other way round, say so "
                "(transposed=False)"
            )
        return True

    def values(self, path: Path, *, fraction: bool) -> Any:
        """Return the numbers in two dimensions, converted when they are read; ``fraction``: percent become fractions.

        Raises
        ------
        FileFormatError
            The conversion factor is 0.
        """
        stored = self.data[()][:, None] if self.data.ndim == 1 else self.data
        attributes = self.data.attrs
        factor = 1.0 if (given := _finite(attributes.get("conversion"))) is None else given
        offset = _finite(attributes.get("offset")) or 0.0
        if factor == 0:
            raise FileFormatError(f"{path}: {self.path} has the conversion factor 0, which makes all values equal")
        if fraction and re.search(r"%|percent", text(attributes.get("unit")).lower()):
            factor, offset = factor / 100, offset / 100
        return stored if factor == 1 and offset == 0 else _Converted(stored, factor, offset)


class _Converted:
    """Numbers of a file in the unit that is expected: ``stored * factor + offset``."""

    def __init__(self, stored: Any, factor: float, offset: float) -> None:
        self.stored, self.factor, self.offset = stored, factor, offset
        self.shape, self.chunks = stored.shape, getattr(stored, "chunks", None)
        self.dtype = np.dtype(np.float64 if np.dtype(stored.dtype) == np.float64 else np.float32)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        values = np.asarray(self.stored[key], np.float64)
        return (values * self.factor + self.offset).astype(self.dtype)


def find_series(file: Any) -> list[Series]:
    """Find everything that holds responses, each once, however many links there are to it.

    Parameters
    ----------
    file : h5py.File
    """
    import h5py

    seen = set()

    def walk(group: Any, path: str, depth: int) -> Iterator[Series]:
        for name in sorted(group, key=_naturally):
            item = _get(group, name)
            if not isinstance(item, h5py.Group) or "colnames" in item.attrs:
                continue
            info = h5py.h5o.get_info(item.id)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            here = f"{path}/{name}"
            if text(item.attrs.get("neurodata_type")) == "RoiResponseSeries" or ("data" in item and "rois" in item):
                yield _describe(here, item, text(group.attrs.get("neurodata_type")))
            elif depth < DEEPEST:
                yield from walk(item, here, depth + 1)

    return [one for place in PLACES if place in file for one in walk(file[place], f"/{place}", 1)]


def _describe(path: str, group: Any, container: str) -> Series:
    data, regions = _get(group, "data"), _get(group, "rois")
    table, rows = None, np.empty(0, np.int64)
    if regions is not None:
        rows = np.asarray(regions[()], np.int64).ravel()
        reference = regions.attrs.get("table")
        table = None if not reference else regions.file[reference]
    role = _role(path, container)
    if data is not None and (data.ndim not in (1, 2) or not data.size or data.dtype.kind not in "fiu"):
        role = "unusable"
    return Series(path=path, group=group, data=data, role=role, table=table, rows=tuple(rows.tolist()))


def _role(path: str, container: str) -> Role:
    """Tell what a series holds from its own name, those around it, and the type of its container."""
    # A module's name tells of the programs that filled it: "deconvolution_pipeline".
    outer = 3 if path.startswith("/processing/") else 2
    names = [
        re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|[ .-]+", "_", name).lower() for name in reversed(path.split("/")[outer:])
    ]
    if any(re.search(_NEVER, name) for name in names):
        return "unusable"
    part = next((role for name in names for role, pattern in _PARTS if re.search(pattern, name)), None)
    if part in ("neuropil", "unusable"):
        return part
    if container == "DfOverF" or any(re.search(_DFF, name) for name in names):
        return "dff"
    second = any(re.search(_SECOND_CHANNEL, name) for name in names)
    return "second channel" if second else part or "fluorescence"


# -------------------------------------------------------------------------------------- time, regions, indicator


@dataclass(frozen=True)
class Timing:
    """When the samples were.

    Parameters
    ----------
    frame_rate_hz : float or None
    timestamps : ndarray, (n_frames,), float64, or None
        Time of each sample (s), if the file lists it.
    start_s : float
        Time of the first.
    """

    frame_rate_hz: float | None
    timestamps: NDArray[np.float64] | None
    start_s: float


def timing(one: Series, n_samples: int, problems: list[str]) -> Timing:
    """Read when the samples of a series were; what is odd is added to ``problems``."""
    start, listed, nominal = _get(one.group, "starting_time"), _get(one.group, "timestamps"), imaging_rate(one)
    timestamps = None if listed is None else np.asarray(listed[()], np.float64).ravel()
    if timestamps is not None and timestamps.size > 1:
        rate = _rate_of(timestamps, problems)
    else:
        rate = None if start is None else _positive(start.attrs.get("rate"))
    if timestamps is not None and timestamps.size != n_samples:
        problems.append(
            f"there are {timestamps.size} time stamps for {n_samples} frames: they are used for the frame rate alone"
        )
        timestamps = None
    if rate is None and nominal is not None:
        rate = nominal
        problems.append(f"the series does not tell its frame rate: taken from the imaging plane, {rate:g} Hz")
    elif rate is not None and nominal is not None and abs(nominal - rate) > RATES_DIFFER * rate:
        problems.append(
            f"the series has {rate:.4g} Hz, its imaging plane says {nominal:.4g} Hz: the series is believed; if it is "
            "wrong, give the frame rate (--frame-rate)"
        )
    first = float(timestamps[0]) if timestamps is not None else None if start is None else _finite(start[()])
    return Timing(rate, timestamps, 0.0 if first is None or not math.isfinite(first) else first)


def _rate_of(timestamps: NDArray[np.float64], problems: list[str]) -> float | None:
    steps = np.diff(timestamps)
    usual = float(np.nanmedian(steps)) if np.isfinite(steps).any() else math.nan
    if not usual > 0:
        problems.append("the time stamps do not increase: give the frame rate (--frame-rate)")
        return None
    regular = (steps > usual / GAP) & (steps < usual * GAP)
    gaps = np.flatnonzero(steps >= usual * GAP)
    if gaps.size:
        missing = int(np.rint(steps[gaps] / usual).sum()) - gaps.size
        problems.append(
            f"the time stamps have {gaps.size} gap{'s' * (gaps.size > 1)} with about {missing} frames missing (the "
            f"first after frame {int(gaps[0])}, the longest of {float(steps[gaps].max()):.3g} s): frames are used as "
            "if they followed each other, and what is inferred within a window of a gap may be wrong"
        )
    irregular = int(steps.size - gaps.size - np.count_nonzero(regular))
    if irregular:
        problems.append(
            f"{irregular} of {timestamps.size} time stamps are irregular: equal to others, out of order, or not numbers"
        )
    # Times in whole milliseconds have a median that is off, but not a mean.
    return 1.0 / float(steps[regular].mean())


def imaging_rate(one: Series) -> float | None:
    """Frames per second that the imaging plane is said to have had."""
    stored = None if one.imaging_plane is None else _get(one.imaging_plane, "imaging_rate")
    return None if stored is None else _positive(stored[()])


def cells(one: Series, rows: NDArray[np.int64], facts: list[str]) -> NDArray[np.bool_] | None:
    """Read which regions are cells, from the first column that accepts any; (n_rois,), None if none does."""
    columns = {name.lower(): name for name in one.table}
    for wanted in (*CELL_COLUMNS, "rejected"):
        column = _get(one.table, columns.get(wanted, wanted))
        if column is None or column.ndim not in (1, 2) or column.shape[0] <= rows.max():
            continue
        values = np.asarray(column[()])
        values = values[:, 0] if values.ndim == 2 else values
        if values.dtype.kind not in "biuf":
            continue
        accepted: NDArray[np.bool_] = np.asarray(values[rows] > 0.5)
        accepted = ~accepted if wanted == "rejected" else accepted
        # Columns are written for what nobody has done, too: all False.
        if accepted.any() and not (wanted == "rejected" and accepted.all()):
            facts.append(
                f"column {columns[wanted]!r}: {int(accepted.sum())} of {rows.size} regions of interest are cells"
            )
            return accepted
    return None


def indicator(one: Series, facts: list[str]) -> str | None:
    """Read the indicator's name; None for placeholders, which would only mislead the choice of a model."""
    stored = None if one.imaging_plane is None else _get(one.imaging_plane, "indicator")
    name = "" if stored is None else text(stored[()]).strip()
    if not name:
        return None
    facts.append(f"indicator {name!r}")
    # Suite2p's "GCaMP" and NeuroConv's "unknown" have no number, as nearly all indicators do.
    has_letter = re.search("[A-Za-z]", name) is not None
    return name if has_letter and (re.search(r"\d", name) or parse_indicator(name).known) else None


def text(value: Any) -> str:
    """Return what h5py gives for a string, as a string."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)


def _get(group: Any, name: str) -> Any:
    """Return an item, or None where there is none, or a link leads to nothing."""
    try:
        return group.get(name)
    except OSError:
        return None


def _finite(value: Any) -> float | None:
    number = np.asarray(np.nan if value is None else value)
    good = number.size == 1 and number.dtype.kind in "fiu" and bool(np.isfinite(number).all())
    return float(number.reshape(())) if good else None


def _positive(value: Any) -> float | None:
    number = _finite(value)
    return number if number is not None and number > 0 else None


def _naturally(name: str) -> list[tuple[int, str]]:
    """Sort plane10 after plane2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

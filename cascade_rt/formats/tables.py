"""Tables: a column for each neuron and a row for each frame, as CSV (text) or Parquet.

Text is parsed once, when the file is opened, so that a value that is no number is found and named at once; large files
go through a scratch file. Parquet stays where it is: columns are read when they are asked for.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.lazy import LazyMatrix

from .csv_text import Parsed, parse
from .parquet_columns import ParquetColumns, open_parquet
from .recording import ReadOptions, Recording, Source, check_traces
from .sampling import sampling_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["open_file", "recognises"]

NAME = "table"
TITLE = "table"
WHAT = ".csv, .tsv or .parquet, a column for each neuron"

TEXT_SUFFIXES, PARQUET_SUFFIXES = (".csv", ".tsv"), (".parquet", ".pq")
#: Names of columns that number or time the rows; letters and digits alone, lower case, without the unit.
FRAME_NAMES = ("frame", "frames", "framenumber", "framenum", "frameindex", "index", "indexlevel0", "unnamed0", "sample")
TIME_NAMES = ("time", "times", "t", "timestamp", "timestamps")
#: Units of times, in seconds.
UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "microsecond", "microseconds"), 1e-6),
}
#: Names of a column that says of which neuron a row is.
NEURON_NAMES = ("neuron", "neuronid", "cell", "cellid", "roi", "roiid", "unit", "unitid", "component", "id")
#: Longest interval between frames (s) that is believed of times without a unit.
LONGEST_S = 2.0
#: Relative difference of intervals up to which an unnamed first column counts as times.
EVEN = 0.01


class Clock(NamedTuple):
    """What a column that numbers or times the rows told."""

    frame_rate_hz: float | None = None
    frames: NDArray[np.int64] | None = None
    timestamps: NDArray[np.float64] | None = None
    facts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def recognises(path: Path) -> bool:
    """Whether the name ends as that of a table."""
    return path.is_file() and path.suffix.lower() in TEXT_SUFFIXES + PARQUET_SUFFIXES


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open a CSV or Parquet file."""
    if options.key is not None or options.neuropil_key is not None:
        raise InputError(f"{path}: a table holds one matrix without a name; leave out key and neuropil_key")
    with ExitStack() as stack:
        if path.suffix.lower() in PARQUET_SUFFIXES:
            recording, title = _open_parquet(path, options, stack), "Parquet table"
        else:
            recording, title = _open_text(path, options, stack), "CSV table"
        close = stack.pop_all().close
    return Source(path=path, format=NAME, title=title, recordings=(recording,), files=(path,), on_close=close)


def _open_text(path: Path, options: ReadOptions, stack: ExitStack) -> Recording:
    def aside(names: Sequence[str]) -> list[int]:
        _refuse_long(path, names)
        return _row_labels(names) if options.transposed else _clock_columns(names)

    parsed = parse(path, aside, stack, first_is_text=bool(options.transposed))
    names, labels, values = parsed.names, parsed.aside, parsed.values
    if options.transposed:
        traces = LazyMatrix(values) if isinstance(values, np.memmap) else values
        return _by_rows(path, options, traces, parsed)
    clock, time_name = _clock_of(path, {names[column]: labels[column] for column in labels})
    kept = [name for column, name in enumerate(names) if column not in labels]
    if not labels and values.shape[1] > 1:
        # Without a name, a column that increases evenly is no neuron.
        clock = _unnamed_clock(np.asarray(values[:, 0]), np.asarray(values[:, 1]))
        if clock != Clock():
            values, kept, time_name = values[:, 1:], kept[1:], names[0] if names else "first column"
    matrix = check_traces(values, path)
    traces = LazyMatrix(matrix, transposed=True) if isinstance(matrix, np.memmap) else matrix.T
    return _recording(path, options, traces, clock, kept, time_name, separator=parsed.separator)


def _by_rows(path: Path, options: ReadOptions, traces: Any, parsed: Parsed) -> Recording:
    """A row for each neuron, perhaps with its name in front."""
    ids: tuple[int | str, ...] = ()
    if parsed.row_names:
        ids = tuple(parsed.row_names)
    elif parsed.aside:
        ids = tuple(int(n) for n in next(iter(parsed.aside.values())))
    return Recording(
        traces=check_traces(traces, path),
        path=path,
        kind=options.kind or "dff",
        neuron_ids=ids,
        facts=("a row for each neuron, as transposed says",),
        native={"columns": tuple(parsed.names), "time_column": None, "separator": parsed.separator, "transposed": True},
    )


def _open_parquet(path: Path, options: ReadOptions, stack: ExitStack) -> Recording:
    file = open_parquet(path, stack)
    names = list(file.schema_arrow.names)
    _refuse_long(path, names)
    aside = _row_labels(names) if options.transposed else _clock_columns(names)
    kept = [name for column, name in enumerate(names) if column not in aside]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{path}: several columns have the same name: expected a name for each neuron")
    if not kept:
        raise FileFormatError(f"{path}: has no columns of neurons, only {', '.join(names)}")
    if options.transposed:
        ids = ParquetColumns(path, file, [names[column] for column in aside], text=True).labels() if aside else ()
        columns = ParquetColumns(path, file, kept)
        return Recording(
            traces=check_traces(LazyMatrix(columns, transposed=True), path),
            path=path,
            kind=options.kind or "dff",
            neuron_ids=ids,
            facts=("a row for each neuron, as transposed says",),
            native={"columns": tuple(names), "time_column": None, "separator": None, "transposed": True},
        )
    label_columns = [names[column] for column in aside]
    labels = ParquetColumns(path, file, label_columns)[:, :] if label_columns else np.empty((0, 0))
    clock, time_name = _clock_of(path, dict(zip(label_columns, labels, strict=True)))
    if not aside and len(kept) > 1:
        clock = _unnamed_clock(*ParquetColumns(path, file, kept[:2])[:, :])
        if clock != Clock():
            time_name, kept = kept[0], kept[1:]
    traces = check_traces(LazyMatrix(ParquetColumns(path, file, kept)), path)
    return _recording(path, options, traces, clock, kept, time_name, separator=None)


def _recording(
    path: Path,
    options: ReadOptions,
    traces: Any,
    clock: Clock,
    kept: Sequence[str],
    time_name: str | None,
    *,
    separator: str | None,
) -> Recording:
    n_neurons, n_frames = traces.shape
    problems = clock.problems
    if n_neurons > n_frames:
        problems = (
            *problems,
            f"{n_neurons} columns and {n_frames} rows: columns are taken as neurons; if rows are, give transposed=True "
            "(--transposed)",
        )
    return Recording(
        traces=traces,
        path=path,
        kind=options.kind or "dff",
        frame_rate_hz=clock.frame_rate_hz,
        frames=clock.frames,
        timestamps=clock.timestamps,
        neuron_ids=tuple(kept),
        facts=("a column for each neuron", *clock.facts),
        problems=problems,
        native={"columns": tuple(kept), "time_column": time_name, "separator": separator, "transposed": False},
    )


# --- columns that are no neurons -------------------------------------------------------------------------------


def _plain(name: str) -> tuple[str, float | None]:
    """A column's name in letters and digits, and the unit at its end in seconds."""
    words = [word for word in re.split(r"[^0-9a-zµ]+", name.strip().lower()) if word]
    unit = UNITS.get(words[-1]) if len(words) > 1 else None
    return "".join(words[:-1] if unit is not None else words), unit


def _clock_columns(names: Sequence[str]) -> list[int]:
    found = [column for column, name in enumerate(names) if _plain(name)[0] in FRAME_NAMES + TIME_NAMES]
    # pandas writes its index without a name.
    return [0, *found] if names and not names[0].strip() and 0 not in found else found


def _row_labels(names: Sequence[str]) -> list[int]:
    usual = NEURON_NAMES + FRAME_NAMES
    return [0] if names and (not names[0].strip() or _plain(names[0])[0] in usual) else []


def _refuse_long(path: Path, names: Sequence[str]) -> None:
    plain = [_plain(name)[0] for name in names]
    of_neuron = [name for name, word in zip(names, plain, strict=True) if word in NEURON_NAMES]
    of_frame = [name for name, word in zip(names, plain, strict=True) if word in FRAME_NAMES + TIME_NAMES]
    if of_neuron and of_frame and 3 <= len(names) <= 6:
        raise FileFormatError(
            f"{path}: looks like a table in long format (columns {', '.join(names)}): expected a column for each "
            f"neuron and a row for each frame. With pandas: table.pivot(index={of_frame[-1]!r}, "
            f"columns={of_neuron[0]!r}, values=…)"
        )


def _clock_of(path: Path, columns: dict[str, NDArray[np.float64]]) -> tuple[Clock, str | None]:
    """Put together what all columns tell that number or time the rows; times before numbers."""
    clock, time_name = Clock(), None
    numbered: Callable[[str], bool] = lambda name: _plain(name)[0] not in TIME_NAMES  # noqa: E731
    for name in sorted(columns, key=numbered):
        values = np.asarray(columns[name], np.float64)
        found = _numbers(name, values) if numbered(name) else _times(name, values, _plain(name)[1])
        if time_name is None:
            time_name = name
        frames = clock.frames if found.frames is None else found.frames
        clock = Clock(
            clock.frame_rate_hz or found.frame_rate_hz,
            # Numbers are exact, gaps in times are an estimate.
            frames,
            clock.timestamps if found.timestamps is None else found.timestamps,
            clock.facts + found.facts,
            clock.problems + found.problems,
        )
    return clock, time_name


def _numbers(name: str, values: NDArray[np.float64]) -> Clock:
    if not (np.isfinite(values).all() and np.array_equal(values, np.round(values)) and (np.diff(values) > 0).all()):
        return Clock(problems=(f"column {name!r} does not number the rows in ascending order; it is left out",))
    frames = values.astype(np.int64)
    n_missing = int(frames[-1] - frames[0]) + 1 - frames.size
    if not n_missing:
        return Clock()
    return Clock(
        frames=frames - min(int(frames[0]), 1) if frames[0] >= 0 else frames - frames[0],
        problems=(f"column {name!r}: {n_missing} frames are missing; their place is kept",),
    )


def _times(name: str, values: NDArray[np.float64], unit: float | None) -> Clock:
    what = f"column {name!r}"
    interval = float(np.median(np.diff(values))) if values.size > 1 else 0.0
    if unit is None and interval > LONGEST_S:
        return Clock(
            problems=(
                f"{what} has no unit and increases by {interval:g} from row to row, too much for seconds: name it "
                f"'{name} (ms)', or give the frame rate",
            )
        )
    times = values * (unit or 1.0)
    sampling = sampling_of(times, what)
    if sampling.frame_rate_hz is None:
        return Clock(problems=sampling.problems)
    return Clock(
        sampling.frame_rate_hz,
        sampling.frames,
        times,
        (f"frame rate {sampling.frame_rate_hz:.4g} Hz from {what}",),
        sampling.problems,
    )


def _unnamed_clock(values: NDArray[np.float64], beside: NDArray[np.float64]) -> Clock:
    """Times or numbers in a first column whose name says nothing: only if it alone increases evenly."""
    if not _even(values) or _even(beside):
        return Clock()
    if np.array_equal(values, np.round(values)) and values[1] - values[0] == 1:
        return Clock(facts=("the first column numbers the rows; it is left out",))
    return _times("first", values, None)


def _even(values: NDArray[np.float64]) -> bool:
    if values.size < 4 or not np.isfinite(values).all():
        return False
    intervals = np.diff(values)
    typical = float(np.median(intervals))
    return typical > 0 and bool((np.abs(intervals - typical) <= EVEN * typical).all())

"""Which sessions a batch has: files and folders by name, by pattern, by searching, or from a list."""

from __future__ import annotations

import csv
import glob
import logging
import os
import re
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import CascadeError, FileFormatError, InputError
from cascade_rt.formats import FORMATS, open_source
from cascade_rt.session import InferOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Search", "Session", "find_sessions", "is_own", "read_list"]

_log = logging.getLogger(__name__)

#: Formats that are recognised by what they hold. Any other file that is found by searching may be something else.
_UNMISTAKABLE = ("run", "suite2p", "minian", "caiman", "nwb")
#: Names of what this package writes. Of folders only results in zarr: people's may well be called after CASCADE.
_OWN_FILE = re.compile(r"(^|[_.])(cascade|spike_prob)([_.]|$)|\.(incomplete|part)(\.|$)", re.IGNORECASE)
_OWN_FOLDER = re.compile(r"(^|[_.])(cascade|spike_prob)([_.].*)?\.zarr$|\.incomplete$", re.IGNORECASE)
_BASELINE = "baseline_"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A recording to process.

    Parameters
    ----------
    path : Path
        Absolute.
    options : InferOptions
    place : Path
        Folder for its results, below the one for all results: sessions of the same name in different folders keep
        apart.
    """

    path: Path
    options: InferOptions = field(default_factory=InferOptions)
    place: Path = Path()

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Search:
    """What was found.

    Parameters
    ----------
    sessions : tuple of Session
    passed_over : mapping of str to str
        Files that might have been recordings by their suffix, and why they are not.
    """

    sessions: tuple[Session, ...]
    passed_over: dict[str, str]


def find_sessions(paths: Sequence[str | os.PathLike[str]], options: InferOptions | None = None) -> Search:
    """Find the sessions that are named, match a pattern, or lie in a folder.

    Parameters
    ----------
    paths : sequence of path
        Files; folders that a pipeline wrote; patterns such as ``data/*/suite2p`` or ``data/**/*.nwb``; or folders to be
        searched. A search takes neither files named as results of this package are (``*_cascade.h5``,
        ``*_spike_prob.npz``, …) nor what lies inside of a session, nor names that start with a dot; and general files
        (``.npy``, ``.mat``, HDF5, CSV, …) only if they hold traces.
    options : InferOptions, optional
        Of all of them.

    Returns
    -------
    Search
        In the order of ``paths``, and sorted within each; every session once.

    Raises
    ------
    InputError
        A path does not exist, a pattern matches nothing, or a folder holds no session.
    """
    options = _absolute_model(options or InferOptions())
    found: dict[Path, Session] = {}
    passed_over: dict[str, str] = {}
    for given in paths:
        some = [
            Session(path=path, options=options, place=place)
            for path, place in _expand(str(given), options, passed_over)
        ]
        if not some:
            raise InputError(f"{given}: no session in it{_why_none(passed_over)}")
        for session in some:
            found.setdefault(session.path, session)
    return Search(tuple(found.values()), passed_over)


def read_list(path: str | os.PathLike[str], options: InferOptions | None = None) -> tuple[Session, ...]:
    """Read a list of sessions: a path on each line, or a table (CSV, also with tabs or semicolons).

    Parameters
    ----------
    path : path
        Empty lines and lines that start with ``#`` are left out. A first line in which ``path`` is the name of a column
        makes it a table; its other columns are named as the fields of :class:`~cascade_rt.session.InferOptions`
        (``frame_rate_hz``, ``indicator``, ``model``, ``key``, ``neuropil_coefficient``, …, and ``baseline_window_s``,
        ``baseline_percentile``, …). A cell that is empty leaves what holds for all. Paths are relative to the list; so
        are the folders for results below that for all of them.
    options : InferOptions, optional
        What holds for all.

    Raises
    ------
    FileFormatError, InputError
        Naming the line.
    """
    path = Path(path)
    options = _absolute_model(options or InferOptions())
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: cannot be read as a list of sessions: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise FileFormatError(f"{path}: the list is empty: expected a path on each line")
    separator = next((mark for mark in ("\t", ";", ",") if mark in lines[0][1]), ",")
    columns = [name.strip() for name in next(csv.reader([lines[0][1]], delimiter=separator))]
    if "path" not in columns:
        return tuple(_listed(path, line, options) for _, line in lines)
    sessions = []
    for number, line in lines[1:]:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
        if len(cells) > len(columns):
            raise FileFormatError(f"{path}, line {number}: {len(cells)} cells for {len(columns)} columns")
        row = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
        where = row.pop("path", "")
        if not where:
            raise FileFormatError(f"{path}, line {number}: no path")
        try:
            chosen = _absolute_model(_with_cells(options, row))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        sessions.append(_listed(path, where, chosen))
    return tuple(sessions)


def is_own(path: Path) -> bool:
    """Whether a file or folder has a name that this package gives to its results."""
    return (_OWN_FOLDER if path.is_dir() else _OWN_FILE).search(path.name) is not None


def _absolute_model(options: InferOptions) -> InferOptions:
    # Workers may run elsewhere; and the same model shall be the same option from every folder.
    if options.model is None or not Path(options.model).is_dir():
        return options
    return replace(options, model=str(Path(options.model).resolve()))


def _listed(list_file: Path, where: str, options: InferOptions) -> Session:
    folder = list_file.resolve().parent
    path = (folder / Path(where).expanduser()).resolve()
    below = path.parent
    return Session(
        path=path, options=options, place=below.relative_to(folder) if below.is_relative_to(folder) else Path()
    )


# ------------------------------------------------------------------------------------------------------- searching


def _expand(given: str, options: InferOptions, passed_over: dict[str, str]) -> Iterator[tuple[Path, Path]]:
    """Give sessions, each with its folder below that of all results."""
    path = Path(given).expanduser()
    if path.exists():
        yield from _inside(path.resolve(), options, passed_over)
        return
    if not glob.has_magic(given):
        raise InputError(f"{given}: there is no such file or folder")
    # The shell of Windows leaves patterns as they are.
    parts = path.parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]).resolve()
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    for match in map(Path, matches):
        if is_own(match):
            continue
        for session, place in _inside(match.resolve(), options, passed_over):
            beyond = session.parent
            yield session, beyond.relative_to(root) if beyond.is_relative_to(root) else place


def _inside(path: Path, options: InferOptions, passed_over: dict[str, str]) -> Iterator[tuple[Path, Path]]:
    if path.is_file() or _format(path, options) is not None:
        yield path, Path()
        return
    for session in _search(path, options, passed_over):
        yield session, session.parent.relative_to(path)


def _search(folder: Path, options: InferOptions, passed_over: dict[str, str]) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        inner = []
        for name in sorted(folders):
            if name.startswith(".") or is_own(Path(here) / name):
                continue
            if _format(Path(here) / name, options) is None:
                inner.append(name)
            elif _holds_traces(Path(here) / name, options, passed_over):
                yield Path(here) / name
        folders[:] = inner
        for name in sorted(files):
            path = Path(here) / name
            if name.startswith(".") or is_own(path) or _format(path, options) is None:
                continue
            if _holds_traces(path, options, passed_over):
                yield path


def _format(path: Path, options: InferOptions) -> str | None:
    if options.format is not None and options.format not in FORMATS:
        raise InputError(f"format={options.format!r}: expected one of {', '.join(FORMATS)}")
    wanted = FORMATS if options.format is None else {options.format: FORMATS[options.format]}
    for name, module in wanted.items():
        recognises: Callable[[Path], bool] = import_module(f"cascade_rt.formats.{module}").recognises
        if recognises(path):
            return name
    return None


def _holds_traces(path: Path, options: InferOptions, passed_over: dict[str, str]) -> bool:
    """Whether a path that was found by searching is a session, or a file that merely has the suffix of one."""
    if _format(path, options) in _UNMISTAKABLE or options.format is not None:
        return True
    kind: Any = options.kind
    try:
        open_source(
            path,
            key=options.key,
            kind=kind,
            neuropil_key=options.neuropil_key,
            transposed=options.transposed,
        ).close()
    except (CascadeError, OSError) as error:
        passed_over[str(path)] = str(error)
        _log.info("passed over: %s", error)
        return False
    return True


def _why_none(passed_over: dict[str, str]) -> str:
    if not passed_over:
        return " (known are Suite2p and Minian folders, CaImAn, NWB, .mat, .npy, .npz, HDF5, zarr, CSV, Parquet)"
    return f"; {len(passed_over)} files hold no traces, the first: {next(iter(passed_over.values()))}"


# ---------------------------------------------------------------------------------------------------------- tables


def _with_cells(options: InferOptions, row: dict[str, str]) -> InferOptions:
    """Replace options by the cells of a line."""
    own = {item.name: str(item.type) for item in fields(InferOptions) if item.name != "baseline"}
    inner = {f"{_BASELINE}{item.name}": str(item.type) for item in fields(options.baseline)}
    unknown = [name for name in row if name not in own | inner]
    if unknown:
        raise InputError(f"unknown column {unknown[0]!r}: expected path, {', '.join([*own, *inner])}")
    values: dict[str, Any] = {name: _cell(name, text, own[name]) for name, text in row.items() if name in own}
    baseline = {name[len(_BASELINE) :]: _cell(name, text, inner[name]) for name, text in row.items() if name in inner}
    if baseline:
        values["baseline"] = replace(options.baseline, **baseline)
    return replace(options, **values)


def _cell(name: str, text: str, annotation: str) -> Any:
    """Turn a cell into what the field is annotated with."""
    if annotation.startswith("tuple"):
        return tuple(part for part in re.split(r"[\s|]+", text) if part)
    if annotation.startswith("bool"):
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in truth:
            raise InputError(f"{name}={text!r}: expected yes or no")
        return truth[text.lower()]
    for kind, what in ((int, "a whole number"), (float, "a number")):
        if annotation.startswith(kind.__name__):
            try:
                return kind(text)
            except ValueError as error:
                raise InputError(f"{name}={text!r}: expected {what}") from error
    return text

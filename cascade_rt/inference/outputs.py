"""Where the results of a source go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cascade_rt.errors import InputError, OutputExistsError
from cascade_rt.results import planned_paths

if TYPE_CHECKING:
    from cascade_rt.formats import Source

__all__ = ["Outputs", "plan_outputs"]

#: Formats that are folders of their own, into which results go.
FOLDERS = ("suite2p", "minian", "run")


class Outputs(NamedTuple):
    """Files to be written.

    Parameters
    ----------
    result : Path
        The portable result.
    report : Path or None
    folder : Path or None
        For what is written in the source's own convention; None: beside the source.
    beside : bool
        Whether anything is.
    """

    result: Path
    report: Path | None
    folder: Path | None
    beside: bool

    @property
    def whole(self) -> Path:
        """Where the portable result stands when it is whole, until all else has been written."""
        return self.result.with_name(f"{self.result.stem}.part{self.result.suffix}")


def plan_outputs(source: Source, *, out: Path | None, report: bool, beside: bool, overwrite: bool) -> Outputs:
    """Choose names, and find out before anything is computed whether they are free.

    Parameters
    ----------
    source : Source
    out : Path or None
        Folder for all results; None: where the source lies.
    report, beside : bool
        Whether a report and files in the source's own convention are wanted.
    overwrite : bool

    Raises
    ------
    OutputExistsError
        Names the file.
    InputError
        Nothing can be written into the folder.
    """
    folder, stem = _place(source)
    if out is not None:
        stem = stem if stem != "cascade" else f"{_session_name(folder)}_cascade"
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
    planned = Outputs(
        result=folder / f"{stem}.h5",
        report=folder / f"{stem}_report.html" if report else None,
        folder=out,
        beside=beside,
    )
    written = [planned.result, *([planned.report] if planned.report else [])]
    written += planned_paths(source, out) if beside else ()
    _check(written, overwrite=overwrite)
    return planned


def _place(source: Source) -> tuple[Path, str]:
    path = source.path
    if source.format not in FOLDERS:
        return path.parent, f"{path.stem}_cascade"
    first = source.recordings[0].path
    # Planes have folders of their own; what is common to them stands above.
    inner = first.parent if first.is_dir() and first != path and path in (*first.parents,) else path
    return inner, "cascade"


def _session_name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name in ("suite2p", "minian") else folder.name


def _check(paths: list[Path], *, overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputExistsError(
                f"{path} exists: pass --overwrite (overwrite=True) to replace earlier results, or --out FOLDER to "
                "write elsewhere"
            )
    for folder in {path.parent for path in paths}:
        probe = folder / ".cascade_rt_write_test"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"nothing can be written into {folder} ({error.strerror}): choose a folder with --out FOLDER"
            ) from error

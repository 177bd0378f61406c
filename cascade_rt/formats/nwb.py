"""NWB files (Neurodata Without Borders 2, HDF5), read with h5py alone.

Traces are groups of type RoiResponseSeries, (n_frames, n_rois), below ``/processing``, each with a list of the rows of
a table of regions of interest (PlaneSegmentation). Their names, and those of the groups around them, are the writer's
choice, so that what a series holds has to be told from both:

- Suite2p: ``Fluorescence``, ``Neuropil`` and ``Deconvolved``, each with ``plane0``, ``plane1`` and so on; one table for
  all planes. Shorter planes are filled up with zeros, and some releases wrote (n_rois, n_frames).
- NeuroConv: ``DfOverF`` and ``Fluorescence``, the latter with ``RoiResponseSeries``, ``Neuropil``, ``Deconvolved``,
  ``Denoised``, ``Baseline``; a table for each plane.
- CaImAn: ``Fluorescence/RoiResponseSeries`` is denoised, and what was taken away lies in ``residuals``.
- Allen Institute: ``dff/traces``, ``corrected_fluorescence/traces``, ``neuropil_trace/traces``, ``event_detection``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError
from cascade_rt.lazy import LazyMatrix

from .nwb_series import USABLE, Role, Series, cells, find_series, imaging_rate, indicator, text, timing
from .recording import Kind, ReadOptions, Recording, Source, check_traces

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["open_file", "recognises"]

NAME = "nwb"
TITLE = "NWB file"
WHAT = ".nwb (NWB 2, HDF5)"

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
#: Frames at the end that are looked at for zeros; Suite2p's planes differ by one frame.
LOOK_AT_END = 64


def recognises(path: Path) -> bool:
    """Whether the name ends in ``.nwb``, or it is an HDF5 file that says so."""
    try:
        if not path.is_file():
            return False
        if path.suffix.lower() == ".nwb":
            return True
        with path.open("rb") as opened:
            if opened.read(len(HDF5_MAGIC)) != HDF5_MAGIC:
                return False
        import h5py

        with h5py.File(path, "r") as file:
            return "nwb_version" in file.attrs
    except OSError:
        return False


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open an NWB file.

    Parameters
    ----------
    path : Path
    options : ReadOptions
        ``key`` and ``neuropil_key`` name a series, a group of series, or the end of such a path:
        ``/processing/ophys/DfOverF/plane0``, ``DfOverF``. ``transposed`` says whether it is (n_frames, n_rois).

    Returns
    -------
    Source
        One recording for each plane, that is, for each set of regions of interest. ΔF/F is preferred to fluorescence;
        what was denoised or deconvolved is not used. ``native`` of a recording has the paths ``series``, ``table`` and
        ``neuropil``, the identifiers ``series_id`` and ``table_id``, ``rows`` of the table, ``n_samples``,
        ``starting_time`` (s), ``indicator`` and ``imaging_rate`` (Hz).

    Raises
    ------
    FileFormatError
        The file is damaged, is not NWB 2, or has no usable series; lists what there is.
    """
    import h5py

    if path.is_dir():
        raise FileFormatError(f"{path}: a folder; of NWB, only HDF5 files are read: export it to HDF5 with hdmf-zarr")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
        except OSError as error:
            size = path.stat().st_size
            raise FileFormatError(f"{path}: not a readable NWB file ({size} bytes): {error}") from error
        try:
            version = _version(file, path)
            found = find_series(file)
            chosen = _choose(path, found, options)
            recordings = _name([_read(path, one, found, chosen, options) for one in chosen], chosen)
        except FileFormatError:
            raise
        except (AttributeError, KeyError, OSError, TypeError, ValueError, RuntimeError) as error:
            raise FileFormatError(f"{path}: damaged, or not laid out as NWB: {error}") from error
        inside = path.resolve()
        linked = {Path(one.data.file.filename).resolve() for one in chosen} - {inside}
        close = stack.pop_all().close
    return Source(
        path=path,
        format=NAME,
        title=f"{TITLE} ({version})",
        recordings=tuple(recordings),
        files=(path, *sorted(linked)),
        on_close=close,
    )


def _version(file: Any, path: Path) -> str:
    version = text(file.attrs.get("nwb_version"))
    if not version.removeprefix("NWB:").startswith("2"):
        old = text(file["nwb_version"][()]) if "nwb_version" in file else ""
        raise FileFormatError(
            f"{path}: NWB version {version or old or 'not told'}: expected 2; export it to NWB 2 first"
        )
    return version


# ------------------------------------------------------------------------------------------------- which series


def _choose(path: Path, found: list[Series], options: ReadOptions) -> list[Series]:
    if not found:
        raise FileFormatError(f"{path}: holds no responses of regions of interest (RoiResponseSeries)")
    if options.key is None:
        best = _best(found)
        if not best:
            raise FileFormatError(
                f"{path}: no usable traces: expected ΔF/F or fluorescence that is neither denoised nor deconvolved; "
                f"the file holds {_listed(found)}. If one of these is usable, name it (key=…, --key) and say what it "
                "is (kind=…, --kind)"
            )
        return best
    named = _named(path, found, options.key)
    best = _best(named)
    if best:
        return best
    # Whoever says what the values are may use what its name speaks against.
    if options.kind is not None:
        return named
    what = "neuropil" if named[0].role == "neuropil" else "denoised, deconvolved or no trace of neurons"
    raise FileFormatError(
        f"{path}: {named[0].path} is {what}, by its name. Expected traces with the noise of the recording; if it holds "
        "these, say what they are (kind=…, --kind)"
    )


def _best(found: list[Series]) -> list[Series]:
    """Leave out regions of which something better is known: ΔF/F, which may have been computed for cells only."""
    taken: dict[str, dict[int, Role]] = {}
    best = []
    for one in sorted((one for one in found if one.role in USABLE), key=lambda one: USABLE.index(one.role)):
        owners = taken.setdefault(one.regions[0], {})
        if all(owners.get(row, one.role) == one.role for row in one.rows):
            best.append(one)
            owners.update(dict.fromkeys(one.rows, one.role))
    return [one for one in found if one in best]


def _named(path: Path, found: list[Series], key: str) -> list[Series]:
    plain = key.strip("/")
    named = (
        [one for one in found if one.path == f"/{plain}"]
        or [one for one in found if f"/{plain}/" in one.path]
        or [one for one in found if one.path.endswith(f"/{plain}")]
    )
    if not named:
        raise FileFormatError(f"{path}: has no series {key!r}; it holds {_listed(found)}")
    return named


def _listed(found: list[Series]) -> str:
    return ", ".join(f"{one.path} {one.shape}" for one in found)


def _name(recordings: list[Recording], chosen: list[Series]) -> list[Recording]:
    """Give names that differ: those of the series, of the tables, or paths."""
    if len(recordings) == 1:
        return recordings
    names = [one.name for one in chosen]
    if len(set(names)) < len(names):
        names = [one.regions[0].rpartition("/")[2] for one in chosen]
    if len(set(names)) < len(names):
        names = [one.path.split("/", 2)[-1].replace("/", "_") for one in chosen]
    return [replace(recording, name=name) for recording, name in zip(recordings, names, strict=True)]


# --------------------------------------------------------------------------------------------------- recordings


def _read(path: Path, one: Series, found: list[Series], chosen: list[Series], options: ReadOptions) -> Recording:
    if one.data is None:
        raise FileFormatError(f"{path}: the data of {one.path} are in another file, which is not there")
    kind: Kind = options.kind or ("dff" if one.role == "dff" else "fluorescence")
    facts, problems = [f"series {one.path}"], list[str]()
    turned = one.frames_first(path, options.transposed, problems)
    stored = [check_traces(one.values(path, fraction=kind == "dff"), path, one.path)]
    if not turned:
        facts.append("stored as (n_rois, n_frames), as older releases of Suite2p did")
    stored += _residuals(path, one, found, kind, options, facts, problems)
    n_samples = int(stored[0].shape[0 if turned else 1])
    # Planes of one table are Suite2p's.
    together = sum(one.regions[0] == other.regions[0] for other in chosen) > 1
    padded = _padding(stored[0], turned) if together else 0
    if padded:
        facts.append(f"frames left out at the end, where Suite2p fills up shorter planes with zeros: {padded}")
    n_frames = n_samples - padded
    traces = LazyMatrix(*stored, transposed=turned, n_frames=n_frames)
    neuropil = None
    if options.neuropil_key is not None or (kind == "fluorescence" and one.role != "corrected"):
        neuropil = _neuropil(path, one, found, options, problems)
    if neuropil is not None:
        facts.append(f"neuropil {neuropil.path}")
    rows = one.table_rows(traces.shape[0])
    when = timing(one, n_samples, problems)
    return Recording(
        traces=traces,
        path=path,
        kind=kind,
        key=one.path,
        frame_rate_hz=when.frame_rate_hz,
        neuropil=None
        if neuropil is None
        else LazyMatrix(neuropil.values(path, fraction=False), transposed=turned, n_frames=n_frames),
        is_cell=None if rows is None else cells(one, rows, facts),
        timestamps=None if when.timestamps is None else when.timestamps[:n_frames],
        neuron_ids=() if rows is None else _ids(one, rows),
        native={
            "series": one.path,
            "series_id": text(one.group.attrs.get("object_id")),
            "table": None if one.table is None else one.table.name,
            "table_id": "" if one.table is None else text(one.table.attrs.get("object_id")),
            "rows": rows,
            "neuropil": None if neuropil is None else neuropil.path,
            "n_samples": n_samples,
            "starting_time": when.start_s,
            "indicator": indicator(one, facts),
            "imaging_rate": imaging_rate(one),
        },
        facts=tuple(facts),
        problems=tuple(problems),
    )


def _residuals(
    path: Path,
    one: Series,
    found: list[Series],
    kind: Kind,
    options: ReadOptions,
    facts: list[str],
    problems: list[str],
) -> list[Any]:
    """What CaImAn took away from its traces as noise, if they are CaImAn's."""
    from_caiman = one.name == "RoiResponseSeries" and any(other.is_background for other in found)
    if not from_caiman or kind != "fluorescence":
        return []
    module = "/".join(one.path.split("/")[:3])
    residuals = one.group.file.get(f"{module}/residuals/data")
    if residuals is not None and residuals.shape == one.shape:
        facts.append(f"{module}/residuals added, which CaImAn took away as noise")
        problems.append(
            "CaImAn exports to NWB without the background, so that the baseline of the fluorescence, and with it ΔF/F, "
            "may be wrong: use CaImAn's own .hdf5 file"
        )
        return [residuals]
    if options.kind is None:
        raise FileFormatError(
            f"{path}: {one.path} was denoised by CaImAn, and its residuals are not in the file: expected traces with "
            "the noise of the recording. Use CaImAn's own .hdf5 file"
        )
    return []


def _padding(stored: Any, turned: bool) -> int:
    """How many of the last frames are 0 everywhere."""
    n_samples = stored.shape[0 if turned else 1]
    last = max(0, n_samples - LOOK_AT_END)
    part = np.asarray(stored[last:] if turned else stored[:, last:].T)
    used = np.flatnonzero((part != 0).any(axis=1))
    return int(len(part) - 1 - used[-1]) if used.size else 0


def _neuropil(path: Path, one: Series, found: list[Series], options: ReadOptions, problems: list[str]) -> Series | None:
    if options.neuropil_key is not None:
        named = _named(path, found, options.neuropil_key)
    else:
        named = [other for other in found if other.role == "neuropil" and other.data is not None]
    fitting = [other for other in named if other.regions == one.regions and other.shape == one.shape]
    best = [other for other in fitting if other.name == one.name] or fitting
    if options.neuropil_key is not None and not best:
        raise FileFormatError(f"{path}: {named[0].path} is not of the regions of interest of {one.path}")
    if len(best) > 1:
        which = " or ".join(other.path for other in best)
        problems.append(f"no neuropil is subtracted, as there are several: {which}. Say which (neuropil_key=…)")
    return best[0] if len(best) == 1 else None


def _ids(one: Series, rows: NDArray[np.int64]) -> tuple[int | str, ...]:
    ids = np.asarray(one.table["id"][()])[rows]
    return tuple(ids.tolist()) if ids.dtype.kind in "iu" else ()

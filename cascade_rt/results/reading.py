"""Opening results of every kind: portable ones, plain arrays, and the folders of live runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError
from cascade_rt.formats.hierarchy import RESULT_FORMAT
from cascade_rt.formats.numpy_files import read_array
from cascade_rt.formats.recording import check_traces
from cascade_rt.lazy import LazyMatrix

from . import layout
from .appending import open_growing
from .arrays import sidecar, work_folder
from .flat import spike_columns, unflatten
from .model import RecordingResult, Result

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["open_result", "read_metadata"]

#: Arrays that are read when they are sliced.
_LARGE = ("spike_prob", "valid", "dff")
_LOOKAHEAD = re.compile(r"spike_prob_lookahead(\d+)\.npy")


def open_result(path: str | os.PathLike[str]) -> Result:
    """Open what ``infer``, ``predict`` or a live run wrote, complete or not.

    Parameters
    ----------
    path : path
        A portable result (``.h5``), ``.npz``, ``.npy`` or ``.mat``, or the folder of a recorded or interrupted run.

    Returns
    -------
    Result
        A context manager. Of portable results, ``.npy`` files and folders, values are read when they are sliced.

    Raises
    ------
    FileFormatError
        There is no such file, it is not a result, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileFormatError(f"{path}: there is no such file or folder{_left_over(path)}")
    if path.is_dir():
        return _open_folder(path)
    suffix = path.suffix.lower()
    if suffix in layout.SUFFIXES:
        return _open_portable(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".mat": _read_mat}
    if suffix not in readers:
        raise FileFormatError(
            f"{path}: suffix {path.suffix!r}: results are {', '.join((*layout.SUFFIXES, *readers))}, or the folder of "
            "a run"
        )
    arrays, metadata = readers[suffix](path)
    return _from_arrays(path, arrays, metadata)


def read_metadata(file: Any, path: Path) -> dict[str, Any]:
    """Metadata of a portable result; those of its start, if its program was killed while it renewed them."""
    problem: Exception | None = None
    for name in ("metadata", "metadata_at_start"):
        try:
            found = json.loads(bytes(file[name][()]).decode())
            if isinstance(found, dict):
                return found
        except (KeyError, ValueError, OSError) as error:
            problem = error
    raise FileFormatError(f"{path}: its metadata are not readable: {problem}") from problem


def _left_over(path: Path) -> str:
    for left in (layout.incomplete_file(path), work_folder(path)):
        if left.exists():
            return f", but there is {left.name}, left by an interrupted program, which can be opened"
    return ""


def _open_portable(path: Path) -> Result:
    file = open_growing(path)
    try:
        if file.attrs.get("format") != RESULT_FORMAT:
            raise FileFormatError(
                f"{path}: an HDF5 file that is not a result of cascade_rt; cascade_rt.open_source opens recordings"
            )
        version = int(file.attrs["format_version"])
        if version > layout.FORMAT_VERSION:
            raise FileFormatError(
                f"{path}: version {version} of the format; this program knows {layout.FORMAT_VERSION}: update it"
            )
        metadata = read_metadata(file, path)
        groups = sorted(file["recordings"].values(), key=lambda group: int(group.attrs.get("order", 0)))
        recordings = tuple(_read_plane(group, metadata) for group in groups)
    except (KeyError, ValueError, OSError) as error:
        file.close()
        raise FileFormatError(f"{path}: a damaged result: {error}") from error
    except FileFormatError:
        file.close()
        raise
    return Result(
        path=path,
        recordings=recordings,
        metadata=metadata,
        complete=bool(metadata.get("complete")),
        on_close=file.close,
    )


def _read_plane(group: Any, metadata: Mapping[str, Any]) -> RecordingResult:
    # What grows by frames may have columns that were not finished.
    n_frames = int(group["n_written"][()]) if "n_written" in group else None
    large = {name: LazyMatrix(group[name], n_frames=n_frames) for name in _LARGE if name in group}
    n_neurons = large["spike_prob"].shape[0]
    small = {
        name: group[name][: n_frames if name in ("frames", "timestamps") else None]
        for name in ("noise_levels", "f0", "is_cell", "done", "frames", "timestamps")
        if name in group
    }
    texts = {
        name: tuple(one.decode() if isinstance(one, bytes) else int(one) for one in group[name][:].tolist())
        for name in ("neuron_ids", "why_undefined")
        if name in group
    }
    spikes = None
    if "spikes" in group:
        spikes = spike_columns(group["spikes/neuron"][:], group["spikes/column"][:], n_neurons)
    f0 = small.get("f0")
    rate = group.attrs.get("frame_rate_hz")
    frames, first = small.get("frames"), int(group.attrs.get("first_frame", 0))
    if frames is not None and frames.size:
        first = int(frames[0])
    lookahead = group.attrs.get("lookahead_frames", metadata.get("lookahead_frames"))
    revisions = {
        int(item.attrs["lookahead_frames"]): _revision(item, rate)
        for item in group.values()
        if "lookahead_frames" in item.attrs
    }
    return RecordingResult(
        **large,
        name=str(group.attrs["name"]),
        frame_rate_hz=None if rate is None else float(rate),
        noise_levels=small.get("noise_levels"),
        is_cell=small["is_cell"].astype(bool) if "is_cell" in small else None,
        why_undefined=tuple(map(str, texts.get("why_undefined", ()))),
        neuron_ids=texts.get("neuron_ids", ()),
        first_frame=first,
        frames=frames,
        timestamps=small.get("timestamps"),
        f0=None if f0 is None or np.isnan(f0).all() else f0,
        spikes=spikes,
        done=small["done"].astype(bool) if "done" in small else None,
        lookahead_frames=None if lookahead is None else int(lookahead),
        revisions=revisions,
        metadata=json.loads(group.attrs.get("metadata", "{}")),
    )


def _revision(group: Any, rate: Any) -> RecordingResult:
    n_frames = int(group["n_written"][()])
    frames = group["frames"][:n_frames]
    return RecordingResult(
        spike_prob=LazyMatrix(group["spike_prob"], n_frames=n_frames),
        valid=LazyMatrix(group["valid"], n_frames=n_frames),
        frame_rate_hz=None if rate is None else float(rate),
        first_frame=int(frames[0]) if n_frames else 0,
        frames=frames,
        lookahead_frames=int(group.attrs["lookahead_frames"]),
    )


def _open_folder(folder: Path) -> Result:
    """Open the growing arrays of a run; those of a run that was killed end where the shortest does."""
    try:
        metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{folder}: not the folder of a run: run.json: {error}") from error
    names = [(_LOOKAHEAD.fullmatch(item.name), item.name) for item in folder.iterdir()]
    lookaheads = sorted(int(found[1]) for found, _ in names if found)
    if not lookaheads:
        raise FileFormatError(f"{folder}: the run has left no results (spike_prob_lookahead….npy)")
    arrays: dict[str, Any] = {}
    for lookahead in lookaheads:
        found = {
            kind: read_array(folder / f"{kind}_lookahead{lookahead}.npy") for kind in ("spike_prob", "valid", "frame")
        }
        n_frames = min(values.shape[-1] for values in found.values())
        suffix = "" if lookahead == lookaheads[-1] else f"_lookahead{lookahead}"
        arrays |= {kind + suffix: values[..., :n_frames] for kind, values in found.items()}
    if (folder / "noise_levels.npy").is_file():
        arrays["noise_levels"] = read_array(folder / "noise_levels.npy")
    return _from_arrays(folder, arrays, {**metadata, "lookahead_frames": lookaheads[-1]})


def _from_arrays(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> Result:
    planes = metadata.get("planes")
    try:
        if isinstance(planes, dict):
            recordings = [
                unflatten(
                    {name[len(key) + 1 :]: values for name, values in arrays.items() if name.startswith(f"{key}_")},
                    {**metadata, **about},
                    str(about.get("name", key)),
                )
                for key, about in planes.items()
            ]
        else:
            recordings = [unflatten(arrays, metadata)]
    except KeyError as error:
        listed = ", ".join(arrays) or "nothing"
        raise FileFormatError(f"{path}: not a result: has no array {error}; it holds {listed}") from error
    for recording in recordings:
        check_traces(recording.spike_prob, path, "spike_prob")
    return Result(
        path=path, recordings=tuple(recordings), metadata=metadata, complete=bool(metadata.get("complete", True))
    )


def _read_npy(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    beside = sidecar(path)
    try:
        metadata = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{beside}: not readable as JSON: {error}") from error
    return {"spike_prob": check_traces(read_array(path), path)}, metadata


def _read_npz(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return arrays, json.loads(str(arrays.pop("metadata", "{}")))
    except Exception as error:
        raise FileFormatError(f"{path}: not a readable .npz file ({path.stat().st_size} bytes): {error}") from error


def _read_mat(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from scipy import io

    try:
        stored = {name: value for name, value in io.loadmat(path).items() if not name.startswith("__")}
        text = stored.pop("metadata", np.array(["{}"])).ravel()
        return {name: _from_matlab(value) for name, value in stored.items()}, json.loads(str(text[0]))
    except Exception as error:
        raise FileFormatError(f"{path}: not a readable .mat file ({path.stat().st_size} bytes): {error}") from error


def _from_matlab(value: Any) -> Any:
    """Cells of texts as an array of texts."""
    if value.dtype == object:
        return np.array([str(one.ravel()[0]) if one.size else "" for one in value.ravel()])
    return value

"""A plane's result as named arrays, as files without structure hold it, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .layout import MAIN
from .model import RecordingResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["described", "flatten", "plain_name", "spike_columns", "spike_table", "unflatten"]


def flatten(recording: RecordingResult) -> dict[str, Any]:
    """Name the arrays of a plane as :mod:`cascade_rt.results.arrays` does; large ones stay in their file."""
    arrays: dict[str, Any] = {"spike_prob": recording.spike_prob, "frame": recording.frame_index}
    optional = {
        "valid": recording.valid,
        "noise_levels": recording.noise_levels,
        "is_cell": recording.is_cell,
        "timestamps": recording.timestamps,
        "f0": recording.f0,
        "dff": recording.dff,
    }
    arrays |= {name: values for name, values in optional.items() if values is not None}
    if recording.neuron_ids:
        arrays["neuron_ids"] = np.array(recording.neuron_ids)
    if any(recording.why_undefined):
        arrays["why_undefined"] = np.array(recording.why_undefined)
    if recording.spikes is not None:
        arrays["spike_neuron"], arrays["spike_column"] = spike_table(recording.spikes)
    for lookahead, revision in recording.revisions.items():
        rest = {name: values for name, values in flatten(revision).items() if name in ("spike_prob", "valid", "frame")}
        arrays |= {f"{name}_lookahead{lookahead}": values for name, values in rest.items()}
    return arrays


def unflatten(arrays: Mapping[str, Any], metadata: Mapping[str, Any], name: str = "") -> RecordingResult:
    """Inverse of :func:`flatten`.

    Parameters
    ----------
    arrays : mapping
        ``spike_prob`` (n_neurons, n_frames) and what else there is.
    metadata : mapping
        ``frame_rate_hz``, ``lookahead_frames``, and ``first_frame`` where there is no array ``frame``.
    name : str
        Of the plane.
    """
    prob = arrays["spike_prob"]
    n_neurons, n_frames = prob.shape
    first, frames = int(metadata.get("first_frame") or 0), None
    if "frame" not in arrays and metadata.get("segments"):
        arrays = {**arrays, "frame": np.concatenate([np.arange(a, a + n) for a, n in metadata["segments"]])}
    if "frame" in arrays:
        frames = np.asarray(arrays["frame"]).astype(np.int64).ravel()
        first = int(frames[0]) if frames.size else first
        frames = None if np.array_equal(frames, np.arange(first, first + n_frames)) else frames
    noise = arrays.get("noise_levels", metadata.get("noise_levels"))
    rate = metadata.get("frame_rate_hz")
    lookahead = metadata.get("lookahead_frames")
    spikes = None
    if "spike_neuron" in arrays:
        spikes = spike_columns(
            _vector(arrays["spike_neuron"], np.int64), _vector(arrays["spike_column"], np.int64), n_neurons
        )
    revisions = {}
    for key in arrays:
        found = re.fullmatch(r"spike_prob_lookahead(\d+)", key)
        if found:
            rest = {
                part: arrays[part + key[10:]] for part in ("spike_prob", "valid", "frame") if part + key[10:] in arrays
            }
            revisions[int(found[1])] = unflatten(rest, {**metadata, "lookahead_frames": int(found[1])})
    why = tuple(map(str, arrays.get("why_undefined", ())))
    ids = tuple(
        _identity(one)
        for one in np.asarray(arrays.get("neuron_ids", metadata.get("neuron_ids") or ())).ravel().tolist()
    )
    return RecordingResult(
        spike_prob=prob,
        name=name,
        frame_rate_hz=float(rate) if rate else None,
        noise_levels=None if noise is None else _vector(noise, np.float64),
        is_cell=_vector(arrays["is_cell"], np.bool_) if "is_cell" in arrays else None,
        why_undefined=why,
        neuron_ids=ids,
        first_frame=first,
        frames=frames,
        timestamps=_vector(arrays["timestamps"], np.float64) if "timestamps" in arrays else None,
        f0=_vector(arrays["f0"], np.float64) if "f0" in arrays else None,
        dff=arrays.get("dff"),
        valid=arrays.get("valid"),
        spikes=spikes,
        lookahead_frames=int(lookahead) if isinstance(lookahead, int) else None,
        revisions=revisions,
    )


def described(recording: RecordingResult) -> dict[str, Any]:
    """What a plane's arrays do not say."""
    known = {
        "name": recording.name or None,
        "frame_rate_hz": recording.frame_rate_hz,
        "lookahead_frames": recording.lookahead_frames,
        "first_frame": recording.first_frame,
        **recording.metadata,
    }
    return {name: value for name, value in known.items() if value is not None}


def plain_name(name: str) -> str:
    """Name of a plane that every program accepts as the name of a variable."""
    plain = re.sub(r"\W", "_", name or MAIN, flags=re.ASCII)
    return plain if plain[0].isalpha() else f"p{plain}"


def spike_table(spikes: tuple[NDArray[np.int64], ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of all single spikes, by row."""
    rows = np.repeat(np.arange(len(spikes), dtype=np.int64), [one.size for one in spikes])
    return rows, np.concatenate([*spikes, np.empty(0, np.int64)]).astype(np.int64)


def spike_columns(rows: NDArray[np.int64], columns: NDArray[np.int64], n_neurons: int) -> tuple[NDArray[np.int64], ...]:
    """Columns of the single spikes of each row, ascending; inverse of :func:`spike_table`."""
    order = np.lexsort((columns, rows))
    return tuple(np.split(columns[order], np.searchsorted(rows[order], np.arange(1, n_neurons))))


def _vector(values: Any, dtype: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == object:  # JSON has null for NaN
        array = np.array([np.nan if value is None else value for value in array.ravel()])
    return array.ravel().astype(dtype)


def _identity(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)

"""Results as objects of pynapple and xarray."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import InputError
from cascade_rt.formats.extras import require

from .arrays import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .model import RecordingResult

__all__ = ["prob_to_pynapple", "spikes_to_pynapple", "to_xarray"]


def prob_to_pynapple(recording: RecordingResult) -> Any:
    """See :meth:`RecordingResult.to_pynapple`."""
    nap = require("pynapple", "views", "to_pynapple()")
    return nap.TsdFrame(
        t=recording.times,
        d=np.ascontiguousarray(recording.spike_prob[:].T),
        columns=np.arange(recording.n_neurons),
        metadata=_about_neurons(recording),
    )


def spikes_to_pynapple(recording: RecordingResult) -> Any:
    """See :meth:`RecordingResult.spikes_to_pynapple`."""
    if recording.spikes is None:
        raise InputError(
            "the result has no single spikes: find them with `cascade-rt discretize`, or infer with --discrete"
        )
    nap = require("pynapple", "views", "spikes_to_pynapple()")
    times = recording.times
    step = float(np.median(np.diff(times))) if times.size > 1 else 0.0
    # Without it the recording would seem to begin with its first spike.
    support = nap.IntervalSet(start=times[0], end=times[-1] + step)
    # Several spikes of a frame stay several.
    group = {row: nap.Ts(t=times[columns], time_support=support) for row, columns in enumerate(recording.spikes)}
    return nap.TsGroup(group, time_support=support, metadata=_about_neurons(recording))


def to_xarray(recording: RecordingResult) -> Any:
    """See :meth:`RecordingResult.to_xarray`."""
    xr = require("xarray", "views", "to_xarray()")
    ids = list(recording.neuron_ids) or np.arange(recording.n_neurons)
    per_frame, per_neuron = ("neuron", "time"), ("neuron",)
    values: dict[str, Any] = {
        "spike_prob": (
            per_frame,
            np.asarray(recording.spike_prob[:], np.float32),
            {"units": "spikes per frame", "long_name": "expected number of spikes"},
        )
    }
    if recording.dff is not None:
        values["dff"] = (per_frame, np.asarray(recording.dff[:]), {"units": "1", "long_name": "ΔF/F"})
    if recording.valid is not None:
        values["valid"] = (per_frame, np.asarray(recording.valid[:]).astype(bool))
    for name, array, attributes in (
        ("noise_level", recording.noise_levels, {"units": "% Hz^-1/2", "long_name": "noise level ν"}),
        ("is_cell", recording.is_cell, {}),
        ("f0", recording.f0, {"long_name": "baseline fluorescence"}),
        ("why_undefined", np.array(recording.why_undefined) if recording.why_undefined else None, {}),
    ):
        if array is not None:
            values[name] = (per_neuron, np.asarray(array), attributes)
    rate = {} if recording.frame_rate_hz is None else {"frame_rate_hz": recording.frame_rate_hz}
    return xr.Dataset(
        values,
        coords={
            "neuron": ("neuron", ids, {"long_name": "the source's name of the neuron"}),
            "time": ("time", recording.times, {"units": "s"}),
            "frame": ("time", recording.frame_index, {"long_name": "frame, counted by the source"}),
        },
        attrs={"name": recording.name, **rate, "metadata": json.dumps(plain(recording.metadata), ensure_ascii=False)},
    )


def _about_neurons(recording: RecordingResult) -> dict[str, NDArray[Any]]:
    known: dict[str, NDArray[Any]] = {}
    if recording.neuron_ids:
        known["neuron_id"] = np.array(recording.neuron_ids)
    if recording.noise_levels is not None:
        known["noise_level"] = np.asarray(recording.noise_levels)
    if recording.is_cell is not None:
        known["is_cell"] = np.asarray(recording.is_cell)
    return known

"""What HDF5 and zarr have in common: arrays in groups, with attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError

from .archive import RATE_KEYS, Archive, choose_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .recording import ReadOptions, Recording

__all__ = ["RESULT_FORMAT", "choose_in_hierarchy", "positive_number", "refuse_result"]

#: Names under which a frame rate (Hz) is looked for, as an attribute and as an array of one number.
RATE_NAMES = (*RATE_KEYS, "fr", "sampling_rate", "sampling_rate_hz", "sampling_frequency", "imaging_rate")
#: Attribute ``format`` of the root of a result of this package.
RESULT_FORMAT = "cascade_rt result"


def choose_in_hierarchy(
    archive: Archive, options: ReadOptions, attributes: Callable[[str], Mapping[str, Any]]
) -> Recording:
    """Find the traces as :func:`choose_recording` does, and the frame rate that is stored nearest to them.

    Parameters
    ----------
    archive : Archive
    options : ReadOptions
    attributes : callable
        Gives the attributes of an array or a group by its path; "" is the root.
    """
    recording = choose_recording(archive, options)
    rate, place = _nearest_rate(archive, recording.key, attributes)
    facts = recording.facts if rate is None else (*recording.facts, f"frame rate from {place}")
    return replace(recording, frame_rate_hz=rate, facts=facts)


def refuse_result(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raise if these are the attributes of a result of this package.

    Raises
    ------
    FileFormatError
    """
    if text(attributes.get("format")) == RESULT_FORMAT:
        raise FileFormatError(
            f"{path}: is a result, spike probabilities and not a recording; open it with cascade_rt.open_result(path)"
        )


def positive_number(value: Any) -> float | None:
    """Return a single positive, finite number as a float; None for anything else."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = float(array.reshape(()))
    return number if np.isfinite(number) and number > 0 else None


def text(value: Any) -> str:
    """Return text that may be stored as bytes, or in an array of one; "" for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(()).item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _nearest_rate(
    archive: Archive, key: str, attributes: Callable[[str], Mapping[str, Any]]
) -> tuple[float | None, str]:
    folder = key
    while True:
        found = attributes(folder)
        for name in RATE_NAMES:
            rate = positive_number(found.get(name, ""))
            if rate is not None:
                return rate, f"attribute {name!r} of {folder or '/'!r}"
        if not folder:
            break
        folder = folder.rpartition("/")[0]
        for name in RATE_NAMES:
            full = f"{folder}/{name}" if folder else name
            rate = _stored_number(archive, full)
            if rate is not None:
                return rate, f"{full!r}"
    # Elsewhere, if there is one alone or all agree: with several planes each may have its own.
    others = {full: _stored_number(archive, full) for full in archive.shapes if full.rpartition("/")[2] in RATE_NAMES}
    rates = {full: rate for full, rate in others.items() if rate is not None}
    if len(set(rates.values())) == 1:
        full, only = next(iter(rates.items()))
        return only, f"{full!r}"
    return None, ""


def _stored_number(archive: Archive, full: str) -> float | None:
    if full not in archive.shapes or np.prod(archive.shapes[full]) != 1:
        return None
    return positive_number(archive.read(full)[...])

"""How a portable result is laid out in HDF5: the names, and arrays whose place in the file is fixed at the start.

Every array that is filled later is contiguous and has its room from the beginning. What follows are plain writes of
bytes at known places, so that no moment exists at which the file cannot be read.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.errors import FileFormatError, InputError, OutputExistsError
from cascade_rt.formats.hierarchy import RESULT_FORMAT

from .arrays import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "FORMAT_VERSION",
    "SUFFIXES",
    "Field",
    "add_array",
    "add_metadata",
    "check_target",
    "copy_file",
    "encode",
    "incomplete_file",
    "metadata_room",
    "plane_group",
    "scratch_file",
    "start_file",
    "text_array",
    "to_json",
]

FORMAT_VERSION = 1
SUFFIXES = (".h5", ".hdf5")
#: Name in the file of a plane that has none.
MAIN = "main"
#: Bytes kept for the metadata, which grow at the end, and for why a neuron has no value.
METADATA_BYTES, REASON_BYTES = 1 << 16, 160


class Field(NamedTuple):
    """What an array of a plane is.

    Parameters
    ----------
    dtype : str
        NumPy's name of the type.
    fill : float or int
        Stands where nothing has been written.
    units, description : str
        Attributes of the array.
    """

    dtype: str
    fill: float | int
    units: str
    description: str


#: The arrays of a plane.
FIELDS = {
    "spike_prob": Field("<f4", np.nan, "spikes per frame", "expected number of spikes; NaN where undefined"),
    "valid": Field("u1", 0, "", "0 where the value is undefined or was touched by a gap"),
    "dff": Field("<f4", np.nan, "", "dF/F as a fraction (0.1 is 10 %)"),
    "noise_levels": Field("<f8", np.nan, "% Hz^-1/2", "noise level of each neuron; NaN where unknown"),
    "f0": Field("<f8", np.nan, "as the source's fluorescence", "baseline of each neuron"),
    "is_cell": Field("u1", 0, "", "1: accepted as a cell by the source"),
    "done": Field("u1", 0, "", "1: the neuron's values have been written"),
    "neuron_ids": Field("<i8", -1, "", "what the source calls the neurons"),
    "frames": Field("<i8", -1, "frames", "index, counted by the source, of the frame that each column describes"),
    "timestamps": Field("<f8", np.nan, "s", "time of each frame, as the source has it"),
    "why_undefined": Field("text", 0, "", "why a neuron has no value at all; empty where it has"),
    "n_written": Field("<i8", 0, "frames", "columns that are whole; a program that was killed may leave more"),
    "spikes/neuron": Field("<i8", -1, "", "row of each single spike, ascending; rows are counted from 0"),
    "spikes/column": Field("<i8", -1, "frames", "column of spike_prob in which it lies; columns are counted from 0"),
}


def incomplete_file(path: Path) -> Path:
    """Name under which a result stands while it is written."""
    return path.with_name(f"{path.stem}.incomplete{path.suffix}")


def scratch_file(path: Path) -> Path:
    """Name of a file that becomes another one by renaming; one left by a killed program is overwritten."""
    return path.with_name(f".{path.name}.tmp")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise InputError or OutputExistsError if a result cannot be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a portable result ends in {' or '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder: expected the name of a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists: choose another name, or allow --overwrite (overwrite=True)")


def to_json(values: Mapping[str, Any]) -> str:
    """Metadata as text; NaN becomes null."""
    return json.dumps(plain(values), allow_nan=False, ensure_ascii=False)


def start_file(file: Any) -> None:
    """Say in an empty file what it is."""
    from cascade_rt import __version__

    file.attrs["format"] = RESULT_FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["software"] = f"cascade_rt {__version__}"
    file.create_group("recordings")


def add_metadata(file: Any, text: str, room: int = 0) -> None:
    """Store metadata twice: where it is renewed at the end, and where it stays as it was at the start.

    Should the program be killed while it renews the first, the second is still there. Datasets, as attributes hold
    no more than 64 KiB.
    """
    for name, bytes_kept in (("metadata", max(room, metadata_room(text))), ("metadata_at_start", 0)):
        if name in file:
            del file[name]
        stored = text_array(file, name, (), max(bytes_kept, len(text.encode()) + 1))
        stored[()] = text.encode()
        stored.attrs["description"] = "JSON text: model, alignment, look-ahead, source, options, versions, warnings, …"


def metadata_room(text: str) -> int:
    """Bytes to keep for metadata that start as ``text``."""
    return max(METADATA_BYTES, 4 * len(text.encode()))


def plane_group(name: str) -> str:
    """Where a plane stands in the file."""
    if "/" in name or name in (".", ".."):
        raise InputError(f"plane {name!r}: a name without '/' is expected")
    return f"recordings/{name or MAIN}"


def add_array(group: Any, name: str, shape: tuple[int, ...], values: Any = None, *, text_bytes: int = 0) -> Any:
    """Make an array that has its whole room in the file at once, filled.

    Parameters
    ----------
    group : h5py.Group
    name : str
        One of ``FIELDS``.
    shape : tuple of int
    values : array_like, optional
        Written at once.
    text_bytes : int
        For texts: bytes of each.

    Returns
    -------
    h5py.Dataset
    """
    import h5py

    field = FIELDS[name]
    if text_bytes:
        stored = text_array(group, name, shape, text_bytes)
    else:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        stored = group.create_dataset(name, shape, field.dtype, fillvalue=field.fill, dcpl=layout)
    if values is not None and text_bytes:
        # HDF5 has no conversion between NumPy's bytes, which it takes for ASCII, and UTF-8.
        stored.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values), stored.id.get_type())
    elif values is not None:
        stored[...] = values
    if field.units:
        stored.attrs["units"] = field.units
    stored.attrs["description"] = field.description
    return stored


def text_array(group: Any, name: str, shape: tuple[int, ...], text_bytes: int) -> Any:
    """Make an array of texts of fixed length, which end at their first zero byte."""
    import h5py

    kind = h5py.h5t.C_S1.copy()
    kind.set_size(text_bytes)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    kind.set_cset(h5py.h5t.CSET_UTF8)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)  # with zeros: room that was freed before holds something else
    return group.create_dataset(name, shape, h5py.Datatype(kind), dcpl=layout)


def encode(texts: Any, text_bytes: int) -> NDArray[np.bytes_]:
    """Texts as bytes that fit, cut between characters; one byte is left for the zero at the end."""
    cut = [str(text).encode()[: text_bytes - 1].decode(errors="ignore").encode() for text in texts]
    return np.array(cut, f"S{text_bytes}")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes; raises FileFormatError with the reason."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise FileFormatError(f"{source}: cannot be copied to {target}: {error}") from error

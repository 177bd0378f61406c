"""Writing a portable result: one HDF5 file, filled neuron by neuron, that can be read whenever the program ends.

A plane gets the room for all its neurons when its first values come. From then on values are written as bytes at known
places, past HDF5 and its caches, so that the file is sound at any moment; ``done`` tells which neurons have their
values. A further plane is added to a copy, which then takes the file's place.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cascade_rt.errors import InputError

from . import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = ["RecordingWriter", "ResultWriter"]


class ResultWriter:
    """Writes a result; a context manager.

    While it is written it stands beside its final name as ``NAME.incomplete.h5``. What an earlier program that was
    killed has left there is replaced, since it can be computed again.

    Parameters
    ----------
    path : Path
        ``.h5`` or ``.hdf5``.
    metadata : mapping
        Plain values: model, alignment, source, …
    overwrite : bool
        Replace a result of that name, once the new one is whole.

    Raises
    ------
    InputError
        The name has another suffix, or its folder does not exist.
    OutputExistsError
        There is such a file, and ``overwrite`` is False.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any], *, overwrite: bool = False) -> None:
        layout.check_target(path, overwrite=overwrite)
        self.path = path
        self._metadata = dict(metadata)
        self._text = layout.to_json({**self._metadata, "complete": False})
        self._room = layout.metadata_room(self._text)
        self._work = layout.incomplete_file(path)
        self._planes: list[RecordingWriter] = []
        self._file: BinaryIO | None = None
        self._places: dict[str, tuple[int, int]] = {}
        self._n_laid_out = 0
        self._finished = False

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def begin(
        self,
        name: str,
        n_neurons: int,
        n_frames: int,
        *,
        frame_rate_hz: float | None = None,
        first_frame: int = 0,
        frames: ArrayLike | None = None,
        timestamps: ArrayLike | None = None,
        neuron_ids: Sequence[int | str] = (),
        is_cell: ArrayLike | None = None,
        noise_levels: ArrayLike | None = None,
        f0: ArrayLike | None = None,
        valid: bool = False,
        dff: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> RecordingWriter:
        """Announce a plane.

        Parameters
        ----------
        name : str
            May be empty if there is one plane only.
        n_neurons, n_frames : int
        frame_rate_hz : float, optional
        first_frame : int
            Index, counted by the source, of the first column.
        frames : array_like, (n_frames,), optional
            The same for each column, where some are missing.
        timestamps : array_like, (n_frames,), optional
            Time of each frame (s).
        neuron_ids : sequence of int or str
            What the source calls the rows.
        is_cell : array_like, (n_neurons,), bool, optional
        noise_levels, f0 : array_like, (n_neurons,), optional
            May be set later too.
        valid, dff : bool
            Whether these will be written as well.
        metadata : mapping, optional
            About this plane.

        Returns
        -------
        RecordingWriter
        """
        if n_neurons < 1 or n_frames < 1:
            raise InputError(f"{self.path}: plane {name!r} of {n_neurons} neurons and {n_frames} frames: expected some")
        taken = {plane.group for plane in self._planes}
        group = layout.plane_group(name)
        if group in taken:
            raise InputError(f"{self.path}: plane {name!r} was begun already")
        neurons, columns = (n_neurons,), (n_frames,)
        given: dict[str, tuple[tuple[int, ...], Any]] = {
            "noise_levels": (neurons, noise_levels),
            "f0": (neurons, f0),
            "done": (neurons, None),
        }
        optional = {"is_cell": (neurons, is_cell), "frames": (columns, frames), "timestamps": (columns, timestamps)}
        given |= {key: entry for key, entry in optional.items() if entry[1] is not None}
        given |= {"neuron_ids": (neurons, list(neuron_ids))} if len(neuron_ids) else {}
        for key, (shape, values) in given.items():
            if values is not None and np.shape(values) != shape:
                raise InputError(f"{self.path}: {key} has shape {np.shape(values)}: expected {shape}")
        whole = (n_neurons, n_frames)
        given |= {key: (whole, None) for key, wanted in (("valid", valid), ("dff", dff)) if wanted}
        attributes = {
            "name": name,
            "order": len(self._planes),
            "first_frame": int(first_frame),
            "metadata": layout.to_json(metadata or {}),
            **({} if frame_rate_hz is None else {"frame_rate_hz": float(frame_rate_hz)}),
        }
        plane = RecordingWriter(self, group, whole, {"spike_prob": (whole, None), **given}, attributes)
        self._planes.append(plane)
        return plane

    def finish(self, metadata: Mapping[str, Any] | None = None) -> Path:
        """Put the result in its place.

        Parameters
        ----------
        metadata : mapping, optional
            Added to what was given at the start.

        Returns
        -------
        Path
            Of the finished file.
        """
        self._lay_out()
        text = layout.to_json({**self._metadata, "complete": True, **(metadata or {})})
        encoded = text.encode()
        spikes = [plane for plane in self._planes if plane.has_spikes]
        if spikes or len(encoded) >= self._room:
            self._extend((), spikes, text)
        if len(encoded) < self._room:
            self._put("metadata", 0, encoded.ljust(self._room, b"\0"))
        self._close_file()
        self._work.replace(self.path)
        self._finished = True
        return self.path

    def close(self) -> None:
        """Close the file as it is: it stays, unless no values were written."""
        self._close_file()
        if not self._finished and not any(plane.touched for plane in self._planes):
            self._work.unlink(missing_ok=True)

    def _lay_out(self) -> None:
        """Give the planes that were begun their room."""
        planes = self._planes[self._n_laid_out :]
        if not planes and self._n_laid_out:
            return
        self._extend(planes)
        self._n_laid_out += len(planes)

    def _extend(
        self, planes: Sequence[RecordingWriter], spikes: Sequence[RecordingWriter] = (), text: str = ""
    ) -> None:
        """Change the structure of the file in a copy, which then takes its place."""
        import h5py

        scratch = layout.scratch_file(self._work)
        first = not self._n_laid_out
        self._close_file()
        try:
            if not first:
                layout.copy_file(self._work, scratch)
            # The earliest layout: every version of HDF5 and MATLAB reads it, and it has no checksums to renew.
            with h5py.File(scratch, "w" if first else "r+", libver=("earliest", "v108")) as file:
                if first:
                    layout.start_file(file)
                    layout.add_metadata(file, self._text, self._room)
                for plane in planes:
                    plane.create(file)
                for plane in spikes:
                    plane.add_spikes(file[plane.group])
                if len(text.encode()) >= self._room:
                    layout.add_metadata(file, text)
                self._places = {}
                file.visititems(self._note_place)
            scratch.replace(self._work)
        finally:
            scratch.unlink(missing_ok=True)
        self._file = self._work.open("r+b", buffering=0)

    def _note_place(self, name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            offset = item.id.get_offset()
            # What is empty has no place.
            if offset is not None:
                self._places[name] = int(offset), int(item.id.get_storage_size())

    def _put(self, name: str, first_byte: int, values: Any) -> None:
        """Write bytes into the room of an array."""
        if self._file is None:
            raise InputError(f"{self.path} is closed")
        data = memoryview(values).cast("B")
        offset, size = self._places[name]
        if first_byte + len(data) > size:
            raise InputError(f"{self.path}: {len(data)} bytes at {first_byte} of {name}: it has {size}")
        self._file.seek(offset + first_byte)
        while data:  # a write may take less than all
            data = data[self._file.write(data) :]

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class RecordingWriter:
    """Writes one plane of a result; made by :meth:`ResultWriter.begin`."""

    def __init__(
        self,
        writer: ResultWriter,
        group: str,
        shape: tuple[int, int],
        arrays: Mapping[str, tuple[tuple[int, ...], Any]],
        attributes: Mapping[str, Any],
    ) -> None:
        self._writer = writer
        self.group = group
        self.shape = shape
        self._arrays = arrays
        self._attributes = attributes
        self._spikes: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self.has_spikes = False
        #: Whether anything was written.
        self.touched = False

    def write(
        self,
        rows: Any,
        spike_prob: ArrayLike,
        *,
        dff: ArrayLike | None = None,
        valid: ArrayLike | None = None,
        spikes: Sequence[ArrayLike] | None = None,
    ) -> None:
        """Write the values of some neurons; once this returns they are in the file, whatever happens to the program.

        Parameters
        ----------
        rows : slice or array_like, (k,)
            Which neurons, in any order.
        spike_prob : array_like, (k, n_frames)
        dff, valid : array_like, (k, n_frames), optional
            Only if they were announced.
        spikes : sequence of array_like, optional
            For each of the k neurons the columns of its single spikes. They are kept in memory and written by
            :meth:`ResultWriter.finish`; an incomplete result has none.
        """
        chosen = np.arange(self.shape[0])[rows]
        # The lengths first: a wrong call shall not leave half of its values.
        blocks = {"spike_prob": spike_prob, "dff": dff, "valid": valid}
        arrays = {name: self._block(name, values, chosen.size) for name, values in blocks.items() if values is not None}
        if spikes is not None and len(spikes) != chosen.size:
            raise InputError(f"spikes of {len(spikes)} neurons: expected {chosen.size}")
        self._writer._lay_out()
        self.touched = True
        for name, values in arrays.items():
            self._put_rows(name, chosen, values)
        if spikes is not None:
            self.has_spikes = True
            columns = [np.asarray(one, np.int64).ravel() for one in spikes]
            self._spikes.append((np.repeat(chosen, [one.size for one in columns]), np.concatenate([*columns, []])))
        self._put_rows("done", chosen, np.ones((chosen.size, 1), np.uint8))

    def set(
        self,
        *,
        noise_levels: ArrayLike | None = None,
        f0: ArrayLike | None = None,
        why_undefined: Sequence[str] | None = None,
    ) -> None:
        """Write what is known of each neuron.

        Parameters
        ----------
        noise_levels : array_like, (n_neurons,), optional
            % · Hz^-½.
        f0 : array_like, (n_neurons,), optional
            Baseline, in the unit of the fluorescence.
        why_undefined : sequence of str, (n_neurons,), optional
            Why a neuron has no value at all; empty where it has.
        """
        n_neurons = self.shape[0]
        values: dict[str, NDArray[Any]] = {
            name: np.asarray(given, "<f8")
            for name, given in (("noise_levels", noise_levels), ("f0", f0))
            if given is not None
        }
        if why_undefined is not None:
            values["why_undefined"] = layout.encode(why_undefined, layout.REASON_BYTES)
        for name, array in values.items():
            if array.shape != (n_neurons,):
                raise InputError(f"{name} has shape {array.shape}: expected ({n_neurons},)")
        self._writer._lay_out()
        for name, array in values.items():
            self._writer._put(f"{self.group}/{name}", 0, array.tobytes())

    def create(self, file: Any) -> None:
        """Make the group and its arrays in an HDF5 file."""
        group = file.create_group(self.group)
        for name, value in self._attributes.items():
            group.attrs[name] = value
        for name, (shape, values) in self._arrays.items():
            if name == "neuron_ids" and any(isinstance(value, str) for value in values):
                longest = max(len(str(value).encode()) for value in values) + 1
                layout.add_array(group, name, shape, layout.encode(values, longest), text_bytes=longest)
            else:
                layout.add_array(group, name, shape, values)
        layout.add_array(group, "why_undefined", (self.shape[0],), text_bytes=layout.REASON_BYTES)

    def add_spikes(self, group: Any) -> None:
        """Make the arrays of single spikes in an HDF5 file."""
        neuron = np.concatenate([rows for rows, _ in self._spikes]).astype(np.int64)
        column = np.concatenate([columns for _, columns in self._spikes]).astype(np.int64)
        order = np.argsort(neuron, kind="stable")
        layout.add_array(group, "spikes/neuron", neuron.shape, neuron[order])
        layout.add_array(group, "spikes/column", column.shape, column[order])

    def _block(self, name: str, values: Any, n_rows: int) -> NDArray[Any]:
        if name not in self._arrays:
            raise InputError(f"{name} was not announced: pass {name}=True to begin()")
        block = np.ascontiguousarray(values, layout.FIELDS[name].dtype)
        if block.shape != (n_rows, self.shape[1]):
            raise InputError(f"{name} has shape {block.shape}: expected {(n_rows, self.shape[1])}")
        return block

    def _put_rows(self, name: str, rows: NDArray[np.intp], block: NDArray[Any]) -> None:
        """Write rows, those that follow each other in one piece."""
        row_bytes = block.strides[0]
        breaks = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), rows.size]
        for start, stop in pairwise(breaks):
            if stop > start:
                self._writer._put(f"{self.group}/{name}", int(rows[start]) * row_bytes, block[start:stop])

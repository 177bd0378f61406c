"""A portable result that grows by frames while a stream goes on, readable at any moment.

HDF5's single-writer-multiple-readers mode (SWMR) keeps the file's structure sound whenever the program ends, and lets
others read meanwhile. The values come first, the number of columns that are whole after them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError, InputError, OutputExistsError

from . import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from cascade_rt.chunks import SpikeChunk

__all__ = ["ResultAppender", "open_growing", "revision_group"]

#: What was appended is made readable at this interval (s), or when so many frames wait.
SYNC_S, SYNC_FRAMES = 1.0, 256
#: Neurons and frames in a piece of the file.
CHUNK = (256, 128)
#: The oldest layout that SWMR can have: HDF5 1.10 and later read it.
SWMR_LAYOUT = ("v110", "v110")
GROUP = layout.plane_group("")
#: Values held in memory while a file is copied.
COPY_VALUES = 4_000_000
_COLUMNS = {"spike_prob": "<f4", "valid": "u1", "frames": "<i8"}


class ResultAppender:
    """Appends results of a stream to a file; a context manager.

    While it grows the file stands beside its final name as ``NAME.incomplete.h5``.

    Parameters
    ----------
    path : Path
        ``.h5`` or ``.hdf5``.
    n_neurons : int
    metadata : mapping
        Plain values; ``frame_rate_hz`` becomes that of the result.
    lookaheads : sequence of int
        Look-aheads that will come (frames). The longest is the result, the others stand beside it.
    append : bool
        Go on with a file that is there already, finished or not; its metadata are kept where ``metadata`` has no
        others.
    overwrite : bool
        Replace a file that is there already.
    clock : callable
        Monotonic time (s).

    Raises
    ------
    InputError
        The name is unsuitable, or the file to be continued has other neurons or look-aheads.
    OutputExistsError
        There is such a file, finished or not, and neither ``append`` nor ``overwrite`` is True.
    """

    def __init__(
        self,
        path: Path,
        n_neurons: int,
        metadata: Mapping[str, Any],
        *,
        lookaheads: Sequence[int],
        append: bool = False,
        overwrite: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if n_neurons < 1 or not lookaheads:
            raise InputError(f"{n_neurons} neurons, look-aheads {tuple(lookaheads)}: expected at least one of each")
        self.path = path
        self.n_neurons = n_neurons
        self.lookaheads = tuple(sorted(lookaheads))
        self._clock = clock
        self._work = layout.incomplete_file(path)
        check_free(path, append=append, overwrite=overwrite)
        earlier = next((file for file in (path, self._work) if file.exists()), None) if append else None
        self._metadata = dict(metadata)
        self._counts = dict.fromkeys(self.lookaheads, 0)
        self._last = dict.fromkeys(self.lookaheads, -1)
        self._waiting: dict[int, list[tuple[Any, ...]]] = {n: [] for n in self.lookaheads}
        self._file: Any = None
        self._prepare(earlier)
        self._next_sync = clock() + SYNC_S

    def __enter__(self) -> ResultAppender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def next_frame(self) -> int:
        """First frame that may come next for every look-ahead."""
        return max(self._last.values()) + 1

    @property
    def n_frames(self) -> int:
        """Frames of the longest look-ahead so far."""
        longest = self.lookaheads[-1]
        return int(self._counts[longest]) + sum(int(entry[2].size) for entry in self._waiting[longest])

    def append(self, chunk: SpikeChunk) -> None:
        """Add a result and its revisions.

        Parameters
        ----------
        chunk : SpikeChunk
            Its frames must follow those that were appended before for the same look-ahead; gaps are fine.

        Raises
        ------
        InputError
            Another number of neurons, an unknown look-ahead, or frames that were appended before.
        """
        parts = [chunk, *chunk.revisions.values()]
        for part in parts:
            if part.lookahead_frames not in self._waiting or part.n_neurons != self.n_neurons:
                raise InputError(
                    f"{self.path}: {part.n_neurons} neurons with look-ahead {part.lookahead_frames}: expected "
                    f"{self.n_neurons} with one of {self.lookaheads}"
                )
            if part.n_frames and part.first_frame <= self._last[part.lookahead_frames]:
                raise InputError(
                    f"{self.path}: frame {part.first_frame} comes after frame {self._last[part.lookahead_frames]}: "
                    "expected ascending frames; write another recording into another file"
                )
        for part in parts:
            if part.n_frames:
                stop = part.first_frame + part.n_frames
                frames = np.arange(part.first_frame, stop, dtype=np.int64)
                # The caller may reuse its arrays before these are written.
                self._waiting[part.lookahead_frames].append((part.spike_prob.copy(), part.valid.copy(), frames))
                self._last[part.lookahead_frames] = stop - 1
        many = max(sum(entry[2].size for entry in waiting) for waiting in self._waiting.values()) >= SYNC_FRAMES
        if many or self._clock() >= self._next_sync:
            self.sync()

    def sync(self) -> None:
        """Make what was appended readable, also after a crash."""
        if self._file is None:
            raise InputError(f"{self.path} is closed")
        self._next_sync = self._clock() + SYNC_S
        written = {}
        for lookahead, waiting in self._waiting.items():
            if waiting:
                prob, valid, frames = (np.concatenate(parts, axis=-1) for parts in zip(*waiting, strict=True))
                written[lookahead] = self._write(lookahead, prob, valid, frames)
                waiting.clear()
        if not written:
            return
        self._file.flush()
        for lookahead, count in written.items():
            self._file[self._group(lookahead)]["n_written"][()] = count
            self._counts[lookahead] = count
        self._file.flush()

    def finish(
        self,
        metadata: Mapping[str, Any] | None = None,
        *,
        noise_levels: ArrayLike | None = None,
        complete: bool = True,
    ) -> Path:
        """Write the rest, and give the file its name.

        Parameters
        ----------
        metadata : mapping, optional
            Added to what was given at the start.
        noise_levels : array_like, (n_neurons,), optional
            % · Hz^-½.
        complete : bool
            False: the stream ended too early; the file keeps the name ``NAME.incomplete.h5``.

        Returns
        -------
        Path
        """
        self.sync()
        if noise_levels is not None:
            self._file[GROUP]["noise_levels"][:] = np.asarray(noise_levels, np.float64)
        text = layout.to_json({**self._metadata, **(metadata or {}), "complete": complete})
        fits = len(text.encode()) < self._file["metadata"].dtype.itemsize
        if fits:
            self._file["metadata"][()] = text.encode()
        self.close()
        if not fits:
            self._replace_metadata(text)
        if not complete:
            return self._work
        self._work.replace(self.path)
        return self.path

    def close(self) -> None:
        """Close the file as it is; it stays, to be read or continued."""
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Close the file and delete it."""
        self.close()
        self._work.unlink(missing_ok=True)

    def _group(self, lookahead: int) -> str:
        return GROUP if lookahead == self.lookaheads[-1] else f"{GROUP}/{revision_group(lookahead)}"

    def _prepare(self, earlier: Path | None) -> None:
        """Make the file, with the columns of an earlier one: what is sound of it, whatever happened to it."""
        import h5py

        scratch = layout.scratch_file(self._work)
        try:
            with h5py.File(scratch, "w", libver=SWMR_LAYOUT) as file:
                if earlier is None:
                    self._create(file)
                else:
                    with open_growing(earlier) as old:
                        self._take_over(old, file)
            scratch.replace(self._work)
        finally:
            scratch.unlink(missing_ok=True)
        if earlier is not None and earlier != self._work:
            earlier.unlink()
        cache = 2 * CHUNK[1] * 4 * (self.n_neurons + CHUNK[0])
        self._file = _open_for_appending(self._work, max(cache, 1 << 20))

    def _create(self, file: Any) -> None:
        layout.start_file(file)
        layout.add_metadata(file, layout.to_json({**self._metadata, "complete": False}))
        for lookahead in reversed(self.lookaheads):
            group = file.create_group(self._group(lookahead))
            group.attrs["lookahead_frames"] = lookahead
            pieces = (min(self.n_neurons, CHUNK[0]), CHUNK[1])
            for name, dtype in _COLUMNS.items():
                field = layout.FIELDS[name]
                per_neuron = name != "frames"
                stored = group.create_dataset(
                    name,
                    (self.n_neurons, 0) if per_neuron else (0,),
                    dtype,
                    maxshape=(self.n_neurons, None) if per_neuron else (None,),
                    chunks=pieces if per_neuron else (1024,),
                    fillvalue=field.fill,
                )
                stored.attrs["description"] = field.description
                if field.units:
                    stored.attrs["units"] = field.units
            layout.add_array(group, "n_written", (), 0)
        main = file[GROUP]
        main.attrs["name"] = ""
        main.attrs["metadata"] = "{}"
        rate = self._metadata.get("frame_rate_hz")
        if rate:
            main.attrs["frame_rate_hz"] = float(rate)
        layout.add_array(main, "noise_levels", (self.n_neurons,))

    def _take_over(self, old: Any, file: Any) -> None:
        from .reading import read_metadata

        if GROUP not in old or "n_written" not in old[GROUP]:
            raise InputError(f"{self.path} was not written frame by frame: it cannot be continued")
        there = {int(old[GROUP].attrs["lookahead_frames"])}
        there |= {
            int(item.attrs["lookahead_frames"]) for item in old[GROUP].values() if "lookahead_frames" in item.attrs
        }
        n_neurons = old[GROUP]["spike_prob"].shape[0]
        if (n_neurons, there) != (self.n_neurons, set(self.lookaheads)):
            raise InputError(
                f"{self.path} holds {n_neurons} neurons and look-aheads {sorted(there)}: cannot be continued with "
                f"{self.n_neurons} and {list(self.lookaheads)}"
            )
        self._metadata = {**read_metadata(old, self.path), **self._metadata}
        self._create(file)
        file[GROUP]["noise_levels"][:] = old[GROUP]["noise_levels"][:]
        step = CHUNK[1] * max(1, COPY_VALUES // (CHUNK[1] * self.n_neurons))
        for lookahead in self.lookaheads:
            source, target = old[self._group(lookahead)], file[self._group(lookahead)]
            count = int(source["n_written"][()])
            for name in _COLUMNS:
                target[name].resize(count, axis=target[name].ndim - 1)
                for start in range(0, count, step):
                    target[name][..., start : start + step] = source[name][..., start : min(start + step, count)]
            target["n_written"][()] = count
            self._counts[lookahead] = count
            self._last[lookahead] = int(source["frames"][count - 1]) if count else -1

    def _write(self, lookahead: int, prob: Any, valid: Any, frames: Any) -> int:
        group = self._file[self._group(lookahead)]
        start = self._counts[lookahead]
        stop = start + frames.size
        for name, values in (("spike_prob", prob), ("valid", valid), ("frames", frames)):
            group[name].resize(stop, axis=values.ndim - 1)
            group[name][..., start:stop] = values
        return int(stop)

    def _replace_metadata(self, text: str) -> None:
        """Store metadata that have outgrown their room."""
        import h5py

        scratch = layout.scratch_file(self._work)
        try:
            layout.copy_file(self._work, scratch)
            with h5py.File(scratch, "r+", libver=SWMR_LAYOUT) as file:
                layout.add_metadata(file, text)
            scratch.replace(self._work)
        finally:
            scratch.unlink(missing_ok=True)


def check_free(path: Path, *, append: bool = False, overwrite: bool = False) -> None:
    """Raise InputError or OutputExistsError if a stream cannot be written under this name.

    Unlike what was computed from a recording, an unfinished result of a stream may be all that is left of it.
    """
    layout.check_target(path, overwrite=overwrite or append)
    work = layout.incomplete_file(path)
    if work.exists() and not (append or overwrite):
        raise OutputExistsError(
            f"{work} exists, left by an interrupted run: move it away to keep it, choose another name, or allow "
            "--overwrite (overwrite=True)"
        )


def _open_for_appending(path: Path, cache_bytes: int) -> Any:
    """Open a file as the single writer.

    In one step: opened for writing first and switched to SWMR then, it would be marked in between as a file that
    nobody may open, for ever if the program is killed there.
    """
    import h5py

    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_cache(0, 521, cache_bytes, 0.75)
    mode = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
    return h5py.File(h5py.h5f.open(os.fsencode(path), mode, fapl=access))


def revision_group(lookahead: int) -> str:
    """Name of the group with the results of a shorter look-ahead."""
    return f"lookahead_{lookahead}"


def open_growing(path: Path) -> Any:
    """Open an HDF5 file for reading, also one that is being written, or whose writer was killed.

    Raises
    ------
    FileFormatError
        It is not an HDF5 file, or is damaged.
    """
    import h5py

    try:
        try:
            return h5py.File(path, "r")
        except OSError:
            # Still marked as being written.
            return h5py.File(path, "r", libver="latest", swmr=True)
    except OSError as error:
        raise FileFormatError(f"{path}: not a readable HDF5 file: {error}") from error

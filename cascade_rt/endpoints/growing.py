"""Results and recordings that grow on disk while a run goes on, readable at any moment."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.results.arrays import plain

from .results import NpyAppender, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from io import RawIOBase
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.chunks import FrameChunk, SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.gaps import Piece

__all__ = ["RESETS", "GrowingFolder"]

#: Files are made readable up to now at this interval (s).
SYNC_S = 1.0
#: What the row ``reset`` of ``piece.npy`` stands for.
RESETS = ("", "gap", "restart")


class GrowingFolder:
    """A folder of growing files: results per look-ahead and, if wanted, the frames they were made from.

    docs/recording.md describes each file. ``.npy`` files have a column for each frame (piece, message) and are made
    readable up to now once a second; ``.jsonl`` files have a JSON object in each line, written at once; ``run.json``
    says what it all is and whether it is complete.

    Parameters
    ----------
    folder : Path
        Is created; must not exist, or be empty.
    n_neurons : int
    metadata : mapping
        Goes into ``run.json`` with ``complete: false``.
    clock : callable
        Monotonic time (s).
    """

    def __init__(
        self,
        folder: Path,
        n_neurons: int,
        metadata: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._n_neurons = n_neurons
        self._metadata = dict(metadata)
        self._clock = clock
        self._files: dict[str, NpyAppender] = {}
        self._lines: dict[str, RawIOBase] = {}
        #: Pieces so far.
        self.n_pieces = 0
        self._next_frame: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.describe()
        self._next_sync = clock()

    def add_result(self, chunk: SpikeChunk) -> None:
        """Append the results of one look-ahead; its revisions are results of their own."""
        name = f"lookahead{chunk.lookahead_frames}"
        frame = np.arange(chunk.first_frame, chunk.first_frame + chunk.n_frames, dtype=np.int64)
        self._file(f"spike_prob_{name}", self._n_neurons, "<f4").append(chunk.spike_prob)
        self._file(f"valid_{name}", self._n_neurons, "?").append(chunk.valid)
        self._file(f"provisional_{name}", None, "?").append(np.full(chunk.n_frames, chunk.provisional))
        self._file(f"frame_{name}", None, "<i8").append(frame)
        self.keep_readable()

    def add_piece(self, piece: Piece, dff: NDArray[np.float32]) -> None:
        """Append frames as they were processed, and how they came.

        Filled-in frames are in ``piece.npy`` alone: they follow from the frame before them. Where ΔF/F was made of
        fluorescence, both are kept, and the ΔF/F of filled-in frames too.

        Parameters
        ----------
        piece : Piece
        dff : ndarray, (n_neurons, n_frames), float32
            What the model was given.
        """
        if not piece.touched:
            self._add_frames(piece, dff)
        elif dff is not piece.frames:
            self._file("filled_dff", self._n_neurons, "<f4").append(dff)
        row = (piece.first_frame, piece.n_frames, piece.touched, RESETS.index(piece.reset), len(piece.arrivals))
        self._file("piece", len(row), "<i8").append(np.array(row, np.int64)[:, None])
        self.n_pieces += 1
        self._next_frame = piece.stop_frame
        self.keep_readable()

    def _add_frames(self, piece: Piece, dff: NDArray[np.float32]) -> None:
        frame = np.arange(piece.first_frame, piece.stop_frame, dtype=np.int64)
        times = np.full((2, piece.n_frames), np.nan)
        times[0, -1] = np.nan if piece.t_source is None else piece.t_source
        times[1] = piece.arrivals[-1] if piece.arrivals else np.nan
        if dff is not piece.frames:
            self._file("fluorescence", self._n_neurons, "<f4").append(piece.frames)
        self._file("dff", self._n_neurons, "<f4").append(dff)
        self._file("dff_frame", None, "<i8").append(frame)
        self._file("dff_time", 2, "<f8").append(times)

    def add_message(self, chunk: FrameChunk) -> None:
        """Append what is known of a message, also of one whose frames came twice or too late."""
        times = [np.nan if t is None else t for t in (chunk.t_source, chunk.t_recv)]
        self._file("message", 2, "<i8").append(np.array([[chunk.first_frame], [chunk.n_frames]], np.int64))
        self._file("message_time", 2, "<f8").append(np.array(times)[:, None])

    def add_event(self, event: Event) -> None:
        """Append an event; it is there at once, for the next moment may be the last."""
        self.add_line("events", event.to_dict())

    def add_line(self, name: str, values: Mapping[str, Any]) -> None:
        """Append plain values to ``NAME.jsonl``, with the number of pieces and the next frame where not given."""
        if name != "events":
            values = {"piece": self.n_pieces, "next_frame": self._next_frame, **values}
        if name not in self._lines:
            self._lines[name] = (self.folder / f"{name}.jsonl").open("ab", buffering=0)
        line = json.dumps(plain(values), allow_nan=False, ensure_ascii=False, default=str) + "\n"
        self._lines[name].write(line.encode())

    def keep_readable(self) -> None:
        """Make readable what was appended, if that was not done within the last second."""
        now = self._clock()
        if now < self._next_sync:
            return
        self._next_sync = now + SYNC_S
        for file in self._files.values():
            file.sync()

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Write a whole array beside the growing ones; it appears at once."""
        temporary = self.folder / f".{name}.tmp"
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        temporary.replace(self.folder / f"{name}.npy")

    def finish(self, metadata: Mapping[str, Any], *, complete: bool) -> None:
        """Close the files and say in ``run.json`` what they hold."""
        self.close()
        self._metadata.update(metadata)
        write_json(self.folder / "run.json", {**self._metadata, "complete": complete})

    def close(self) -> None:
        """Close the files as they are."""
        for file in self._files.values():
            file.close()
        self._close_lines()

    def abandon(self, metadata: Mapping[str, Any]) -> None:
        """Close the files without writing to them any more, and say so in ``run.json`` if that can be done."""
        for file in self._files.values():
            with suppress(OSError):
                file.abandon()
        self._close_lines()
        with suppress(OSError):
            self.describe(metadata)

    def describe(self, metadata: Mapping[str, Any] | None = None) -> None:
        """Write ``run.json`` as it is now, with more metadata if there are."""
        self._metadata.update(metadata or {})
        write_json(self.folder / "run.json", {**self._metadata, "complete": False})

    def _file(self, name: str, n_rows: int | None, dtype: str) -> NpyAppender:
        if name not in self._files:
            self._files[name] = NpyAppender(self.folder / f"{name}.npy", n_rows, dtype)
        return self._files[name]

    def _close_lines(self) -> None:
        for file in self._lines.values():
            with suppress(OSError):
                file.close()
        self._lines.clear()

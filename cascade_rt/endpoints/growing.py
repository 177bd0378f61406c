"""Results and recordings that grow on disk while a run goes on, readable at any moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .results import NpyAppender, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.gaps import Piece

__all__ = ["GrowingFolder"]

#: Files are made readable up to now at this interval (s).
SYNC_S = 1.0


class GrowingFolder:
    """A folder of growing ``.npy`` files: results per look-ahead and, if wanted, the frames they were made from.

    ``spike_prob_lookahead2.npy``, ``valid_lookahead2.npy`` and ``frame_lookahead2.npy`` for each look-ahead;
    ``dff.npy``, ``dff_frame.npy`` and ``dff_time.npy`` (rows: the source's time, and receive time, s) for the frames;
    ``run.json`` says what they are and whether they are complete.

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
        folder.mkdir(parents=True, exist_ok=True)
        self._describe(complete=False)
        self._next_sync = clock()

    def add_result(self, chunk: SpikeChunk) -> None:
        """Append the results of one look-ahead; its revisions are results of their own."""
        name = f"lookahead{chunk.lookahead_frames}"
        frame = np.arange(chunk.first_frame, chunk.first_frame + chunk.n_frames, dtype=np.int64)
        self._file(f"spike_prob_{name}", self._n_neurons, "<f4").append(chunk.spike_prob)
        self._file(f"valid_{name}", self._n_neurons, "?").append(chunk.valid)
        self._file(f"frame_{name}", None, "<i8").append(frame)
        self._sync_if_due()

    def add_frames(self, piece: Piece, t_source: float | None, t_recv: float | None) -> None:
        """Append frames that were received; gaps are not filled, ``dff_frame.npy`` shows them."""
        frame = np.arange(piece.first_frame, piece.stop_frame, dtype=np.int64)
        times = np.full((2, piece.n_frames), np.nan)
        times[0, -1] = np.nan if t_source is None else t_source
        times[1] = np.nan if t_recv is None else t_recv
        self._file("dff", self._n_neurons, "<f4").append(piece.frames)
        self._file("dff_frame", None, "<i8").append(frame)
        self._file("dff_time", 2, "<f8").append(times)
        self._sync_if_due()

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Write a whole array beside the growing ones."""
        np.save(self.folder / f"{name}.npy", array, allow_pickle=False)

    def finish(self, metadata: Mapping[str, Any], *, complete: bool) -> None:
        """Close the files and say in ``run.json`` what they hold."""
        self.close()
        self._metadata.update(metadata)
        self._describe(complete=complete)

    def close(self) -> None:
        """Close the files as they are."""
        for file in self._files.values():
            file.close()

    def _file(self, name: str, n_rows: int | None, dtype: str) -> NpyAppender:
        if name not in self._files:
            self._files[name] = NpyAppender(self.folder / f"{name}.npy", n_rows, dtype)
        return self._files[name]

    def _sync_if_due(self) -> None:
        now = self._clock()
        if now < self._next_sync:
            return
        self._next_sync = now + SYNC_S
        for file in self._files.values():
            file.sync()

    def _describe(self, *, complete: bool) -> None:
        write_json(self.folder / "run.json", {**self._metadata, "complete": complete})

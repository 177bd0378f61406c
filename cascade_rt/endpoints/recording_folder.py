"""The folder in which a run keeps all that is needed to do it again; see docs/recording.md."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import OutputExistsError

from .growing import GrowingFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.chunks import FrameChunk, SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.gaps import Piece
    from cascade_rt.ports import RunInfo

    from .buffered import Missing

__all__ = ["RecordingFolder"]

#: Version of what the folder holds.
FORMAT = 2


class RecordingFolder:
    """Keeps what a run received and what it made of it, in a folder that is readable at any moment.

    It writes where it is called; :class:`cascade_rt.endpoints.buffered.BufferedSink` puts a thread in front of it, so
    that a slow disk does not hold up the run.

    Parameters
    ----------
    folder : Path
        Must not exist or be empty, unless ``overwrite``.
    overwrite : bool
        Replace what an earlier run recorded there; a folder of other things is never touched.
    configuration : mapping, optional
        How the run was set up, of plain values, for ``run.json``.
    noise_levels : ndarray, (n_neurons,), optional
        The noise levels that the run was given.
    keep_inputs : bool
        False: results and events alone.
    attach : callable, optional
        Called with the folder once it is there, to put the model and the rules into it; returns more configuration.
    """

    live = False
    dropped = 0

    def __init__(
        self,
        folder: Path,
        *,
        overwrite: bool = False,
        configuration: Mapping[str, Any] | None = None,
        noise_levels: NDArray[np.float64] | None = None,
        keep_inputs: bool = True,
        attach: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self._overwrite = overwrite
        self._configuration = dict(configuration or {})
        self._noise_levels = noise_levels
        self._attach = attach
        self._keep_inputs = keep_inputs
        self._growing: GrowingFolder | None = None

    @property
    def name(self) -> str:
        return str(self.folder)

    def open(self, stopped: Callable[[], bool]) -> None:
        """Check that the folder can be used.

        Raises
        ------
        OutputExistsError
            There is something already.
        PermissionError
            Nothing can be written there.
        """
        del stopped
        folder = self.folder
        if not folder.exists():
            above = next(path for path in folder.absolute().parents if path.exists())
            if not (above.is_dir() and os.access(above, os.W_OK)):
                raise PermissionError(f"{folder}: no folder can be made in {above}")
            return
        if not folder.is_dir():
            raise OutputExistsError(f"{folder} is a file: expected the name of a folder to record into")
        if any(folder.iterdir()):
            ours = (folder / "run.json").is_file()
            if not (ours and self._overwrite):
                hint = "allow --overwrite (overwrite=True)" if ours else "name an empty one"
                raise OutputExistsError(f"{folder} holds files already: choose another folder, or {hint}")

    def start(self, info: RunInfo) -> None:
        """Begin to write."""
        if self.folder.is_dir() and (self.folder / "run.json").is_file():
            shutil.rmtree(self.folder)
        metadata = {
            "format": FORMAT,
            **info.metadata,
            "n_neurons": info.n_neurons,
            "spec": info.spec.to_dict(),
            "configuration": self._configuration,
        }
        growing = self._growing = GrowingFolder(self.folder, info.n_neurons, metadata)
        if self._noise_levels is not None:
            growing.save("noise_levels_given", np.asarray(self._noise_levels, np.float64))
            growing.save("noise_levels", np.asarray(self._noise_levels, np.float64))
        if self._attach is not None:
            self._configuration.update(self._attach(self.folder))
            growing.describe({"configuration": self._configuration})

    def keep_message(self, chunk: FrameChunk) -> None:
        """Append what is known of a message that was received."""
        if self._growing is not None and self._keep_inputs:
            self._growing.add_message(chunk)

    def keep_piece(self, piece: Piece, dff: NDArray[np.float32] | None = None) -> None:
        """Append frames as they were processed; ``dff`` is given where the piece holds fluorescence."""
        if self._growing is not None and self._keep_inputs:
            self._growing.add_piece(piece, piece.frames if dff is None else dff)

    def keep_control(self, message: Mapping[str, Any]) -> None:
        """Append a control message, which took effect before the next piece."""
        if self._growing is not None:
            self._growing.add_line("controls", {"message": dict(message)})

    def keep_rows(self, ids: Sequence[int | str]) -> None:
        """Append the ids of all rows, of which there are more from the next piece on."""
        if self._growing is not None:
            self._growing.add_line("rows", {"ids": list(ids)})

    def keep_readable(self) -> None:
        """Make readable what is there, for nothing comes at the moment."""
        if self._growing is not None:
            self._growing.keep_readable()

    def keep_noise_levels(self, noise_levels: NDArray[np.float64], next_frame: int) -> None:
        """Keep noise levels that have just become final: known before the frame ``next_frame`` came."""
        if self._growing is not None:
            self._growing.save("noise_levels", np.asarray(noise_levels, np.float64))
            self._growing.describe({"noise_levels_final_before_frame": next_frame})

    def send(self, chunk: SpikeChunk) -> None:
        """Append one result."""
        if self._growing is not None:
            self._growing.add_result(chunk)

    def send_event(self, event: Event) -> None:
        """Append what a rule decided."""
        if self._growing is not None:
            self._growing.add_event(event)

    def note_missing(self, missing: Missing) -> None:
        """Say which frames and results could not be written at this place."""
        if self._growing is not None:
            self._growing.add_line("missing", missing.to_dict())

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Close the files and write the summary into ``run.json``."""
        if self._growing is None:
            return
        described = {**metadata, "next_frame": next_frame}
        if metadata.get("noise_levels") is not None:
            self._growing.save("noise_levels", np.asarray(described.pop("noise_levels"), np.float64))
        self._growing.finish(described, complete=complete)
        self._growing = None

    def abandon(self, account: Mapping[str, Any]) -> None:
        """Write no more, after an error; what is there stays readable."""
        if self._growing is not None:
            self._growing.abandon({"recording": dict(account)})
            self._growing = None

    def close(self) -> None:
        """Close the files as they are."""
        if self._growing is not None:
            growing, self._growing = self._growing, None
            with suppress(OSError):  # nothing more can be done, and the files are readable up to the last second
                growing.close()

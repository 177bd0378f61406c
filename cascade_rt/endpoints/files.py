"""Files as source and sink of a run; reading and writing recordings for all commands."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.chunks import RATE_TOLERANCE, FrameChunk
from cascade_rt.errors import InputError
from cascade_rt.formats import Recording, read_recording
from cascade_rt.formats.numpy_files import read_array
from cascade_rt.ports import EndOfStream
from cascade_rt.results.appending import ResultAppender, check_free

from .growing import GrowingFolder
from .recording_folder import RecordingFolder
from .results import allocate_result, check_output, incomplete_path, remove, work_folder, write_result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.ports import RunInfo

__all__ = [
    "FileSink",
    "FileSource",
    "PortableSink",
    "RecordingFolder",
    "allocate_result",
    "check_output",
    "write_result",
]


class FileSource:
    """Gives a recording piece by piece; never in a hurry.

    Parameters
    ----------
    path : Path
    key : str, optional
        Name of the array in the file.
    frame_rate_hz : float, optional
        Assumed where the file does not tell it; must agree with the file where it does.
    chunk_frames : int
        Frames per piece.
    clock : callable
        Monotonic time (s) for ``t_recv``.
    """

    lossless = True
    finite = True

    def __init__(
        self,
        path: Path,
        *,
        key: str | None = None,
        frame_rate_hz: float | None = None,
        chunk_frames: int = 32,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if chunk_frames < 1:
            raise InputError(f"chunk_frames={chunk_frames}: expected at least 1")
        self.path = path
        self._key = key
        self._rate = frame_rate_hz
        self._chunk_frames = chunk_frames
        self._clock = clock
        self._recording: Recording | None = None
        self._breaks: NDArray[np.intp] = np.empty(0, np.intp)
        self._column = 0

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def recording(self) -> Recording:
        """What was opened."""
        if self._recording is None:
            raise RuntimeError(f"{self.path} is not open")
        return self._recording

    def read(self) -> Recording:
        """Read the file without opening the source."""
        return read_recording(self.path, self._key)

    def open(self) -> None:
        """Open the file.

        Raises
        ------
        FileFormatError
        InputError
            The file tells a frame rate that is more than 5 % from the one given.
        """
        recording = self._recording = self.read()
        stored = recording.frame_rate_hz
        if stored is not None and self._rate is not None and abs(stored / self._rate - 1) > RATE_TOLERANCE:
            raise InputError(f"{self.path} was recorded at {stored:g} Hz; the frame rate given is {self._rate:g} Hz")
        self._rate = self._rate or stored
        if recording.frames is not None:
            self._breaks = np.flatnonzero(np.diff(recording.frames) != 1) + 1
        self._column = 0

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return the next frames, or the end."""
        del timeout_s
        recording, start = self.recording, self._column
        if start >= recording.n_frames:
            return EndOfStream(stream=self.path.stem, next_frame=self._index(recording.n_frames - 1) + 1)
        stop = min(start + self._chunk_frames, recording.n_frames)
        later = self._breaks[np.searchsorted(self._breaks, start, side="right") :]
        stop = min(stop, int(later[0])) if later.size else stop
        with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the stream takes as unusable
            frames = np.ascontiguousarray(recording.dff[:, start:stop], dtype=np.float32)
        self._column = stop
        return FrameChunk(
            frames=frames,
            first_frame=self._index(start),
            t_recv=self._clock(),
            stream=self.path.stem[:200],
            frame_rate_hz=self._rate,
        )

    def rewind(self) -> None:
        """Go back to the first frame."""
        self._column = 0

    def close(self) -> None:
        """Let go of the file."""
        self._recording = None

    def _index(self, column: int) -> int:
        frames = self.recording.frames
        return column if frames is None else int(frames[column])


class FileSink:
    """Writes results into a ``.npy``, ``.npz`` or ``.mat`` file; see :mod:`cascade_rt.endpoints.results`.

    Parameters
    ----------
    path : Path
    overwrite : bool
    """

    live = False
    dropped = 0

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self._overwrite = overwrite
        self._only_prob = path.suffix.lower() == ".npy"
        self._growing: GrowingFolder | None = None
        self._lookaheads: tuple[int, ...] = ()
        #: The file that was written, once finished.
        self.written: Path | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self, stopped: Callable[[], bool]) -> None:
        """Check that the file can be written; raises InputError or OutputExistsError."""
        del stopped
        check_output(self.path, overwrite=self._overwrite)

    def start(self, info: RunInfo) -> None:
        """Begin to write beside the final name."""
        remove(work_folder(self.path))
        self._lookaheads = info.lookaheads
        self._growing = GrowingFolder(work_folder(self.path), info.n_neurons, info.metadata)

    def send(self, chunk: SpikeChunk) -> None:
        """Append one result."""
        if self._growing is None:
            raise RuntimeError(f"{self.path} was not started")
        if not self._only_prob or chunk.lookahead_frames == self._lookaheads[-1]:
            self._growing.add_result(chunk)

    def keep_readable(self) -> None:
        """Make readable what is there, for nothing comes at the moment."""
        if self._growing is not None:
            self._growing.keep_readable()

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Put the final file in its place, or, if not complete, ``stem.incomplete.npz``."""
        del next_frame
        if self._growing is None:
            return
        self._growing.close()
        target = self.path if complete else incomplete_path(self.path)
        arrays = self._collect()
        described = {**metadata, "complete": complete}
        if metadata.get("noise_levels") is not None and not self._only_prob:
            arrays["noise_levels"] = np.asarray(described.pop("noise_levels"), np.float64)
        if "spike_prob" in arrays:
            described["segments"] = _segments(arrays["frame"])
            write_result(target, arrays, described, overwrite=True)
            self.written = target
        arrays.clear()  # lets go of the files, which Windows would not delete otherwise
        self._growing = None
        remove(work_folder(self.path))
        if complete:
            remove(incomplete_path(self.path))

    def close(self) -> None:
        """Close the growing files as they are; they stay beside the final name, readable."""
        if self._growing is not None:
            self._growing.close()
            self._growing = None

    def _collect(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        folder = work_folder(self.path)
        for lookahead in self._lookaheads:
            suffix = "" if lookahead == self._lookaheads[-1] else f"_lookahead{lookahead}"
            for kind in ("spike_prob", "valid", "frame"):
                file = folder / f"{kind}_lookahead{lookahead}.npy"
                if file.is_file():
                    arrays[kind + suffix] = read_array(file)
        return arrays


class PortableSink:
    """Appends results to a portable file (``.h5``) that can be read at any moment; see :class:`ResultAppender`.

    Parameters
    ----------
    path : Path
    overwrite : bool
    """

    live = False
    dropped = 0

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self._overwrite = overwrite
        self._appender: ResultAppender | None = None
        #: The file that was written, once finished.
        self.written: Path | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self, stopped: Callable[[], bool]) -> None:
        """Check that the file can be written; raises InputError or OutputExistsError."""
        del stopped
        import_module("h5py")  # now, for the first frames not to wait for it
        check_free(self.path, overwrite=self._overwrite)

    def start(self, info: RunInfo) -> None:
        """Begin to write beside the final name."""
        described = {
            "model": info.spec.name,
            "smoothing_s": info.spec.smoothing_s,
            "causal_kernel": info.spec.causal_kernel,
            **info.metadata,
            "stream": info.stream,
            "frame_rate_hz": info.frame_rate_hz,
            "lookahead_frames": max(info.lookaheads),
        }
        self._appender = ResultAppender(
            self.path, info.n_neurons, described, lookaheads=info.lookaheads, overwrite=self._overwrite
        )

    def send(self, chunk: SpikeChunk) -> None:
        """Append one result."""
        if self._appender is None:
            raise RuntimeError(f"{self.path} was not started")
        self._appender.append(chunk)

    def keep_readable(self) -> None:
        """Make readable what is there, for nothing comes at the moment."""
        if self._appender is not None:
            self._appender.sync()

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Give the file its name; if not complete, it stays ``stem.incomplete.h5``."""
        del next_frame
        if self._appender is None:
            return
        described = dict(metadata)
        noise = described.pop("noise_levels", None)
        if not self._appender.n_frames:
            self._appender.discard()
        else:
            self.written = self._appender.finish(described, noise_levels=noise, complete=complete)
        self._appender = None

    def close(self) -> None:
        """Close the file as it is; it stays beside the final name, readable."""
        if self._appender is not None:
            self._appender.close()
            self._appender = None


def _segments(frame: NDArray[np.int64]) -> list[list[int]]:
    """List the runs of consecutive frames, each [index of the first frame, number of frames]."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(frame) != 1) + 1]) if frame.size else np.empty(0, int)
    lengths = np.diff(starts, append=frame.size)
    return [[int(frame[start]), int(length)] for start, length in zip(starts, lengths, strict=True)]

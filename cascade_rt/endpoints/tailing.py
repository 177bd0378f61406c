"""A file that another program appends to: raw numbers, or ``.npy``.

Frames lie one after another, each the values of all neurons. That is what ``array.tofile`` appends, a ``.npy`` file
of shape (n_frames, n_neurons) in C order, and one of shape (n_neurons, n_frames) in Fortran order. The header of a
``.npy`` file need not be up to date: the file's size tells how many frames there are. A frame that is not yet whole
waits. The file is looked at every few milliseconds, by opening it: this works on every system and on network folders,
and holds nothing open that the other program might want to replace.

=============  ==================================================================================================
option         meaning
=============  ==================================================================================================
``neurons``    values per frame; needed for raw files, optional for ``.npy``
``dtype``      number format of a raw file: ``f4`` (default), ``f8``, ``i2``, ``u2``, ``>f4``, …
``offset``     bytes before the first frame of a raw file (default 0)
``scale``      factor that makes ΔF/F as a fraction (default 1)
``from``       ``start`` (default) or ``end``: only what is appended from now on
``idle_s``     time without a new frame after which the recording is over (s); without it, never
``end``        the recording is over once this file exists and all frames are read
``replaced``   when the file is exchanged or shortened: ``error`` (default) or ``restart`` (a new recording)
=============  ==================================================================================================
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cascade_rt.chunks import FrameChunk
from cascade_rt.errors import FileFormatError, InputError, StreamError
from cascade_rt.ports import EndOfStream

from .options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["TailSource"]

log = logging.getLogger(__name__)

#: Time between two looks at the file (s).
POLL_S = 0.004
#: A program that writes its file anew may leave it short for so long (s).
GRACE_S = 1.0
#: Frames that are handed on together at most.
MAX_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class _Layout:
    start: int
    n_neurons: int
    dtype: np.dtype[np.generic]

    @property
    def frame_bytes(self) -> int:
        return self.n_neurons * self.dtype.itemsize


class TailSource:
    """Follows a growing file.

    Parameters
    ----------
    path : Path
        Need not exist yet; its folder must.
    n_neurons : int, optional
    dtype : str
        Of a raw file.
    offset : int
        Bytes before the first frame of a raw file.
    scale : float
    from_end : bool
        Leave out what is there already; those frames are counted.
    idle_s : float
        0: never over by silence.
    end_marker : Path, optional
    restart : bool
        Take an exchanged file as a new recording instead of raising.
    clock : callable
        Monotonic time (s) for ``t_recv``.
    sleep : callable
    """

    lossless = True
    finite = False

    def __init__(
        self,
        path: Path,
        *,
        n_neurons: int | None = None,
        dtype: str = "f4",
        offset: int = 0,
        scale: float = 1.0,
        from_end: bool = False,
        idle_s: float = 0.0,
        end_marker: Path | None = None,
        restart: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._is_npy = path.suffix.lower() == ".npy"
        self._n_neurons = n_neurons
        if not self._is_npy and n_neurons is None:
            raise InputError(f"{path}: a raw file does not tell the number of neurons: add neurons=N")
        try:
            self._dtype = np.dtype(dtype if dtype[:1] in "<>=|" else f"<{dtype}")
        except TypeError as error:
            raise InputError(f"dtype={dtype}: {error}") from error
        if self._dtype.kind not in "fiu":
            raise InputError(f"dtype={dtype}: expected numbers such as f4, f8, i2")
        self._offset = offset
        self._scale = scale
        self._from_end = from_end
        self._idle_s = idle_s
        self._end_marker = end_marker
        self._restart = restart
        self._clock = clock
        self._sleep = sleep
        self._layout: _Layout | None = None
        self._identity: tuple[int, int] | None = None
        self._frame = 0
        self._last_frame = b""
        self._last_growth: float | None = None
        self._short_since: float | None = None
        self._ended = False

    @property
    def name(self) -> str:
        return f"tail:{self.path}"

    def open(self) -> None:
        """Check that the folder is there.

        Raises
        ------
        InputError
        """
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path.parent} is not a folder: nothing can come to grow there")
        self._ended = False

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return the frames that have come, None if none came in time.

        Raises
        ------
        FileFormatError
            The file cannot be what was said.
        StreamError
            It was exchanged or shortened.
        """
        deadline = self._clock() + timeout_s
        while not self._ended:
            over = self._is_over()  # before the look: what was appended before the marker is still found
            chunk = self._look()
            if chunk is not None:
                return chunk
            if over:
                self._ended = True
                return EndOfStream(stream=self.path.stem[:200], next_frame=self._frame)
            left = deadline - self._clock()
            if left <= 0:
                return None
            self._sleep(min(POLL_S, left))
        self._sleep(timeout_s)
        return None

    def close(self) -> None:
        """Nothing is held open."""

    # ------------------------------------------------------------------------------------------------- the file

    def _is_over(self) -> bool:
        if self._end_marker is not None and self._end_marker.exists():
            return True
        idle = self._idle_s and self._last_growth is not None and self._clock() - self._last_growth > self._idle_s
        return bool(idle)

    def _look(self) -> FrameChunk | None:
        try:
            with self.path.open("rb", buffering=0) as file:
                return self._read(file)
        except FileNotFoundError:
            if self._identity is not None:
                self._is_short("was removed")
        except PermissionError as error:  # Windows: the other program has it to itself, perhaps for a moment only
            self._is_short(f"cannot be read ({error})")
        return None

    def _read(self, file: BinaryIO) -> FrameChunk | None:
        status = os.fstat(file.fileno())
        size, identity = status.st_size, (status.st_dev, status.st_ino)
        if self._identity is not None and identity != self._identity and not self._continues(file, size):
            return None
        if self._layout is None or (self._is_npy and identity != self._identity):
            layout = self._read_layout(file, size)
            if layout is None:
                return None
            self._layout = layout
            if self._from_end:
                self._skip(file, layout, max(0, (size - layout.start) // layout.frame_bytes))
        self._identity = identity
        layout = self._layout
        n_there = (size - layout.start) // layout.frame_bytes
        if n_there < self._frame:
            self._is_short(f"has {max(0, n_there)} frames, {self._frame} were read")
            return None
        if self._short_since is not None and not self._still_the_same(file, layout):
            self._replaced("was written anew")
            return None
        self._short_since = None
        if self._last_growth is None:
            self._last_growth = self._clock()
        n_new = min(n_there - self._frame, MAX_FRAMES)
        if n_new == 0:
            return None
        data = self._bytes(file, layout, self._frame, n_new)
        return None if data is None else self._chunk(data, layout, n_new)

    def _chunk(self, data: bytes, layout: _Layout, n_frames: int) -> FrameChunk:
        values = np.frombuffer(data, layout.dtype).reshape(n_frames, layout.n_neurons).T
        with np.errstate(over="ignore"):
            frames: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
            if self._scale != 1:
                frames = frames * np.float32(self._scale)
        first, self._frame = self._frame, self._frame + n_frames
        self._last_frame = data[-layout.frame_bytes :]
        self._last_growth = now = self._clock()
        return FrameChunk(frames=frames, first_frame=first, t_recv=now, stream=self.path.stem[:200])

    @staticmethod
    def _bytes(file: BinaryIO, layout: _Layout, frame: int, n_frames: int) -> bytes | None:
        """Read frames; None if they are not there after all."""
        file.seek(layout.start + frame * layout.frame_bytes)
        wanted = n_frames * layout.frame_bytes
        data = bytearray()
        while len(data) < wanted:
            part = file.read(wanted - len(data))
            if not part:
                return None
            data += part
        return bytes(data)

    def _continues(self, file: BinaryIO, size: int) -> bool:
        """Tell whether another file of that name begins with what was read: a program that saves all of it anew."""
        layout = self._read_layout(file, size)
        if layout is None:
            self._is_short("is being written anew")
            return False
        if size >= layout.start + self._frame * layout.frame_bytes:
            if self._still_the_same(file, layout):
                return True
            self._replaced("another file has taken its place")
            return False
        self._is_short("another, shorter file has taken its place")
        return False

    def _still_the_same(self, file: BinaryIO, layout: _Layout) -> bool:
        return self._frame == 0 or self._bytes(file, layout, self._frame - 1, 1) == self._last_frame

    def _skip(self, file: BinaryIO, layout: _Layout, n_frames: int) -> None:
        """Leave out what is there already."""
        self._from_end = False
        self._frame = n_frames
        if n_frames:
            self._last_frame = self._bytes(file, layout, n_frames - 1, 1) or b""

    def _is_short(self, what: str) -> None:
        """Wait a moment: it may be in the course of being written anew."""
        now = self._clock()
        if self._short_since is None:
            self._short_since = now
        elif now - self._short_since > GRACE_S:
            self._replaced(what)

    def _replaced(self, what: str) -> None:
        if not self._restart:
            raise StreamError(f"{self.path} {what}: a recording cannot go on there (replaced=restart begins a new one)")
        log.warning("%s %s: taken as a new recording", self.path, what)
        self._layout = self._identity = self._short_since = None
        self._frame = 0
        self._last_frame = b""

    def _read_layout(self, file: BinaryIO, size: int) -> _Layout | None:
        """Find out where the frames lie; None if the header is not there yet."""
        if not self._is_npy:
            assert self._n_neurons is not None
            return _Layout(start=self._offset, n_neurons=self._n_neurons, dtype=self._dtype)
        if size < 10:
            return None
        file.seek(0)
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
        except ValueError as error:
            if size < 128:
                return None
            raise FileFormatError(f"{self.path} is not a .npy file: {error}") from error
        n_neurons = self._neurons_of(shape, fortran=fortran)
        if dtype.kind not in "fiu":
            raise FileFormatError(f"{self.path} holds {dtype}: expected numbers")
        return _Layout(start=file.tell(), n_neurons=n_neurons, dtype=dtype)

    def _neurons_of(self, shape: tuple[int, ...], *, fortran: bool) -> int:
        if len(shape) == 2 and 1 in shape and self._n_neurons in shape:
            found = self._n_neurons or 0  # a single frame is both: numpy calls it C order
        elif len(shape) == 2:
            found = shape[0] if fortran else shape[1]
        elif len(shape) == 1 and self._n_neurons is not None:
            found = self._n_neurons
        else:
            raise FileFormatError(
                f"{self.path} has shape {shape}: expected (n_frames, n_neurons) in C order or (n_neurons, n_frames) in "
                "Fortran order; with neurons=N also one long row"
            )
        if found < 1 or (self._n_neurons is not None and found != self._n_neurons):
            raise FileFormatError(
                f"{self.path} has shape {shape} in {'Fortran' if fortran else 'C'} order, frames of {found} values; "
                f"expected {self._n_neurons or 'at least 1'}. An array (n_neurons, n_frames) in C order cannot grow "
                "by frames"
            )
        return found


def source_from(text: str, *, insecure: bool) -> TailSource:
    """Make the source of ``tail:PATH?neurons=N&dtype=f4``."""
    del insecure  # nothing travels through a network
    known = ("neurons", "dtype", "offset", "scale", "from", "idle_s", "end", "replaced")
    path, _, query = text.removeprefix("tail:").partition("?")
    options = Options(text, query, known)
    if not path:
        raise InputError(f"source {text!r}: expected tail:PATH, optionally with ?neurons=…&dtype=…")
    return TailSource(
        Path(path),
        n_neurons=options.positive("neurons"),
        dtype=options.text_of("dtype", "f4"),
        offset=options.positive("offset") or 0,
        scale=options.number("scale", 1.0, positive=False),
        from_end=options.choice("from", ("start", "end"), "start") == "end",
        idle_s=options.number("idle_s", 0.0),
        end_marker=options.path("end"),
        restart=options.choice("replaced", ("error", "restart"), "error") == "restart",
    )

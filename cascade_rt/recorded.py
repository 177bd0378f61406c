"""Reading what ``cascade-rt run --record`` has kept, also after a crash; docs/recording.md describes the files.

A crash leaves files that end at different places. Here they are cut so that they agree: to the last piece whose frames
are all there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .chunks import ModelSpec
from .errors import FileFormatError
from .gaps import Piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

__all__ = ["RecordedResults", "RecordedRun", "Step"]

_RESETS = ("", "gap", "restart")
#: Frames of a hole in the recording that are made up at a time.
_HOLE_FRAMES = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One piece as it was processed, and what came before it.

    Parameters
    ----------
    piece : Piece
    controls : tuple of mapping
        Control messages that took effect before it.
    recorded : bool
        False for frames that could not be recorded: they stand here as NaN.
    ids : tuple of int and str
        Ids of the rows from here on, where they have become known or more.
    """

    piece: Piece
    controls: tuple[Mapping[str, Any], ...] = ()
    recorded: bool = True
    ids: tuple[int | str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedResults:
    """Recorded results of one look-ahead; memory-mapped.

    Parameters
    ----------
    spike_prob : ndarray, (n_neurons, n), float32
    valid : ndarray, (n_neurons, n), bool
    frame : ndarray, (n,), int64
        Source's index of the frame that each column describes.
    provisional : ndarray, (n,), bool
    """

    spike_prob: NDArray[np.float32]
    valid: NDArray[np.bool_]
    frame: NDArray[np.int64]
    provisional: NDArray[np.bool_]


class RecordedRun:
    """A recorded run.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    FileFormatError
        It is not such a folder, or was written by an older version that did not keep how frames were processed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.described: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            if self.described.get("format") != 2:
                raise FileFormatError(
                    f"{folder}: run.json says format {self.described.get('format')!r}: expected 2, a recording that "
                    "holds how its frames were processed"
                )
            self.configuration: dict[str, Any] = self.described["configuration"]
            self.n_neurons = int(self.described["n_neurons"])
            self.frame_rate_hz = float(self.described["frame_rate_hz"])
            self.lookaheads = tuple(int(n) for n in self.described["lookahead_frames"])
            self.stream = str(self.described["stream"])
            self.gap = str(self.configuration["gap"])
            self.spec = ModelSpec.from_dict(self.described["spec"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{folder}: not the folder of a recorded run: run.json: {error!r}") from error
        #: The run came to its end, whether or not it was complete; False after a crash.
        self.ended = "exit_reason" in self.described
        self._dff = self._columns("dff", np.float32, self.n_neurons)
        self._frame = self._columns("dff_frame", np.int64, None)
        self._time = self._columns("dff_time", np.float64, 2)
        self._pieces, self._ends = self._cut()
        self.controls = read_lines(folder / "controls.jsonl")
        self.events = read_lines(folder / "events.jsonl")
        #: Whose rows they are, each time that this has changed.
        self.rows = read_lines(folder / "rows.jsonl")
        #: What could not be recorded.
        self.missing = [hole for hole in read_lines(folder / "missing.jsonl") if hole["pieces"]]

    @property
    def n_pieces(self) -> int:
        return int(self._pieces.shape[1])

    @property
    def n_frames(self) -> int:
        """Frames that were received, processed and recorded."""
        return int(self._ends[-1]) if self._ends.size else 0

    @property
    def rows_at_start(self) -> int | None:
        """Rows of the first message, where neurons could join; None where they could not."""
        n = self.described.get("rows_at_start")
        return None if n is None else int(n)

    @property
    def noise_levels_given(self) -> NDArray[np.float64] | None:
        """Noise levels that the run was given, (n_neurons,); None if it measured them."""
        return self._whole("noise_levels_given") if self.configuration["noise_levels"] == "given" else None

    @property
    def noise_levels(self) -> NDArray[np.float64] | None:
        """Final noise levels, (n_neurons,); None if they had not become final."""
        return self._whole("noise_levels") if (self.folder / "noise_levels.npy").is_file() else None

    @property
    def rules(self) -> Path | None:
        """The copy of the rule file, if there were rules."""
        rules = self.configuration.get("rules")
        return None if not rules else self.folder / str(rules["copy"])

    @property
    def model(self) -> Path:
        """The copy of the model."""
        model = self.configuration["model"]
        if "copy" not in model:
            raise FileFormatError(f"{self.folder}: holds no copy of the model {model['name']!r}: name one (--model)")
        return self.folder / str(model["copy"])

    def results(self, lookahead: int) -> RecordedResults:
        """Return what was published for a look-ahead."""
        name = f"lookahead{lookahead}"
        prob = self._columns(f"spike_prob_{name}", np.float32, self.n_neurons)
        valid = self._columns(f"valid_{name}", np.bool_, self.n_neurons)
        frame = self._columns(f"frame_{name}", np.int64, None)
        provisional = self._columns(f"provisional_{name}", np.bool_, None)
        n = min(prob.shape[1], valid.shape[1], frame.size, provisional.size)
        return RecordedResults(
            spike_prob=prob[:, :n], valid=valid[:, :n], frame=frame[:n], provisional=provisional[:n]
        )  # fmt: skip

    def steps(self) -> Iterator[Step]:
        """Give the pieces in the order in which they were processed."""
        controls, holes = defaultdict(list), defaultdict(list)
        ids = {int(entry["piece"]): tuple(entry["ids"]) for entry in self.rows}
        for entry in self.controls:
            controls[min(int(entry["piece"]), self.n_pieces)].append(entry["message"])
        for hole in self.missing:
            holes[int(hole["piece"])].append(hole)
        filled = self._columns("filled_dff", np.float32, self.n_neurons)
        n_filled = 0
        last: NDArray[np.float32] | None = None
        for number in range(self.n_pieces):
            first, n, touched, reset, n_messages = map(int, self._pieces[:, number])
            broken = False
            for hole in holes[number] if number else ():  # one before the first piece is a late beginning
                broken = broken or not _is_contiguous(hole)
                if not broken:
                    yield from self._made_up(hole)
            kind = cast("Literal['', 'gap', 'restart']", _RESETS[reset])
            if broken and not kind:
                kind = "gap" if first >= int(holes[number][-1]["stop_frame"]) else "restart"
            if touched:
                stored = filled[:, n_filled : n_filled + n]
                n_filled += n
                frames = stored if stored.shape[1] == n else self._filling(last, n)
                piece = Piece(frames=frames, first_frame=first, touched=True, reset=kind)
            else:
                columns = slice(int(self._ends[number]) - n, int(self._ends[number]))
                piece = self._received(columns, first, kind, n_messages)
                last = piece.frames[:, -1]
            yield Step(piece=piece, controls=tuple(controls[number]), ids=ids.get(number, ()))

    def last_controls(self) -> list[Mapping[str, Any]]:
        """Return control messages that came after the last piece."""
        return [entry["message"] for entry in self.controls if int(entry["piece"]) >= self.n_pieces]

    def _received(self, columns: slice, first: int, reset: Literal["", "gap", "restart"], n_messages: int) -> Piece:
        t_source, t_recv = map(float, self._time[:, columns.stop - 1])
        return Piece(
            frames=np.ascontiguousarray(self._dff[:, columns]),
            first_frame=first,
            reset=reset,
            t_source=None if np.isnan(t_source) else t_source,
            arrivals=() if np.isnan(t_recv) else (t_recv,) * n_messages,
        )

    def _filling(self, last: NDArray[np.float32] | None, n_frames: int) -> NDArray[np.float32]:
        if self.gap == "nan" or last is None:
            return np.full((self.n_neurons, n_frames), np.nan, np.float32)
        return np.repeat(last[:, None], n_frames, axis=1)

    def _made_up(self, hole: Mapping[str, Any]) -> Iterator[Step]:
        first, stop = int(hole["first_frame"]), int(hole["stop_frame"])
        for start in range(first, stop, _HOLE_FRAMES):
            frames = np.full((self.n_neurons, min(_HOLE_FRAMES, stop - start)), np.nan, np.float32)
            yield Step(piece=Piece(frames=frames, first_frame=start, touched=True), recorded=False)

    def _cut(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pieces whose frames are all there, and where their frames end in ``dff``."""
        pieces = self._columns("piece", np.int64, 5)
        stored = np.where(pieces[2] != 0, 0, pieces[1])
        ends = np.cumsum(stored, dtype=np.int64)
        there = min(self._dff.shape[1], self._frame.size, self._time.shape[1])
        whole = ends <= there
        # After a power failure, a file may have been lengthened without its contents.
        starts = np.minimum(ends - stored, max(0, there - 1))
        if there:
            whole &= (stored == 0) | (self._frame[starts] == pieces[0])
        n = int(np.argmin(whole)) if not whole.all() else whole.size
        while n and not stored[n - 1]:  # the frames that it was filled for are not there
            n -= 1
        return pieces[:, :n], ends[:n]

    def _columns(self, name: str, dtype: Any, n_rows: int | None) -> NDArray[Any]:
        """Map a growing file, as far as it goes; without any columns if it is not there."""
        return read_columns(self.folder / f"{name}.npy", np.dtype(dtype), n_rows)

    def _whole(self, name: str) -> NDArray[np.float64]:
        array: NDArray[np.float64] = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        return array


def read_columns(path: Path, dtype: np.dtype[Any], n_rows: int | None) -> NDArray[Any]:
    """Map a growing ``.npy`` file, (n_rows, n) or (n,), up to the last column that is whole.

    Raises
    ------
    FileFormatError
        It holds something else.
    """
    empty: NDArray[Any] = np.zeros((0,) if n_rows is None else (n_rows, 0), dtype)
    if not path.is_file() or path.stat().st_size < 128:  # it was just being made
        return empty
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, stored = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path}: not a readable .npy file: {error}") from error
    if stored != dtype or shape[:-1] != empty.shape[:-1]:
        raise FileFormatError(f"{path}: holds {stored} {shape}: expected {dtype} {empty.shape[:-1]} and columns")
    width = dtype.itemsize * (n_rows or 1)
    n = min(shape[-1], (path.stat().st_size - start) // width)
    if not n:
        return empty
    mapped = np.memmap(path, dtype, "r", start, (*empty.shape[:-1], n), order="F")
    return np.asarray(mapped)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a ``.jsonl`` file; a last line that was torn off is left out.

    Raises
    ------
    FileFormatError
        A line before it cannot be read.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    values = []
    for number, line in enumerate(lines[:-1]):  # what follows the last line break is empty, or torn
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise FileFormatError(f"{path}: line {number + 1} is not JSON: {error}") from error
    return values


def _is_contiguous(hole: Mapping[str, Any]) -> bool:
    return not hole["resets"] and hole["stop_frame"] - hole["first_frame"] == hole["frames"] + hole["filled"]


def unwrapped(frames: Sequence[int] | NDArray[np.int64], *, once: bool = False) -> NDArray[np.int64]:
    """Make indices of a source that counted anew ascend: each new count is far above the one before.

    Parameters
    ----------
    frames : (n,), int
    once : bool
        No frame comes twice within a count.
    """
    index = np.asarray(frames, np.int64)
    epoch = np.cumsum(np.concatenate([[0], np.diff(index) < once])) if index.size else np.zeros(0, np.int64)
    return index + (epoch.astype(np.int64) << 42)

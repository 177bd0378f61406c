"""Which messages belong to a run, and to which rows their neurons belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError
from .rows import RowMap

if TYPE_CHECKING:
    from .chunks import FrameChunk
    from .ports import EndOfStream, RunInfo
    from .receiving import Rejections

__all__ = ["Admission", "same_rate"]

#: Relative difference of a message's frame rate from the run's that is let pass.
SAME_RATE = 0.01


class Admission:
    """Lets frames in that belong to the run; the first ones decide what that is.

    Parameters
    ----------
    rejections : Rejections
        Where the others are counted.
    max_neurons : int, optional
        Rows altogether, if the source tells ids and neurons may join.
    """

    def __init__(self, rejections: Rejections, max_neurons: int | None = None) -> None:
        self._rejections = rejections
        self._max_neurons = max_neurons
        #: Which row is whose; None where the source tells no ids.
        self.rows: RowMap | None = None

    def first(self, chunk: FrameChunk) -> FrameChunk:
        """Take the first frames."""
        if chunk.ids is None:
            if self._max_neurons is not None:
                raise InputError(
                    "room for neurons that join (--max-neurons, max_neurons) is of use only with a source that tells "
                    "which neurons its frames are of: the entry ids in the header (docs/wire-format.md)"
                )
            return chunk
        self.rows = RowMap(chunk.ids, self._max_neurons or 0)
        return self.rows.arrange(chunk)

    def later(self, chunk: FrameChunk, info: RunInfo) -> FrameChunk | None:
        """Return the frames as the run takes them; None if they do not belong to it, which is counted."""
        if self.rows is None and chunk.n_neurons != info.n_neurons:
            self._rejections.add("neurons", f"{chunk.n_neurons} neurons: this run has {info.n_neurons}")
        elif chunk.stream != info.stream:
            self._rejections.add("stream", f"stream {chunk.stream!r}: this run follows {info.stream!r}")
        elif not same_rate(chunk.frame_rate_hz, info.frame_rate_hz):
            self._rejections.add("rate", f"{chunk.frame_rate_hz:g} Hz: this run has {info.frame_rate_hz:g} Hz")
        elif (self.rows is None) != (chunk.ids is None):
            # Which of them are the neurons of before cannot be known.
            kind = ("with", "without") if self.rows is None else ("without", "with")
            self._rejections.add("ids", f"message {kind[0]} ids: the first one of this run was {kind[1]}")
        else:
            return chunk if self.rows is None else self.rows.arrange(chunk)
        return None

    def is_end(self, end: EndOfStream, info: RunInfo | None) -> bool:
        """Tell whether the stream that ended is the one of this run."""
        if info is None or end.stream in ("", info.stream):
            return True
        self._rejections.add("stream", f"end of stream {end.stream!r}: this run follows {info.stream!r}")
        return False


def same_rate(told: float | None, rate: float) -> bool:
    """Tell whether a frame rate that a message tells is the run's."""
    return told is None or abs(told / rate - 1) <= SAME_RATE

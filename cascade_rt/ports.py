"""What a live run needs: where frames come from, what makes spike probabilities of them, where these go.

The runner knows these protocols and nothing of sockets and files; a source or sink of a user's own needs to
have these methods and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .chunks import FrameChunk, ModelSpec, SpikeChunk
    from .events import Event

__all__ = ["Baseline", "EndOfStream", "LiveStream", "Observer", "RunInfo", "Sink", "Source", "Triggers"]


@dataclass(frozen=True, kw_only=True)
class EndOfStream:
    """A source has no more frames.

    Parameters
    ----------
    stream : str
        Name of the recording that ended.
    next_frame : int or None
        Index that the next frame would have had: shows whether the last frames were lost. None where unknown.
    """

    stream: str = ""
    next_frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What is known once the first frames have come, handed to every sink before the first result.

    Parameters
    ----------
    stream : str
        Name that the source gave the recording.
    n_neurons : int
    frame_rate_hz : float
    lookaheads : tuple of int
        Look-aheads that will be published (frames), ascending.
    spec : ModelSpec
        The model.
    metadata : mapping
        More about the run, of plain values (threshold, alignment, versions, …).
    """

    stream: str
    n_neurons: int
    frame_rate_hz: float
    lookaheads: tuple[int, ...]
    spec: ModelSpec
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@runtime_checkable
class Source(Protocol):
    """Gives frames in order of arrival. Used by one thread.

    Attributes
    ----------
    lossless : bool
        False for a source that must never wait: what cannot be processed in time is dropped and becomes a gap.
    finite : bool
        True for a recording that has an end, so that stopping before it leaves the result incomplete.
    name : str
        For messages: an address or a path.
    """

    @property
    def lossless(self) -> bool: ...

    @property
    def finite(self) -> bool: ...

    @property
    def name(self) -> str: ...

    def open(self) -> None:
        """Get ready to receive."""

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return what came next, or None if nothing came in time; raise WireError for a malformed message."""

    def close(self) -> None:
        """Let go of everything; may be called more than once."""


@runtime_checkable
class Sink(Protocol):
    """Takes results. Used by one thread, in the order open, start, send …, finish, close.

    A sink may have more methods than these, and is then called with more: ``send_event(event)`` for the events of the
    run, ``keep_frames(piece)`` for the ΔF/F of received frames, and, to keep all that decides about the results:
    ``keep_message(chunk)`` for each message as it was received, ``keep_piece(piece, dff)`` for the frames as they were
    processed, also filled-in ones (``dff`` is None where the piece holds ΔF/F itself), ``keep_control(message)``,
    ``keep_rows(ids)`` where neurons may join, before the frames in which there are more, and
    ``keep_noise_levels(noise_levels, next_frame)`` when they have become final. ``keep_readable()`` is called again and
    again while nothing comes: what was written is to be made readable now. ``account()`` tells, after the end, what
    could not be delivered.

    Attributes
    ----------
    live : bool
        True where somebody waits for each result: such sinks are served before files.
    name : str
        For messages: an address or a path.
    dropped : int
        Results that the receiving side did not take in time.
    """

    @property
    def live(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def dropped(self) -> int: ...

    def open(self, stopped: Callable[[], bool]) -> None:
        """Check that results can be delivered; nothing of an existing result is touched before.

        A sink that waits for its receiver gives up soon after ``stopped()`` becomes true.
        """

    def start(self, info: RunInfo) -> None:
        """Learn what the results will look like."""

    def send(self, chunk: SpikeChunk) -> None:
        """Deliver one result."""

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Say that no more results follow; ``complete`` is False after an error or an interrupted recording."""

    def close(self) -> None:
        """Let go of everything; may be called more than once, and without ``finish`` after an error."""


class LiveStream(Protocol):
    """What the runner uses of :class:`cascade_rt.SpikeStream`."""

    spec: ModelSpec

    @property
    def lookahead_frames(self) -> tuple[int, ...]: ...
    @property
    def delay_frames(self) -> int: ...
    @property
    def frame(self) -> int: ...
    @property
    def noise_levels(self) -> NDArray[np.float64]: ...
    @property
    def calibrating(self) -> bool: ...
    @property
    def calibration_progress(self) -> float: ...
    def push(self, frames: Any, *, touched: bool = False) -> SpikeChunk: ...
    def prepare(self) -> None: ...
    def set_noise_levels(self, noise_levels: Any) -> None: ...
    def skip(self, n_frames: int) -> SpikeChunk: ...
    def flush(self) -> SpikeChunk: ...


class Baseline(Protocol):
    """Makes ΔF/F of fluorescence; :class:`cascade_rt.baseline.RunningBaseline`."""

    @property
    def full(self) -> bool: ...
    def push(self, frames: Any) -> Any: ...
    def reset(self) -> None: ...


class Observer(Protocol):
    """Watches a run, for example to draw it; called in the processing thread, between frames only."""

    def update(self, *, force: bool = False) -> None:
        """Look at the run's statistics now, if it is time to."""


class Triggers(Protocol):
    """Decides what happens on results; called in the processing thread, which must not be kept waiting."""

    def start(self, info: RunInfo) -> None:
        """Learn what the results will look like; raises InputError if a rule does not fit them."""

    def process(self, chunk: SpikeChunk) -> Sequence[Event]:
        """Look at the results of one look-ahead, in the order of their frames."""

    def restart(self) -> None:
        """Forget what was: the source counts anew, or a long gap lies behind."""

    def control(self, message: Mapping[str, Any]) -> Sequence[Event]:
        """Do what a message from outside asks for: ``{"rule": name, "action": "arm" | "disarm" | "set", …}``."""

    def poll(self) -> Sequence[Event]:
        """Between frames: what came of slow rules, what time has changed."""

    def finish(self) -> dict[str, Any]:
        """Let go of everything and tell, for the summary, what was decided how often."""

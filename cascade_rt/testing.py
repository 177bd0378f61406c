"""Parts for tests, of this project and of programs that use it: streams of frames in which every error shows.

The ramp source gives frames whose values are their own index, so that a frame that is lost, repeated or out of place
is seen in the values; the fake stream hands its input through as :class:`cascade_rt.SpikeStream` hands out results,
with the same delays and revisions, so that what comes out is known without a model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .chunks import FrameChunk, ModelSpec, SpikeChunk
from .errors import InputError, StreamError
from .ports import EndOfStream, RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FakeModel",
    "FakeStream",
    "ListSink",
    "ListSource",
    "ManualClock",
    "chunked",
    "fake_spec",
    "ramp",
    "ramp_chunks",
]


def ramp(n_neurons: int, n_frames: int, first_frame: int = 0) -> NDArray[np.float32]:
    """Frames whose value is their index, plus ``neuron / 1024`` to tell the neurons apart.

    Returns
    -------
    ndarray, (n_neurons, n_frames), float32
        Exact for indices below 16384 and up to 1024 neurons.
    """
    frame = np.arange(first_frame, first_frame + n_frames)
    return (frame + np.arange(n_neurons)[:, None] / 1024).astype(np.float32)


def chunked(n_frames: int, sizes: Iterable[int]) -> Iterator[slice]:
    """Cut ``n_frames`` frames into slices of the given sizes; the last one as long as is left.

    Sizes that run out are followed by single frames.
    """
    start, sizes = 0, iter(sizes)
    while start < n_frames:
        size = next(sizes, 1)
        if size < 1:
            raise InputError(f"chunk of {size} frames: expected at least 1")
        yield slice(start, min(start + size, n_frames))
        start += size


def ramp_chunks(
    n_neurons: int, n_frames: int, sizes: Iterable[int] = (), *, first_frame: int = 0, **fields: Any
) -> list[FrameChunk]:
    """Make chunks of a ramp; ``fields`` go into each (stream, frame_rate_hz, …)."""
    values = ramp(n_neurons, n_frames, first_frame)
    return [
        FrameChunk(frames=values[:, part], first_frame=first_frame + part.start, **fields)
        for part in chunked(n_frames, sizes)
    ]


class ManualClock:
    """A clock that goes on only when told to, or by ``step_s`` with every look at it."""

    def __init__(self, now_s: float = 0.0, step_s: float = 0.0) -> None:
        self.now_s = now_s
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def fake_spec(**changes: Any) -> ModelSpec:
    """Describe a model that does not exist: 30 Hz, a window of 16 frames, look-aheads 0, 2 and 7."""
    values: dict[str, Any] = {
        "name": "fake_30Hz",
        "family": "conditioned",
        "frame_rate_hz": 30.0,
        "windowsize": 16,
        "lookaheads": (0, 2, 7),
        "smoothing_s": 0.05,
        "causal_kernel": False,
        "noise_levels": (0.5, 10.0),
    }
    return ModelSpec(**{**values, **changes})


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """Has a description and nothing else."""

    spec: ModelSpec = field(default_factory=fake_spec)
    device: str = "cpu"


class FakeStream:
    """Behaves as a :class:`cascade_rt.SpikeStream` whose network returns the described frame unchanged.

    Takes the same arguments. The first results come when a window is full, each look-ahead waits for its frames,
    gaps and NaN make what they touch invalid, a calibration of ``calibration_s`` marks results as provisional.
    """

    def __init__(
        self,
        model: FakeModel | None = None,
        *,
        n_neurons: int,
        frame_rate_hz: float,
        noise_levels: Any = None,
        lookahead_frames: int | Sequence[int] | None = None,
        calibration_s: float = 0.0,
    ) -> None:
        self.spec = (model or FakeModel()).spec
        self.n_neurons = n_neurons
        self.frame_rate_hz = frame_rate_hz
        wanted = 2 if lookahead_frames is None else lookahead_frames
        many = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        self.lookahead_frames = tuple(sorted(self.spec.check_lookahead(n) for n in many))
        self.delay_frames = 0
        self._given = noise_levels
        self._calibration_frames = round(calibration_s * frame_rate_hz) if noise_levels is None else 0
        #: Numbers of frames that were pushed together, and how often prepare was called.
        self.pushed: list[int] = []
        self.prepared = 0
        self.reset()

    def reset(self) -> None:
        """Forget the recording."""
        self.frame = self._origin = 0
        self._seen: NDArray[np.float32] = np.empty((self.n_neurons, 0), np.float32)
        self._clean: NDArray[np.bool_] = np.empty((self.n_neurons, 0), bool)
        self._next = dict.fromkeys(self.lookahead_frames, 0)

    @property
    def calibrating(self) -> bool:
        return self.frame < self._calibration_frames

    @property
    def calibration_progress(self) -> float:
        return self.frame / self._calibration_frames if self.calibrating else 1.0

    @property
    def noise_levels(self) -> NDArray[np.float64]:
        """1 for every neuron, NaN while unknown."""
        if self._given is not None:
            return np.asarray(self._given, np.float64)
        return np.full(self.n_neurons, np.nan if self.calibrating else 1.0)

    def set_noise_levels(self, noise_levels: Any) -> None:
        """Use these from now on, and end the calibration."""
        self._given, self._calibration_frames = noise_levels, 0

    def push(self, frames: Any, *, touched: bool = False) -> SpikeChunk:
        """Take in frames and return those that can be described now."""
        frames = np.asarray(frames, np.float32)
        if frames.shape[0] != self.n_neurons:
            raise StreamError(f"frames have {frames.shape[0]} neurons, the stream {self.n_neurons}")
        provisional = self.calibrating
        self.pushed.append(frames.shape[1])
        self._seen = np.concatenate([self._seen, frames], axis=1)
        self._clean = np.concatenate([self._clean, np.isfinite(frames) & (not touched)], axis=1)
        self.frame += frames.shape[1]
        return self._results({n: self.frame - n for n in self.lookahead_frames}, provisional)

    def prepare(self) -> None:
        """Count the call."""
        self.prepared += 1

    def flush(self) -> SpikeChunk:
        """Return the frames not described yet, as NaN."""
        return self._results(dict.fromkeys(self.lookahead_frames, self.frame), self.calibrating)

    def skip(self, n_frames: int) -> SpikeChunk:
        """Go on ``n_frames`` later."""
        tail = self.flush()
        self.frame += n_frames
        self._origin = self.frame
        self._seen, self._clean = self._seen[:, :0], self._clean[:, :0]
        self._next = dict.fromkeys(self.lookahead_frames, self.frame)
        return tail

    def _results(self, stops: dict[int, int], provisional: bool) -> SpikeChunk:
        chunks = []
        for lookahead, stop in stops.items():
            first = self._next[lookahead]
            stop = self._next[lookahead] = max(first, stop)
            prob = np.full((self.n_neurons, stop - first), np.nan, np.float32)
            valid = np.zeros(prob.shape, bool)
            for column, frame in enumerate(range(first, stop)):
                newest = frame + lookahead - self._origin
                window = slice(newest - self.spec.windowsize + 1, newest + 1)
                if window.start >= 0 and newest < self._seen.shape[1]:
                    prob[:, column] = self._seen[:, frame - self._origin]
                    prob[np.isnan(self._seen[:, window]).any(axis=1), column] = np.nan
                    valid[:, column] = self._clean[:, window].all(axis=1)
            chunks.append(
                SpikeChunk(
                    spike_prob=prob,
                    first_frame=first,
                    valid=valid,
                    lookahead_frames=lookahead,
                    provisional=provisional,
                    model=self.spec.name,
                )
            )
        return replace(chunks[0], revisions=MappingProxyType({c.lookahead_frames: c for c in chunks[1:]}))


class ListSource:
    """A source that gives prepared items: chunks, ``EndOfStream``, None (nothing came), or errors to raise.

    Parameters
    ----------
    items : iterable
    lossless, finite : bool
        See :class:`cascade_rt.ports.Source`.
    then : callable, optional
        Called once when the items are used up; afterwards nothing comes, for ever.
    """

    def __init__(
        self,
        items: Iterable[FrameChunk | EndOfStream | BaseException | None],
        *,
        lossless: bool = True,
        finite: bool = False,
        then: Callable[[], None] | None = None,
        name: str = "list",
    ) -> None:
        self._items = deque(items)
        self._then = then
        self.lossless = lossless
        self.finite = finite
        self.name = name
        self.is_open = False

    def open(self) -> None:
        """Note that it is open."""
        self.is_open = True

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return or raise the next item."""
        del timeout_s
        if not self._items:
            then, self._then = self._then, None
            if then is not None:
                then()
            return None
        item = self._items.popleft()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Note that it is closed."""
        self.is_open = False


class ListSink:
    """A sink that keeps what it gets.

    Parameters
    ----------
    live : bool
    """

    def __init__(self, *, live: bool = True, name: str = "list") -> None:
        self.live = live
        self.name = name
        self.dropped = 0
        self.chunks: list[SpikeChunk] = []
        self.info: RunInfo | None = None
        self.is_open = False
        self.finished: dict[str, Any] | None = None

    def open(self, stopped: Callable[[], bool]) -> None:
        """Note that it is open."""
        del stopped
        self.is_open = True

    def start(self, info: RunInfo) -> None:
        """Keep the description."""
        self.info = info

    def send(self, chunk: SpikeChunk) -> None:
        """Keep a result."""
        self.chunks.append(chunk)

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Keep how the run ended."""
        self.finished = {"next_frame": next_frame, "complete": complete, "metadata": dict(metadata)}

    def close(self) -> None:
        """Note that it is closed."""
        self.is_open = False

    def results(self, lookahead: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        """Put together what came for one look-ahead.

        Returns
        -------
        frame : ndarray, (n,), int64
        spike_prob : ndarray, (n_neurons, n), float32
        valid : ndarray, (n_neurons, n), bool
        """
        chunks = [chunk for chunk in self.chunks if chunk.lookahead_frames == lookahead]
        if not chunks:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty((0, 0), bool)
        return (
            np.concatenate([np.arange(c.first_frame, c.first_frame + c.n_frames, dtype=np.int64) for c in chunks]),
            np.concatenate([c.spike_prob for c in chunks], axis=1),
            np.concatenate([c.valid for c in chunks], axis=1),
        )

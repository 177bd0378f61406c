"""What a live run counts while it goes on, and the summary at its end."""

from __future__ import annotations

import platform
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .latency import LatencyHistogram
from .noise import check_dff, noise_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .chunks import SpikeChunk
    from .events import Event
    from .gaps import Piece, SequenceCounters
    from .ports import RunInfo
    from .receiving import Rejections
    from .rows import RowMap

__all__ = ["ExitReason", "NeuronStatistics", "RunStatistics", "RunSummary", "ValueCheck", "versions"]

ExitReason = Literal["end", "interrupted", "error"]

#: Time over which the activity of neurons is averaged (s).
ACTIVITY_S = 5.0
#: Events that are remembered for a view.
RECENT_EVENTS = 200
#: Frames, and neurons of a live source, that are looked at for the usual mistakes in the values.
CHECKED_FRAMES, CHECKED_NEURONS = 256, 64


class NeuronStatistics:
    """Which neurons bring usable values, and how active they are.

    Parameters
    ----------
    n_neurons : int
    frame_rate_hz : float
    """

    def __init__(self, n_neurons: int, frame_rate_hz: float) -> None:
        self._rate = frame_rate_hz
        self._lowest = np.full(n_neurons, np.inf, np.float32)
        self._highest = np.full(n_neurons, -np.inf, np.float32)
        self._activity: NDArray[np.float64] = np.zeros(n_neurons)
        self._seconds = 0.0
        self._recent: NDArray[np.float32] = np.zeros(n_neurons, np.float32)
        self._recent_s = 0.0
        self.infinite: NDArray[np.bool_] = np.zeros(n_neurons, bool)

    def add_frames(self, piece: Piece) -> None:
        """Look at frames that were received."""
        frames = piece.frames
        infinite = np.isinf(frames)
        if infinite.any():
            self.infinite |= infinite.any(axis=1)
            frames = np.where(infinite, np.float32(np.nan), frames)
        np.fmin(self._lowest, np.fmin.reduce(frames, axis=1), out=self._lowest)
        np.fmax(self._highest, np.fmax.reduce(frames, axis=1), out=self._highest)

    def add_result(self, chunk: SpikeChunk) -> None:
        """Follow the activity, an average that forgets with a time constant of 5 s."""
        if not chunk.n_frames:
            return
        seconds = chunk.n_frames / self._rate
        keep = float(np.exp(-seconds / ACTIVITY_S))
        spikes = np.nansum(chunk.spike_prob, axis=1)
        self._activity *= keep
        self._activity += (1 - keep) / seconds * spikes
        self._recent += spikes
        self._recent_s += seconds
        self._seconds = min(self._seconds + seconds, 100 * ACTIVITY_S)

    @property
    def activity_hz(self) -> NDArray[np.float64]:
        """Spike rate of each neuron over the last seconds (Hz)."""
        started = 1 - float(np.exp(-self._seconds / ACTIVITY_S))
        return self._activity / started if started > 0 else self._activity.copy()

    def take_recent_hz(self) -> NDArray[np.float32] | None:
        """Spike rate of each neuron since the last call (Hz); None if there was no result."""
        if not self._recent_s:
            return None
        rate: NDArray[np.float32] = self._recent / np.float32(self._recent_s)
        self._recent[:] = 0
        self._recent_s = 0.0
        return rate

    @property
    def all_nan(self) -> NDArray[np.bool_]:
        """Neurons without any finite value so far."""
        return np.less(self._highest, self._lowest)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Neurons whose finite values are all the same."""
        return np.equal(self._highest, self._lowest)


class ValueCheck:
    """Looks once, at the first frames of a run, for the usual mistakes: percent, fluorescence, denoised traces.

    Parameters
    ----------
    thorough : bool
        Look at all neurons. In a live run there is little time between two frames, and some must do.
    """

    def __init__(self, *, thorough: bool) -> None:
        self._n_neurons = None if thorough else CHECKED_NEURONS
        self._frames: list[NDArray[np.float32]] | None = []

    def add(self, frames: NDArray[np.float32]) -> None:
        """Keep frames to look at, until there are enough of them."""
        if self._frames is None or self.due():  # a run that has no pause may not come to the check for long
            return
        surplus = 0 if self._n_neurons is None else max(0, frames.shape[0] - self._n_neurons)
        self._frames.append(frames[surplus // 2 : frames.shape[0] - (surplus + 1) // 2])

    def due(self, enough: int | None = None) -> bool:
        """Tell whether the check is to be done and there are enough frames for it (256 if not given)."""
        if self._frames is None:
            return False
        kept = sum(int(frames.shape[1]) for frames in self._frames)
        return kept >= (CHECKED_FRAMES if enough is None else enough)

    def check(self, info: RunInfo) -> list[str]:
        """Return a sentence for each thing that should be looked at; done once.

        The noise levels are measured on the frames themselves: those given by the user may be of other data.

        Raises
        ------
        InputError
            The values cannot be ΔF/F as a fraction.
        """
        dff = np.concatenate(self._frames or [np.zeros((1, 1), np.float32)], axis=1)
        self._frames = None
        nu = noise_levels(dff, frame_rate_hz=info.frame_rate_hz)
        return check_dff(dff, nu, frame_rate_hz=info.frame_rate_hz, noise_range=info.spec.noise_range)

    @staticmethod
    def warm_up() -> None:
        """Let everything be compiled now rather than between two frames."""
        some = np.eye(4, 64)
        check_dff(some, noise_levels(some, frame_rate_hz=30.0), frame_rate_hz=30.0)


@dataclass(kw_only=True)
class RunStatistics:
    """The state of a run, as a live view shows it.

    Parameters
    ----------
    counters : SequenceCounters
    rejections : Rejections
    """

    counters: SequenceCounters
    rejections: Rejections
    source: str = ""
    sinks: list[str] = field(default_factory=list)
    started: float | None = None
    now: float = 0.0
    last_arrival: float | None = None
    info: RunInfo | None = None
    messages: int = 0
    queue_frames: int = 0
    overrun: int = 0
    sink_dropped: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    recent_latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    stages: dict[str, LatencyHistogram] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    recent_events: deque[Event] = field(default_factory=lambda: deque(maxlen=RECENT_EVENTS))
    triggers: dict[str, Any] = field(default_factory=dict)
    recordings: list[dict[str, Any]] = field(default_factory=list)
    busy_s: float = 0.0
    published: Counter[int] = field(default_factory=Counter)
    neurons: NeuronStatistics | None = None
    noise_levels: NDArray[np.float64] | None = None
    calibrating: bool = False
    calibration_progress: float = 1.0
    #: ΔF/F is made of fluorescence, and the window of the baseline is not full yet.
    baseline_filling: bool = False
    integration: tuple[tuple[int, int], ...] = ()
    last_frame: int | None = None
    invalid_now: int = 0
    warnings: list[str] = field(default_factory=list)
    stopping: bool = False
    ended: str = ""
    rows: RowMap | None = None

    def add_event(self, event: Event) -> None:
        """Count an event, and remember the latest."""
        self.events[event.kind] += 1
        self.recent_events.append(event)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The account of a finished run; :meth:`to_dict` gives it as plain values for JSON.

    Parameters
    ----------
    exit_reason : "end", "interrupted" or "error"
        The source came to its end, the run was told to stop, or something went wrong.
    error : str
        What went wrong.
    complete : bool
        False after an error, and for a recording that was not processed to its end.
    values : dict
        Frames, messages, latency, integration, neurons, noise levels, versions.
    """

    exit_reason: ExitReason
    error: str
    complete: bool
    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: dict, list, str, int, float, bool, None."""
        return {
            "exit_reason": self.exit_reason,
            "error": self.error or None,
            "complete": self.complete,
            **self.values,
        }

    @property
    def frames(self) -> dict[str, int]:
        """Frames by what became of them: received, processed, lost, duplicate, late, …."""
        return dict(self.values["frames"])

    @property
    def latency(self) -> dict[str, Any]:
        """From receiving a message to having published its immediate result (ms), and missed deadlines."""
        return dict(self.values["latency"])


def describe(statistics: RunStatistics) -> dict[str, Any]:
    """Turn the statistics into the plain values of a summary."""
    info, counters = statistics.info, statistics.counters
    elapsed = 0.0 if statistics.started is None else statistics.now - statistics.started
    rate = info.frame_rate_hz if info else None
    frames = counters.to_dict()
    frames["received"] += statistics.overrun
    frames["overrun"] = statistics.overrun
    return {
        "source": statistics.source,
        "sinks": list(statistics.sinks),
        "stream": info.stream if info else None,
        "model": info.spec.name if info else None,
        "n_neurons": info.n_neurons if info else None,
        "frame_rate_hz": rate,
        "duration_s": round(elapsed, 3),
        "frames": {**frames, "last": statistics.last_frame},
        "messages": {"received": statistics.messages, "rejected": statistics.rejections.to_dict()},
        "published_frames": {str(k): v for k, v in sorted(statistics.published.items())},
        "sink_dropped": statistics.sink_dropped,
        "latency": statistics.latency.to_dict(),
        "stages": {name: stage.to_dict() for name, stage in statistics.stages.items()},
        "events": dict(sorted(statistics.events.items())),
        "triggers": dict(statistics.triggers),
        "recordings": list(statistics.recordings),
        "load": round(statistics.busy_s / elapsed, 4) if elapsed > 0 else None,
        "integration": [
            {"lookahead_frames": lookahead, "frames": n, "ms": round(1000 * n / rate, 2) if rate else None}
            for lookahead, n in statistics.integration
        ],
        "neurons": _describe_neurons(statistics),
        **({} if statistics.rows is None else {"rows": statistics.rows.to_dict()}),
        "noise_levels": _quantiles(statistics.noise_levels),
        "calibration_finished": not statistics.calibrating,
        "baseline_filled": not statistics.baseline_filling,
        "warnings": list(statistics.warnings),
        **({k: v for k, v in info.metadata.items() if k not in ("model", "versions")} if info else {}),
        "versions": versions(),
    }


def _describe_neurons(statistics: RunStatistics) -> dict[str, int]:
    neurons, noise = statistics.neurons, statistics.noise_levels
    if neurons is None:
        return {}
    return {
        "total": int(neurons.all_nan.size),
        "all_nan": int(neurons.all_nan.sum()),
        "constant": int(neurons.constant.sum()),
        "infinite": int(neurons.infinite.sum()),
        "without_noise_level": 0 if noise is None else int(np.isnan(noise).sum()),
    }


def _quantiles(noise: NDArray[np.float64] | None) -> dict[str, float] | None:
    if noise is None or not np.isfinite(noise).any():
        return None
    names = ("min", "p25", "median", "p75", "max")
    return {k: round(float(v), 4) for k, v in zip(names, np.nanquantile(noise, (0, 0.25, 0.5, 0.75, 1)), strict=True)}


def versions() -> dict[str, str]:
    """Versions of what takes part in a run."""
    from importlib.metadata import PackageNotFoundError, version

    from . import __version__

    found = {"cascade_rt": __version__, "python": platform.python_version()}
    for package in ("numpy", "onnxruntime", "onnxruntime-gpu", "pyzmq"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

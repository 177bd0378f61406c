"""What the page can show: the last minute of all neurons, the state of the run, its events.

Written by one thread and read by another; a lock keeps them apart. Memory is bounded, whatever the run does.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .protocol import DFF, PROB, RASTER, RATE, Block, Update

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Collector", "Series", "Viewer"]

#: Time that is kept (s), and the memory that it may take at most for all series together (bytes).
HISTORY_S, HISTORY_BYTES = 60.0, 128 * 2**20
#: Rows of the raster at most; more neurons share rows, which show the largest of their values.
RASTER_ROWS = 300
#: Rate at which the raster is as dark as it gets (Hz).
RASTER_TOP_HZ = 30.0
#: Time constant of the activity by which neurons are called busy (s).
ACTIVITY_S = 5.0
#: Frames of each kind that one update carries at most: what is older follows in the next.
UPDATE_FRAMES = 300
EVENTS = 200
#: Time over which the recent latencies are counted (s).
RECENT_S = 15.0
NOISE_EDGES = np.linspace(0.0, 10.0, 41)
#: Edges of the latency histogram (s): 0.1 ms to 1 s, and what is outside goes into the outer bins.
LATENCY_EDGES_S = np.geomspace(1e-4, 1.0, 41)


class Series:
    """The newest values of a row of frames.

    Parameters
    ----------
    n_rows : int
    capacity : int
        Frames that are kept.
    dtype : dtype
    empty : float
        Value of frames that never came.
    """

    def __init__(self, n_rows: int, capacity: int, dtype: Any = np.float32, empty: float = math.nan) -> None:
        self._values = np.full((capacity, n_rows), empty, dtype)
        self._empty = empty
        self.capacity = capacity
        self.begin = 0
        self.stop = 0

    @property
    def first(self) -> int:
        """Oldest frame that is kept."""
        return max(self.begin, self.stop - self.capacity)

    def write(self, first_frame: int, values: NDArray[Any]) -> None:
        """Add frames, (n_frames, n_rows), that follow those before; what lies between is left empty."""
        stop = first_frame + len(values)
        surplus = max(0, len(values) - self.capacity)
        first_frame, values = first_frame + surplus, values[surplus:]
        if self.stop == self.begin or first_frame < self.first:
            self.begin = self.stop = first_frame
        elif first_frame > self.stop:
            missing = min(first_frame - self.stop, self.capacity)
            self._values[np.arange(first_frame - missing, first_frame) % self.capacity] = self._empty
        self._values[np.arange(first_frame, stop) % self.capacity] = values
        self.stop = max(self.stop, stop)

    def read(self, first_frame: int, stop_frame: int, rows: Sequence[int] | None = None) -> NDArray[Any]:
        """Copy of frames that are kept, (n_frames, n_rows)."""
        index = np.arange(first_frame, stop_frame) % self.capacity
        found: NDArray[Any] = self._values[index] if rows is None else self._values[index[:, None], list(rows)]
        return found


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Results of one look-ahead: all neurons, and what is made of them for the raster."""

    prob: Series
    rate: Series
    raster: Series


class Collector:
    """Keeps what pages may want to see.

    Parameters
    ----------
    clock : callable
        Monotonic time (s).
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.lock = threading.Lock()
        self.info: dict[str, Any] = {}
        self.epoch = 0
        self.dff: Series | None = None
        self.estimates: dict[int, _Estimate] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self.n_events = 0
        self.n_statuses = 0
        self._status: dict[str, Any] = {}
        self._noise: NDArray[np.float32] | None = None
        self._activity: NDArray[np.float64] = np.zeros(0)
        self._group = 1
        self._last_data: float | None = None
        self._recent: deque[tuple[float, list[int]]] = deque()
        self._own_latency = np.zeros(len(LATENCY_EDGES_S) + 1, np.int64)
        self._misses = 0
        self._missing = 0
        self._ended = ""
        self._rejected: dict[str, int] = {}

    # ------------------------------------------------------------------------------------- what is happening

    def start(self, info: Mapping[str, Any]) -> None:
        """Learn what comes: ``n_neurons``, ``frame_rate_hz``, ``lookaheads``, ``stream``, ``model``, …."""
        if self.info == info:
            return
        with self.lock:
            self.info = dict(info)
            self._group = -(-int(info["n_neurons"]) // RASTER_ROWS)
            self._activity = np.zeros(info["n_neurons"])
            self._forget()

    def add_frames(self, first_frame: int, frames: NDArray[np.float32]) -> None:
        """Keep ΔF/F, (n_neurons, n_frames)."""
        if not self.info:
            return
        with self.lock:
            if self.dff is None:
                self.dff = Series(self.info["n_neurons"], self._capacity())
            if first_frame < self.dff.stop:
                self._forget()
                self.dff = Series(self.info["n_neurons"], self._capacity())
            self.dff.write(first_frame, frames.T)
            self._last_data = self._clock()

    def add_result(
        self, lookahead: int, first_frame: int, prob: NDArray[np.float32], *, latency_s: float | None = None
    ) -> None:
        """Keep spike probabilities, (n_neurons, n_frames)."""
        if not self.info:
            return
        rate_hz, (n_neurons, n_frames) = self.info["frame_rate_hz"], prob.shape
        defined = np.isfinite(prob)
        known, n_known = np.where(defined, prob, np.float32(0)), defined.sum(axis=0)
        mean = np.where(n_known > 0, known.sum(axis=0) / np.maximum(n_known, 1), np.nan) * rate_hz
        shades = self._shades(known, defined, rate_hz)
        with self.lock:
            if first_frame < getattr(self.estimates.get(lookahead), "prob", Series(0, 1)).stop:
                self._forget()
            estimate = self.estimates.get(lookahead)
            if estimate is None:
                capacity = self._capacity()
                estimate = self.estimates[lookahead] = _Estimate(
                    Series(n_neurons, capacity), Series(1, capacity), Series(shades.shape[0], capacity, np.uint8, 0)
                )
            elif first_frame > estimate.prob.stop:
                self._missing += first_frame - estimate.prob.stop
            estimate.prob.write(first_frame, prob.T)
            estimate.rate.write(first_frame, mean[:, None])
            estimate.raster.write(first_frame, shades.T)
            if lookahead == min(self.info["lookaheads"]):
                keep = math.exp(-n_frames / rate_hz / ACTIVITY_S)
                self._activity = keep * self._activity + (1 - keep) * known.mean(axis=1)
                if latency_s is not None:
                    self._own_latency[np.searchsorted(LATENCY_EDGES_S, latency_s)] += 1
                    self._misses += latency_s > 1 / rate_hz
            self._last_data = self._clock()
            self._ended = ""

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Keep what a rule decided."""
        with self.lock:
            self.events.append(dict(event))
            self.n_events += 1

    def set_status(self, status: Mapping[str, Any], noise: NDArray[np.float32] | None) -> None:
        """Learn how the run is."""
        with self.lock:
            self._status = dict(status)
            self._noise = noise
            self.n_statuses += 1
            self._count_recent(self._status.get("latency", {}).get("counts"))

    def set_ended(self) -> None:
        """The source of results says that no more follow."""
        with self.lock:
            self._ended = "end"

    def count_rejected(self, reason: str) -> None:
        """Count a message that could not be read."""
        with self.lock:
            self._rejected[reason] = self._rejected.get(reason, 0) + 1

    # --------------------------------------------------------------------------------------- what pages want

    def status(self) -> dict[str, Any]:
        """Everything but samples and events, of plain values."""
        with self.lock:
            status = dict(self._status) if self._status else self._own_status()
            silent = None if self._last_data is None else round(self._clock() - self._last_data, 1)
            status["silent_s"] = silent
            status["noise"] = self._noise_counts()
            recent = self._recent
            if len(recent) > 1:
                latency = dict(status["latency"])
                latency["recent"] = [b - a for a, b in zip(recent[0][1], recent[-1][1], strict=True)]
                status["latency"] = latency
            return status

    def describe(self) -> dict[str, Any]:
        """What a page has to know to draw."""
        with self.lock:
            n_neurons = int(self.info.get("n_neurons", 0))
            return {
                **self.info,
                "epoch": self.epoch,
                "has_dff": bool(self.info.get("has_dff", False)),
                "raster_rows": -(-n_neurons // self._group) if n_neurons else 0,
                "neurons_per_row": self._group,
                "raster_top_hz": RASTER_TOP_HZ,
                "history_s": self._capacity() / self.info["frame_rate_hz"] if self.info else HISTORY_S,
                "latency_edges_ms": [round(1000 * float(edge), 4) for edge in LATENCY_EDGES_S],
                "noise_edges": [round(float(edge), 3) for edge in NOISE_EDGES],
            }

    def busiest(self, count: int) -> list[int]:
        """Neurons with the highest spike rate of the last seconds, the busiest first."""
        with self.lock:
            return [int(n) for n in np.argsort(-self._activity, kind="stable")[:count]]

    def pick(self, row: int) -> int | None:
        """Busiest neuron of a row of the raster; None where there is no such row."""
        with self.lock:
            part = self._activity[row * self._group : (row + 1) * self._group]
            return row * self._group + int(part.argmax()) if part.size else None

    # ------------------------------------------------------------------------------------------------- inside

    def _forget(self) -> None:
        self.epoch += 1
        self.dff = None
        self.estimates = {}

    def _capacity(self) -> int:
        if not self.info:
            return 1
        n_series = 1 + len(self.info["lookaheads"])
        affordable = HISTORY_BYTES // (4 * self.info["n_neurons"] * n_series)
        wanted = math.ceil(HISTORY_S * float(self.info["frame_rate_hz"]))
        return max(16, min(wanted, int(affordable)))

    def _shades(self, known: NDArray[np.float32], defined: NDArray[np.bool_], rate_hz: float) -> NDArray[np.uint8]:
        starts = np.arange(0, known.shape[0], self._group)
        top = np.maximum.reduceat(known, starts, axis=0) * (rate_hz / RASTER_TOP_HZ)
        shades: NDArray[np.floating] = 1 + np.rint(
            254 * np.sqrt(np.clip(top, 0, 1))
        )  # the root shows weak activity too
        shades[~np.logical_or.reduceat(defined, starts, axis=0)] = 0
        shown: NDArray[np.uint8] = shades.astype(np.uint8)
        return shown

    def _count_recent(self, counts: list[int] | None) -> None:
        if counts is None:
            return
        now = self._clock()
        self._recent.append((now, counts))
        while self._recent[0][0] < now - RECENT_S:
            self._recent.popleft()

    def _noise_counts(self) -> dict[str, Any]:
        noise = self._noise
        if noise is None:
            return {"counts": None}
        known = noise[np.isfinite(noise)]
        counts = np.histogram(np.clip(known, 0, NOISE_EDGES[-1]), NOISE_EDGES)[0]
        low, high = self.info.get("noise_range") or (0.0, math.inf)
        return {
            "counts": counts.tolist(),
            "median": round(float(np.median(known)), 3) if known.size else None,
            "outside": int(((known < low) | (known > high)).sum()),
            "unknown": int(noise.size - known.size),
        }

    def _own_status(self) -> dict[str, Any]:
        """What can be told from results alone."""
        counts = self._own_latency
        total = int(counts.sum())
        shares = np.cumsum(counts) / max(total, 1)
        upper = 1000 * np.append(LATENCY_EDGES_S, math.nan)
        stop = max((e.prob.stop for e in self.estimates.values()), default=0)
        rate = self.info.get("frame_rate_hz")
        return {
            "frames": {"lost": self._missing},
            "rejected": dict(self._rejected),
            "ended": self._ended,
            "last_frame": stop - 1 if stop else None,
            "latency": {
                "counts": counts.tolist(),
                "count": total,
                "p50_ms": float(upper[np.searchsorted(shares, 0.5)]) if total else None,
                "p99_ms": float(upper[np.searchsorted(shares, 0.99)]) if total else None,
                "deadline_ms": 1000 / rate if rate else None,
                "deadline_misses": int(self._misses),
            },
        }


class Viewer:
    """What one page has been sent, and what is new for it.

    Parameters
    ----------
    collector : Collector
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._neurons: list[int] = []
        self._lookahead: int | None = None
        self._epoch = -1
        self._next: dict[int, int] = {}

    @property
    def lookahead(self) -> int | None:
        """Look-ahead that is shown."""
        known = self._collector.info.get("lookaheads") or ()
        return self._lookahead if self._lookahead in known else min(known, default=None)

    def select(self, neurons: Sequence[int], lookahead: int | None, *, fresh: bool = False) -> None:
        """Show these neurons from now on, with all that is kept of them; ``fresh``: the population too."""
        kinds = [DFF, PROB]
        if fresh or (lookahead is not None and lookahead != self.lookahead):
            kinds += [RATE, RASTER]
        if lookahead is not None:
            self._lookahead = lookahead
        self._neurons = list(neurons)
        for kind in kinds:
            self._next.pop(kind, None)

    def update(self, number: int, seconds: float) -> Update | None:
        """What is new since the last call; None if nothing is."""
        collector = self._collector
        with collector.lock:
            if self._epoch != collector.epoch:
                self._epoch = collector.epoch
                self._next.clear()
                self._neurons = [n for n in self._neurons if n < collector.info.get("n_neurons", 0)]
            estimate = collector.estimates.get(-1 if self.lookahead is None else self.lookahead)
            blocks = [self._new(DFF, collector.dff, self._neurons)]
            if estimate is not None:
                blocks.append(self._new(PROB, estimate.prob, self._neurons))
                blocks.append(self._new(RATE, estimate.rate))
                blocks.append(self._new(RASTER, estimate.raster))
            found = tuple(block for block in blocks if block is not None)
            return Update(number=number, epoch=self._epoch, seconds=seconds, blocks=found) if found else None

    def _new(self, kind: int, series: Series | None, rows: Sequence[int] | None = None) -> Block | None:
        if series is None or (rows is not None and not rows):
            return None
        first = max(self._next.get(kind, 0), series.first)
        stop = min(series.stop, first + UPDATE_FRAMES)
        if first >= stop:
            return None
        self._next[kind] = stop
        return Block(kind=kind, first_frame=first, values=series.read(first, stop, rows))

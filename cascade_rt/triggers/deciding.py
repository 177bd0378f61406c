"""Rules applied to results, column by column, so that it never matters in which pieces the results come."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.discretization import DiscretizeStream

from .rules import NAMED_NEURONS, Gate, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec, SpikeChunk
    from cascade_rt.events import EventKind

__all__ = ["Decision", "RuleGroup", "RuleState", "Timeline", "notice_arming"]


@dataclass(frozen=True)
class Decision:
    """What a rule decided, before it becomes an event.

    Parameters
    ----------
    rule : str
    kind : str
    frame, newest_frame : int
        Of the source.
    value : float
    column : int
        Column of the chunk, counted from its end: 0 is the last.
    data : dict
    """

    rule: str
    kind: EventKind
    frame: int
    newest_frame: int
    value: float = math.nan
    column: int = 0
    data: dict[str, Any] = field(default_factory=dict)


def notice_arming(name: str, gate: Gate, frame: int, lookahead: int, now: int, column: int) -> tuple[Decision, ...]:
    """Tell whether time has armed or disarmed a rule."""
    armed = gate.is_armed(now)
    if armed is gate.was_armed:
        return ()
    gate.was_armed = armed
    kind: EventKind = "armed" if armed else "disarmed"
    return (Decision(name, kind, frame, frame + lookahead, column=column, data={"by": "time"}),)


class Timeline:
    """Frames since the start of a run, also for a source that counts anew in between."""

    def __init__(self, first_frame: int) -> None:
        self._origin = first_frame
        self._base = 0
        self._restarted = False
        #: Time of the newest frame, in frames since the start; its index.
        self.now = 0
        self.frame = first_frame

    def restart(self) -> None:
        """Look, at the next frame, whether the source counts anew."""
        self._restarted = True

    def move(self, newest_frame: int) -> int:
        """Go on to a frame and return its time."""
        if self._restarted and newest_frame <= self.frame:
            self._base, self._origin = self.now + 1, newest_frame
        self._restarted = False
        self.frame = newest_frame
        self.now = self._base + newest_frame - self._origin
        return self.now


class RuleState:
    """A rule and what it remembers.

    Parameters
    ----------
    rule : Rule
    gate : Gate
    frame_rate_hz : float
    """

    def __init__(self, rule: Rule, gate: Gate, frame_rate_hz: float) -> None:
        self.rule = rule
        self.gate = gate
        self.threshold = rule.threshold
        self._rate = frame_rate_hz
        self._window = max(1, round(rule.window_s * frame_rate_hz))
        self._long = max(1, round(rule.against_s * frame_rate_hz))
        self._above = rule.compare == "above"
        self._plain = rule.signal != "rate_hz" and not rule.change
        self.data = {
            "neurons": rule.neurons[:NAMED_NEURONS].tolist(),
            "n_neurons": int(rule.weights.size),
            "signal": rule.signal,
            "refractory_s": rule.gating.refractory_s,
        }
        self.restart()

    def restart(self) -> None:
        """Forget values; arming, refractory time and the number of decisions stay."""
        self._held = 0
        self._spent = False
        self._values: deque[tuple[float, bool]] = deque(maxlen=self._window)
        self._sum = 0.0
        self._unusable = 0
        self._since_exact = 0
        self._baseline = 0.0
        self._known = 0

    def look(self, value: float, usable: bool, now: int, armed: bool) -> float | None:
        """Take in the next value; returns what was compared if a decision is due."""
        if not self._plain:
            if self.rule.signal == "rate_hz":
                value, usable = self._over_window(value, usable)
            if self.rule.change:
                value, usable = self._against_baseline(value, usable)
        if not usable:
            self._held = 0
            return None
        if not armed:
            self._held, self._spent = 0, False
            return None
        if not (value > self.threshold if self._above else value < self.threshold):
            self._held, self._spent = 0, False
            return None
        self._held += 1
        if self._held < self.rule.hold_frames or self._spent or self.gate.is_resting(now):
            return None
        self._spent = not self.rule.repeat
        return value

    def _over_window(self, value: float, usable: bool) -> tuple[float, bool]:
        values = self._values
        value = value if usable else 0.0
        if len(values) == self._window:
            old, old_usable = values[0]
            self._sum -= old
            self._unusable -= not old_usable
        values.append((value, usable))
        self._sum += value
        self._unusable += not usable
        self._since_exact += 1
        if self._since_exact >= self._window:  # rounding must not add up over weeks
            self._sum, self._since_exact = math.fsum(v for v, _ in values), 0
        full = len(values) == self._window and not self._unusable
        return self._sum * self._rate / self._window, full

    def _against_baseline(self, value: float, usable: bool) -> tuple[float, bool]:
        if not usable:
            return value, False
        baseline, known = self._baseline, self._known >= self._long
        self._known = min(self._known + 1, self._long)
        self._baseline += (value - baseline) / self._known
        if self.rule.change == "by":
            return value - baseline, known
        return (value / baseline, known) if baseline > 0 else (value, False)


class RuleGroup:
    """The rules on one look-ahead.

    Parameters
    ----------
    states : sequence of RuleState
    lookahead : int
    n_neurons : int
    first_frame : int
        Of the run.
    spec : ModelSpec
        Says what a spike looks like; used for rules on discrete spikes only.
    """

    def __init__(
        self, states: Sequence[RuleState], lookahead: int, n_neurons: int, first_frame: int, spec: ModelSpec | None
    ) -> None:
        self.lookahead = lookahead
        self.timeline = Timeline(first_frame)
        self._states = [state for state in states if state.rule.signal != "spike"]
        self._spikes = [_SpikeState(state, n_neurons) for state in states if state.rule.signal == "spike"]
        self._gates = [(state.rule.name, state.gate) for state in states]
        everything = np.arange(n_neurons)
        parts = [everything if s.rule.all_neurons else s.rule.neurons for s in self._states]
        sizes = [part.size for part in parts]
        self._entries = np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)
        self._weights = np.concatenate([*(s.rule.weights for s in self._states), np.empty(0)])
        self._starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.empty(0, np.int64)
        self._strict = np.repeat([s.rule.only_valid for s in self._states], sizes).astype(bool)
        self._all_strict = bool(self._strict.all())
        self._mean = [s.rule.mean for s in self._states]
        self._enough = [
            (s.rule.min_valid * n if s.rule.mean else n) - 1e-9 for s, n in zip(self._states, sizes, strict=True)
        ]
        self._some_missing = [s.rule.mean and s.rule.min_valid < 1 for s in self._states]
        self._sizes = sizes
        self._discrete: DiscretizeStream | None = None
        if self._spikes:
            self._watched = np.unique(np.concatenate([spikes.neurons for spikes in self._spikes]))
            self._discrete = DiscretizeStream(self._watched.size, spec)
            strict = {int(n) for spikes in self._spikes if spikes.state.rule.only_valid for n in spikes.neurons}
            self._watched_strict = np.array([int(n) in strict for n in self._watched])
        self._pushed_from: int | None = None

    def has(self, name: str) -> bool:
        """Tell whether a rule of that name is among them."""
        return any(known == name for known, _ in self._gates)

    def restart(self) -> None:
        """Forget values: what follows does not join on to what was."""
        for state in (*self._states, *(spikes.state for spikes in self._spikes)):
            state.restart()
        if self._discrete is not None:
            self._discrete.reset()
        self._pushed_from = None
        self.timeline.restart()

    def process(self, chunk: SpikeChunk) -> list[Decision]:
        """Take in the next results; returns what was decided, in order."""
        prob = np.ascontiguousarray(chunk.spike_prob.T)
        finite = np.isfinite(prob)
        valid = np.zeros_like(finite) if chunk.provisional else finite & chunk.valid.T
        decisions: list[Decision] = []
        if self._pushed_from is None:
            self._pushed_from = chunk.first_frame
        for number in range(chunk.n_frames):
            frame = chunk.first_frame + number
            now = self.timeline.move(frame + self.lookahead)
            column = chunk.n_frames - 1 - number
            for name, gate in self._gates:
                decisions += notice_arming(name, gate, frame, self.lookahead, now, column)
            if self._states:
                self._look(decisions, prob[number], finite[number], valid[number], frame, now, column)
            if self._discrete is not None:
                self._look_at_spikes(decisions, prob[number], finite[number], valid[number], frame, now, column)
        return decisions

    def _look(
        self,
        decisions: list[Decision],
        prob: NDArray[np.float32],
        finite: NDArray[np.bool_],
        valid: NDArray[np.bool_],
        frame: int,
        now: int,
        column: int,
    ) -> None:
        usable = valid[self._entries]
        if not self._all_strict:
            usable |= finite[self._entries] & ~self._strict
        # Summed here rather than by a matrix product, whose rounding depends on the number of columns.
        terms = np.where(usable, prob[self._entries], np.float32(0)) * self._weights
        sums = np.add.reduceat(terms, self._starts).tolist()
        counts = np.add.reduceat(usable, self._starts, dtype=np.int64).tolist()
        for number, state in enumerate(self._states):
            value, count = sums[number], counts[number]
            if self._some_missing[number] and count:
                value *= self._sizes[number] / count
            enough = count > 0 and count >= self._enough[number]
            compared = state.look(value, enough, now, state.gate.was_armed)
            if compared is not None:
                decisions.append(self._decide(state, compared, frame, frame, now, column))

    def _look_at_spikes(
        self,
        decisions: list[Decision],
        prob: NDArray[np.float32],
        finite: NDArray[np.bool_],
        valid: NDArray[np.bool_],
        frame: int,
        now: int,
        column: int,
    ) -> None:
        assert self._discrete is not None
        assert self._pushed_from is not None
        usable = np.where(self._watched_strict, valid[self._watched], finite[self._watched])
        events = self._discrete.push(np.where(usable, prob[self._watched], np.float32(np.nan))[:, None])
        if not events.frames.size:
            for spikes in self._spikes:
                spikes.state.look(0.0, True, now, spikes.state.gate.was_armed)
            return
        # What is decided because nothing more is known of a neuron was decided by a gap.
        known = usable[events.neurons]
        neurons, frames = self._watched[events.neurons[known]], events.frames[known]
        for spikes in self._spikes:
            state = spikes.state
            mine = spikes.weight_of[neurons]
            state.look(0.0, True, now, state.gate.was_armed)
            for spike_frame in np.unique(frames[mine != 0]):
                value = float(mine[frames == spike_frame].sum())
                compared = state.look(value, True, now, state.gate.was_armed)
                if compared is not None:
                    at = self._pushed_from + int(spike_frame)
                    decisions.append(self._decide(state, compared, at, frame, now, column))

    def _decide(self, state: RuleState, value: float, described: int, frame: int, now: int, column: int) -> Decision:
        trial = state.gate.trials
        kind = state.gate.decide(now)
        data = {**state.data, "threshold": state.threshold, "compare": state.rule.compare, "trial": trial}
        if state.rule.change:
            data["change"] = state.rule.change
        return Decision(state.rule.name, kind, described, frame + self.lookahead, value, column, data)


class _SpikeState:
    """A rule on discrete spikes, and the weight of each neuron."""

    def __init__(self, state: RuleState, n_neurons: int) -> None:
        rule = state.rule
        self.state = state
        self.neurons = np.flatnonzero(rule.weights) if rule.all_neurons else rule.neurons
        self.weight_of = np.zeros(n_neurons)
        self.weight_of[self.neurons] = rule.weights[self.neurons] if rule.all_neurons else rule.weights

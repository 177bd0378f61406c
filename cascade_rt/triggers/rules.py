"""What a rule is: a signal made of spike probabilities, a condition, and what may hold it back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cascade_rt.events import EventKind

__all__ = ["Gate", "Gating", "PluginRule", "Rule", "RuleSet", "Signal"]

Signal = Literal["probability", "rate_hz", "spike"]

#: Neurons that an event names at most.
NAMED_NEURONS = 16


@dataclass(frozen=True, kw_only=True)
class Gating:
    """What may hold a rule back although its condition is met.

    Parameters
    ----------
    armed : "always" or "on_message"
        How it begins; a message arms it.
    windows : tuple of (float, float)
        Times of the run (s) in which it is armed; empty: all.
    refractory_s : float
        Time after a decision in which none follows (s).
    probability : float
        Of stimulation; otherwise the event says ``suppressed``.
    sham : float
        Share of control trials among the others.
    seed : int
        The n-th decision of a rule is the same for the same seed and name, whatever else happens.
    """

    armed: Literal["always", "on_message"] = "always"
    windows: tuple[tuple[float, float], ...] = ()
    refractory_s: float = 0.0
    probability: float = 1.0
    sham: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Rule:
    """A rule on the results of one look-ahead.

    Parameters
    ----------
    name : str
    neurons : ndarray, (n,), int64
        Which it looks at; empty with ``all_neurons``.
    weights : ndarray, (n,), float64
        Weight of each.
    mean : bool
        The mean of the neurons is meant, not their weighted sum: over those that are usable.
    all_neurons : bool
        ``weights`` has one entry for every neuron of the run.
    lookahead : int or None
        Frames; None: the shortest that is published.
    signal : "probability", "rate_hz" or "spike"
        Expected spikes per frame; their rate over ``window_s`` (spikes per second); discrete spikes.
    window_s : float
    compare : "above" or "below"
    threshold : float
        In the signal's unit; of a change: the difference (``by``) or the ratio (``factor``).
    change : "", "by" or "factor"
        Compare with a running baseline of ``against_s`` instead of a fixed value.
    against_s : float
        Time constant of the baseline (s); before that time no change is seen.
    hold_frames : int
        Frames for which the condition must be met, one after another.
    repeat : bool
        Go on deciding while the condition stays met, once per refractory time; otherwise once until it was not met.
    only_valid : bool
        Values touched by a gap, and all during the calibration, meet no condition. NaN never does.
    min_valid : float
        Share of the neurons of a mean that must be usable.
    gating : Gating
    line : int
        Where it stands in its file.
    """

    name: str
    neurons: NDArray[np.int64]
    weights: NDArray[np.float64]
    threshold: float
    compare: Literal["above", "below"] = "above"
    mean: bool = False
    all_neurons: bool = False
    lookahead: int | None = None
    signal: Signal = "probability"
    window_s: float = 0.0
    change: Literal["", "by", "factor"] = ""
    against_s: float = 0.0
    hold_frames: int = 1
    repeat: bool = False
    only_valid: bool = True
    min_valid: float = 1.0
    gating: Gating = field(default_factory=Gating)
    line: int = 0

    def problem(self, n_neurons: int | None, lookaheads: Sequence[int] | None) -> str:
        """Say why the rule does not fit a run; empty if it does, or where nothing is known yet."""
        if n_neurons is not None:
            if self.all_neurons and self.weights.size != n_neurons:
                return f"weights for {self.weights.size} neurons: the run has {n_neurons}"
            beyond = self.neurons[self.neurons >= n_neurons]
            if beyond.size:
                return f"neuron {beyond[0]}: the run has neurons 0 to {n_neurons - 1}"
        return lookahead_problem(self.lookahead, lookaheads)

    def in_words(self) -> str:
        """One line that says what the rule does."""
        which = f"{self.weights.size} neurons" if self.all_neurons or self.neurons.size > 4 else "neurons " + ", ".join(
            map(str, self.neurons)
        )  # fmt: skip
        what = {"probability": "probability", "rate_hz": f"rate over {self.window_s:g} s", "spike": "spikes"}[
            self.signal
        ]
        if self.neurons.size == 1 and not self.all_neurons:
            source = f"{what} of neuron {self.neurons[0]}"
        else:
            source = f"{'mean' if self.mean else 'sum' if self.signal == 'spike' else 'weighted'} {what} of {which}"
        if self.change:
            how = "by" if self.change == "by" else "by the factor"
            source = f"change of the {source} against the last {self.against_s:g} s"
            condition = f"{how} {self.threshold:g} or {'more' if self.compare == 'above' else 'less'}"
        else:
            condition = f"{self.compare} {self.threshold:g}"
        held = f" for {self.hold_frames} frames" if self.hold_frames > 1 else ""
        return f"{source} {condition}{held}; {gating_in_words(self.gating)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class PluginRule:
    """A rule that is a class of the user's.

    Parameters
    ----------
    name : str
    path : Path
        The Python file.
    class_name : str
    options : mapping
        Keyword arguments of the class.
    lookahead : int or None
    timeout_ms : float
        Within which each answer must come.
    gating : Gating
    line : int
    """

    name: str
    path: Path
    class_name: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    lookahead: int | None = None
    timeout_ms: float = 100.0
    gating: Gating = field(default_factory=Gating)
    line: int = 0

    def problem(self, n_neurons: int | None, lookaheads: Sequence[int] | None) -> str:
        """Say why the rule does not fit a run; empty if it does."""
        del n_neurons
        return lookahead_problem(self.lookahead, lookaheads)

    def in_words(self) -> str:
        """One line that says what the rule does."""
        return f"plug-in {self.class_name} of {self.path.name}; {gating_in_words(self.gating)}"


def lookahead_problem(lookahead: int | None, lookaheads: Sequence[int] | None) -> str:
    """Say what is wrong with a look-ahead, if anything."""
    if lookahead is None or lookaheads is None or lookahead in lookaheads:
        return ""
    return f"lookahead: {lookahead} is not published by this run, which publishes {', '.join(map(str, lookaheads))}"


def gating_in_words(gating: Gating) -> str:
    """One phrase on what may hold a rule back."""
    parts = ["armed by a message" if gating.armed == "on_message" else "armed"]
    if gating.windows:
        parts[0] += " " + ", ".join(f"{start:g} to {stop:g} s" for start, stop in gating.windows)
    if gating.refractory_s:
        parts.append(f"at most every {gating.refractory_s:g} s")
    if gating.probability < 1:
        parts.append(f"with probability {gating.probability:g}")
    if gating.sham:
        parts.append(f"{gating.sham:.0%} sham")
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleSet:
    """The rules of a run.

    Parameters
    ----------
    rules : tuple of Rule
    plugins : tuple of PluginRule
    path : str
        For messages.
    text : str
        The file, for the record.
    """

    rules: tuple[Rule, ...] = ()
    plugins: tuple[PluginRule, ...] = ()
    path: str = "rules"
    text: str = ""

    @property
    def all(self) -> tuple[Rule | PluginRule, ...]:
        """Rules and plug-ins, in the order of the file."""
        return tuple(sorted((*self.rules, *self.plugins), key=lambda rule: rule.line))

    def check(self, *, n_neurons: int | None = None, lookaheads: Sequence[int] | None = None) -> None:
        """Find out whether the rules fit a run, as far as it is known.

        Raises
        ------
        InputError
            With a line for each rule that does not.
        """
        problems = [
            f"{self.path}:{rule.line}: rule {rule.name!r}: {problem}"
            for rule in self.all
            if (problem := rule.problem(n_neurons, lookaheads))
        ]
        if problems:
            raise InputError("\n".join(problems))


class Gate:
    """State of what may hold a rule back; time is counted in frames of the run.

    Parameters
    ----------
    name : str
    gating : Gating
    frame_rate_hz : float
    armed : bool, optional
        Overrules how the rule begins.
    """

    def __init__(self, name: str, gating: Gating, frame_rate_hz: float, armed: bool | None = None) -> None:
        self.gating = gating
        self.armed = gating.armed == "always" if armed is None else armed
        self.paused_until = 0
        #: Decisions so far.
        self.trials = 0
        self._key = zlib.crc32(name.encode())
        self._refractory = gating.refractory_s * frame_rate_hz
        self._windows = [(start * frame_rate_hz, stop * frame_rate_hz) for start, stop in gating.windows]
        self._ready = -np.inf
        #: Whether it was armed at the last look.
        self.was_armed = self.is_armed(0)

    def is_armed(self, now: int) -> bool:
        """Tell whether a decision may be made at this time (frames since the start of the run)."""
        if not self.armed or now < self.paused_until:
            return False
        return not self._windows or any(start <= now < stop for start, stop in self._windows)

    def is_resting(self, now: int) -> bool:
        """Tell whether the refractory time still runs."""
        return now < self._ready

    def decide(self, now: int) -> EventKind:
        """Make the next decision: stimulate, sham or suppressed."""
        # Made anew from the number of the decision, so that the state of the rule is a number.
        first, second = np.random.default_rng([self.gating.seed, self._key, self.trials]).random(2)
        self.trials += 1
        # A hair less than the time, which is not always a whole number of frames.
        self._ready = now + self._refractory - 1e-6
        if first >= self.gating.probability:
            return "suppressed"
        return "sham" if second < self.gating.sham else "stimulate"

    def save(self) -> dict[str, Any]:
        """Plain values that tell the state."""
        return {"armed": self.armed, "trials": self.trials}

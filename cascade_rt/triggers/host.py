"""The rules of a run as the runner wants them: :class:`TriggerHost`."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError
from cascade_rt.events import Event

from .deciding import Decision, RuleGroup, RuleState, Timeline, notice_arming
from .plugin import PluginProcess
from .rules import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cascade_rt.chunks import ModelSpec, SpikeChunk
    from cascade_rt.events import EventKind
    from cascade_rt.ports import RunInfo

    from .plugin import Answer
    from .rules import PluginRule, RuleSet

__all__ = ["TriggerHost"]

log = logging.getLogger(__name__)

#: How long a plug-in may take for its last answers and its state (s).
LAST_WORDS_S = 3.0

_ACTIONS = ("arm", "disarm", "pause", "set")


class _Plugin:
    """A plug-in, what may hold it back, and its place in time."""

    def __init__(self, rule: PluginRule, process: PluginProcess) -> None:
        self.rule = rule
        self.process = process
        self.lookahead = 0
        self.gate: Gate
        self.timeline: Timeline
        #: After a fault it gets nothing until it is armed again.
        self.faulty = False


class TriggerHost:
    """Applies rules to the results of a run; made before it, and used by its processing thread.

    Parameters
    ----------
    rules : RuleSet
    armed : bool, optional
        True: every rule begins armed, also those that wait for a message; False: none does.
    patient : bool
        The source can wait: so that a run over a recording is deterministic, each answer of a plug-in is awaited.
    outputs : sequence
        Sinks of events whose ``failure`` text, once it is not empty, is reported; see
        :mod:`cascade_rt.endpoints.event_sinks`.
    clock : callable
        Monotonic time (s); that of the run.
    """

    def __init__(
        self,
        rules: RuleSet,
        *,
        armed: bool | None = None,
        patient: bool = False,
        outputs: Sequence[Any] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rules = rules
        self._armed = armed
        self._patient = patient
        self._outputs = list(outputs)
        self._failed_outputs: set[int] = set()
        self._clock = clock
        self._states: dict[str, RuleState] = {}
        self._gates: dict[str, Gate] = {}
        self._groups: dict[int, RuleGroup] = {}
        self._rate = 0.0
        self._number = 0
        self._pending: list[Event] = []
        self._counts = {rule.name: Counter[str]() for rule in rules.all}
        self._rejected = 0
        self._newest: SpikeChunk | None = None
        self._plugins = {
            rule.name: _Plugin(
                rule,
                PluginProcess(
                    rule.path, rule.class_name, rule.options,
                    timeout_ms=rule.timeout_ms, patient=patient, clock=clock,
                ),
            )
            for rule in rules.plugins
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------ before the run

    def prepare(self, spec: ModelSpec | None = None) -> None:
        """Load plug-ins and compile what would hold up the first frames.

        Raises
        ------
        InputError
            A plug-in cannot be loaded.
        """
        for plugin in self._plugins.values():
            plugin.process.launch()
        try:
            for plugin in self._plugins.values():
                plugin.process.load()
        except InputError as error:
            self.close()
            raise InputError(f"{self.rules.path}:{plugin.rule.line}: rule {plugin.rule.name!r}: {error}") from error
        if spec is not None and any(rule.signal == "spike" for rule in self.rules.rules):
            from cascade_rt.discretization import DiscretizeStream

            DiscretizeStream(1, spec)

    def start(self, info: RunInfo) -> None:
        """Learn what the results will look like.

        Raises
        ------
        InputError
            A rule does not fit them.
        """
        self.rules.check(n_neurons=info.n_neurons, lookaheads=info.lookaheads)
        rate = self._rate = info.frame_rate_hz
        first = int(info.metadata.get("first_frame", 0))
        shortest = info.lookaheads[0]
        self._gates = {rule.name: Gate(rule.name, rule.gating, rate, self._armed) for rule in self.rules.all}
        self._states = {rule.name: RuleState(rule, self._gates[rule.name], rate) for rule in self.rules.rules}
        by_lookahead: dict[int, list[RuleState]] = {}
        for state in self._states.values():
            lookahead = shortest if state.rule.lookahead is None else state.rule.lookahead
            by_lookahead.setdefault(lookahead, []).append(state)
        self._groups = {
            lookahead: RuleGroup(states, lookahead, info.n_neurons, first, info.spec)
            for lookahead, states in by_lookahead.items()
        }
        told = {
            "stream": info.stream,
            "n_neurons": info.n_neurons,
            "frame_rate_hz": rate,
            "lookaheads": list(info.lookaheads),
            "first_frame": first,
        }
        for plugin in self._plugins.values():
            plugin.lookahead = shortest if plugin.rule.lookahead is None else plugin.rule.lookahead
            plugin.gate = self._gates[plugin.rule.name]
            plugin.timeline = Timeline(first)
            if not plugin.process.alive:
                plugin.process.launch()
            plugin.process.start({**told, "lookahead": plugin.lookahead})

    # ---------------------------------------------------------------------------------------------- results

    def process(self, chunk: SpikeChunk) -> Sequence[Event]:
        """Look at the results of one look-ahead, in the order of their frames."""
        if not chunk.n_frames:
            return []
        self._newest = chunk
        events: list[Event] = []
        group = self._groups.get(chunk.lookahead_frames)
        if group is not None:
            events += self._announce(group.process(chunk), chunk)
        for plugin in self._plugins.values():
            if plugin.lookahead == chunk.lookahead_frames:
                events += self._feed(plugin, chunk)
        return events

    def restart(self) -> None:
        """Forget values: the source counts anew, or a long gap lies behind. Arming and decisions so far stay."""
        for group in self._groups.values():
            group.restart()
        for plugin in self._plugins.values():
            plugin.timeline.restart()
            plugin.process.reset()

    def poll(self) -> Sequence[Event]:
        """Return what has come of plug-ins since, and outputs that have failed."""
        events, self._pending = self._pending, []
        for plugin in self._plugins.values():
            events += self._collect(plugin, plugin.process.answers())
        for number, output in enumerate(self._outputs):
            failure = getattr(output, "failure", "")
            if failure and number not in self._failed_outputs:
                self._failed_outputs.add(number)
                events.append(self._event(f"output {output.name}", "fault", data={"text": failure}))
        return events

    def _feed(self, plugin: _Plugin, chunk: SpikeChunk) -> list[Event]:
        decisions: list[Decision] = []
        now = 0
        for column in reversed(range(chunk.n_frames)):
            frame = chunk.first_frame + chunk.n_frames - 1 - column
            now = plugin.timeline.move(frame + plugin.lookahead)
            decisions += notice_arming(plugin.rule.name, plugin.gate, frame, plugin.lookahead, now, column)
        events = self._announce(decisions, chunk)
        if plugin.faulty:
            plugin.process.dropped_frames += chunk.n_frames
        else:
            plugin.process.offer(chunk, now)
        events += self._collect(plugin, plugin.process.answers())
        while self._patient and plugin.process.busy:
            events += self._collect(plugin, plugin.process.answers(wait_s=0.1))
        return events

    def _collect(self, plugin: _Plugin, answers: Iterable[Answer]) -> list[Event]:
        """Turn answers of a plug-in into events."""
        events: list[Event] = []
        for answer in answers:
            if answer.fault:
                events += self._fault(plugin, answer)
            elif answer.chunk is not None and not plugin.faulty:
                events += self._announce(self._judge(plugin, answer.chunk, answer), answer.chunk)
        return events

    def _judge(self, plugin: _Plugin, chunk: SpikeChunk, answer: Answer) -> list[Decision]:
        gate, decisions = plugin.gate, []
        last = chunk.first_frame + chunk.n_frames - 1
        for values in sorted(answer.events, key=lambda values: int(values["frame"])):
            frame = values["frame"]
            now = answer.now - (last - frame)  # of the results, not of the answer: a late one decides the same
            if not gate.is_armed(now) or gate.is_resting(now):
                continue
            trial = gate.trials
            value = math.nan if values["value"] is None else values["value"]
            decisions.append(
                Decision(
                    plugin.rule.name, gate.decide(now), frame, frame + plugin.lookahead, value, last - frame,
                    {**values["data"], "trial": trial},
                )
            )  # fmt: skip
        return decisions

    def _fault(self, plugin: _Plugin, answer: Answer) -> list[Event]:
        name, gate = plugin.rule.name, plugin.gate
        if plugin.faulty:  # told already: these are answers to what was asked before
            return []
        plugin.faulty = True
        gate.armed = gate.was_armed = False
        log.warning("rule %s is disarmed: %s", name, answer.fault)
        return [self._event(name, "fault", chunk=answer.chunk or self._newest, data={"text": answer.fault})]

    # ---------------------------------------------------------------------------------------------- events

    def _announce(self, decisions: Iterable[Decision], chunk: SpikeChunk) -> list[Event]:
        return [
            self._event(d.rule, d.kind, frame=d.frame, newest=d.newest_frame, value=d.value, chunk=chunk,
                        column=d.column, data=d.data)
            for d in decisions
        ]  # fmt: skip

    def _event(
        self,
        rule: str,
        kind: EventKind,
        *,
        chunk: SpikeChunk | None = None,
        frame: int | None = None,
        newest: int | None = None,
        value: float = math.nan,
        column: int = 0,
        data: Mapping[str, Any] | None = None,
    ) -> Event:
        chunk = chunk if chunk is not None else self._newest
        lookahead = chunk.lookahead_frames if chunk is not None else 0
        if frame is None:
            frame = chunk.first_frame + chunk.n_frames - 1 if chunk is not None else 0
        t_source = chunk.t_source if chunk is not None else None
        if t_source is not None and column:  # the source told the time of the last column
            t_source -= column / self._rate
        event = Event(
            rule=rule,
            kind=kind,
            number=self._number,
            frame=frame,
            newest_frame=frame + lookahead if newest is None else newest,
            lookahead=lookahead,
            value=float(value),
            t_source=t_source,
            t_recv=chunk.t_recv if chunk is not None else None,
            t_emit=self._clock(),
            data=MappingProxyType(dict(data or {})),
        )
        self._number += 1
        self._counts.setdefault(rule, Counter())[kind] += 1
        return event

    # ---------------------------------------------------------------------------------------------- control

    def check_control(self, message: Mapping[str, Any]) -> str:
        """Say what is wrong with a message; empty if nothing is. May be called by any thread."""
        unknown = set(message) - {"rule", "action", "threshold", "for_s"}
        if unknown:
            return f"unknown entry {sorted(map(str, unknown))[0]!r}: expected rule, action, threshold, for_s"
        rule, action = message.get("rule"), message.get("action")
        names = [known.name for known in self.rules.all]
        if action not in _ACTIONS:
            return f"action {_short(action)}: expected one of {', '.join(_ACTIONS)}"
        if rule != "*" and rule not in names:
            return f"rule {_short(rule)}: expected one of {', '.join(names)}, or *"
        if action == "set":
            if rule not in {known.name for known in self.rules.rules}:
                return f"rule {rule!r} has no threshold that could be set"
            if not _is_number(message.get("threshold")):
                return f"threshold {_short(message.get('threshold'))}: expected a number"
        elif "threshold" in message:
            return "threshold goes with the action set"
        if action == "pause":
            seconds = message.get("for_s")
            if not _is_number(seconds) or not seconds > 0:  # type: ignore[operator]
                return f"for_s {_short(seconds)}: expected the time of the pause (s)"
        elif "for_s" in message:
            return "for_s goes with the action pause"
        return ""

    def control(self, message: Mapping[str, Any]) -> Sequence[Event]:
        """Do what a message asks for; one that cannot be done is logged and counted, and the run goes on.

        Parameters
        ----------
        message : mapping
            ``{"rule": NAME or "*", "action": "arm" | "disarm"}``, ``{…, "action": "set", "threshold": 0.4}`` or
            ``{…, "action": "pause", "for_s": 10}``.
        """
        problem = self.check_control(message)
        if problem or not self._gates:
            self._rejected += 1
            log.warning("control message %s refused: %s", str(dict(message))[:200], problem or "no frame has come yet")
            return []
        names = list(self._gates) if message["rule"] == "*" else [message["rule"]]
        events: list[Event] = []
        for name in names:
            events += self._control(name, message)
        return events

    def _control(self, name: str, message: Mapping[str, Any]) -> list[Event]:
        data = {"by": "message", "message": dict(message)}
        if message["action"] == "set":
            before, self._states[name].threshold = self._states[name].threshold, float(message["threshold"])
            return [self._event(name, "changed", data={**data, "before": before})]
        gate, now = self._gates[name], self._now(name)
        if message["action"] == "pause":
            gate.paused_until = now + 1 + math.ceil(float(message["for_s"]) * self._rate)
        else:
            gate.armed = message["action"] == "arm"
            gate.paused_until = 0
            plugin = self._plugins.get(name)
            if gate.armed and plugin is not None and plugin.faulty:
                plugin.faulty = False
                plugin.process.restart()
        # The message decides about frames that are still to come.
        gate.was_armed = gate.is_armed(now + 1)
        kind: EventKind = "armed" if message["action"] == "arm" else "disarmed"
        return [self._event(name, kind, data=data)]

    def _now(self, name: str) -> int:
        if name in self._plugins:
            return self._plugins[name].timeline.now
        return next(g.timeline.now for g in self._groups.values() if g.has(name))

    def describe(self) -> list[dict[str, Any]]:
        """State of each rule as plain values, for a view; may be called by any thread."""
        told = []
        for rule in self.rules.all:
            gate, state = self._gates.get(rule.name), self._states.get(rule.name)
            told.append(
                {
                    "rule": rule.name,
                    "what": rule.in_words(),
                    "plugin": rule.name in self._plugins,
                    "armed": gate.was_armed if gate is not None else None,
                    "threshold": state.threshold if state is not None else None,
                    "compare": state.rule.compare if state is not None else None,
                    "events": dict(self._counts[rule.name]),
                }
            )
        return told

    # ---------------------------------------------------------------------------------------------- the end

    def save(self) -> dict[str, Any]:
        """State of the decisions, of plain values."""
        return {name: gate.save() for name, gate in self._gates.items()}

    def finish(self) -> dict[str, Any]:
        """Wait shortly for last answers, end plug-ins, and tell what was decided how often.

        Events that come of it are given out by the next :meth:`poll`.
        """
        plugins = {name: self._end(plugin) for name, plugin in self._plugins.items()}
        summary: dict[str, Any] = {
            "file": self.rules.path,
            "rules": {name: dict(sorted(counts.items())) for name, counts in self._counts.items()},
        }
        if plugins:
            summary["plugins"] = plugins
        if self._outputs:
            summary["outputs"] = [_account(output) for output in self._outputs]
        if self._rejected:
            summary["rejected_controls"] = self._rejected
        summary["state"] = self.save()
        return summary

    def _end(self, plugin: _Plugin) -> dict[str, Any]:
        process = plugin.process
        deadline = self._clock() + LAST_WORDS_S
        if self._gates:
            self._pending += self._collect(plugin, process.answers())
            while process.busy and plugin.gate.armed and self._clock() < deadline:
                self._pending += self._collect(plugin, process.answers(wait_s=0.05))
        saved = process.save(max(0.1, deadline - self._clock())) if self._gates else None
        process.close()
        return {
            "chunks": process.chunks,
            "dropped_frames": process.dropped_frames,
            "slowest_ms": round(process.slowest_ms, 3),
            "saved": saved,
        }

    def close(self) -> None:
        """End plug-ins without more ado; for a run that never began."""
        for plugin in self._plugins.values():
            plugin.process.kill()


def _account(output: Any) -> dict[str, Any]:
    describe = getattr(output, "describe", None)
    if describe is not None:
        return dict(describe())
    return {"name": output.name, "sent": None, "dropped": output.dropped, "failure": None}


def _short(value: Any) -> str:
    return repr(value)[:100]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300

"""What `run` needs for rules: its options, outputs of events, control from outside, and a few lines of account."""

from __future__ import annotations

import os
import queue
import secrets
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.triggers.host import TriggerHost

__all__ = ["Triggering", "add_triggers", "describe_triggers"]

#: Environment variable with the token for control.
TOKEN_VARIABLE = "CASCADE_RT_CONTROL_TOKEN"


def add_triggers(parser: argparse.ArgumentParser) -> None:
    """Add the options for rules."""
    group = parser.add_argument_group("rules (docs/triggers.md)")
    group.add_argument("--rules", type=Path, metavar="FILE", help="decide on results by the rules of this YAML file")
    group.add_argument(
        "--event-sink", action="append", default=[], metavar="KIND:…",
        help="where events go besides --sink and --record: serial:PORT[?baud=N], file:PATH.jsonl, "
             "callback:FILE.py:FUNCTION, lsl:NAME, openephys:tcp://HOST:PORT; may be given repeatedly",
    )  # fmt: skip
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--arm", action="store_true", help="begin with all rules armed, also those that await a message"
    )
    choice.add_argument("--disarmed", action="store_true", help="begin with no rule armed")
    group.add_argument(
        "--control", metavar="ADDRESS",
        help="take messages that arm, disarm and change rules (tcp://127.0.0.1:PORT, ?type=rep|pull)",
    )  # fmt: skip
    group.add_argument(
        "--control-token", type=Path, metavar="FILE",
        help=f"file with the token that these must have (default: {TOKEN_VARIABLE}, or a new one, which is printed)",
    )  # fmt: skip


class Triggering:
    """The rules of a run and what belongs to them; checks every option when made, begins with the ``with`` block.

    Parameters
    ----------
    args : Namespace
    spec : ModelSpec
    lookaheads, n_neurons
        As far as known: rules that do not fit are refused now.
    patient : bool
        The source can wait for plug-ins.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        spec: ModelSpec,
        *,
        lookaheads: Sequence[int] | None,
        n_neurons: int | None,
        patient: bool,
    ) -> None:
        self.host: TriggerHost | None = None
        self._messages: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self.metadata: dict[str, Any] = {}
        self.sinks: list[Any] = []
        self._spec = spec
        self._stack = ExitStack()
        self._server: Any = None
        if args.rules is None:
            given = [
                name for name in ("event_sink", "arm", "disarmed", "control", "control_token") if getattr(args, name)
            ]
            if given:
                raise InputError(f"--{given[0].replace('_', '-')} is about rules: give them with --rules FILE")
            return
        from cascade_rt.endpoints.event_sinks import make_event_sink
        from cascade_rt.triggers.host import TriggerHost
        from cascade_rt.triggers.rulefile import read_rules

        rules = read_rules(args.rules)
        rules.check(n_neurons=n_neurons, lookaheads=lookaheads)
        self.sinks = [make_event_sink(text, insecure=args.insecure) for text in args.event_sink]
        armed = True if args.arm else False if args.disarmed else None
        self.host = TriggerHost(rules, armed=armed, patient=patient, outputs=self.sinks)
        self.metadata = {"rules": {"file": str(args.rules), "text": rules.text, "armed": armed}}
        if args.control:
            self._listen(args)

    def _listen(self, args: argparse.Namespace) -> None:
        from cascade_rt.endpoints.control import ControlServer

        assert self.host is not None
        token, made = read_token(args.control_token)
        self._server = ControlServer(
            args.control, token, check=self.host.check_control, describe=self.host.describe
        )  # fmt: skip
        if made:
            print(f"control token: {token}", file=sys.stderr)

    def submit(self, message: Mapping[str, Any]) -> str:
        """Pass on a control message of another thread; says what is wrong with it, if anything is."""
        problem = "this run has no rules" if self.host is None else self.host.check_control(message)
        if not problem:
            self._messages.put(dict(message))
        return problem

    def controls(self) -> list[Mapping[str, Any]]:
        """Return the messages that have come since the last call."""
        messages: list[Mapping[str, Any]] = [] if self._server is None else self._server.take()
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def __enter__(self) -> Triggering:
        if self.host is not None:
            self._stack.callback(self.host.close)
            self.host.prepare(self._spec)
            if self._server is not None:
                self._stack.enter_context(self._server)
                print(f"control at {self._server.address}", file=sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def read_token(path: Path | None) -> tuple[str, bool]:
    """Token for control, and whether it was made just now.

    Parameters
    ----------
    path : Path or None
        A file whose first line it is.
    """
    if path is not None:
        try:
            return path.read_text(encoding="utf-8").strip().splitlines()[0], False
        except (OSError, UnicodeDecodeError, IndexError) as error:
            raise InputError(f"--control-token {path}: expected a file with the token in its first line") from error
    token = os.environ.get(TOKEN_VARIABLE, "")
    return (token, False) if token else (secrets.token_urlsafe(16), True)


def describe_triggers(values: Mapping[str, Any]) -> list[str]:
    """Put what rules did into words."""
    told = values.get("triggers") or {}
    lines = []
    for name, counts in told.get("rules", {}).items():
        lines.append(f"rule {name}: " + (", ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing decided"))
    for name, plugin in told.get("plugins", {}).items():
        if plugin["dropped_frames"]:
            lines.append(f"  {name}: {plugin['dropped_frames']} frames of results did not reach the plug-in")
    for output in told.get("outputs", []):
        failed = f"; failed: {output['failure']}" if output["failure"] else ""
        sent = "" if output["sent"] is None else f"{output['sent']} sent, "
        lines.append(f"output {output['name']}: {sent}{output['dropped']} dropped{failed}")
    event = values.get("stages", {}).get("event")
    if event and event["count"]:
        p50, p99, most = (event[key] for key in ("p50_ms", "p99_ms", "max_ms"))
        lines.append(f"receive to event: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {most:.2f} ms")
    return lines

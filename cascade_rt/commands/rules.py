"""``cascade-rt rules``: check a rule file, and see what it would have done with a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, print_json

if TYPE_CHECKING:
    import argparse

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.triggers.rules import RuleSet

_DESCRIPTION = """\
Checks a rule file and says in words what each rule does. With --recording the rules decide on results that
`run` has written, as they would have during that run. docs/triggers.md describes the file."""

_EPILOG = """\
examples:
  cascade-rt rules stimulate.yaml
  cascade-rt rules stimulate.yaml --recording session1 --json"""

#: Events that are listed.
LISTED = 20


def add_parser(subparsers: Any) -> None:
    """Add the command ``rules``."""
    import argparse

    parser = subparsers.add_parser(
        "rules",
        help="check a file of rules, and what it would do",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the rules (YAML)")
    parser.add_argument(
        "--recording",
        type=Path,
        metavar="RESULT",
        help="results of `run`: an .npz of --sink, or the folder of --record",
    )
    parser.add_argument("--model", metavar="NAME", help="for rules on discrete spikes, if the recording's is elsewhere")
    parser.add_argument("--arm", action="store_true", help="take rules that wait for a message as armed")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Check rules and tell what they do."""
    from cascade_rt.triggers.host import TriggerHost
    from cascade_rt.triggers.rulefile import read_rules

    rules = read_rules(args.file)
    armed = True if args.arm else None
    answer: dict[str, Any] = {"file": str(args.file), "rules": {rule.name: rule.in_words() for rule in rules.all}}
    if not args.json:
        for name, words in answer["rules"].items():
            print(f"{name}: {words}")
    if args.recording is None:
        host = TriggerHost(rules)
        try:
            host.prepare()  # a plug-in that cannot be loaded is a mistake in the file too
        finally:
            host.close()
    else:
        answer.update(_apply(args, rules, armed))
    if args.json:
        print_json(answer)
    elif args.recording is not None:
        _tell(answer)
    return 0


def _apply(args: argparse.Namespace, rules: RuleSet, armed: bool | None) -> dict[str, Any]:
    from cascade_rt.triggers.rehearsing import apply_rules, read_results

    results = read_results(args.recording)
    events, summary = apply_rules(rules, results, _spec(args.model or results.model, rules), armed=armed)
    frames = max(frame.size for frame in results.frame.values())
    return {
        "recording": str(args.recording),
        "duration_s": frames / results.frame_rate_hz,
        "summary": summary,
        "events": [event.to_dict() for event in events],
        "frame_rate_hz": results.frame_rate_hz,
        "first_frame": results.first_frame,
    }


def _spec(name: str, rules: RuleSet) -> ModelSpec | None:
    from cascade_rt.bundle import find_bundle, read_spec

    if not name or not any(rule.signal == "spike" for rule in rules.rules):
        return None
    return read_spec(find_bundle(name))


def _tell(answer: dict[str, Any]) -> None:
    from ._triggers import describe_triggers

    print(f"in {answer['duration_s']:.1f} s of {answer['recording']}:")
    for line in describe_triggers({"triggers": answer["summary"]}):
        print(f"  {line}")
    for event in answer["events"][:LISTED]:
        seconds = (event["newest_frame"] - answer["first_frame"]) / answer["frame_rate_hz"]
        value = "" if event["value"] is None else f", value {event['value']:.3g}"
        text = f", {event['data']['text']}" if event["kind"] == "fault" else ""
        print(f"  {seconds:9.2f} s  frame {event['frame']}  {event['rule']}  {event['kind']}{value}{text}")
    if len(answer["events"]) > LISTED:
        print(f"  … and {len(answer['events']) - LISTED} more (--json lists all)")

"""What the findings amount to: one line in plain words."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

from .wording import defined, plural

if TYPE_CHECKING:
    from cascade_rt.quality import Finding
    from cascade_rt.session import Inference

__all__ = ["Named", "Verdict", "named_findings", "verdict"]

#: Longest first clause of a finding that is quoted whole.
LONGEST = 160


class Verdict(NamedTuple):
    """How a recording looks.

    Parameters
    ----------
    level : "good", "warning" or "error"
    text : str
        In plain words.
    """

    level: Literal["good", "warning", "error"]
    text: str


class Named(NamedTuple):
    """A finding, and the planes that have it.

    Parameters
    ----------
    finding : Finding
        Of the first of them.
    planes : tuple of str
        Their names; empty if the source has one plane only, or all have it.
    """

    finding: Finding
    planes: tuple[str, ...]


def named_findings(inference: Inference) -> list[Named]:
    """Findings of all planes, each once, the worst first."""
    first: dict[tuple[str, str, str], Finding] = {}
    where: dict[tuple[str, str, str], list[str]] = {}
    for plane in inference.planes:
        for finding in plane.findings:
            key = (finding.severity, finding.code, finding.text)
            first.setdefault(key, finding)
            if plane.name not in where.setdefault(key, []):
                where[key].append(plane.name)
    named = [
        Named(finding, () if len(where[key]) == len(inference.planes) else tuple(where[key]))
        for key, finding in first.items()
    ]
    return sorted(named, key=lambda item: item.finding.order)


def verdict(inference: Inference) -> Verdict:
    """Sum up the findings in one line."""
    found = [item.finding for item in named_findings(inference)]
    errors = [finding for finding in found if finding.severity == "error"]
    warnings = [finding for finding in found if finding.severity == "warning"]
    if errors:
        return Verdict("error", f"Not usable as it is: {_first_clause(errors[0].text)}.")
    if not any(defined(plane) for plane in inference.planes):
        return Verdict("error", f"Not usable as it is: no neuron has a spike probability{_usual_reason(inference)}.")
    if warnings:
        things = f"{len(warnings)} {plural(len(warnings), 'thing')}" if len(warnings) > 1 else "one thing"
        return Verdict("warning", f"Look at {things} before you rely on it: {_first_clause(warnings[0].text)}.")
    return Verdict("good", "Looks good: nothing found that speaks against these results.")


def _first_clause(text: str) -> str:
    clause = re.split(r"[:;]\s|\.\s|\.$", text.strip(), maxsplit=1)[0]
    if re.match("[A-Z][a-z ]", clause):
        clause = clause[0].lower() + clause[1:]
    return clause if len(clause) <= LONGEST else clause[:LONGEST].rsplit(" ", 1)[0] + " …"


def _usual_reason(inference: Inference) -> str:
    reasons = Counter(why for plane in inference.planes for why in plane.why_undefined if why)
    return f" ({reasons.most_common(1)[0][0]})" if reasons else ""

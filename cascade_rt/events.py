"""Events of a run: what a rule decided, and why."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .chunks import check_choice
from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Event", "EventKind"]

EventKind = Literal["stimulate", "sham", "suppressed", "armed", "disarmed", "changed", "fault"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that a rule decided, or that happened to it.

    Parameters
    ----------
    rule : str
        Name of the rule.
    kind : str
        ``stimulate``: do it; ``sham``: the condition was met, but this one is a control; ``suppressed``: met, but the
        probability of stimulation spoke against it; ``armed``, ``disarmed``, ``changed``: by a message or a time;
        ``fault``: the rule failed and is disarmed.
    number : int
        Counts the events of a run from 0.
    frame : int
        Index, counted by the source, of the frame that the deciding estimate describes.
    newest_frame : int
        Newest frame that the estimate made use of: ``frame + lookahead``.
    lookahead : int
    value : float
        What was compared with the threshold; NaN where nothing was.
    t_source : float or None
        The source's own time of the newest frame (s).
    t_recv, t_emit : float or None
        When that frame was received and the event was made: seconds of the run's monotonic clock.
    data : mapping
        More, of plain values: neurons, threshold, text of a fault.
    """

    rule: str
    kind: EventKind
    number: int = 0
    frame: int = 0
    newest_frame: int = 0
    lookahead: int = 0
    value: float = float("nan")
    t_source: float | None = None
    t_recv: float | None = None
    t_emit: float | None = None
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, EventKind)
        if not self.rule:
            raise InputError("an event needs the name of its rule")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; NaN becomes None."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)} | {"data": dict(self.data)}
        values["value"] = None if self.value != self.value else float(self.value)
        return values

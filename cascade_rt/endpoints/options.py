"""Options behind a question mark: ``?name=value&name=value``, read and checked once for all kinds of endpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Options", "port_number"]


class Options:
    """The options of one endpoint; every mistake is an InputError that names the endpoint.

    Parameters
    ----------
    text : str
        The whole endpoint, for messages.
    query : str
        What stands behind the question mark.
    known : sequence of str
        Names that may occur.
    """

    def __init__(self, text: str, query: str, known: Sequence[str]) -> None:
        self.text = text
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError as error:
            raise InputError(f"{text!r}: options are written ?name=value&name=value ({error})") from error
        self._values = dict(pairs)
        unknown = [name for name in self._values if name not in known]
        if unknown or len(self._values) < len(pairs):
            what = f"unknown option {unknown[0]!r}" if unknown else "an option is given twice"
            raise InputError(f"{text!r}: {what}; known are {', '.join(known) or 'none here'}")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text_of(self, name: str, default: str = "") -> str:
        """Return the option as it stands."""
        return self._values.get(name, default)

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """Return one of some words."""
        value = self._values.get(name, default)
        if value not in allowed:
            raise InputError(f"{self.text!r}: {name}={value}: expected {' or '.join(allowed)}")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return ``true`` or ``false``."""
        value = self._values.get(name, str(default)).lower()
        if value not in ("true", "false"):
            raise InputError(f"{self.text!r}: {name}={self._values[name]}: expected true or false")
        return value == "true"

    def positive(self, name: str, default: int | None = None) -> int | None:
        """Return a positive integer."""
        value = self._values.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 10_000_000):
            raise InputError(f"{self.text!r}: {name}={value}: expected a positive integer")
        return int(value)

    def number(self, name: str, default: float, *, positive: bool = True) -> float:
        """Return a finite number, above 0 if ``positive``."""
        text = self._values.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (positive and value <= 0) or value == 0:
            raise InputError(f"{self.text!r}: {name}={text}: expected a number{' above 0' if positive else ', not 0'}")
        return value

    def path(self, name: str) -> Path | None:
        """Return a path."""
        return Path(self._values[name]) if name in self._values else None


def port_number(text: str, port: str) -> int:
    """Return a TCP port from 1 to 65535."""
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"{text!r}: port {port!r}: expected 1 to 65535")
    return int(port)

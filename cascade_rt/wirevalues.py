"""What a value in a JSON header of a stranger may be, and how to show one that may not."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["MAX_INDEX", "is_index", "is_number", "short"]

MAX_INDEX = 2**53 - 1


def is_index(value: Any) -> bool:
    """Tell whether a value is an integer from 0 to 2**53 - 1, which every language can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INDEX


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float
        return False


def short(value: Any, limit: int = 60) -> str:
    """Show a value in a message, whatever it is."""
    try:
        text = repr(value) if not isinstance(value, Exception) else str(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        text = type(value).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"

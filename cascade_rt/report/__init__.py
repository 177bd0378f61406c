"""The report on an inference: one HTML file that stands on its own."""

from __future__ import annotations

from .page import write_report
from .verdict import Verdict, verdict

__all__ = ["Verdict", "verdict", "write_report"]

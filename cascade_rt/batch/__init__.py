"""Many sessions, one after another or at once: each finished once, whatever happens in between."""

from __future__ import annotations

from .run import BatchSummary, Outcome, run_batch
from .sessions import Search, Session, find_sessions, read_list

__all__ = ["BatchSummary", "Outcome", "Search", "Session", "find_sessions", "read_list", "run_batch"]

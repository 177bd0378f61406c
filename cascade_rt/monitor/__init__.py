"""A page in the browser that shows a run: samples, activity, latency, events; and lets rules be armed.

:func:`start_monitor` starts a process that serves the page and gives a sink for the runner. What the run does for it
is to hand over references; everything else happens in that process, which drops what it cannot show in time.
"""

from __future__ import annotations

from .starting import DEFAULT_ADDRESS, Monitor, start_monitor

__all__ = ["DEFAULT_ADDRESS", "Monitor", "start_monitor"]

"""The report on a batch: one HTML page that lists what was done, skipped and failed."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cascade_rt.report.style import STYLE

if TYPE_CHECKING:
    from .run import BatchSummary
    from .task import Outcome

__all__ = ["write_page"]

_MORE_STYLE = """
table.sessions { width: 100%; border-collapse: collapse; font-size: 14px; }
table.sessions th, table.sessions td { text-align: left; vertical-align: top; padding: 6px 10px 6px 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
table.sessions .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scroll { overflow-x: auto; }
"""
_SIGN = {"done": ("good", "done"), "skipped": ("note", "was done"), "failed": ("error", "failed")}


def write_page(summary: BatchSummary, n_sessions: int, path: Path) -> Path:
    """Write the page; it appears as a whole.

    Parameters
    ----------
    summary : BatchSummary
    n_sessions : int
        Sessions of the batch, those included that it did not come to.
    path : Path
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(_render(summary, n_sessions, path.absolute().parent), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _render(summary: BatchSummary, n_sessions: int, folder: Path) -> str:
    counts = {status: summary.count(status) for status in _SIGN}
    left = n_sessions - len(summary.outcomes)
    level = "error" if counts["failed"] else "warning" if left else "good"
    words = f"{counts['done']} done, {counts['skipped']} were done before, {counts['failed']} failed"
    if left:
        words += f", {left} left: give the command again to go on"
    order = {"failed": 0, "done": 1, "skipped": 2}
    rows = "".join(_row(one, folder) for one in sorted(summary.outcomes, key=lambda one: order[one.status]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>cascade_rt: batch of {n_sessions} sessions</title><style>{STYLE}{_MORE_STYLE}</style></head>
<body><main>
<header><h1>Batch of {n_sessions} sessions</h1>
<p>{escape(summary.where)}, {summary.seconds:.0f} s, log {escape(summary.log.name)}</p></header>
<div class="verdict {level}">{escape(words)}</div>
<h2>Sessions</h2>
<div class="card scroll" style="padding: 4px 16px"><table class="sessions">
<tr><th>session</th><th>state</th><th class="number">neurons</th><th class="number">frames</th>
<th class="number">median ν</th><th>model</th><th class="number">s</th></tr>
{rows}</table></div>
</main></body></html>
"""


def _row(outcome: Outcome, folder: Path) -> str:
    summary = outcome.summary
    level, sign = _SIGN[outcome.status]
    name = escape(outcome.session)
    if outcome.report and Path(outcome.report).is_file():
        link = quote(Path(os.path.relpath(outcome.report, folder)).as_posix()) if _near(outcome.report, folder) else ""
        name = f'<a href="{link or Path(outcome.report).absolute().as_uri()}">{name}</a>'
    told = [outcome.reason, *summary.get("warnings", [])]
    details = "".join(f'<span class="where">{escape(text)}</span>' for text in told if text)
    nu = summary.get("median_noise_level")
    numbers = [summary.get("neurons", ""), summary.get("frames", ""), "" if nu is None else f"{nu:.2g}"]
    cells = "".join(f'<td class="number">{value}</td>' for value in numbers)
    return (
        f'<tr><td>{name}{details}</td><td><span class="label {level}">{sign}</span></td>{cells}'
        f'<td>{escape(str(summary.get("model") or ""))}</td><td class="number">{outcome.seconds:.1f}</td></tr>\n'
    )


def _near(path: str, folder: Path) -> bool:
    """Whether there is a way from one folder to the other: not between two drives of Windows."""
    return Path(path).absolute().anchor == folder.anchor

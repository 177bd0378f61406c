"""Tables of scores, as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .evaluate import Score, Scores, medians

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Table", "median_rows", "to_markdown"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores of one model in one kind of test.

    Parameters
    ----------
    title : str
        What was tested on what.
    lookaheads : tuple of int
    scores : tuple of Score
        Per neuron.
    """

    title: str
    lookaheads: tuple[int, ...]
    scores: tuple[Score, ...]


def median_rows(table: Table) -> list[tuple[str, float, list[Scores], int]]:
    """Medians over neurons.

    Returns
    -------
    list of (dataset, noise level, scores for each look-ahead, neurons)
        One row for each dataset and noise level, then all datasets together as "".
    """
    rows = []
    for per_dataset in (True, False):
        values = medians(table.scores, per_dataset=per_dataset)
        for dataset, level in sorted({(d, nu) for d, nu, _ in values}):
            cells = [values[dataset, level, k] for k in table.lookaheads]
            rows.append((dataset, level, [s for s, _ in cells], cells[0][1]))
    return rows


def to_markdown(tables: Sequence[Table], *, heading: str = "###") -> str:
    """Markdown: for each test, a table for each of correlation, error and bias."""
    parts = []
    for table in tables:
        rows = median_rows(table)
        parts.append(f"{heading} {table.title}\n")
        for number, name in enumerate(Scores._fields):
            parts.append(f"Median {name} over neurons, by look-ahead (frames):\n")
            parts.append("| dataset | ν | neurons | " + " | ".join(map(str, table.lookaheads)) + " |")
            parts.append("|---" * (3 + len(table.lookaheads)) + "|")
            for dataset, level, cells, n in rows:
                style = "{:.3f}" if number == 0 else "{:.2f}" if number == 1 else "{:+.2f}"
                values = " | ".join(style.format(c[number]) for c in cells)
                parts.append(f"| {dataset or '**all**'} | {level:g} | {n} | {values} |")
            parts.append("")
    return "\n".join(parts)

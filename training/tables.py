"""Scores as Markdown tables, and as a JSON document that can be read back."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import TrainingError

from .bootstrap import CONFIDENCE, RESAMPLES
from .checkpoint import replaced
from .evaluate import Score, Scores
from .summary import ALL, COMPARED, MEASURES, Table, comparisons, short_lookahead, summarise
from .timing import Timing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .bootstrap import Interval
    from .summary import Comparison, Group, Summary

__all__ = [
    "from_document",
    "head_rows",
    "number_text",
    "read_document",
    "to_document",
    "to_markdown",
    "with_interval",
    "write_document",
]

FORMAT = 2
#: Shown per dataset, where there is room for few numbers.
_PER_DATASET = ("correlation", "error", "bias", "timing_error_ms", "detected_percent")


# ── Markdown ──


def to_markdown(tables: Sequence[Table], *, heading: str = "###") -> str:
    """Markdown: each test with all neurons together and each dataset, then the rivals beside the model.

    Parameters
    ----------
    tables : sequence of Table
    heading : str
        What the title of a table begins with.
    """
    parts: list[str] = []
    compared = {(c.test, c.title): c for c in comparisons(tables)}
    for table in tables:
        summary = summarise(table.scores)
        comparison = compared.get((table.test, table.title)) if table.rival else None
        parts += [f"{heading}{'#' if comparison else ''} {table.title}\n"]
        if not table.scores:
            parts += ["No scores: every recording has more noise by itself.\n"]
            continue
        rows = _all_rows(table, summary) if comparison is None else _rival_rows(comparison)
        datasets = sorted({s.dataset for s in table.scores})
        whose = f"the neurons of {datasets[0]}" if len(datasets) == 1 else "neurons"
        parts += [f"Medians over {whose} [{_INTERVAL}], by look-ahead (frames):\n", *rows, ""]
        if len(datasets) > 1:
            parts += ["Medians for each dataset, by look-ahead:\n", *_dataset_rows(table, summary), ""]
    return "\n".join(parts)


_INTERVAL = f"{100 * CONFIDENCE:g} % bootstrap interval"


def _all_rows(table: Table, summary: Summary) -> list[str]:
    """All neurons together: a row for each measure and noise level."""
    rows = head_rows(["", "ν", "neurons", *map(str, table.lookaheads)])
    for name, measure in MEASURES.items():
        for level in sorted({s.noise_level for s in table.scores}):
            cells = [summary[ALL, level, k][name] for k in table.lookaheads]
            values = " | ".join(with_interval(cell, measure.style) for cell in cells)
            rows.append(f"| {measure.label} | {level:g} | {max(cell.n for cell in cells)} | {values} |")
    return rows


def _rival_rows(comparison: Comparison) -> list[str]:
    """All neurons together, model and rival: at the model's short look-ahead and at its longest."""
    lookaheads = dict(comparison.lookaheads)
    chosen = sorted({short_lookahead(list(lookaheads)), max(lookaheads)})
    # A rival with one look-ahead has one column.
    first = {lookaheads[k]: k for k in reversed(chosen)}
    rows = head_rows(
        ["", "ν", "neurons"]
        + [f"{comparison.rival}, {theirs}" for theirs in sorted(first)]
        + [text for k in chosen for text in (f"this model, {k}", f"difference, {k}")]
    )
    for name, measure in COMPARED.items():
        for level in sorted({level for _, level, _ in comparison.summary}):
            cells = {k: comparison.summary[ALL, level, k][name] for k in chosen}
            values = [with_interval(cells[first[theirs]].theirs, measure.style) for theirs in sorted(first)]
            for cell in cells.values():
                values.append(with_interval(cell.ours, measure.style))
                values.append(with_interval(cell.difference, "+" + measure.style.lstrip("+")))
            neurons = max(cell.difference.n for cell in cells.values())
            rows.append(f"| {measure.label} | {level:g} | {neurons} | " + " | ".join(values) + " |")
    return rows


def _dataset_rows(table: Table, summary: Summary) -> list[str]:
    """Each dataset and noise level: medians at a short look-ahead and at the longest."""
    chosen = sorted({short_lookahead(table.lookaheads), table.lookaheads[-1]})
    columns = [(name, k) for name in _PER_DATASET for k in chosen]
    rows = head_rows(["dataset", "ν", "neurons", *(f"{MEASURES[name].label}, {k}" for name, k in columns)])
    for dataset, level in dict.fromkeys((d, level) for d, level, _ in summary if d != ALL):
        cells = [(summary[dataset, level, k][name], MEASURES[name].style) for name, k in columns]
        values = " | ".join(number_text(cell.median, style) for cell, style in cells)
        rows.append(f"| {dataset} | {level:g} | {max(cell.n for cell, _ in cells)} | {values} |")
    return rows


def head_rows(titles: Sequence[str]) -> list[str]:
    """First two lines of a Markdown table."""
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def with_interval(value: Interval, style: str) -> str:
    """Median and interval, "0.913 [0.889, 0.925]"; the median alone where there is no interval."""
    text, low, high = (number_text(x, style) for x in (value.median, value.low, value.high))
    return text if math.isnan(value.low) else f"{text} [{low}, {high}]"


def number_text(value: float, style: str) -> str:
    """A number in a format; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    text = format(value, style)
    return text if float(text) else format(0.0, style)  # never "-0"


# ── JSON ──


def to_document(tables: Sequence[Table], **about: Any) -> dict[str, Any]:
    """Plain values for JSON: scores of each neuron, their medians with intervals, and comparisons with rivals.

    Parameters
    ----------
    tables : sequence of Table
    **about
        Further entries, such as what was scored.
    """
    return {
        "format": FORMAT,
        **about,
        "intervals": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "over": "neurons"},
        "tables": [
            {
                "title": t.title,
                "test": t.test,
                "model": t.model,
                "rival": t.rival,
                "lookaheads": list(t.lookaheads),
                "summary": _summary_rows(summarise(t.scores)),
                "scores": [_score_row(s) for s in t.scores],
            }
            for t in tables
        ],
        "comparisons": [_comparison_entry(c) for c in comparisons(tables)],
    }


def from_document(document: Mapping[str, Any]) -> list[Table]:
    """Tables from what :func:`to_document` made.

    Raises
    ------
    TrainingError
        The document has another form.
    """
    if document.get("format") != FORMAT:
        raise TrainingError(f"scores of format {document.get('format')!r}: expected {FORMAT}; score the model again")
    return [
        Table(
            title=t["title"],
            test=t["test"],
            model=t["model"],
            rival=t["rival"],
            lookaheads=tuple(t["lookaheads"]),
            scores=tuple(_score(row) for row in t["scores"]),
        )
        for t in document["tables"]
    ]


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document of scores; its folder is made."""
    with replaced(path) as file:
        file.write(json.dumps(document, allow_nan=False).encode())


def read_document(path: Path) -> dict[str, Any]:
    """Read what :func:`write_document` wrote.

    Raises
    ------
    TrainingError
        The file is not JSON.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path}: not readable as JSON ({error}); score the model again") from error
    return dict(document)


def _summary_rows(summary: Summary) -> list[dict[str, Any]]:
    return [
        _where(group) | {name: _interval(value) for name, value in values.items()} for group, values in summary.items()
    ]


def _where(group: Group) -> dict[str, Any]:
    dataset, level, lookahead = group
    return {"dataset": dataset or "all", "noise_level": level, "lookahead": lookahead}


def _interval(value: Interval) -> dict[str, float | None]:
    return {name: _or_null(number) for name, number in value._asdict().items()}


def _comparison_entry(comparison: Comparison) -> dict[str, Any]:
    return {
        "test": comparison.test,
        "title": comparison.title,
        "rival": comparison.rival,
        "lookaheads": [list(pair) for pair in comparison.lookaheads],
        "summary": [
            _where(group)
            | {name: {k: _interval(v) for k, v in compared._asdict().items()} for name, compared in values.items()}
            for group, values in comparison.summary.items()
        ],
    }


def _score_row(s: Score) -> dict[str, Any]:
    where = {"dataset": s.dataset, "neuron": s.neuron, "noise_level": s.noise_level, "lookahead": s.lookahead}
    return where | {name: _or_null(value) for name, value in (s.scores._asdict() | s.timing._asdict()).items()}


def _score(row: Mapping[str, Any]) -> Score:
    value: dict[str, Any] = {name: math.nan if number is None else number for name, number in row.items()}
    return Score(
        dataset=value["dataset"],
        neuron=value["neuron"],
        noise_level=value["noise_level"],
        lookahead=value["lookahead"],
        scores=Scores(*(value[name] for name in Scores._fields)),
        timing=Timing(*(value[name] for name in Timing._fields)),
    )


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None

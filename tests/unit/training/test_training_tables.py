"""Tables of scores: as Markdown, and as JSON and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scores import made_up, table

from cascade_rt.errors import TrainingError
from training.summary import Table
from training.tables import from_document, read_document, to_document, to_markdown, write_document
from training.timing import Timing


def _tables() -> list[Table]:
    timing = Timing(0.0104, -0.0004, 0.75, 1.26, 12)
    values = [("A", 0.5), ("A", 0.7), ("A", float("nan")), ("B", 0.9)]
    ours = [
        made_up(d, str(i), c - 0.01 * k, lookahead=k, timing=timing)
        for k in (0, 2, 7)
        for i, (d, c) in enumerate(values)
    ]
    theirs = [made_up(d, str(i), c - 0.1, lookahead=7) for i, (d, c) in enumerate(values)]
    return [table(*ours), table(*theirs, rival=True, model="published")]


def _row(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_all_neurons_with_intervals() -> None:
    text = to_markdown(_tables()[:1])
    assert text.startswith("### ours in a test\n")
    assert "| neurons | 0 | 2 | 7 |" in text
    assert _row(text, "| correlation |")[:4] == ["correlation", "2", "3", "0.700 [0.500, 0.900]"]
    assert _row(text, "| timing error")[:4] == ["timing error (ms)", "2", "4", "10 [10, 10]"]
    assert _row(text, "| signed timing error")[3] == "+0 [+0, +0]"  # not "-0"
    assert _row(text, "| detected")[3] == "75 [75, 75]"
    assert _row(text, "| false events")[3] == "1.3 [1.3, 1.3]"


def test_each_dataset_at_a_short_and_at_the_longest_lookahead() -> None:
    text = to_markdown(_tables()[:1])
    assert "| dataset | ν | neurons | correlation, 2 | correlation, 7 | error, 2 | error, 7 | bias, 2 |" in text
    assert _row(text, "| A |")[:6] == ["A", "2", "3", "0.580", "0.530", "1.00"]
    assert _row(text, "| B |")[:5] == ["B", "2", "1", "0.880", "0.830"]
    single = to_markdown([table(made_up("A", "0", 0.5), made_up("A", "1", 0.6))])
    assert "Medians over the neurons of A [95 % bootstrap interval]" in single
    assert "| A |" not in single


def test_a_test_without_scores_says_so() -> None:
    assert to_markdown([table(title="quiet levels")]) == (
        "### quiet levels\n\nNo scores: every recording has more noise by itself.\n"
    )


def test_a_rival_stands_beside_the_model() -> None:
    text = to_markdown(_tables())
    assert "#### published in a test" in text
    head = "|  | ν | neurons | published, 7 | this model, 2 | difference, 2 | this model, 7 | difference, 7 |"
    (_, part) = text.split(head)
    row = _row(part, "| correlation |")
    assert row[:3] == ["correlation", "2", "3"]
    assert [cell.split(" ")[0] for cell in row[3:]] == ["0.600", "0.680", "+0.080", "0.630", "+0.030"]
    assert _row(part, "| timing error")[2:4] == ["0", "n/a"]


def test_json_and_back(tmp_path: Path) -> None:
    tables = _tables()
    path = tmp_path / "new" / "scores.json"
    write_document(path, to_document(tables, model="ours", digest="abc"))
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert document == read_document(path)
    assert (document["model"], document["digest"]) == ("ours", "abc")
    ours, theirs = document["tables"]
    assert ours["scores"][0] == {
        "dataset": "A", "neuron": "0", "noise_level": 2.0, "lookahead": 0,
        "correlation": 0.5, "error": 1.0, "bias": -0.5,
        "absolute_error_s": 0.0104, "signed_error_s": -0.0004, "detected": 0.75, "false_per_min": 1.26, "events": 12,
    }  # fmt: skip
    (row,) = (r for r in ours["summary"] if (r["dataset"], r["lookahead"]) == ("all", 0))
    assert row["correlation"] == {"median": 0.7, "low": 0.5, "high": 0.9, "n": 3}
    assert theirs["scores"][2]["correlation"] is None
    (comparison,) = document["comparisons"]
    assert comparison["lookaheads"] == [[0, 7], [2, 7], [7, 7]]
    (row,) = (r for r in comparison["summary"] if (r["dataset"], r["lookahead"]) == ("all", 0))
    assert row["correlation"]["difference"]["median"] == pytest.approx(0.1)

    back = from_document(document)
    assert [(t.title, t.test, t.model, t.rival, t.lookaheads) for t in back] == [
        (t.title, t.test, t.model, t.rival, t.lookaheads) for t in tables
    ]
    assert to_markdown(back) == to_markdown(tables)
    np.testing.assert_array_equal(
        [[*s.scores, *s.timing] for t in back for s in t.scores],
        [[*s.scores, *s.timing] for t in tables for s in t.scores],
    )


def test_scores_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="scores of format None: expected 2; score the model again"):
        from_document({"digest": "x", "tables": []})
    (tmp_path / "scores.json").write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"scores\.json: not readable as JSON"):
        read_document(tmp_path / "scores.json")

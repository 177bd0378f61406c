"""The delay curve: which scores it is made of, its numbers, its page and its picture."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scores import made_up, table

from cascade_rt.errors import TrainingError
from training.bootstrap import Interval
from training.cli import main
from training.commands._common import CONFIGS
from training.config import TrainingConfig, load_config
from training.delay_curve import CONFIGURATIONS, Point, plot, points_of, read_points, to_markdown, write_csv
from training.evaluate import Score
from training.run import SCORES
from training.summary import MEASURES, Table
from training.tables import to_document, write_document
from training.timing import Timing

GCAMP8F, GCAMP8S, GCAMP6F, GCAMP6S = (
    *("DS30-GCaMP8f-m-V1", "DS32-GCaMP8s-m-V1"),
    *("DS10-GCaMP6f-m-V1-neuropil-corrected", "DS14-GCaMP6s-m-V1"),
)
CONFIG = TrainingConfig(name="study", frame_rate_hz=30.0, smoothing_s=0.025, datasets=(GCAMP6F, GCAMP6S), folds=2)
LEVELS = (2.0, 4.0, 8.0)


def _write(folder: Path, config: TrainingConfig, *tables: Table, digest: str = "") -> None:
    document = to_document(tables, model=config.name, digest=digest or config.digest())
    write_document(folder / config.name / SCORES, document)


def _scores(*datasets: str, levels: tuple[float, ...] = LEVELS, lookaheads: tuple[int, ...] = (0, 2)) -> list[Score]:
    """Three neurons of each dataset; correlation grows with the look-ahead and falls with the noise."""
    timing = Timing(0.02, 0.01, 0.5, 1.0, 20)
    return [
        made_up(dataset, str(n), 0.5 + 0.1 * n + 0.05 * k - 0.02 * level, lookahead=k, level=level, timing=timing)
        for dataset in datasets
        for n in range(3)
        for level in levels
        for k in lookaheads
    ]


def _folds(*scores: Score) -> Table:
    return table(*scores, test="folds")


def _point(correlation: float, lookahead: int, *, level: float = 2.0, indicator: str = "GCaMP6f") -> Point:
    values = dict.fromkeys(MEASURES, Interval(float("nan"), float("nan"), float("nan"), 0))
    values["correlation"] = Interval(correlation, correlation - 0.01, correlation + 0.01, 7)
    return Point(
        indicator=indicator,
        frame_rate_hz=30.0,
        smoothing_s=0.025,
        noise_level=level,
        lookahead=lookahead,
        values=values,
    )


def test_neurons_are_grouped_by_indicator() -> None:
    scores = [made_up(GCAMP8F, "a", 0.9), made_up(GCAMP8S, "a", 0.6), made_up(GCAMP8S, "b", 0.7)]
    found = {p.indicator: p.values["correlation"] for p in points_of(_folds(*scores), CONFIG)}
    assert {name: value.median for name, value in found.items()} == pytest.approx(
        {"GCaMP8": 0.7, "GCaMP8f": 0.9, "GCaMP8s": 0.65}
    )
    assert found["GCaMP8"].n == 3
    assert {p.indicator for p in points_of(_folds(*_scores(GCAMP6F, GCAMP6S)), CONFIG)} == {"GCaMP6f", "GCaMP6s"}


def test_integration_time_includes_the_described_frame() -> None:
    assert [_point(0.5, k).integration_ms for k in (0, 2, 31)] == pytest.approx([1000 / 30, 100, 32000 / 30])


def test_only_cross_validation_of_the_model_itself_is_read(tmp_path: Path) -> None:
    own, better = _scores(GCAMP6F), [replace(s, lookahead=31) for s in _scores(GCAMP6F, lookaheads=(2,))]
    rival = table(*better, rival=True, test="folds")
    _write(tmp_path, CONFIG, _folds(*own), rival, table(*better, test="unseen"))
    points, lacking = read_points([CONFIG], runs=tmp_path)
    assert lacking == {}
    assert [(p.noise_level, p.lookahead) for p in points] == [(level, k) for level in LEVELS for k in (0, 2)]
    assert (points[1].indicator, points[1].frame_rate_hz, points[1].smoothing_s) == ("GCaMP6f", 30.0, 0.025)
    assert points[1].values["correlation"].median == pytest.approx(0.5 + 0.1 + 0.1 - 0.04)
    assert points[1].values["timing_error_ms"].median == pytest.approx(20)


@pytest.mark.parametrize(
    ("tables", "digest", "reason"),
    [
        (None, "", "no scores"),
        ([], "", "no scores"),
        ([table(*_scores(GCAMP6F), test="unseen")], "", "no scores"),
        ([_folds(*_scores(GCAMP6F))], "0" * 64, "belongs to another configuration"),
        ([_folds(*_scores(GCAMP6F, levels=(2.0, 4.0)))], "", "no scores of a cross-validation at ν = 8"),
    ],
)
def test_what_lacks(tmp_path: Path, tables: list[Table] | None, digest: str, reason: str) -> None:
    if tables is not None:
        _write(tmp_path, CONFIG, *tables, digest=digest)
    points, lacking = read_points([CONFIG], runs=tmp_path)
    assert list(lacking) == ["study"]
    assert reason in lacking["study"]
    assert len(points) == (4 if "ν = 8" in reason else 0)


def test_the_shortest_delay_that_is_enough() -> None:
    curve = [(0, 0.5), (1, 0.775), (2, 0.785), (5, 0.80), (31, 0.79)]
    points = [_point(r, k) for k, r in curve] + [_point(float("nan"), 0, level=8.0)]
    text = to_markdown(points, picture="a.png", data="a.csv")
    assert "| indicator | frame rate (Hz) | ν = 2 | ν = 8 |" in text
    assert "| GCaMP6f | 30 | 100 ms (2) | n/a |" in text


def test_page_has_every_number_of_the_indicators_shown() -> None:
    points = [_point(0.5, 0), _point(0.75, 2), _point(0.9, 2, indicator="GCaMP8m")]
    text = to_markdown(points, picture="a.png", data="a.csv", lacking=["other"])
    assert "![Correlation and timing error against integration time](a.png)" in text
    assert "| 2 | 2 | 100 | 7 | 0.750 [0.740, 0.760] | n/a | n/a | n/a | n/a |" in text
    assert "Gaussian of\n25 ms at 30 Hz." in text
    assert "Not measured: other." in text
    assert "0.900" not in text
    assert "Not measured" not in to_markdown(points, picture="a.png", data="a.csv")


def test_table_of_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [_point(0.75, 2), _point(0.9, 2, indicator="GCaMP8m")])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["indicator"] for row in rows] == ["GCaMP6f", "GCaMP8m"]
    first = rows[0]
    assert (first["smoothing_ms"], first["lookahead_frames"], first["integration_ms"]) == ("25", "2", "100")
    parts = ("", "_low", "_high", "_neurons")
    assert [float(first[f"correlation{part}"]) for part in parts] == pytest.approx([0.75, 0.74, 0.76, 7])
    assert [first[f"error{part}"] for part in parts] == ["", "", "", "0"]


def _colors(path: Path) -> set[tuple[int, ...]]:
    pixels = np.round(imread(path)[..., :3] * 255).astype(np.uint8).reshape(-1, 3)
    return {tuple(map(int, color)) for color in np.unique(pixels, axis=0)}


def test_picture(tmp_path: Path) -> None:
    points = [_point(0.5 + 0.01 * k, k, level=level) for level in (2.0, 4.0) for k in (0, 2)]
    one = plot(tmp_path / "one.png", points)
    blue, orange, pink = (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)
    assert {blue, orange} <= _colors(one)
    assert pink not in _colors(one)
    two = plot(tmp_path / "two.png", [*points, *(replace(p, indicator="GCaMP6s") for p in points)])
    (height, width), (double, same) = imread(one).shape[:2], imread(two).shape[:2]
    assert width == same
    assert double > 1.5 * height
    with pytest.raises(TrainingError, match="nothing to draw"):
        plot(tmp_path / "none.png", [_point(0.5, 0, indicator="GCaMP8m")])
    with pytest.raises(TrainingError, match=r"written as one of"):
        plot(tmp_path / "one.docx", points)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    configs = [load_config(CONFIGS / f"{name}.yaml") for name in CONFIGURATIONS]
    command = ["delay-curve", "--runs", str(runs), "--to", str(docs)]
    for config in configs[:4]:
        datasets = (GCAMP8F, GCAMP8S) if config.name.startswith("GCaMP8") else (GCAMP6F, GCAMP6S)
        _write(runs, config, _folds(*_scores(*datasets)))
    assert main(command) == 1
    told = capsys.readouterr().err
    assert f"python -m training zoo --runs {runs} --only {configs[4].name} {configs[5].name}" in told
    assert not docs.exists()
    assert main([*command, "--partial"]) == 0
    assert f"{configs[4].name}: no scores" in capsys.readouterr().out
    assert f"Not measured: {configs[4].name}, {configs[5].name}." in (docs / "delay-curve.md").read_text("utf-8")
    for config in configs[4:]:
        _write(runs, config, _folds(*_scores(GCAMP6F, GCAMP6S)))
    assert main(command) == 0
    assert sorted(path.name for path in docs.iterdir()) == [f"delay-curve.{kind}" for kind in ("csv", "md", "png")]
    text = (docs / "delay-curve.md").read_text(encoding="utf-8")
    assert "Not measured" not in text
    assert text.count("\n### ") == 9
    # Three rates of five indicators and families (no GCaMP8m here), three noise levels, two look-aheads.
    assert len((docs / "delay-curve.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 5 * 3 * 2


def test_nothing_at_all_is_an_error_even_if_partial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["delay-curve", "--partial", "--runs", str(tmp_path), "--to", str(tmp_path / "docs")]) == 1
    assert "lacks scores" in capsys.readouterr().err

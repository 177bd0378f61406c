"""Pictures of scores: a file is there, of the right size, and holds what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scores import made_up, table

from cascade_rt.errors import TrainingError
from training.pictures import plot_left_out, plot_scores
from training.summary import Table
from training.timing import Timing


def _tables() -> list[Table]:
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for neuron in range(12):
        for level in (2.0, 4.0):
            base, timing = rng.uniform(0.4, 0.8), Timing(0.02, -0.01, rng.uniform(), 1.0, 20)
            dataset = f"DS{neuron % 3}"
            for k in (0, 2, 31):
                ours.append(made_up(dataset, str(neuron), base + 0.03, lookahead=k, level=level, timing=timing))
            theirs.append(made_up(dataset, str(neuron), base, lookahead=31, level=level))
    return [table(*ours), table(*theirs, rival=True, model="published")]


def _shows(path: Path, color: tuple[int, int, int]) -> bool:
    pixels = np.round(imread(path)[..., :3] * 255).astype(np.uint8)
    return bool((pixels == np.array(color, np.uint8)).all(axis=-1).any())


#: Of the lowest three noise levels.
BLUE, ORANGE, PINK = (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)


def test_a_row_for_each_test_and_rival(tmp_path: Path) -> None:
    tables = _tables()
    both, one = plot_scores(tmp_path / "both.png", tables), plot_scores(tmp_path / "one.png", tables[:1])
    (height, width), (half, same) = imread(both).shape[:2], imread(one).shape[:2]
    assert width == same
    assert height == pytest.approx(2 * half, abs=2)
    assert _shows(both, BLUE)
    assert _shows(both, ORANGE)
    assert not _shows(both, PINK)
    assert plot_scores(tmp_path / "both.svg", tables).read_text(encoding="utf-8").startswith("<?xml")


def test_scores_that_are_all_undefined_are_drawn_as_nothing(tmp_path: Path) -> None:
    undefined = [table(made_up("A", "0", float("nan")), rival=rival) for rival in (False, True)]
    assert plot_scores(tmp_path / "a.png", undefined).stat().st_size > 1000


def test_datasets_left_out_are_rows(tmp_path: Path) -> None:
    whole = _tables()[0]
    few = table(*(s for s in whole.scores if s.dataset == "DS0"))
    tall, low = (imread(plot_left_out(tmp_path / f"{n}.png", t)).shape[0] for n, t in (("a", whole), ("b", few)))
    assert tall > low
    assert _shows(tmp_path / "a.png", ORANGE)


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"\.png, \.pdf, \.svg"):
        plot_scores(tmp_path / "scores.jpg", _tables())
    with pytest.raises(TrainingError, match="nothing to draw"):
        plot_scores(tmp_path / "scores.png", [])
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, training.pictures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0

"""The loss curve: what it says about validation, and its table and picture."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from training.loss_curve import LossCurve


def test_the_first_of_the_lowest_losses_is_best() -> None:
    curve = LossCurve(training=[1.0] * 10, validation=[(2, 0.5), (4, 0.3), (6, 0.4), (8, 0.3), (10, 0.6)])
    assert curve.best == (4, 0.3)
    assert curve.without_improvement == 3
    assert LossCurve(training=[1.0]).best is None
    assert LossCurve(training=[1.0]).without_improvement == 0


def test_a_kept_curve_is_the_same() -> None:
    for curve in (LossCurve(), LossCurve(training=[0.1, 1 / 3]), LossCurve(training=[0.1], validation=[(1, 1 / 7)])):
        assert LossCurve.from_arrays(curve.to_arrays()) == curve


def test_table() -> None:
    file = io.BytesIO()
    LossCurve(training=[0.5, 0.25, 0.125], validation=[(2, 0.3)]).write_csv(file, block_steps=100, block_frames=2048)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode())))
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert [row["frames"] for row in rows] == ["2048", "4096", "6144"]
    assert [row["training_loss"] for row in rows] == ["0.5", "0.25", "0.125"]
    assert [row["validation_loss"] for row in rows] == ["", "0.3", ""]


@pytest.mark.parametrize("blocks", [1, 2, 300])
def test_picture(blocks: int) -> None:
    from matplotlib.image import imread

    losses = 0.02 + np.exp(-np.arange(blocks) / 10.0)
    curve = LossCurve(training=losses.tolist(), validation=[(blocks, 0.03)])
    file = io.BytesIO()
    curve.draw(file, title="a fit", block_frames=204_800)
    picture = imread(io.BytesIO(file.getvalue()), format="png")
    assert picture.shape[0] > 300
    # Orange, the colour of the held-out neurons, is there; and it is not for a curve without them.
    orange = (picture[..., 0] > 0.7) & (picture[..., 2] < 0.2) & (picture[..., 1] > 0.2)
    assert orange.sum() > 20
    file = io.BytesIO()
    LossCurve(training=losses.tolist()).draw(file, title="a fit", block_frames=204_800)
    picture = imread(io.BytesIO(file.getvalue()), format="png")
    assert ((picture[..., 0] > 0.7) & (picture[..., 2] < 0.2) & (picture[..., 1] > 0.2)).sum() == 0

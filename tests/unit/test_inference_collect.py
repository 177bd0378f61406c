"""What is remembered of a plane for its report."""

from __future__ import annotations

import numpy as np

from cascade_rt.inference.collect import Collector


def collected(prob: np.ndarray, rows: np.ndarray, n_rois: int, rate: float, *, block: int = 3) -> Collector:
    collector = Collector(n_rois, rows, prob.shape[1], rate)
    for start in range(0, rows.size, block):
        part = slice(start, start + block)
        collector.add(rows[part], 10 + prob[part], prob[part], {"odd": (rows[part] == 5)})
    return collector


def test_totals_rates_and_reasons() -> None:
    rows = np.array([0, 2, 3, 5])
    prob = np.full((4, 40), 0.5, np.float32)
    prob[1] = 0.25
    prob[:, :10] = np.nan
    prob[3] = np.nan
    collector = collected(prob, rows, 7, 20.0)
    np.testing.assert_allclose(collector.expected_spikes, 15 + 7.5 + 15)
    np.testing.assert_allclose(collector.mean_rate_hz, 37.5 / (90 / 20))
    np.testing.assert_array_equal(collector.rates_hz, [10, np.nan, 5, 10, np.nan, np.nan, np.nan])
    assert list(collector.why_undefined) == ["", "", "", "", "", "odd", ""]


def test_the_raster_has_the_mean_rate_of_what_is_defined() -> None:
    prob = np.zeros((2, 2500), np.float32)
    prob[0, 1500:1503] = [0.1, 0.2, 0.6]
    prob[1, 10:13] = np.nan
    collector = collected(prob, np.arange(2), 2, 30.0)
    assert collector.raster.shape == (2, 834)
    np.testing.assert_allclose(collector.bin_s, 0.1)
    np.testing.assert_allclose(collector.raster[0, 499:502], [0, 9, 0], atol=1e-5)
    assert np.isfinite(collector.raster[1]).all()
    prob[1, 9:12] = np.nan
    assert np.isnan(collected(prob, np.arange(2), 2, 30.0).raster[1, 3])


def test_examples_go_from_busy_to_quiet_and_show_one_stretch() -> None:
    rng = np.random.default_rng(0)
    n, rate = 40, 10.0
    prob = (rng.random((n, 2000)) * np.arange(n)[:, None]).astype(np.float32)
    examples = collected(prob, np.arange(n) + 3, n + 5, rate).examples()
    assert examples.neurons[0] == n + 2
    assert list(examples.neurons) == sorted(examples.neurons, reverse=True)
    assert (examples.first_frame, examples.dff.shape) == (700, (6, 600))
    neuron = examples.neurons[2] - 3
    np.testing.assert_array_equal(examples.spike_prob[2], prob[neuron, 700:1300])
    np.testing.assert_array_equal(examples.dff[2], 10 + prob[neuron, 700:1300])


def test_nothing_defined() -> None:
    collector = collected(np.full((2, 50), np.nan, np.float32), np.array([1, 2]), 3, 30.0)
    assert np.isnan(collector.mean_rate_hz)
    assert collector.expected_spikes == 0
    assert collector.examples().neurons == ()

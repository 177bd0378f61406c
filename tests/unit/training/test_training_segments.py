"""Segments: aligned with their targets, reproducible, balanced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cascade_rt.errors import TrainingError
from training.ground_truth import Trace
from training.segments import SegmentSource
from training.targets import smooth_spikes

LOOKAHEADS = (0, 1, 5, 31)


def _trace(n: int, *, dataset: str = "A", neuron: str = "1", values: Any = None, spikes: Any = ()) -> Trace:
    counts = np.zeros(n, np.float32)
    counts[list(spikes)] = 1
    dff = np.zeros(n, np.float32) if values is None else np.asarray(values, np.float32)
    return Trace(
        dataset=dataset, neuron=neuron, number=0, dff=dff, spike_counts=counts, frame_rate_hz=30.0, noise_level=0.0
    )


def _source(traces: list[Trace], **changes: Any) -> SegmentSource:
    options: dict[str, Any] = {
        "segment_frames": 100,
        "receptive_field": 64,
        "lookahead_frames": LOOKAHEADS,
        "smoothing_s": 0.05,
        "seed": 3,
    }
    return SegmentSource(traces, **{**options, **changes})


def test_targets_are_not_shifted() -> None:
    """A ramp tells where a segment was cut; its targets must be those of the frames that they describe."""
    n = 1000
    trace = _trace(n, values=np.arange(n), spikes=range(7, n, 23))
    target = smooth_spikes(trace.spike_counts, smoothing_s=0.05, frame_rate_hz=30.0)
    noise_range = (1e-3, 1.1e-3)  # a ramp has a high ν of its own: nothing is added
    block = _source([trace], noise_range=noise_range).block(0, 5, 4)
    for dff, expected in zip(block.dff.reshape(-1, 100), block.target.reshape(-1, 37, 4), strict=True):
        start = int(dff[0])
        np.testing.assert_array_equal(dff, np.arange(start, start + 100))
        for column, lookahead in enumerate(LOOKAHEADS):
            described = start + 63 + np.arange(37) - lookahead
            np.testing.assert_array_equal(expected[:, column], target[described])
    assert (block.weight == 1).all()


def test_the_same_block_has_the_same_segments_whatever_was_drawn_before() -> None:
    trace = _trace(500, spikes=[100, 300])
    first, second = _source([trace]), _source([trace])
    first.block(0, 2, 3)
    for name in ("dff", "nu", "target", "weight"):
        np.testing.assert_array_equal(getattr(first.block(7, 2, 3), name), getattr(second.block(7, 2, 3), name))
    assert (first.block(7, 2, 3).dff != first.block(8, 2, 3).dff).any()
    assert (first.block(7, 2, 3).dff != _source([trace], seed=4).block(7, 2, 3).dff).any()


def test_a_recording_shorter_than_a_segment_is_masked() -> None:
    block = _source([_trace(80)]).block(0, 1, 3)
    assert (block.weight[..., :17] == 1).all()
    assert (block.weight[..., 17:] == 0).all()
    assert block.dff.shape == (1, 3, 100, 1)


def test_recordings_shorter_than_the_window_are_not_used() -> None:
    assert _source([_trace(63), _trace(64)]).n_traces == 1
    with pytest.raises(TrainingError, match="none of 1 traces has the 64 frames"):
        _source([_trace(63)])
    with pytest.raises(TrainingError, match="at least 64"):
        _source([_trace(200)], segment_frames=50)


def test_noise_levels_between_own_and_highest_are_told_and_reached() -> None:
    trace = _trace(5000, values=0.02 * np.random.default_rng(0).standard_normal(5000))
    own = 0.02 * 0.6745 * np.sqrt(2) * 100 / np.sqrt(30)
    block = _source([trace], noise_range=(0.1, 10.0), segment_frames=1000).block(0, 1, 200)
    nu = block.nu.ravel()
    assert nu.min() >= 0.98 * own
    assert nu.max() <= 10
    assert np.log(nu).mean() == pytest.approx((np.log(own) + np.log(10)) / 2, abs=0.25)
    measured = np.median(np.abs(np.diff(block.dff.reshape(200, -1), axis=1)), axis=1) * 100 / np.sqrt(30)
    np.testing.assert_allclose(measured, nu, rtol=0.15)


def test_amplitudes_scale_the_trace_and_keep_the_noise_level() -> None:
    clean = np.where(np.arange(5000) % 100 < 50, 0.0, 1.0)
    trace = _trace(5000, values=clean + 0.02 * np.random.default_rng(0).standard_normal(5000))
    options: dict[str, Any] = {"noise_range": (1.0, 1.01), "segment_frames": 1000, "amplitude_sd": 0.3}
    block = _source([trace], **options).block(0, 1, 100)
    dff = block.dff.reshape(100, -1)
    height = np.percentile(dff, 75, axis=1) - np.percentile(dff, 25, axis=1)
    assert height.std() == pytest.approx(0.3, abs=0.1)
    measured = np.median(np.abs(np.diff(dff, axis=1)), axis=1) * 100 / np.sqrt(30)
    np.testing.assert_allclose(measured, block.nu.ravel(), rtol=0.15)


@pytest.mark.parametrize(("balance", "share"), [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)])
def test_a_large_dataset_does_not_dominate(balance: float, share: float) -> None:
    large = _trace(63 + 9000, dataset="large", values=np.full(9063, 1.0))
    small = _trace(63 + 1000, dataset="small")
    block = _source([large, small], balance=balance, noise_range=(1e-3, 1.1e-3)).block(0, 1, 4000)
    assert (block.dff[0, :, 0, 0] > 0.5).mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("power", "ratio"), [(0.0, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_an_active_neuron_does_not_decide_alone(power: float, ratio: float) -> None:
    """Twice the spikes per event: four times the variance, and the weight of its error falls with it."""
    quiet = _trace(2000, dataset="quiet", spikes=range(0, 2000, 50))
    active = _trace(2000, dataset="active", values=np.ones(2000))
    active = replace(active, spike_counts=2 * quiet.spike_counts)
    block = _source([quiet, active], activity_balance=power, noise_range=(1e-3, 1.1e-3)).block(0, 1, 400)
    weight, is_active = block.weight[0, :, 0], block.dff[0, :, 0, 0] > 0.5
    assert weight[~is_active][0] / weight[is_active][0] == pytest.approx(ratio, rel=1e-4)
    assert weight.mean() == pytest.approx(1.0, abs=0.1)

"""Faster indicators and moved datasets, made from recordings."""

from __future__ import annotations

import numpy as np
import pytest

from training.augment import quickened, without_lag
from training.ground_truth import Recording

RATE_HZ = 100.0


def _recording(dff: np.ndarray, dataset: str = "DS15-GCaMP6s-m-V1") -> Recording:
    return Recording(
        dataset=dataset,
        neuron="a",
        number=0,
        dff=dff.astype(np.float32),
        frame_times_s=np.arange(dff.size) / RATE_HZ,
        spike_times_s=np.array([1.0]),
    )


def test_the_rise_of_an_indicator_is_taken_off() -> None:
    """A rise with the time constant given becomes a step: 63 % would be reached after it otherwise."""
    after = np.arange(500) / RATE_HZ - 1.0
    slow = np.where(after > 0, 1 - np.exp(-np.maximum(after, 0) / 0.1), 0.0)
    fast = quickened(_recording(slow), 0.1).dff
    assert slow[105] < 0.4
    np.testing.assert_allclose(fast[102:], 1.0, atol=0.01)
    np.testing.assert_allclose(fast[:99], 0.0, atol=1e-6)


def test_a_slower_rise_becomes_faster_and_a_level_stays() -> None:
    after = np.arange(900) / RATE_HZ - 1.0
    slow = np.where(after > 0, 1 - np.exp(-np.maximum(after, 0) / 0.3), 0.0)
    fast = quickened(_recording(slow), 0.1).dff
    assert np.argmax(fast > 0.5) < np.argmax(slow > 0.5) - 5
    assert fast[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("key", ["DS15", "DS15-GCaMP6s-m-V1"])
def test_a_dataset_is_moved_earlier_and_its_spikes_stay(key: str) -> None:
    recording = _recording(np.zeros(50))
    moved = without_lag(recording, {key: 0.2, "DS16": 9.0})
    np.testing.assert_allclose(recording.frame_times_s - moved.frame_times_s, 0.2)
    assert moved.spike_times_s is recording.spike_times_s


def test_other_datasets_stay_where_they_are() -> None:
    recording = _recording(np.zeros(50), dataset="DS1-x")
    assert without_lag(recording, {"DS15": 0.2}) is recording

"""Neurons in different files that hold the same recording."""

from __future__ import annotations

import numpy as np

from training.copies import shared_recordings
from training.recordings import Recording


def _recording(
    neuron: str, dff: np.ndarray, spikes_s: np.ndarray | None = None, *, number: int = 0, dataset: str = "A"
) -> Recording:
    return Recording(
        dataset=dataset,
        neuron=neuron,
        number=number,
        dff=dff.astype(np.float32),
        frame_times_s=np.arange(dff.size) / 30.0,
        spike_times_s=np.zeros(0) if spikes_s is None else spikes_s,
    )


def _noise(seed: int, n: int = 600) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(n)


def _spikes(seed: int, n: int = 60) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(0.5, n)).round(4)


def test_a_stretch_of_equal_fluorescence_wherever_it_lies() -> None:
    one = _noise(1)
    shifted = np.concatenate([_noise(2, 37), one[100:400]])
    found = shared_recordings(
        [
            _recording("1", one),
            _recording("2", _noise(3)),
            _recording("3", _noise(4)),
            _recording("3", shifted, number=1),
        ]
    )
    assert found == {("A", "3"): ("A", "1")}


def test_equal_spikes_under_another_fluorescence() -> None:
    """Another correction of the same measurement, with its own start of time."""
    spikes = _spikes(1)
    found = shared_recordings(
        [
            _recording("1", _noise(1), spikes),
            _recording("1", _noise(2), 4.2 + spikes[5:40], dataset="B"),
            _recording("2", _noise(3), _spikes(2)),
        ]
    )
    assert found == {("B", "1"): ("A", "1")}


def test_all_are_led_back_to_the_first() -> None:
    spikes = _spikes(1)
    found = shared_recordings(
        [
            _recording("0", _noise(9)),
            _recording("1", _noise(1)),
            _recording("2", _noise(1), spikes),
            _recording("3", _noise(3), spikes),
        ]
    )
    assert found == {("A", "2"): ("A", "1"), ("A", "3"): ("A", "1")}


def test_what_recurs_by_itself_is_no_copy() -> None:
    """Flat and clipped stretches, few digitisation levels, regular firing; a recording twice in its own file."""
    flat, steps = np.zeros(600), np.tile([0.0, 0.0, 0.1, 0.1], 150)
    levels = [np.round(_noise(seed), 2) for seed in (5, 6)]
    regular = np.arange(60) * 0.1
    assert (
        shared_recordings(
            [
                _recording("1", flat, regular),
                _recording("2", flat, regular + 3),
                _recording("3", steps),
                _recording("4", steps),
                _recording("5", levels[0]),
                _recording("6", levels[1]),
                _recording("7", _noise(7)),
                _recording("7", _noise(7), number=1),
            ]
        )
        == {}
    )
    assert shared_recordings([]) == {}
    assert shared_recordings([_recording("1", _noise(1, 4), np.array([1.0]))]) == {}

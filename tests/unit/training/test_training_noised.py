"""Traces lifted to noise levels: the same noise for everyone, the same rule as in training."""

from __future__ import annotations

import zlib

import numpy as np

from cascade_rt.noise import noise_levels
from training.ground_truth import Trace
from training.noised import NoisedTraces
from training.noising import NoiseTable, add_noise


def _trace(neuron: str, own: float, dataset: str = "D", number: int = 0) -> Trace:
    rng = np.random.default_rng(number)
    counts = (rng.random(3000) < 0.05).astype(np.float32)
    dff = (0.3 * counts + own * rng.standard_normal(3000)).astype(np.float32)
    dff.flags.writeable = False
    return Trace(
        dataset=dataset, neuron=neuron, number=number, dff=dff, spike_counts=counts, frame_rate_hz=30.0, noise_level=0.0
    )


def test_levels_are_reached_and_noisier_recordings_left_out() -> None:
    tests = NoisedTraces([_trace("a", 0.02), _trace("a", 0.5, number=1)], noise_levels=(8, 2, 2))
    assert tests.noise_levels == (2.0, 8.0)
    for level in tests.noise_levels:
        quiet, noisy = tests.lifted(("D", "a"), level)
        assert noisy is None
        assert quiet is not None
        np.testing.assert_allclose(noise_levels(quiet[None], frame_rate_hz=30.0), level, rtol=0.04)


def test_noise_is_seeded_by_the_recording_and_the_same_for_everyone() -> None:
    trace = _trace("a", 0.02)
    (lifted,) = NoisedTraces([trace], noise_levels=(4.0,), seed=3).lifted(("D", "a"), 4.0)
    key = zlib.crc32(b"D/a/0/3000")
    expected = add_noise(trace.dff, NoiseTable(trace.dff, 30.0), 4.0, np.random.default_rng([3, key]))
    np.testing.assert_array_equal(lifted, expected)
    others = NoisedTraces([_trace("b", 0.02), trace], noise_levels=(2.0, 4.0), seed=3)
    np.testing.assert_array_equal(others.lifted(("D", "a"), 4.0)[0], lifted)
    (other,) = NoisedTraces([trace], noise_levels=(4.0,)).lifted(("D", "a"), 4.0)
    assert (other != lifted).any()


def test_a_part_of_the_neurons() -> None:
    tests = NoisedTraces([_trace("b", 0.02), _trace("a", 0.02), _trace("a", 0.02, "C"), _trace("a", 0.02, number=1)])
    assert len(tests) == 3
    assert tests.datasets == ["C", "D"]
    assert [key for key, _ in tests.neurons()] == [("C", "a"), ("D", "a"), ("D", "b")]
    part = tests.of({("D", "a"), ("X", "y")})
    assert [(key, len(traces)) for key, traces in part.neurons()] == [(("D", "a"), 2)]
    np.testing.assert_array_equal(part.lifted(("D", "a"), 4.0)[1], tests.lifted(("D", "a"), 4.0)[1])

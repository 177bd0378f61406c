"""The virtual rig's neurons: noise and transients as announced, and spikes when asked for."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt.errors import InputError
from cascade_rt.noise import noise_levels
from cascade_rt.rig import QUIET_FRAMES, VirtualTissue, main
from cascade_rt.simulation import INDICATORS


def go(tissue, n_frames):
    steps = [tissue.step() for _ in range(n_frames)]
    return np.stack([dff for dff, _ in steps], axis=1), np.stack([spikes for _, spikes in steps], axis=1)


def test_noise_and_rate_are_those_asked_for():
    tissue = VirtualTissue(20, 30.0, spike_rate_hz=0.5, noise_level=2.0, seed=1)
    dff, spikes = go(tissue, 3000)
    assert dff.dtype == np.float32
    assert not spikes[:, :QUIET_FRAMES].any()
    assert spikes.sum() / 20 / 99 == pytest.approx(0.5, rel=0.1)
    quiet = VirtualTissue(20, 30.0, spike_rate_hz=0.0, noise_level=2.0, seed=1)
    np.testing.assert_allclose(noise_levels(go(quiet, 3000)[0], frame_rate_hz=30.0), 2.0, rtol=0.06)


def test_neurons_fire_in_the_frame_after_a_stimulus():
    tissue = VirtualTissue(3, 30.0, spike_rate_hz=0.0, noise_level=0.0)
    go(tissue, 5)
    tissue.stimulate([1], 3)
    dff, spikes = go(tissue, 20)
    np.testing.assert_array_equal(spikes.T[0], [0, 3, 0])
    assert spikes.sum() == 3
    assert dff[1, 0] == pytest.approx(3 * INDICATORS["GCaMP8m"].amplitude)
    assert np.all(np.diff(dff[1]) < 0)
    assert not dff[[0, 2]].any()


def test_it_stays_on_this_machine(tmp_path):
    with pytest.raises(InputError, match="this machine alone"):
        main(["--frames", "tcp://0.0.0.0:5555", "--events", "tcp://127.0.0.1:5556", "--out", str(tmp_path / "x.npz")])
    with pytest.raises(InputError, match="indicator"):
        VirtualTissue(1, 30.0, indicator="none")

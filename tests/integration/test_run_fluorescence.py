"""`cascade-rt run --fluorescence`: what is published is what `predict` makes of the trailing baseline's ΔF/F."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

import cascade_rt as crt
from cascade_rt.baseline import BaselineOptions, delta_f_over_f
from cascade_rt.cli import main
from cascade_rt.errors import CascadeWarning

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"


def test_fluorescence_live_is_that_offline(tmp_path: Path) -> None:
    dff = crt.simulate(5, 40.0, 30.0, indicator="GCaMP8m", seed=2).dff
    fluorescence = (200 * (1 + dff)).astype(np.float32)
    np.save(tmp_path / "F.npy", fluorescence)
    made = delta_f_over_f(
        fluorescence, frame_rate_hz=30.0, options=BaselineOptions(window_s=10.0, position="trailing")
    ).dff
    nu = crt.noise_levels(made, frame_rate_hz=30.0)
    np.save(tmp_path / "nu.npy", nu)
    arguments = ["run", "--model", MODEL, "--source", str(tmp_path / "F.npy"), "--sink", str(tmp_path / "out.npz")]
    arguments += ["--frame-rate", "30", "--noise-levels", str(tmp_path / "nu.npy"), "--lookahead", "2"]
    assert main([*arguments, "--fluorescence", "--baseline-window", "10", "--view", "none", "--json"]) == 0
    with np.load(tmp_path / "out.npz") as out:
        prob, frame = out["spike_prob"], out["frame"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        expected = crt.predict(made, crt.load_model(MODEL), frame_rate_hz=30.0, noise_levels=nu, lookahead_frames=2)
    np.testing.assert_array_equal(frame, np.arange(1200))
    np.testing.assert_allclose(prob, expected, atol=1e-5)
    assert np.nansum(prob) > 20

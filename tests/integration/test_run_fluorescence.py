"""`cascade-rt run --fluorescence`: what is published is what `predict` makes of the trailing baseline's ΔF/F."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import cascade_rt as crt
from cascade_rt.baseline import BaselineOptions, delta_f_over_f
from cascade_rt.cli import main
from cascade_rt.errors import CascadeWarning
from cascade_rt.recorded import RecordedRun

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
    arguments += ["--record", str(tmp_path / "kept")]
    assert main([*arguments, "--fluorescence", "--baseline-window", "10", "--view", "none", "--json"]) == 0
    with np.load(tmp_path / "out.npz") as out:
        prob, frame = out["spike_prob"], out["frame"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        expected = crt.predict(made, crt.load_model(MODEL), frame_rate_hz=30.0, noise_levels=nu, lookahead_frames=2)
    np.testing.assert_array_equal(frame, np.arange(1200))
    np.testing.assert_allclose(prob, expected, atol=1e-5)
    assert np.nansum(prob) > 20
    kept = RecordedRun(tmp_path / "kept").results(2)
    first = int(np.argmin(kept.provisional))
    assert not kept.provisional[first:].any(), "provisional until the window is full, and then no longer"
    assert 300 <= kept.frame[first] + 2 < 300 + 64, "frames that come together are provisional together"
    assert main(["rerun", str(tmp_path / "kept"), "--check"]) == 0


def test_no_rule_trusts_a_baseline_whose_window_is_not_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dff = crt.simulate(3, 12.0, 30.0, indicator="GCaMP8m", seed=2).dff
    np.save(tmp_path / "F.npy", (200 * (1 + dff)).astype(np.float32))
    np.save(tmp_path / "nu.npy", np.full(3, 2.0))
    rules = "rules: {one: {neurons: [0, 1, 2], above: 0.02}, any: {neurons: [0, 1, 2], above: 0.02, only_valid: false}}"
    (tmp_path / "rules.yaml").write_text(rules, encoding="utf-8")
    arguments = ["run", "--model", MODEL, "--source", str(tmp_path / "F.npy"), "--frame-rate", "30", "--fluorescence"]
    arguments += ["--noise-levels", str(tmp_path / "nu.npy"), "--rules", str(tmp_path / "rules.yaml"), "--view", "none"]
    for window, trusted in (("60", False), ("3", True)):
        assert main([*arguments, "--baseline-window", window, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["baseline_filled"] is trusted
        decided = told["triggers"]["rules"]
        assert decided["any"]["stimulate"] > 3
        assert bool(decided["one"].get("stimulate")) is trusted
        assert main([*arguments, "--baseline-window", window]) == 0
        assert ("had not been filled" in capsys.readouterr().out) is not trusted

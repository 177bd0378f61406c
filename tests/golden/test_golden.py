"""The imported published models reproduce what the published CASCADE software gave, to the frame and to 1e-5."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from recordings import drive, offline

import cascade_rt as crt

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.engine import Model

TOLERANCE = 1e-5
#: Our thresholds and CASCADE's names for them in the files.
THRESHOLDS = {"zero": "threshold_0", "noise_floor": "threshold_1", "none": "unthresholded"}
RECORDINGS = {
    "allen_30Hz": "Global_EXC_30Hz_smoothing50ms_causalkernel",
    "ogb_7.5Hz": "OGB_zf_pDp_7.5Hz_smoothing200ms",
}


class Golden(NamedTuple):
    model: Model
    dff: np.ndarray
    frame_rate_hz: float
    noise_levels: np.ndarray
    prob: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=list(RECORDINGS))
def golden(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    name = RECORDINGS[request.param]
    source, stored = shared / "cascade_models" / name, shared / "golden" / f"{request.param}_{name}.npz"
    if not source.is_dir() or not stored.is_file():
        pytest.skip(f"{name}: published model or golden output not present")
    bundle = crt.import_cascade(source, tmp_path_factory.mktemp("golden") / name)
    with np.load(stored, allow_pickle=False) as file:
        values = {key: file[key] for key in file.files}
    values["dff"].flags.writeable = False
    return Golden(
        model=crt.load_model(bundle),
        dff=values["dff"],
        frame_rate_hz=float(values["frame_rate"]),
        noise_levels=values["noise_levels"],
        prob={ours: values[f"spike_prob_{theirs}"] for ours, theirs in THRESHOLDS.items()},
    )


def test_the_model_is_the_one_that_was_published(golden: Golden) -> None:
    spec = golden.model.spec
    assert spec.frame_rate_hz == golden.frame_rate_hz
    assert (spec.windowsize, spec.before_frac, spec.lookaheads, spec.ensemble_size) == (64, 0.5, (31,), 5)
    assert spec.causal_kernel == ("causal" in spec.name)


def test_noise_levels_are_cascades(golden: Golden) -> None:
    seen = crt.noise_levels(golden.dff, frame_rate_hz=golden.frame_rate_hz)
    np.testing.assert_allclose(seen, golden.noise_levels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_cascades_own_alignment_is_reproduced(golden: Golden, threshold: str) -> None:
    seen = offline(
        golden.dff, golden.model, frame_rate_hz=golden.frame_rate_hz, threshold=threshold, alignment="cascade"
    )
    # Compares the patterns of NaN as well.
    np.testing.assert_allclose(seen, golden.prob[threshold], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_target_alignment_is_the_same_one_frame_later(golden: Golden, threshold: str) -> None:
    seen = offline(golden.dff, golden.model, frame_rate_hz=golden.frame_rate_hz, threshold=threshold)
    later = np.full_like(seen, np.nan)
    later[:, 1:] = golden.prob[threshold][:, :-1]
    n_frames, defined = seen.shape[1], np.isfinite(golden.noise_levels)
    # CASCADE leaves out its first window, which describes frame 32.
    assert np.isfinite(seen[defined, 32]).all()
    np.testing.assert_array_equal(np.isfinite(seen[defined][:, 33:]), np.isfinite(later[defined][:, 33:]))
    assert np.isnan(seen[:, :32]).all()
    assert np.isnan(seen[:, n_frames - 31 :]).all()
    np.testing.assert_allclose(seen[defined][:, 33:], later[defined][:, 33:], rtol=0, atol=TOLERANCE)
    # Neurons without a noise level stay NaN, where CASCADE's noise floor makes zeros of them.
    assert np.isnan(seen[~defined]).all()


def test_the_comparison_is_not_empty(golden: Golden) -> None:
    """A shift by one frame in either direction would be seen, as would another threshold."""
    raw = golden.prob["none"]
    for frames in (1, -1):
        assert np.nanmax(np.abs(raw - np.roll(raw, frames, axis=1))) > 0.1
    assert np.nanmin(raw) < -0.01
    zero, floor = golden.prob["zero"], golden.prob["noise_floor"]
    assert (np.nan_to_num(zero) != np.nan_to_num(floor)).mean() > 0.01


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_live_reproduces_it_too(golden: Golden, threshold: str) -> None:
    n_frames = 260
    dff, expected = golden.dff[:16, :n_frames], golden.prob[threshold][:16, :n_frames].copy()
    # Where more frames would follow, the last ones wait for them; the noise floor looks one frame further.
    cut = golden.dff.shape[1] > n_frames
    last = n_frames - cut * (32 + (threshold == "noise_floor"))
    stream = crt.SpikeStream(
        golden.model, n_neurons=16, frame_rate_hz=golden.frame_rate_hz, noise_levels=golden.noise_levels[:16],
        threshold=threshold, alignment="cascade",
    )  # fmt: skip
    seen = drive(stream, dff, [1, 50, 3])[31]
    np.testing.assert_allclose(seen.prob[:, :last], expected[:, :last], rtol=0, atol=TOLERANCE)


def test_every_noise_level_of_the_model_is_exercised(golden: Golden) -> None:
    """The recordings reach only some levels; ν given by hand reaches them all, live and offline."""
    spec = golden.model.spec
    nu = np.array(spec.noise_levels)
    dff = golden.dff[: nu.size, :150]
    stream = crt.SpikeStream(
        golden.model, n_neurons=nu.size, frame_rate_hz=spec.frame_rate_hz, noise_levels=nu, threshold="none"
    )
    seen = drive(stream, dff, [17])[31].prob
    expected = offline(dff, golden.model, noise_levels=nu, threshold="none")
    np.testing.assert_allclose(seen, expected, rtol=0, atol=TOLERANCE)
    assert len(set(golden.model.network_keys(nu))) == nu.size

"""What bad input gets, for calls from Python: named, explained, and harmless to the other neurons."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from networks import write_conditioned, write_published
from recordings import recording

import cascade_rt as crt
from cascade_rt.errors import CascadeError, CascadeWarning, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.engine import Model

RATE = 30.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    write_published(folder / "published", levels=(1, 3, 6))
    crt.import_cascade(folder / "published", folder / "binned")
    write_conditioned(folder / "conditioned")
    return {name: crt.load_model(folder / name, threads=1) for name in ("binned", "conditioned")}


@pytest.fixture(params=["binned", "conditioned"])
def model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


@pytest.fixture
def dff() -> np.ndarray:
    """An ordinary recording of 20 neurons, 600 frames; nothing to say about it."""
    spikes = np.random.default_rng(0)
    x = recording(spikes, 20, 600)
    return (0.1 * np.arange(1, 21)[:, None] / 20 * spikes.normal(size=x.shape) + 0.3 * (x > 0.8)).astype(np.float32)


def _predict(dff: Any, model: Model, **options: Any) -> tuple[np.ndarray, list[str]]:
    """The result and the warnings, all of which must be ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prob = crt.predict(dff, model, **({"frame_rate_hz": RATE} | options))
    assert all(w.category is CascadeWarning for w in caught)
    return prob, [str(w.message) for w in caught]


def _one(sentences: list[str], *words: str) -> None:
    """One warning, and it contains these words."""
    assert len(sentences) == 1, sentences
    for word in words:
        assert word in sentences[0], sentences[0]


def test_an_ordinary_recording_has_nothing_to_be_said_about(dff: np.ndarray, model: Model) -> None:
    prob, sentences = _predict(dff, model)
    assert sentences == []
    assert np.isfinite(prob[:, 64:-64]).all()


# --------------------------------------------------------------------------------------------- wrong kind of data


def _smooth(n_neurons: int) -> np.ndarray:
    """Transients without noise, 900 frames."""
    frames = np.arange(900)
    return np.stack([np.exp(-((frames - 37 * n) % 300) / 30) for n in range(n_neurons)])


def test_a_transposed_recording_is_noticed(model: Model) -> None:
    x = (_smooth(80) + 0.05 * np.random.default_rng(1).normal(size=(80, 900))).astype(np.float32)
    _, sentences = _predict(x.T, model)
    _one(sentences, "transposed", "900", "80", "(n_neurons, n_frames)", "dff.T")
    assert _predict(x, model)[1] == []


def test_a_transposed_recording_of_few_neurons_is_not_just_short(model: Model) -> None:
    """With fewer neurons than the window has frames, the mistake shows as a short recording."""
    x = (_smooth(20) + 0.05 * np.random.default_rng(1).normal(size=(20, 900))).astype(np.float32)
    prob, sentences = _predict(x.T, model)
    assert np.isnan(prob).all()
    _one(sentences, "20 frames", "transposed", "(n_neurons, n_frames)")


@pytest.mark.parametrize("factor", [100, 1000])
def test_percent_is_refused(factor: int, dff: np.ndarray, model: Model) -> None:
    out = np.full(dff.shape, 7, np.float32)
    with pytest.raises(InputError, match=r"cannot be ΔF/F as a fraction.*ν = .*0\.1 = 10 %.*divide by 100"):
        crt.predict(factor * 10 * dff, model, frame_rate_hz=RATE, out=out)
    assert (out == 7).all(), "nothing is written"


def test_doubtful_percent_is_a_warning(dff: np.ndarray, model: Model) -> None:
    nu = crt.noise_levels(dff, frame_rate_hz=RATE)
    _, sentences = _predict(dff * np.float32(30 / np.median(nu)), model)
    assert any("may not be ΔF/F as a fraction" in s and "divide by 100" in s for s in sentences)


def test_fluorescence_is_refused(dff: np.ndarray, model: Model) -> None:
    with pytest.raises(InputError, match=r"look like fluorescence.*\(F - F0\) / F0"):
        crt.predict(500 * (1 + dff), model, frame_rate_hz=RATE)


def test_a_denoised_recording_is_noticed(model: Model) -> None:
    x = _smooth(20) + 2e-5 * np.random.default_rng(1).normal(size=(20, 900))
    x[x < 0.05] -= 0.05
    _, sentences = _predict(x * np.geomspace(0.01, 0.1, 20)[:, None], model)
    assert any("almost no noise" in s and "neither denoised" in s for s in sentences), sentences


def test_a_deconvolved_recording_is_noticed(model: Model) -> None:
    """Zero nearly everywhere: its median difference is exactly 0, yet it is not constant."""
    x = np.random.default_rng(1).poisson(0.02, (20, 900)).astype(np.float32)
    _, sentences = _predict(x, model)
    assert any("noise" in s and "deconvolved" in s for s in sentences), sentences


def test_a_smoothed_recording_is_noticed(dff: np.ndarray, model: Model) -> None:
    smooth = np.apply_along_axis(np.convolve, 1, dff, np.hanning(12) / 2, "same")
    _, sentences = _predict(smooth, model)
    assert any("smoothed in time" in s and "neither denoised" in s for s in sentences), sentences


def test_noise_far_above_the_trained_levels_is_noticed(dff: np.ndarray, model: Model) -> None:
    low, high = model.spec.noise_range
    loud = dff.copy()
    loud[3] *= 1000 / 30
    prob, sentences = _predict(loud, model)
    _one(sentences, "1 of 20 neurons", "far above", f"trained {low:g} to {high:g}", "unreliable")
    others = np.arange(20) != 3
    np.testing.assert_allclose(prob[others], _predict(dff, model)[0][others], atol=1e-6)
    assert np.isfinite(prob[3, 64:-64]).all()


@pytest.mark.parametrize("values", [np.zeros(50), np.zeros((2, 3, 4)), np.zeros((0, 9)), np.zeros((9, 0)), 3.0])
def test_what_is_no_matrix_is_refused(values: Any, model: Model) -> None:
    with pytest.raises(InputError, match=r"n_neurons, n_frames|at least one neuron and one frame"):
        crt.predict(values, model, frame_rate_hz=RATE)


@pytest.mark.parametrize("kind", [complex, bool, "U3", object])
def test_what_holds_no_real_numbers_is_refused(kind: Any, model: Model) -> None:
    with pytest.raises(InputError, match="expected real numbers"):
        crt.predict(np.zeros((3, 99), kind), model, frame_rate_hz=RATE)


# ------------------------------------------------------------------------------------------------------ frame rate


@pytest.mark.parametrize("rate", [131.4, 125.0])
def test_another_frame_rate_names_the_nearest_model(
    rate: float, dff: np.ndarray, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_RT_MODELS", str(tmp_path))
    write_conditioned(tmp_path / "FAST_MODEL", frame_rate_hz=130.0)
    for call in (
        lambda: crt.predict(dff, model, frame_rate_hz=rate),
        lambda: crt.SpikeStream(model, n_neurons=20, frame_rate_hz=rate),
    ):
        with pytest.raises(InputError) as caught:
            call()
        for word in (f"{rate:g} Hz", model.spec.name, "30 Hz", "'FAST_MODEL' (130 Hz)", "--resample"):
            assert word in str(caught.value)
        assert "allow_rate_mismatch=True" in str(caught.value)


def test_another_frame_rate_can_be_taken_knowingly(dff: np.ndarray, model: Model) -> None:
    prob, _ = _predict(dff, model, frame_rate_hz=20.0, allow_rate_mismatch=True)
    assert np.isfinite(prob[:, 64:-64]).all()
    nu = crt.noise_levels(dff, frame_rate_hz=20.0)
    np.testing.assert_array_equal(prob, _predict(dff, model, noise_levels=nu)[0])


@pytest.mark.parametrize("rate", [28.51, 30.05, 31.49])
def test_the_clock_of_a_microscope_is_no_other_frame_rate(rate: float, dff: np.ndarray, model: Model) -> None:
    assert np.isfinite(_predict(dff, model, frame_rate_hz=rate)[0]).any()


# ----------------------------------------------------------------------------------------------------------- length


@pytest.mark.parametrize("missing", [1, 10])
@pytest.mark.parametrize("alignment", ["target", "cascade"])
def test_a_short_recording_is_nan_with_one_warning(missing: int, alignment: str, dff: np.ndarray, model: Model) -> None:
    n_frames = model.spec.windowsize - missing
    out = np.zeros((20, n_frames), np.float32)
    prob, sentences = _predict(dff[:, :n_frames], model, alignment=alignment, out=out)
    assert prob is out
    assert np.isnan(prob).all()
    _one(sentences, f"{n_frames} frames", repr(model.spec.name), f"window of {model.spec.windowsize}", "NaN")


@pytest.mark.parametrize("n_frames", [1, 2])
def test_the_shortest_recordings_are_no_trouble(n_frames: int, dff: np.ndarray, model: Model) -> None:
    prob, sentences = _predict(dff[:, :n_frames], model)
    assert prob.shape == (20, n_frames)
    assert np.isnan(prob).all()
    _one(sentences, "every value is NaN")


def test_a_recording_of_one_window_describes_one_frame(dff: np.ndarray, model: Model) -> None:
    window = model.spec.windowsize
    prob, sentences = _predict(dff[:, :window], model)
    assert sentences == []
    assert (np.isfinite(prob).sum(axis=1) == 1).all()
    assert np.isfinite(prob[:, window - 1 - model.spec.lookaheads[-1]]).all()


# ---------------------------------------------------------------------------------------------------- broken neurons

BROKEN = {"infinite": np.inf, "negative infinite": -np.inf, "all NaN": np.nan, "constant": 0.25, "zero": 0.0}


@pytest.mark.parametrize("threshold", ["zero", "noise_floor", "none"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_neuron_is_nan_and_counted_and_alone(name: str, threshold: str, dff: np.ndarray, model: Model) -> None:
    clean, _ = _predict(dff, model, threshold=threshold)
    broken = dff.copy()
    if "infinite" in name:
        broken[[4, 9], 300] = BROKEN[name]
    else:
        broken[[4, 9]] = BROKEN[name]
    prob, sentences = _predict(broken, model, threshold=threshold)
    _one(sentences, "2 of 20 neurons", "NaN throughout", "4, 9")
    assert np.isnan(prob[[4, 9]]).all()
    others = np.setdiff1d(np.arange(20), [4, 9])
    np.testing.assert_allclose(prob[others], clean[others], rtol=0, atol=1e-6)


def test_every_way_to_be_broken_at_once(dff: np.ndarray, model: Model) -> None:
    clean, _ = _predict(dff, model)
    broken = dff.copy()
    for row, value in enumerate(BROKEN.values()):
        broken[row, 5 if np.isinf(value) else slice(None)] = value
    prob, sentences = _predict(broken, model)
    _one(sentences, "5 of 20 neurons", "infinite values: 0, 1;", "a finite value: 2;", "constant: 3, 4")
    assert np.isnan(prob[:5]).all()
    np.testing.assert_allclose(prob[5:], clean[5:], rtol=0, atol=1e-6)


def test_all_neurons_broken_is_no_crash(model: Model) -> None:
    prob, sentences = _predict(np.full((15, 200), np.nan), model)
    assert np.isnan(prob).all()
    _one(sentences, "15 of 15 neurons", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …")


def test_a_neuron_nan_throughout_is_counted_whatever_noise_levels_were_given(dff: np.ndarray, model: Model) -> None:
    broken = dff.copy()
    broken[4] = np.nan
    prob, sentences = _predict(broken, model, noise_levels=np.full(20, 2.0))
    assert np.isnan(prob[4]).all()
    _one(sentences, "1 of 20 neurons", "4")


def test_some_missing_values_are_no_broken_neuron(dff: np.ndarray, model: Model) -> None:
    clean, _ = _predict(dff, model)
    some = dff.copy()
    some[4, 300:303] = np.nan
    prob, sentences = _predict(some, model, noise_levels=crt.noise_levels(dff, frame_rate_hz=RATE))
    assert sentences == []
    assert np.isnan(prob[4, 100:500]).sum() == model.spec.windowsize + 2
    others = np.arange(20) != 4
    np.testing.assert_allclose(prob[others], clean[others], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_neuron_is_alone_live_too(name: str, dff: np.ndarray, model: Model) -> None:
    broken = dff[:, :250].copy()
    nu = crt.noise_levels(broken, frame_rate_hz=RATE)
    broken[4, 100 if "infinite" in name else slice(None)] = BROKEN[name]
    streams = [crt.SpikeStream(model, n_neurons=20, frame_rate_hz=RATE, noise_levels=nu) for _ in range(2)]
    seen, clean = (s.push(x).spike_prob for s, x in zip(streams, (broken, dff[:, :250]), strict=True))
    others = np.arange(20) != 4
    np.testing.assert_allclose(seen[others], clean[others], rtol=0, atol=1e-6)
    if name == "all NaN":
        assert np.isnan(seen[4]).all()


def test_values_too_large_for_single_precision_are_infinite(dff: np.ndarray, model: Model) -> None:
    broken = dff.astype(np.float64)
    broken[4, 100] = -1e300
    prob, sentences = _predict(broken, model)
    assert np.isnan(prob[4]).all()
    _one(sentences, "1 of 20 neurons", "4")


# -------------------------------------------------------------------------------------------------------- errors


def test_every_refusal_is_of_one_family(dff: np.ndarray, model: Model) -> None:
    """What a program must catch is CascadeError, and for its own arguments ValueError."""
    for call in (
        lambda: crt.predict(dff[0], model, frame_rate_hz=RATE),
        lambda: crt.predict(dff, model, frame_rate_hz=float("nan")),
        lambda: crt.predict(dff, model, frame_rate_hz=RATE, threshold="other"),
        lambda: crt.predict(dff, model, frame_rate_hz=RATE, alignment="other"),
        lambda: crt.predict(dff, model, frame_rate_hz=RATE, lookahead_frames=12),
        lambda: crt.predict(dff, model, frame_rate_hz=RATE, noise_levels=[1.0]),
        lambda: crt.SpikeStream(model, n_neurons=0, frame_rate_hz=RATE),
        lambda: crt.noise_levels(dff[0], frame_rate_hz=RATE),
        lambda: crt.noise_levels(dff, frame_rate_hz=0),
        lambda: crt.load_model(model.folder, device="tpu"),
    ):
        with pytest.raises(ValueError, match=r"expected|no look-ahead") as caught:
            call()
        assert isinstance(caught.value, CascadeError)
    with pytest.raises(CascadeError, match="no model 'not there'"):
        crt.load_model("not there")

"""Training and export with Keras: resumable to the bit, equal in every form, aligned from end to end."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from small_fit import SMALL, small_config, small_traces

from cascade_rt.chunks import ModelSpec
from cascade_rt.errors import TrainingError
from training.architecture import WindowedShape

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow", reason="training and export need TensorFlow (the extra 'train')")
    pytest.importorskip("tf2onnx", reason="export needs tf2onnx (the extra 'train')")
    import keras

    return keras


def _randomised(model: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.normal(0, 0.1, w.shape).astype(np.float32) for w in model.get_weights()])
    return model


# ── training ──


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [4, 8, 12])
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    from training.fit import fit

    traces, config = small_traces(), small_config()
    whole = fit(traces, config, tmp_path / "whole").get_weights()

    def kill(step: int, *_: Any) -> None:
        if step == stop_at:
            raise _KilledError

    with pytest.raises(_KilledError):
        fit(traces, config, tmp_path / "killed", progress=kill)
    steps: list[int] = []
    resumed = fit(traces, config, tmp_path / "killed", progress=lambda step, *_: steps.append(step)).get_weights()
    assert steps == list(range(stop_at + 4, 17, 4))
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_half_written_checkpoint_does_no_harm(tmp_path: Path) -> None:
    from training.fit import CHECKPOINT, fit

    traces, config = small_traces(), small_config()
    whole = fit(traces, config, tmp_path).get_weights()
    (tmp_path / f"{CHECKPOINT}.new").write_bytes(b"half of a")
    calls: list[int] = []
    again = fit(traces, config, tmp_path, progress=lambda step, *_: calls.append(step)).get_weights()
    assert calls == []  # finished already
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    from training.fit import CHECKPOINT, fit

    config = small_config()
    fit(small_traces(), config, tmp_path)
    with pytest.raises(TrainingError, match="another configuration or other data"):
        fit(small_traces(), small_config(seed=5), tmp_path)
    with pytest.raises(TrainingError, match="another configuration or other data"):
        fit(small_traces(seed=1), config, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"PK not a checkpoint")
    with pytest.raises(TrainingError, match="not readable"):
        fit(small_traces(), config, tmp_path)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    from training.fit import fit

    first = fit(small_traces(), small_config(seed=1), tmp_path / "a").get_weights()
    second = fit(small_traces(), small_config(seed=2), tmp_path / "b").get_weights()
    assert any((a != b).any() for a, b in zip(first, second, strict=True))


# ── networks ──


def test_segments_and_windows_give_the_same_outputs() -> None:
    from training.architecture import build_conditioned

    model = _randomised(build_conditioned(SMALL), 0)
    dff = np.random.default_rng(0).standard_normal((2, 80, 1)).astype(np.float32)
    nu = np.array([[2.0], [7.0]], np.float32)
    window = SMALL.receptive_field
    dense = np.asarray(model([dff, nu], training=False))
    assert dense.shape == (2, 80 - window + 1, 3)
    for start in range(0, dense.shape[1], 7):
        single = np.asarray(model([dff[:, start : start + window], nu], training=False))
        np.testing.assert_allclose(single[:, 0], dense[:, start], atol=1e-5)


def test_windowed_network_equals_its_dilated_form() -> None:
    """CASCADE's network window by window, and as one pass of dilated convolutions in plain numpy."""
    from training.architecture import build_windowed
    from training.export import keras_to_onnx, network_from_onnx

    shape = WindowedShape(windowsize=39, filter_sizes=(7, 5, 3), filter_numbers=(3, 4, 5), dense_expansion=4)
    model = _randomised(build_windowed(shape), 1)
    network = network_from_onnx([keras_to_onnx(model)], shape)
    assert network.receptive_field == 39
    dff = np.random.default_rng(0).standard_normal(70).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(dff, 39)[:, :, None].copy()
    x = dff[:, None].astype(np.float64)
    for layer in network.layers:
        reach = (layer.taps - 1) * layer.dilation
        n = x.shape[0] - reach
        x = layer.bias[0] + sum(
            x[tap * layer.dilation : tap * layer.dilation + n] @ layer.kernel[0, tap] for tap in range(layer.taps)
        )
        x = np.maximum(x, 0) if layer.relu else x
        x = np.maximum(x[: -layer.pool], x[layer.pool :]) if layer.pool else x
    np.testing.assert_allclose(x, np.asarray(model(windows, training=False)), atol=1e-5)


# ── export ──


def _windowed_spec(shape: WindowedShape, members: int) -> ModelSpec:
    return ModelSpec(
        name="windowed",
        family="binned",
        frame_rate_hz=30.0,
        windowsize=shape.windowsize,
        lookaheads=(shape.windowsize - 1 - round(0.5 * shape.windowsize),),
        smoothing_s=0.05,
        causal_kernel=False,
        noise_levels=(3.0,),
        ensemble_size=members,
        before_frac=0.5,
    )


def test_export_of_a_conditioned_network(tmp_path: Path) -> None:
    from cascade_rt.engine import load_model
    from training.architecture import build_conditioned
    from training.export import TOLERANCE, conditioned_spec, export_bundle

    model = _randomised(build_conditioned(SMALL), 2)
    spec = conditioned_spec(
        "small",
        SMALL,
        frame_rate_hz=30,
        smoothing_s=0.05,
        causal_kernel=False,
        training_datasets=["A"],
        model=model,
    )
    path, difference = export_bundle(
        tmp_path / "small", {None: [model]}, SMALL, spec, card="# small", config={"model_name": "small"}
    )
    assert difference <= TOLERANCE
    loaded = load_model(path, threads=1)
    assert loaded.spec == spec
    dff = np.random.default_rng(3).standard_normal((3, 60)).astype(np.float32)
    nu = np.array([0.5, 3.0, 50.0], np.float32)  # outside the trained range: clipped alike
    expected = np.asarray(model([dff[:, :, None], nu[:, None]], training=False)).transpose(0, 2, 1)
    np.testing.assert_allclose(loaded.run_dense(None, dff, nu), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "shape",
    [
        WindowedShape(),
        WindowedShape(windowsize=67, filter_sizes=(21, 15, 7), filter_numbers=(6, 7, 8), dense_expansion=5),
    ],
    ids=["cascade", "other"],
)
def test_export_of_a_windowed_ensemble(tmp_path: Path, shape: WindowedShape) -> None:
    from cascade_rt.engine import load_model
    from training.architecture import build_windowed
    from training.export import TOLERANCE, export_bundle

    members = [_randomised(build_windowed(shape, seed=i), i) for i in range(2)]
    path, difference = export_bundle(
        tmp_path / "windowed", {3.0: members}, shape, _windowed_spec(shape, 2), card="# w", config={}
    )
    assert difference <= TOLERANCE
    loaded = load_model(path, threads=1)
    dff = np.random.default_rng(0).standard_normal((1, shape.windowsize)).astype(np.float32)
    expected = np.mean([np.asarray(m(dff[:, :, None], training=False)) for m in members])
    assert loaded.run_dense(3.0, dff, np.array([3.0])).item() == pytest.approx(expected, abs=TOLERANCE)


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import export
    from training.architecture import build_conditioned

    model = _randomised(build_conditioned(SMALL), 2)
    spec = export.conditioned_spec(
        "small", SMALL, frame_rate_hz=30, smoothing_s=0.05, causal_kernel=False, training_datasets=[], model=model
    )
    honest = export.network_from_onnx

    def spoilt(graphs: Any, shape: Any) -> Any:
        network = honest(graphs, shape)
        last = network.layers[-1]
        return replace(network, layers=(*network.layers[:-1], replace(last, bias=last.bias + np.float32(1e-3))))

    monkeypatch.setattr(export, "network_from_onnx", spoilt)
    with pytest.raises(TrainingError, match="graph differs from Keras by 0"):
        export.export_bundle(tmp_path / "small", {None: [model]}, SMALL, spec, card="", config={})
    assert list(tmp_path.iterdir()) == []


# ── from files to a bundle ──


def _write_ground_truth(folder: Path, dataset: str, neurons: int, seed: int = 0) -> None:
    (folder / dataset).mkdir(parents=True)
    for number, trace in enumerate(small_traces(n=neurons, seconds=80, seed=seed)):
        cells = np.empty((1, 1), object)
        cells[0, 0] = {
            "fluo_time": np.arange(trace.n_frames) / 30.0,
            "fluo_mean": trace.dff.astype(float),
            "events_AP": np.flatnonzero(trace.spike_counts) / 30.0 * 1e4,
        }
        savemat(folder / dataset / f"cell{number}_mini.mat", {"CAttached": cells})


@pytest.mark.slow
def test_command_line_from_files_to_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, score and export; what the bundle gives out describes the frames of the spikes, unshifted."""
    from cascade_rt.engine import load_model
    from training.cli import main
    from training.evaluate import engine_predictor, metrics
    from training.targets import smooth_spikes

    truth = tmp_path / "truth"
    _write_ground_truth(truth, "DS98-a", 4)
    _write_ground_truth(truth, "DS99-b", 2, seed=1)
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "name: tiny\nframe_rate_hz: 30.0\nsmoothing_s: 0.05\ndatasets: [DS98-a]\ntest_datasets: [DS99-b]\nfolds: 2\n"
        "network: {filter_sizes: [9, 5, 3], filter_numbers: [8, 8, 8], dense_expansion: 8, noise_hidden: 4,"
        " lookahead_frames: [0, 2, 7]}\n"
        "fit: {target_frames: 500000, segment_frames: 158, batch: 16, block_steps: 20, learning_rate: 0.005,"
        " warmup_steps: 20, phases: 1, methods: [average], jit: false}\n",
        encoding="utf-8",
    )
    common = ["--ground-truth", str(truth), "--runs", str(tmp_path / "runs")]
    assert main(["ground-truth", *common]) == 0
    assert "DS98-a" in capsys.readouterr().out
    assert main(["fit", str(config), *common]) == 0
    assert main(["evaluate", str(config), *common]) == 0
    table = capsys.readouterr().out
    assert "2-fold cross-validation" in table
    assert "Medians over the neurons of DS99-b" in table
    assert main(["export", str(config), "--to", str(tmp_path / "models"), *common]) == 0
    assert main(["export", str(config), "--to", str(tmp_path / "models"), *common]) == 1
    assert "exists" in capsys.readouterr().err

    folder = tmp_path / "models" / "tiny"
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    assert "| DS98-a | 4 | 5 |" in card
    assert "2-fold cross-validation" in card
    model = load_model(folder, threads=1)
    (trace,) = small_traces(n=1, seconds=100, seed=9)
    target = smooth_spikes(trace.spike_counts, smoothing_s=0.05, frame_rate_hz=30.0)
    predictions = engine_predictor(model)(trace.dff, 2.0)
    assert model.spec.lookaheads == (0, 2, 7)
    for row in predictions[1:]:
        fits = [metrics(row[10:-10], np.roll(target, shift)[10:-10]).correlation for shift in range(-3, 4)]
        assert np.argmax(fits) == 3, f"correlation at shifts -3 to 3: {fits}"
        assert max(fits) > 0.8


def test_unknown_configuration_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    from training.cli import main

    assert main(["fit", "NoSuchModel"]) == 1
    assert "GCaMP8_EXC_30Hz_smoothing25ms" in capsys.readouterr().err
    assert main(["train"]) == 2

"""Loading models: devices that are promises, threads that share, networks chosen by ν."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from networks import Stage, forward, loaded, random_network, write_conditioned
from recordings import recording

import cascade_rt as crt
from cascade_rt.engine import Model, available_cores, load_model
from cascade_rt.errors import DeviceError, InputError

# ------------------------------------------------------------------------------------------------------ devices


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_conditioned(tmp_path_factory.mktemp("engine") / "SMALL")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture
def broken_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The GPU package is installed, but its sessions land on the CPU, as without a driver; the providers asked for."""
    asked: list[Any] = []
    session = ort.InferenceSession

    def landing_on_the_cpu(model: Any, options: Any, *, providers: list[Any]) -> Any:
        asked.append(providers[0])
        return session(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", landing_on_the_cpu)
    return asked


def test_the_processor_is_the_default_and_is_named(folder: Any) -> None:
    model = load_model(folder)
    assert (model.device, model.provider) == ("cpu", "CPUExecutionProvider")
    assert repr(model) == f"<Model SMALL on cpu, {available_cores()} threads>"


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_do(folder: Any) -> None:
    with pytest.raises(DeviceError) as caught:
        load_model(folder, device="cuda")
    for word in ("device='cuda'", "CPUExecutionProvider", "cascade-rt[gpu]", "device='cpu'"):
        assert word in str(caught.value)


def test_a_gpu_session_that_lands_on_the_cpu_is_an_error(folder: Any, broken_gpu: list[Any]) -> None:
    with pytest.raises(DeviceError, match="could not start its CUDA provider"):
        load_model(folder, device="cuda")
    ((name, options),) = broken_gpu
    assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", "0"), "results must not be rounded to 10 bits"


@pytest.mark.usefixtures("no_gpu")
def test_auto_falls_back_and_says_so(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cascade_rt"):
        model = load_model(folder, device="auto", threads=1)
    assert model.device == "cpu"
    (record,) = caplog.records
    assert "device='auto': running on the CPU" in record.getMessage()
    assert "no CUDA provider" in record.getMessage()


def test_auto_falls_back_from_a_broken_gpu(
    folder: Any, broken_gpu: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(folder, device="auto", threads=1)
    assert (model.device, broken_gpu[0][0]) == ("cpu", "CUDAExecutionProvider")
    assert "could not start its CUDA provider" in caplog.text
    # What was made while trying the GPU is not used on the CPU.
    x = recording(np.random.default_rng(0), 2, 60)
    assert model.run_dense(None, x, np.ones(2)).shape[0] == 2


@pytest.mark.parametrize("device", ["gpu", "CUDA", "", None, 0])
def test_unknown_devices_are_refused(device: Any, folder: Any) -> None:
    with pytest.raises(InputError, match="expected 'cpu', 'cuda' or 'auto'"):
        load_model(folder, device=device)


# ------------------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(threads: int, folder: Any) -> None:
    with pytest.raises(InputError, match=f"threads={threads}: expected at least 1"):
        load_model(folder, threads=threads)


def test_threads_reach_the_sessions_and_change_nothing(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    session = ort.InferenceSession

    def noted(model: Any, options: Any, **kwargs: Any) -> Any:
        asked.append(options.intra_op_num_threads)
        return session(model, options, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", noted)
    x, nu = recording(np.random.default_rng(0), 4, 120), np.array([1.0, 2.0, 4.0, 8.0])
    one = load_model(folder, threads=1).run_dense(None, x, nu)
    three = load_model(folder, threads=3).run_dense(None, x, nu)
    assert set(asked) == {1, 3}
    np.testing.assert_allclose(one, three, atol=1e-6)


def test_all_cores_are_used_unless_told_otherwise(folder: Any) -> None:
    assert load_model(folder).threads == available_cores() >= 1
    assert load_model(folder, threads=2).threads == 2


def test_one_model_serves_several_threads(binned: Model) -> None:
    """Streams and offline calls of other recordings, all at once, each as it would be alone."""
    rng = np.random.default_rng(0)
    recordings = [recording(rng, 5, 150) for _ in range(6)]
    nu = [rng.permutation([0.5, 1.4, 3.0, 9.0, 2.0]) for _ in recordings]

    def alone(i: int) -> tuple[np.ndarray, np.ndarray]:
        stream = crt.SpikeStream(binned, n_neurons=5, frame_rate_hz=30, noise_levels=nu[i], threshold="none")
        parts = [stream.push(recordings[i][:, t : t + 3]).spike_prob for t in range(0, 150, 3)]
        live = np.concatenate([*parts, stream.flush().spike_prob], axis=1)
        options = {"frame_rate_hz": 30.0, "noise_levels": nu[i], "threshold": "none"}
        return live, crt.predict(recordings[i], binned, **options)  # type: ignore[arg-type]

    expected = [alone(i) for i in range(6)]
    start = threading.Barrier(6)

    def together(i: int) -> tuple[np.ndarray, np.ndarray]:
        start.wait()
        return alone(i)

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(together, range(6)))
    for (live, offline), (expected_live, expected_offline) in zip(seen, expected, strict=True):
        np.testing.assert_allclose(live, expected_live, atol=1e-6)
        np.testing.assert_allclose(offline, expected_offline, atol=1e-6)
        np.testing.assert_allclose(live, offline, atol=1e-5)


def test_threads_may_be_the_first_to_use_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    network = random_network(rng)
    model = loaded({1.0: network, 3.0: network, 9.0: network}, (0,))
    x, nu = recording(rng, 3, 60), np.ones(3)
    start = threading.Barrier(4)
    made = []
    session = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda *args, **kwargs: made.append(1) or session(*args, **kwargs))

    def first(_: int) -> list[np.ndarray]:
        start.wait()
        return [model.run_dense(key, x, nu) for key in (3.0, 9.0)]

    with ThreadPoolExecutor(4) as pool:
        results = [result for pair in pool.map(first, range(4)) for result in pair]
    for result in results:
        np.testing.assert_allclose(result, forward(network, x, nu), atol=3e-6)
    assert len(made) == 2, "each network is made ready once"


# ----------------------------------------------------------------------------------------------------- networks


def test_a_neuron_gets_the_nearest_level(binned: Model) -> None:
    nu = np.array([1e-6, 1.0, 1.49, 1.51, 2.9, 3.1, 5.9, 6.1, 1e6])
    assert binned.network_keys(nu) == [1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0]


def test_a_conditioned_model_has_one_network(conditioned: Model) -> None:
    assert conditioned.network_keys(np.array([0.1, 5.0])) == [None, None]
    assert conditioned.network(None).conditioning is not None


def test_dense_outputs_are_those_of_the_weights(models: dict[str, Model]) -> None:
    for model in models.values():
        nu = np.array([0.2, 3.0, 50.0])
        window = model.spec.windowsize
        x = recording(np.random.default_rng(3), 3, window + 30)
        for key in set(model.network_keys(nu)):
            seen = model.run_dense(key, x, nu)
            assert seen.shape == (3, len(model.spec.lookaheads), 31)
            np.testing.assert_allclose(seen, forward(model.network(key), x, nu), atol=3e-6)


def test_multiply_adds_are_those_of_one_neuron_and_frame(binned: Model, conditioned: Model) -> None:
    assert conditioned.multiply_adds == conditioned.network(None).multiply_adds
    # CASCADE's layers, two members; dense_1 sees 6 channels, dense_2 the 2 positions that pooling leaves.
    layers = 31 * 1 * 4 + 19 * 4 * 5 + 5 * 5 * 6 + 6 * 4 + 2 * 4 * 1
    assert layers <= binned.multiply_adds / 2 <= layers + 3 * 4


def test_loading_leaves_the_bundle_as_it_is(folder: Any) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model = load_model(folder, threads=1)
    crt.predict(recording(np.random.default_rng(0), 3, 80), model, frame_rate_hz=30.0)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert model.folder == folder


def test_networks_of_a_wide_layer_are_padded_without_effect() -> None:
    """onnxruntime's blocked layout wants multiples of 16; what is added must not be seen."""
    network = random_network(np.random.default_rng(0), stages=(Stage(4, 15), Stage(3, 16, 2), Stage(2, 17)), members=2)
    model = loaded({2.0: network}, (0,))
    x = recording(np.random.default_rng(0), 3, 50)
    np.testing.assert_allclose(model.run_dense(2.0, x, np.ones(3)), forward(network, x, np.ones(3)), atol=3e-6)

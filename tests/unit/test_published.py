"""Published CASCADE folders: the rewriting for whole recordings is exact, and unusable folders are refused by name."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import yaml
from networks import (
    KerasLayer,
    Shape,
    cascade_layers,
    conv,
    dense,
    flatten,
    forward,
    input_layer,
    picking_layers,
    pool,
    windowed,
    write_published,
    write_weights,
)
from recordings import offline, recording

from cascade_rt.bundle import import_cascade
from cascade_rt.engine import load_model
from cascade_rt.errors import BundleError
from cascade_rt.published import expected_files, read_config, read_published

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST = "Model_NoiseLevel_2_Ensemble_0.h5"

SHAPES = {
    "as published": Shape(filter_numbers=(30, 40, 50), dense_expansion=30),
    "dense_expansion 10": Shape(filter_numbers=(20, 30, 40), dense_expansion=10),
    "window 32": Shape(window=32, filter_sizes=(17, 9, 3)),
    "window 128": Shape(window=128),
    "second pool leaves a column": Shape(filter_sizes=(31, 21, 5)),
    "first pool leaves a column": Shape(window=65, filter_sizes=(31, 19, 5)),
    "both pools leave a column": Shape(window=46, filter_sizes=(5, 4, 3), filter_numbers=(3, 7, 2), dense_expansion=5),
    "short filters": Shape(window=33, filter_sizes=(3, 2, 2), filter_numbers=(2, 3, 4), dense_expansion=3),
    "one filter each": Shape(filter_numbers=(1, 1, 1), dense_expansion=1),
}


# ------------------------------------------------------------------------------------------------- the rewriting


@pytest.mark.parametrize("name", SHAPES)
def test_the_rewriting_equals_the_windowed_network(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    networks = write_published(tmp_path / "published", shape=shape, levels=(2,), members=2)
    model = load_model(import_cascade(tmp_path / "published", tmp_path / "bundle"), threads=1)
    dff = recording(np.random.default_rng(0), 2, shape.window + 40)
    windows = np.lib.stride_tricks.sliding_window_view(dff, shape.window, axis=1)
    expected = [np.mean([windowed(layers, w) for layers in networks[2]], axis=0) for w in windows]
    before = round(0.5 * shape.window)
    seen = offline(dff, model, threshold="none", noise_levels=np.full(2, 2.0))
    np.testing.assert_allclose(seen[:, before : before + 41], expected, atol=3e-6)
    assert np.isnan(seen[:, :before]).all()
    assert np.isnan(seen[:, before + 41 :]).all()
    # Live, the same weights take another way.
    stepper = model.stepper(np.full(2, 2.0))
    live = np.stack([stepper.step(x)[:, 0].copy() for x in dff.T], axis=1)[:, shape.window - 1 :]
    np.testing.assert_allclose(live, expected, atol=3e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_what_pooling_leaves_out_has_no_influence(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    after_first = shape.window - shape.filter_sizes[0] - shape.filter_sizes[1] + 2
    left = after_first // 2 - shape.filter_sizes[2] + 1
    unused = shape.window - (2 * (2 * (left // 2) + shape.filter_sizes[2] - 1) + sum(shape.filter_sizes[:2]) - 2)
    write_published(tmp_path / "published", shape=shape, levels=(2,), members=1)
    _, networks, _, _ = read_published(tmp_path / "published")
    network = networks[2.0]
    assert network.receptive_field == shape.window
    x = np.random.default_rng(1).normal(size=(99, shape.window))
    base, nu = forward(network, x, np.ones(99)), np.ones(99)
    for frame in (shape.window - 1, shape.window - unused, shape.window - unused - 1):
        changed = x.copy()
        changed[:, frame:] += 10.0
        moved = not np.allclose(forward(network, changed, nu), base, atol=1e-9)
        assert moved == (frame < shape.window - unused), (frame, unused)


def test_each_neuron_uses_the_ensemble_of_the_nearest_level(tmp_path: Path) -> None:
    networks = write_published(tmp_path / "published", levels=(2, 3, 7), members=3)
    model = load_model(import_cascade(tmp_path / "published", tmp_path / "bundle"), threads=1)
    nu = np.array([0.1, 2.4, 2.6, 4.9, 5.1, 80.0])
    dff = np.tile(recording(np.random.default_rng(0), 1, 90), (6, 1))
    windows = np.lib.stride_tricks.sliding_window_view(dff[0], 64)
    expected = {level: np.mean([windowed(layers, windows) for layers in networks[level]], axis=0) for level in networks}
    seen = offline(dff, model, threshold="none", noise_levels=nu)[:, 32 : 32 + 27]
    for row, level in zip(seen, (2, 2, 3, 3, 7, 7), strict=True):
        np.testing.assert_allclose(row, expected[level], atol=3e-6)


@pytest.mark.parametrize("layout", ["Functional", "Sequential"])
def test_both_layouts_of_a_weight_file_are_read(layout: str, tmp_path: Path) -> None:
    layers = cascade_layers(np.random.default_rng(4))
    write_published(tmp_path / "published", levels=(2,), members=1, make=lambda _: layers)
    if layout == "Sequential":
        first = layers[1]._replace(config=layers[1].config | {"batch_input_shape": [None, 64, 1]})
        with_dropout = [first, *layers[2:-1], KerasLayer("Dropout", {"name": "dropout_1", "rate": 0.5}), layers[-1]]
        write_weights(tmp_path / "published" / FIRST, with_dropout, sequential=True)
    _, networks, _, _ = read_published(tmp_path / "published")
    x = np.random.default_rng(0).normal(size=(5, 64))
    np.testing.assert_allclose(forward(networks[2.0], x, np.ones(5))[:, 0, 0], windowed(layers, x), atol=1e-6)


def test_two_pools_in_a_row_are_right_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [
        input_layer(32),
        conv("conv1d_1", rng.normal(size=(5, 1, 3)), rng.normal(size=3)),
        pool("max_pooling1d_1"),
        pool("max_pooling1d_2"),
        flatten(),
        dense("dense_1", rng.normal(size=(21, 1)), np.zeros(1), "linear"),
    ]
    write_published(tmp_path / "published", levels=(2,), members=1, make=lambda _: layers, windowsize=32)
    x = rng.normal(size=(5, 32))
    try:
        _, networks, _, _ = read_published(tmp_path / "published")
    except BundleError:
        return
    np.testing.assert_allclose(forward(networks[2.0], x, np.ones(5))[:, 0, 0], windowed(layers, x), atol=1e-6)


# ------------------------------------------------------------------------------------------------ what it says


def test_the_description_comes_from_the_configuration(tmp_path: Path) -> None:
    write_published(
        tmp_path / "Some_online_model", levels=(4, 2), members=3, before_frac=0.95, sampling_rate=7.5,
        smoothing=0.2, causal_kernel=1,
    )  # fmt: skip
    spec, networks, config, card = read_published(tmp_path / "Some_online_model")
    assert (spec.name, spec.family, spec.frame_rate_hz, spec.windowsize) == ("Some_online_model", "binned", 7.5, 64)
    assert (spec.lookaheads, spec.before_frac, spec.cascade_shift) == ((2,), 0.95, 2)
    assert (spec.smoothing_s, spec.causal_kernel) == (0.2, True)
    assert (spec.noise_levels, spec.ensemble_size) == ((2.0, 4.0), 3)
    assert spec.training_datasets == ("DS09-GCaMP6f-m-V1", "DS13-GCaMP6s-m-V1")
    assert re.fullmatch("[0-9a-f]{64}", spec.source_sha256)
    assert set(networks) == {2.0, 4.0}
    assert config["sampling_rate"] == 7.5
    for word in (
        "7.5 Hz",
        "look-ahead 2 frames",
        "400 ms",
        "200 ms",
        "causal",
        spec.source_sha256,
        "DS13-GCaMP6s-m-V1",
    ):
        assert word in card
    assert read_published(tmp_path / "Some_online_model", "mine")[0].name == "mine"


def test_other_weights_have_another_source_hash(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_published(tmp_path / str(seed), seed=seed)
    write_published(tmp_path / "again", seed=0)
    hashes = [read_published(tmp_path / name)[0].source_sha256 for name in ("0", "1", "again")]
    assert hashes[0] == hashes[2] != hashes[1]


def test_noise_levels_that_are_no_integers_name_their_files() -> None:
    files = expected_files({"noise_levels": [4, 2.5], "ensemble_size": 2})
    assert list(files) == [2.5, 4.0]
    assert files[2.5] == ["Model_NoiseLevel_2.5_Ensemble_0.h5", "Model_NoiseLevel_2.5_Ensemble_1.h5"]


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words", "a: [1, 2", "noise_levels: 3"])
def test_a_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"somewhere/config\.yaml"):
        read_config(text, "somewhere/config.yaml")


# --------------------------------------------------------------------------------------------- unusable folders


def _refused(folder: Path, *words: str) -> None:
    """The import raises, names the folder and what is wrong, and leaves nothing behind."""
    place = folder.parent / "bundles"
    with pytest.raises(BundleError) as caught:
        import_cascade(folder, place / "new")
    message = str(caught.value)
    for word in (folder.name, *words):
        assert word in message
    assert not place.exists() or not list(place.iterdir())


@pytest.fixture
def published(tmp_path: Path) -> Path:
    write_published(tmp_path / "PUBLISHED_MODEL", levels=(2, 4), members=2)
    return tmp_path / "PUBLISHED_MODEL"


def test_a_missing_network_is_named_and_counted(published: Path) -> None:
    (published / "Model_NoiseLevel_4_Ensemble_1.h5").unlink()
    _refused(published, "1 of the 4 networks", "Model_NoiseLevel_4_Ensemble_1.h5", "download")


def test_an_archive_without_weights_is_refused(published: Path) -> None:
    for path in published.glob("*.h5"):
        path.unlink()
    _refused(published, "4 of the 4 networks", FIRST)


@pytest.mark.parametrize("kept", [0, 7, 600, 0.5, 0.98])
def test_a_truncated_weight_file_is_refused(kept: float, published: Path) -> None:
    path = published / FIRST
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    _refused(published, FIRST)


def test_a_foreign_file_is_refused(published: Path) -> None:
    (published / FIRST).write_bytes(b"<html>404 Not Found</html>" * 100)
    _refused(published, FIRST)


def test_an_hdf5_file_of_something_else_is_refused(published: Path) -> None:
    with h5py.File(published / FIRST, "w") as file:
        file["dff"] = np.zeros((3, 4))
    _refused(published, FIRST, "model_config")


def _attributes(attributes: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: write_weights(path, cascade_layers(np.random.default_rng(0)), attributes=attributes)


def _without(group: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[group]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _attributes({"model_config": "{ not json"}),
        _attributes({"model_config": None}),
        _attributes({"model_config": "{}"}),
        _attributes({"model_config": '{"class_name": "Model", "config": {"layers": []}}'}),
        _attributes({"model_config": '{"class_name": "Model", "config": {"layers": [1, 2]}}'}),
        _attributes({"model_config": "[]"}),
        _without("model_weights"),
        _without("model_weights/conv1d_2"),
        _without("model_weights/conv1d_2/conv1d_2/kernel:0"),
        _without("model_weights/dense_2/dense_2/bias:0"),
    ],
    ids=[
        "description no JSON", "no description", "empty description", "no layers", "layers no mappings", "a list",
        "no weights", "layer without weights", "no kernel", "no bias",
    ],
)  # fmt: skip
def test_a_damaged_weight_file_is_refused(change: Callable[[Path], None], published: Path) -> None:
    change(published / FIRST)
    _refused(published, FIRST)


def _changed(layers: list[KerasLayer], name: str, **config: Any) -> list[KerasLayer]:
    return [x._replace(config=x.config | config) if x.config["name"] == name else x for x in layers]


def _weights_of(layers: list[KerasLayer], name: str, *arrays: np.ndarray) -> list[KerasLayer]:
    return [x._replace(weights=arrays) if x.config["name"] == name else x for x in layers]


def _unsupported(kind: str) -> KerasLayer:
    return KerasLayer(kind, {"name": "other_1"})


WHOLE = cascade_layers(np.random.default_rng(0))
C2, D1, D2 = WHOLE[2].weights, WHOLE[6].weights, WHOLE[8].weights
UNUSABLE = {
    "batch normalisation": ([*WHOLE[:2], _unsupported("BatchNormalization"), *WHOLE[2:]], "BatchNormalization"),
    "recurrent": ([WHOLE[0], _unsupported("LSTM"), *WHOLE[1:]], "LSTM"),
    "average pooling": ([*WHOLE[:3], _unsupported("AveragePooling1D"), *WHOLE[4:]], "AveragePooling1D"),
    "strided": (_changed(WHOLE, "conv1d_2", strides=[2]), "conv1d_2"),
    "padded": (_changed(WHOLE, "conv1d_2", padding="same"), "conv1d_2"),
    "dilated": (_changed(WHOLE, "conv1d_2", dilation_rate=[2]), "conv1d_2"),
    "pooling by 3": (_changed(WHOLE, "max_pooling1d_1", pool_size=[3], strides=[3]), "max_pooling1d_1"),
    "overlapping pooling": (_changed(WHOLE, "max_pooling1d_1", strides=[1]), "max_pooling1d_1"),
    "tanh": (_changed(WHOLE, "conv1d_2", activation="tanh"), "tanh"),
    "no bias": (_weights_of(WHOLE, "conv1d_2", C2[0]), ""),
    "rectified output": (_changed(WHOLE, "dense_2", activation="relu"), ""),
    "bias of another size": (_weights_of(WHOLE, "conv1d_2", C2[0], np.zeros(9, np.float32)), ""),
    "kernel of another size": (_weights_of(WHOLE, "conv1d_2", C2[0][:, :2], C2[1]), ""),
    "output of another size": (_weights_of(WHOLE, "dense_2", D2[0][:5], D2[1]), ""),
    "two outputs": (_weights_of(WHOLE, "dense_2", np.tile(D2[0], (1, 2)), np.zeros(2, np.float32)), ""),
    "no output layer": (WHOLE[:-1], ""),
    "not flattened": ([*WHOLE[:7], dense("dense_2", D1[0][:4, :1], np.zeros(1), "linear")], ""),
    "convolution after flattening": ([*WHOLE[:8], *WHOLE[1:2], *WHOLE[8:]], "Conv1D"),
    "longer than the window": ([WHOLE[0], *WHOLE[1:2] * 3, *WHOLE[2:]], ""),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_network_that_cannot_be_rewritten_is_refused(name: str, tmp_path: Path) -> None:
    layers, word = UNUSABLE[name]
    write_published(tmp_path / "P", levels=(2,), members=1)
    write_weights(tmp_path / "P" / FIRST, _unique(layers))
    _refused(tmp_path / "P", FIRST, word)


def _unique(layers: list[KerasLayer]) -> list[KerasLayer]:
    names = [x.config["name"] for x in layers]
    return [
        x if names.index(x.config["name"]) == i else x._replace(config=x.config | {"name": f"{x.config['name']}_{i}"})
        for i, x in enumerate(layers)
    ]


def test_members_of_different_shape_are_refused(published: Path) -> None:
    other = cascade_layers(np.random.default_rng(0), Shape(filter_numbers=(4, 5, 7)))
    write_weights(published / "Model_NoiseLevel_4_Ensemble_1.h5", other)
    _refused(published, "level 4", "different layers")


def test_a_window_other_than_the_configuration_says_is_refused(published: Path) -> None:
    _configure(published, windowsize=32)
    _refused(published, FIRST, "64", "32")


def test_a_window_one_frame_too_long_is_refused_in_both_layouts(tmp_path: Path) -> None:
    # 65 frames give the layers the same positions as 64, so only the stored shape can tell.
    layers = WHOLE[1:]
    layers = [layers[0]._replace(config=layers[0].config | {"batch_input_shape": [None, 64, 1]}), *layers[1:]]
    write_published(tmp_path / "P", levels=(2,), members=1, windowsize=65)
    _refused(tmp_path / "P", FIRST, "64", "65")
    write_weights(tmp_path / "P" / FIRST, layers, sequential=True)
    _refused(tmp_path / "P", FIRST, "64", "65")


def _configure(folder: Path, **changes: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    kept = {k: v for k, v in (config | changes).items() if v is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")


@pytest.mark.parametrize(
    "key", ["sampling_rate", "noise_levels", "smoothing", "windowsize", "before_frac", "ensemble_size"]
)
def test_a_configuration_that_lacks_an_entry_is_refused(key: str, published: Path) -> None:
    _configure(published, **{key: None})
    _refused(published, "config.yaml", key)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling_rate": "fast"},
        {"sampling_rate": 0},
        {"sampling_rate": -30},
        {"windowsize": "wide"},
        {"windowsize": [64]},
        {"windowsize": 0},
        {"before_frac": "half"},
        {"before_frac": 1.0},
        {"before_frac": -0.1},
        {"smoothing": "none"},
        {"smoothing": -0.1},
        {"ensemble_size": "five"},
        {"ensemble_size": 0},
        {"noise_levels": []},
        {"noise_levels": 2},
        {"noise_levels": ["low", "high"]},
        {"noise_levels": [-2, 4]},
    ],
    ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()),
)
def test_a_configuration_with_an_impossible_entry_is_refused(changes: dict[str, Any], published: Path) -> None:
    # The files that the entry names are there, so that only the entry itself is wrong.
    shutil.copy(published / FIRST, published / "Model_NoiseLevel_-2_Ensemble_0.h5")
    shutil.copy(published / FIRST, published / "Model_NoiseLevel_-2_Ensemble_1.h5")
    _configure(published, **changes)
    _refused(published)


def test_a_folder_without_a_readable_configuration_is_refused(published: Path) -> None:
    (published / "config.yaml").write_bytes(b"\xff\xfe\x00model")
    _refused(published, "config.yaml")
    (published / "config.yaml").unlink()
    _refused(published, "config.yaml", "CASCADE model folder")
    _refused(published.parent / "nowhere", "config.yaml")


def test_a_network_that_picks_a_frame_is_a_usable_published_model(tmp_path: Path) -> None:
    """What the tests of the alignment build on."""
    layers = picking_layers(20, 13)
    windows = np.abs(np.random.default_rng(0).normal(size=(4, 20)))
    np.testing.assert_allclose(windowed(layers, windows), windows[:, 13])
    write_published(tmp_path / "p", make=lambda _: layers, levels=(2,), members=1, windowsize=20)
    _, networks, _, _ = read_published(tmp_path / "p")
    np.testing.assert_allclose(forward(networks[2.0], windows, np.ones(4))[:, 0, 0], windows[:, 13])

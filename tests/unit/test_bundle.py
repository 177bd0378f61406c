"""Bundles: found by name or path, read only when whole, written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from networks import random_network, spec_for, write_conditioned, write_published

from cascade_rt import bundle
from cascade_rt.bundle import (
    find_bundle,
    import_cascade,
    list_models,
    read_bundle,
    read_card,
    read_spec,
    user_model_folder,
    write_bundle,
)
from cascade_rt.engine import load_model
from cascade_rt.errors import BundleError, CascadeError, ModelNotFoundError, OutputExistsError
from cascade_rt.graph import dense_model
from cascade_rt.network import Network

LEVELS = (1.0, 3.0, 6.0)


def _networks(members: int = 2) -> dict[float | None, Network]:
    rng = np.random.default_rng(0)
    return {level: random_network(rng, members=members) for level in LEVELS}


NETWORKS = _networks()
SPEC = spec_for(NETWORKS[1.0], (4,), name="three_levels")


def _write(folder: Path, **options: Any) -> Path:
    return write_bundle(folder, SPEC, NETWORKS, card="# Card\nγ\n", config={"sampling_rate": 30.0}, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _write(tmp_path / "models" / "THREE_LEVELS")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, empty."""
    monkeypatch.setenv("CASCADE_RT_MODELS", str(tmp_path / "installed"))
    return tmp_path / "installed"


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def _rewrite(folder: Path, manifest: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _sign(folder: Path) -> None:
    """Make the manifest agree with the files as they are."""
    manifest = _manifest(folder)
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    _rewrite(folder, manifest)


# ------------------------------------------------------------------------------------------------- round trips


def test_what_is_written_is_read_back(folder: Path) -> None:
    seen = read_bundle(folder)
    assert (seen.folder, seen.spec) == (folder, SPEC)
    assert set(seen.networks) == set(LEVELS)
    for level in LEVELS:
        for one, other in zip(seen.networks[level].layers, NETWORKS[level].layers, strict=True):
            np.testing.assert_array_equal(one.kernel, other.kernel)
            np.testing.assert_array_equal(one.bias, other.bias)
    assert read_spec(folder) == SPEC
    assert read_card(folder) == "# Card\nγ\n"


def test_a_bundle_holds_what_the_design_names_and_nothing_else(folder: Path) -> None:
    names = {p.name for p in folder.iterdir()}
    assert names == {"manifest.json", "config.yaml", "CARD.md", "noise_1.onnx", "noise_3.onnx", "noise_6.onnx"}
    manifest = _manifest(folder)
    assert set(manifest["files"]) == names - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == {"sampling_rate": 30.0}


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = _write(tmp_path / "one" / "m"), _write(tmp_path / "two" / "m")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_a_conditioned_bundle_is_one_network(tmp_path: Path) -> None:
    folder = write_conditioned(tmp_path / "all_levels")
    assert (folder / "network.onnx").is_file()
    seen = read_bundle(folder)
    assert set(seen.networks) == {None}
    assert seen.spec.family == "conditioned"
    assert load_model(folder, threads=1).spec == seen.spec


def test_imported_folders_keep_their_configuration(tmp_path: Path) -> None:
    write_published(tmp_path / "PUBLISHED")
    folder = import_cascade(tmp_path / "PUBLISHED", tmp_path / "bundles" / "mine", name="mine")
    assert folder == tmp_path / "bundles" / "mine"
    assert read_spec(folder).name == "mine"
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config == yaml.safe_load((tmp_path / "PUBLISHED" / "config.yaml").read_text(encoding="utf-8"))
    assert "CASCADE" in read_card(folder)


# ------------------------------------------------------------------------------------------------------ finding


def test_models_are_found_by_path_and_by_name(folder: Path, installed: Path) -> None:
    write_conditioned(installed / "MINE")
    assert find_bundle(folder) == find_bundle(str(folder)) == folder
    assert find_bundle("MINE") == installed / "MINE"
    assert "MINE" in list_models()
    assert list_models() == sorted(set(list_models()))


def test_the_users_models_come_first(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "package" / "bundle.py"))
    for place in (installed, tmp_path / "package" / "exported_models", tmp_path / "exported_models"):
        write_conditioned(place / place.parent.name)
        write_conditioned(place / "SAME")
    assert find_bundle("SAME") == installed / "SAME"
    assert len(list_models()) == 3


def test_an_unknown_name_gets_the_nearest_and_what_there_is(installed: Path) -> None:
    write_conditioned(installed / "GCaMP8_EXC_30Hz_smoothing25ms")
    with pytest.raises(ModelNotFoundError) as caught:
        load_model("GCaMP8_EXC_30Hz_smoothing25")
    message = str(caught.value)
    assert "did you mean 'GCaMP8_EXC_30Hz_smoothing25ms'" in message
    assert "installed: " in message
    assert "import" in message


def test_a_name_is_no_way_out_of_the_model_folders(installed: Path) -> None:
    write_conditioned(installed.parent / "OUTSIDE")
    write_conditioned(installed / "INSIDE")
    with pytest.raises(ModelNotFoundError):
        find_bundle("../OUTSIDE")
    with pytest.raises(ModelNotFoundError):
        find_bundle("")


def test_a_published_folder_is_told_from_a_bundle(tmp_path: Path) -> None:
    write_published(tmp_path / "PUBLISHED")
    with pytest.raises(ModelNotFoundError, match=r"PUBLISHED.*published CASCADE folder.*cascade-rt import"):
        load_model(tmp_path / "PUBLISHED")


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_DATA_HOME", "base/cascade_rt/models"),
        ("win32", "LOCALAPPDATA", "base/cascade_rt/models"),
        ("darwin", "HOME", "base/Library/Application Support/cascade_rt/models"),
    ],
)
def test_each_platform_has_its_place_for_models(
    platform: str, variable: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform == "darwin" and sys.platform == "win32":
        pytest.skip("HOME has no meaning here")
    monkeypatch.delenv("CASCADE_RT_MODELS", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path / "base"))
    assert user_model_folder() == tmp_path / expected
    monkeypatch.setenv("CASCADE_RT_MODELS", str(tmp_path / "chosen"))
    assert user_model_folder() == tmp_path / "chosen"


# ------------------------------------------------------------------------------------------- damaged bundles


def _refused(folder: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_model(folder, threads=1)
    for word in (folder.name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["noise_1.onnx", "noise_6.onnx", "config.yaml", "CARD.md"])
def test_one_changed_bit_is_noticed(name: str, folder: Path) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    _refused(folder, name, "sha256", "install the model again")


@pytest.mark.parametrize("name", ["noise_3.onnx", "config.yaml", "CARD.md"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    _refused(folder, name, "missing")


def test_a_truncated_network_is_noticed(folder: Path) -> None:
    data = (folder / "noise_3.onnx").read_bytes()
    (folder / "noise_3.onnx").write_bytes(data[: len(data) // 2])
    _refused(folder, "noise_3.onnx", "sha256")
    _sign(folder)
    _refused(folder, "noise_3.onnx")


def test_a_wrong_hash_is_noticed(folder: Path) -> None:
    manifest = _manifest(folder)
    manifest["files"]["noise_3.onnx"] = "0" * 64
    _rewrite(folder, manifest)
    _refused(folder, "noise_3.onnx", "000000000000")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused_with_both_versions(version: object, folder: Path) -> None:
    _rewrite(folder, _manifest(folder) | {"format": version})
    _refused(folder, f"format {version!r}", "reads 1")
    with pytest.raises(BundleError, match="format"):
        read_spec(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\x00\x01"])
def test_an_unreadable_manifest_is_refused(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    _refused(folder, "manifest.json")


@pytest.mark.parametrize(
    "change",
    [
        {"networks": []},
        {"networks": {}},
        {"networks": "noise_1.onnx"},
        {"networks": [{"noise_level": 1.0}]},
        {"networks": [{"file": "noise_1.onnx"}]},
        {"networks": [{"file": "other.onnx", "noise_level": 1.0}]},
        {"networks": ["noise_1.onnx"]},
        {"files": []},
        {"files": {}},
        {"files": None},
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, Any], folder: Path) -> None:
    _rewrite(folder, _manifest(folder) | change)
    _refused(folder)


def test_a_manifest_cannot_reach_outside_its_folder(folder: Path) -> None:
    (folder / "noise_3.onnx").rename(folder.parent / "elsewhere.onnx")
    manifest = _manifest(folder)
    manifest["files"]["../elsewhere.onnx"] = manifest["files"].pop("noise_3.onnx")
    manifest["networks"][1]["file"] = "../elsewhere.onnx"
    _rewrite(folder, manifest)
    _refused(folder, "elsewhere.onnx")


def test_a_missing_noise_level_is_noticed(folder: Path) -> None:
    manifest = _manifest(folder)
    del manifest["networks"][1]
    _rewrite(folder, manifest)
    _refused(folder, "3.0")


def test_networks_under_the_wrong_noise_level_are_noticed(folder: Path) -> None:
    manifest = _manifest(folder)
    first, second = manifest["networks"][:2]
    first["file"], second["file"] = second["file"], first["file"]
    _rewrite(folder, manifest)
    _refused(folder, first["file"])


def test_a_missing_member_is_noticed(folder: Path) -> None:
    alone = random_network(np.random.default_rng(0), members=1)
    model = dense_model(alone, SPEC, noise_level=3.0)
    (folder / "noise_3.onnx").write_bytes(model.SerializeToString())
    _sign(folder)
    _refused(folder, "3.0", "members")


@pytest.mark.parametrize(
    "change",
    [
        {"windowsize": 99, "before_frac": 0.5},
        {"ensemble_size": 5},
        {"family": "conditioned", "noise_levels": (1.0, 6.0)},
    ],
    ids=str,
)
def test_networks_that_do_not_fit_their_description_are_noticed(change: dict[str, Any], folder: Path) -> None:
    spec = spec_for(NETWORKS[1.0], (4,), **change)
    for level in LEVELS:
        model = dense_model(NETWORKS[level], spec, noise_level=level)
        (folder / f"noise_{level:g}.onnx").write_bytes(model.SerializeToString())
    _sign(folder)
    _refused(folder)


def test_networks_that_describe_themselves_differently_are_noticed(folder: Path) -> None:
    spec = spec_for(NETWORKS[1.0], (4,), name="three_levels", smoothing_s=0.2)
    model = dense_model(NETWORKS[3.0], spec, noise_level=3.0)
    (folder / "noise_3.onnx").write_bytes(model.SerializeToString())
    _sign(folder)
    _refused(folder, "differently")


def test_a_manifest_that_describes_another_model_is_noticed(folder: Path) -> None:
    # The frame rate in the manifest is what lists of models show; the networks know better.
    manifest = _manifest(folder)
    manifest["spec"]["frame_rate_hz"] = 7.5
    _rewrite(folder, manifest)
    _refused(folder, "manifest.json")


def test_a_foreign_onnx_file_is_refused(folder: Path) -> None:
    model = dense_model(NETWORKS[3.0])
    (folder / "noise_3.onnx").write_bytes(model.SerializeToString())
    _sign(folder)
    _refused(folder, "noise_3.onnx", "metadata")


def test_the_description_can_be_missing_from_the_manifest(folder: Path) -> None:
    manifest = _manifest(folder)
    del manifest["spec"]
    _rewrite(folder, manifest)
    with pytest.raises(BundleError, match=r"THREE_LEVELS.*manifest\.json"):
        read_spec(folder)


def test_a_missing_card_is_an_error_of_ours(folder: Path) -> None:
    (folder / "CARD.md").unlink()
    with pytest.raises(CascadeError, match=r"CARD\.md"):
        read_card(folder)


# ------------------------------------------------------------------------------------------------------ writing


def _left(place: Path) -> set[str]:
    return {p.name for p in place.iterdir()} if place.exists() else set()


def test_a_bundle_that_is_there_is_not_touched_without_being_asked(folder: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_published(tmp_path / "PUBLISHED")
    with pytest.raises(OutputExistsError, match=r"THREE_LEVELS exists.*overwrite"):
        _write(folder)
    with pytest.raises(OutputExistsError, match=r"THREE_LEVELS exists.*overwrite"):
        import_cascade(tmp_path / "PUBLISHED", folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert _left(folder.parent) == {"THREE_LEVELS"}


def test_overwriting_replaces_the_whole_folder(folder: Path, tmp_path: Path) -> None:
    write_published(tmp_path / "PUBLISHED", levels=(2,))
    import_cascade(tmp_path / "PUBLISHED", folder, overwrite=True)
    assert _left(folder) == {"manifest.json", "config.yaml", "CARD.md", "noise_2.onnx"}
    assert load_model(folder, threads=1).spec.name == "PUBLISHED"
    assert _left(folder.parent) == {"THREE_LEVELS"}


def test_a_failed_overwrite_leaves_the_old_bundle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_published(tmp_path / "PUBLISHED")
    (tmp_path / "PUBLISHED" / "Model_NoiseLevel_4_Ensemble_1.h5").write_bytes(b"truncated")
    with pytest.raises(BundleError):
        import_cascade(tmp_path / "PUBLISHED", folder, overwrite=True)
    assert read_bundle(folder).spec == SPEC
    with pytest.raises(BundleError):
        write_bundle(folder, SPEC, {1.0: NETWORKS[1.0]}, card="", config={}, overwrite=True)
    assert read_bundle(folder).spec == SPEC
    _fail_at_the_last_network(monkeypatch)
    with pytest.raises(OSError, match="disk full"):
        _write(folder, overwrite=True)
    monkeypatch.undo()
    assert read_bundle(folder).spec == SPEC
    assert _left(folder.parent) == {"THREE_LEVELS"}


def _fail_at_the_last_network(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def failing(self: Path, data: bytes) -> int:
        if self.name == "noise_6.onnx":
            raise OSError("disk full")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", failing)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "models"
    place.mkdir()
    _fail_at_the_last_network(monkeypatch)
    with pytest.raises(OSError, match="disk full"):
        _write(place / "new")
    assert _left(place) == set()


def test_networks_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    other = random_network(np.random.default_rng(0), members=1)
    for networks in ({1.0: NETWORKS[1.0]}, {**NETWORKS, 3.0: other}, {None: NETWORKS[1.0]}, {}):
        with pytest.raises(BundleError, match="three_levels"):
            write_bundle(tmp_path / "new", SPEC, networks, card="", config={})
    assert _left(tmp_path) == set()


def test_a_file_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError):
        _write(tmp_path / "new")
    assert (tmp_path / "new").read_text(encoding="utf-8") == "mine"

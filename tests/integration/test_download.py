"""`cascade-rt import --download`: from a server to a model that runs, or to nothing at all."""

from __future__ import annotations

import functools
import json
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import cascade_rt
from cascade_rt.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "OGB_zf_pDp_7.5Hz_smoothing200ms"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def archive(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME.zip of a published model, as CASCADE's server gives it."""
    target = tmp_path_factory.mktemp("zips") / f"{NAME}.zip"
    with zipfile.ZipFile(target, "w") as packed:
        for path in sorted((shared / "cascade_models" / NAME).iterdir()):
            packed.write(path, path.name)
    return target


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("CASCADE_RT_MODELS", str(folder))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a plain web server, which knows no ranges."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    running.daemon_threads = False
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}", folder
    running.shutdown()
    thread.join()
    running.server_close()


def test_by_registry_from_a_server(
    server: tuple[str, Path], archive: Path, models: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = server
    (folder / "x.zip").write_bytes(archive.read_bytes())
    (folder / "models.yaml").write_text(f"{NAME}:\n    Link: {url}/x.zip\n    Info:\n", encoding="utf-8")
    assert main(["import", "--download", NAME, "--registry", f"{url}/models.yaml", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert Path(answer["folder"]) == models / NAME
    assert answer["name"] == NAME
    assert [path.name for path in models.iterdir()] == [NAME]
    assert NAME in cascade_rt.list_models()

    with np.load(shared / "golden" / f"ogb_7.5Hz_{NAME}.npz") as golden:
        model = cascade_rt.load_model(NAME)
        prob = cascade_rt.predict(golden["dff"][:5], model, frame_rate_hz=7.5, alignment="cascade")
        np.testing.assert_allclose(prob, golden["spike_prob_threshold_0"][:5], atol=1e-5)


def test_by_mirror_under_another_name(archive: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--download", NAME, "--mirror", str(archive.parent), "--name", "mine"]) == 0
    assert "--model mine --frame-rate 7.5" in capsys.readouterr().out
    assert [path.name for path in models.iterdir()] == ["mine"]
    assert main(["import", "--download", NAME, "--mirror", str(archive.parent), "--name", "mine"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["import", "--download", NAME, "--mirror", str(archive.parent), "--name", "mine", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PK\5\6" + bytes(18), "is empty"), (b"<html>", "not a readable zip")],
)
def test_useless_archives_leave_nothing(
    server: tuple[str, Path], models: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    url, folder = server
    (folder / f"{NAME}.zip").write_bytes(content)
    assert main(["import", "--download", NAME, "--mirror", url]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert NAME in shown
    assert list(models.iterdir()) == []


def test_archive_without_one_network_leaves_nothing(
    archive: Path, tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    lost = "Model_NoiseLevel_4_Ensemble_2.h5"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(mirror / f"{NAME}.zip", "w") as part:
        for name in whole.namelist():
            if name != lost:
                part.writestr(name, whole.read(name))
    assert main(["import", "--download", NAME, "--mirror", str(mirror)]) == 1
    assert f"1 of the 30 networks that its config.yaml names are missing ({lost})" in capsys.readouterr().err
    assert list(models.iterdir()) == []


def test_unknown_names(shared: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = str(shared / "cascade_models" / "available_models.yaml")
    assert main(["import", "--download", "OGB_zf_pDp_7.5Hz_smoothing200", "--registry", registry]) == 1
    assert f"near names: {NAME}" in capsys.readouterr().err
    assert list(models.iterdir()) == []


def test_from_a_folder(shared: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shared / "cascade_models" / NAME
    assert main(["import", str(source), "--out", str(tmp_path / "here")]) == 0
    assert f"--model {tmp_path / 'here'}" in capsys.readouterr().out
    assert not models.exists()
    assert main(["import", str(tmp_path)]) == 1
    assert "config.yaml" in capsys.readouterr().err
    assert not models.exists()

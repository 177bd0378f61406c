"""The download of published models, against a server on this machine."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cascade_rt.errors import DownloadError, InputError, ModelNotFoundError
from cascade_rt.registry import REGISTRY_URL, check_archive, download, fetch_model, read_registry, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "Small_30Hz"
BASIC = "sampling_rate: 30\nsmoothing: 0.05\nwindowsize: 64\nbefore_frac: 0.5\n"
CONFIG = f"{BASIC}noise_levels: [2, 3]\nensemble_size: 2\n"
NO_FILES = b"PK\5\6" + bytes(18)  # the directory of a zip without entries
NETWORKS = [f"Model_NoiseLevel_{level}_Ensemble_{member}.h5" for level in (2, 3) for member in (0, 1)]


def make_archive(*, leave_out: str = "", folder: str = "", extra: dict[str, bytes] | None = None) -> bytes:
    random = np.random.default_rng(0)
    entries = {"config.yaml": CONFIG.encode(), **{name: random.bytes(60_000) for name in NETWORKS}}
    entries.pop(leave_out, None)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in entries.items():
            archive.writestr(folder + name, content)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return packed.getvalue()


@dataclass
class Site:
    """What the server holds and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    close_after: list[int] = field(default_factory=list)  # bytes sent before the connection closes, request by request
    chunked: bool = False
    errors: list[int] = field(default_factory=list)  # answers to the first requests
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.requests.append((self.path, wanted))
            self.close_connection = True
            content = site.files.get(self.path)
            code = site.errors.pop(0) if site.errors else 404 if content is None else 200
            if code != 200 or content is None:
                self.send_error(code)
                return
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
            if first and first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            body = content[first:]
            cut = bool(site.close_after) and self.path.endswith(".zip")
            sent = body[: site.close_after.pop(0)] if cut else body
            if site.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if sent == body else b""))
            else:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(sent)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site()) as running:
        running.files["/a.zip"] = make_archive()
        running.files["/models.yaml"] = f"{NAME}:\n  Link: {running.url}/a.zip\n  Info:\n".encode()
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models" / "incoming"
    made.mkdir(parents=True)
    return made


def fetch(site: Site, folder: Path, retries: int = 4) -> Path:
    return fetch_model(NAME, folder, registry=f"{site.url}/models.yaml", retries=retries, wait_s=0.0)


def left_behind(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*") if path != folder)


def test_whole_archive_is_unpacked_and_nothing_else_stays(site: Site, folder: Path) -> None:
    reports: list[tuple[float | None, str]] = []
    found = fetch_model(
        NAME, folder, registry=f"{site.url}/models.yaml", report=lambda fraction, text: reports.append((fraction, text))
    )
    assert found == folder / NAME
    assert sorted(path.name for path in found.iterdir()) == sorted([*NETWORKS, "config.yaml"])
    assert (found / "config.yaml").read_text() == CONFIG
    assert left_behind(folder) == sorted(
        f"incoming/{NAME}{tail}" for tail in ["", *(f"/{p.name}" for p in found.iterdir())]
    )
    assert reports[-1][0] == 1.0
    assert "MB of 0.2 MB" in reports[-1][1]


def test_archive_with_a_folder_inside(site: Site, folder: Path) -> None:
    site.files["/a.zip"] = make_archive(folder="Pretrained/Small_30Hz/")
    assert (fetch(site, folder) / NETWORKS[0]).stat().st_size == 60_000


def test_closed_connection_is_resumed_where_it_stopped(site: Site, folder: Path) -> None:
    site.close_after = [100_000, 50_000]
    fetch(site, folder)
    assert [wanted for path, wanted in site.requests if path == "/a.zip"] == [None, "bytes=100000-", "bytes=150000-"]


def test_next_command_goes_on_from_the_part(site: Site, folder: Path) -> None:
    site.close_after = [100_000]
    with pytest.raises(DownloadError, match=r"closed after 100000 of \d+ bytes; 0.1 MB are kept"):
        fetch(site, folder, retries=0)
    assert left_behind(folder) == [f"{NAME}.zip.part"]
    assert (folder.parent / f"{NAME}.zip.part").stat().st_size == 100_000
    assert len(list(fetch(site, folder, retries=0).iterdir())) == 5
    assert site.requests[-1] == ("/a.zip", "bytes=100000-")


def test_server_without_ranges_sends_everything_again(site: Site, folder: Path) -> None:
    site.ranges = False
    site.close_after = [100_000]
    assert len(list(fetch(site, folder).iterdir())) == 5


def test_part_of_another_version_is_thrown_away(site: Site, folder: Path) -> None:
    (folder.parent / f"{NAME}.zip.part").write_bytes(bytes(100_000))
    assert len(list(fetch(site, folder).iterdir())) == 5
    assert [wanted for path, wanted in site.requests if path == "/a.zip"] == ["bytes=100000-", None]


def test_part_that_is_longer_than_the_file_is_thrown_away(site: Site, folder: Path) -> None:
    (folder.parent / f"{NAME}.zip.part").write_bytes(bytes(1_000_000))
    assert len(list(fetch(site, folder).iterdir())) == 5


def test_part_that_is_whole_needs_no_bytes(site: Site, folder: Path) -> None:
    (folder.parent / f"{NAME}.zip.part").write_bytes(site.files["/a.zip"])
    assert len(list(fetch(site, folder).iterdir())) == 5


@pytest.mark.parametrize("whole", [True, False])
def test_chunked_answer_of_unknown_length(site: Site, folder: Path, whole: bool) -> None:
    site.chunked = True
    site.close_after = [] if whole else [90_000] * 5
    if whole:
        assert len(list(fetch(site, folder).iterdir())) == 5
    else:
        with pytest.raises(DownloadError, match="the connection closed after"):
            fetch(site, folder, retries=0)


def test_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.errors = [503, 429]
    waits: list[float] = []
    download(f"{site.url}/a.zip", tmp_path / "a.zip", sleep=waits.append)
    assert (tmp_path / "a.zip").read_bytes() == site.files["/a.zip"]
    assert waits == [1.0, 2.0]


def test_missing_file_is_not_asked_for_again(site: Site, folder: Path) -> None:
    del site.files["/a.zip"]
    with pytest.raises(DownloadError, match="the server answered 404"):
        fetch(site, folder)
    assert [path for path, _ in site.requests] == ["/models.yaml", "/a.zip"]
    assert left_behind(folder) == []


def test_no_server(folder: Path) -> None:
    with serve(Site()) as gone:
        pass
    with pytest.raises(DownloadError, match="could not be fetched whole after 2 tries"):
        fetch_model(NAME, folder, mirror=gone.url, retries=1, wait_s=0.0)
    with pytest.raises(DownloadError, match=r"the registry .* cannot be fetched"):
        read_registry(f"{gone.url}/models.yaml")
    assert left_behind(folder) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: 0 bytes came"),
        (NO_FILES, "is empty: it holds no files"),
        (b"<html>please log in</html>", "is not a readable zip file"),
        (make_archive()[:-200], "is not a readable zip file"),
        (make_archive(leave_out=NETWORKS[2]), rf"1 of the 4 networks .* are missing \({NETWORKS[2]}\)"),
        (make_archive(leave_out="config.yaml"), "holds no config.yaml"),
        (make_archive(extra={"../outside.txt": b"x"}), r"'../outside.txt' leads outside"),
        (make_archive(extra={"/outside.txt": b"x"}), r"'/outside.txt' leads outside"),
        (make_archive(extra={"C:\\outside.txt": b"x"}), "leads outside"),
    ],
    ids=["no-bytes", "no-files", "not-a-zip", "cut", "missing-member", "no-config", "parent", "absolute", "drive"],
)
def test_bad_archives_install_nothing(site: Site, folder: Path, content: bytes, message: str) -> None:
    site.files["/a.zip"] = content
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(site, folder)
    assert NAME in str(caught.value)
    assert left_behind(folder) == []


def test_damaged_byte_is_found(tmp_path: Path) -> None:
    content = bytearray(make_archive())
    content[30_000] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"damaged: the checksum of Model_NoiseLevel_2_Ensemble_0\.h5"):
        check_archive(tmp_path / "a.zip", name=NAME)


@pytest.mark.parametrize(
    "config",
    [
        "just text",
        "a: [b",
        f"{BASIC}noise_levels: [2]\n",
        f"{BASIC}noise_levels: []\nensemble_size: 5\n",
        f"{BASIC}noise_levels: [2]\nensemble_size: many\n",
        f"{BASIC}noise_levels: [2]\nensemble_size: 0\n",
    ],
)
def test_config_that_names_no_networks(tmp_path: Path, config: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("config.yaml", config)
    with pytest.raises(DownloadError, match=r"cannot be used: .*config\.yaml|cannot be used: invalid literal"):
        check_archive(tmp_path / "a.zip", name=NAME)


def test_mirror_folder_and_mirror_address(site: Site, folder: Path, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.zip").write_bytes(make_archive())
    first = fetch_model(NAME, folder, mirror=tmp_path)
    assert len(list(first.iterdir())) == 5
    assert (tmp_path / f"{NAME}.zip").is_file()
    site.files[f"/mirror/{NAME}.zip"] = make_archive()
    first.rename(folder / "first")
    assert len(list(fetch_model(NAME, folder, mirror=f"{site.url}/mirror/").iterdir())) == 5
    with pytest.raises(DownloadError, match=r"has no Other\.zip"):
        fetch_model("Other", folder, mirror=tmp_path)


def test_unknown_name_suggests_near_ones() -> None:
    links = {"Global_EXC_30Hz_smoothing50ms": "a", "GC8_EXC_30Hz_smoothing25ms": "b", "Zebrafish_1Hz": "c"}
    with pytest.raises(ModelNotFoundError, match="near names: Global_EXC_30Hz_smoothing50ms"):
        resolve("global_exc_30hz_smoothing50", links)
    with pytest.raises(ModelNotFoundError, match="it lists 3 models"):
        resolve("qqq", links)


def test_registry_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("A_30Hz:\n    Link: http://somewhere/download\n    Info:\n")
    assert read_registry(tmp_path / "models.yaml") == {"A_30Hz": "http://somewhere/download"}
    with pytest.raises(DownloadError, match="cannot be read"):
        read_registry(tmp_path / "none.yaml")
    (tmp_path / "other.yaml").write_text("- a\n- b\n")
    with pytest.raises(DownloadError, match="is not a registry"):
        read_registry(tmp_path / "other.yaml")


def test_published_registry_is_read(shared: Path) -> None:
    links = read_registry(shared / "cascade_models" / "available_models.yaml")
    assert len(links) > 100
    assert all(link.startswith("https://") for link in links.values())
    assert resolve("OGB_zf_pDp_7.5Hz_smoothing200ms", links)
    assert REGISTRY_URL.startswith("https://")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_names_that_are_paths_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="model name"):
        fetch_model(name, folder, mirror=folder)


def test_only_web_addresses(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="http"):
        download("file:///etc/hostname", tmp_path / "a")

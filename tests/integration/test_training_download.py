"""`python -m training ground-truth --download`, against a server on this machine."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import training.download
from cascade_rt.errors import DownloadError, TrainingError
from training.cli import main
from training.download import Fetched, download_ground_truth, list_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL, LARGE = "Ground_truth/DS30-GCaMP8f-m-V1/cell 1_mini.mat", "Ground_truth/DS31-GCaMP8m-m-V1/cell2_mini.mat"
OTHER = "Ground_truth/DS31-GCaMP8m-m-V1/cell3_mini.mat"


@dataclass
class Site:
    """A repository behind a server, and how the server behaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)  # contents that differ from what the list says
    cut: dict[str, int] = field(default_factory=dict)  # bytes sent before the connection closes, once for each path
    listing: Any = None  # instead of the true one
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    @property
    def tree_url(self) -> str:
        return f"{self.url}/tree?recursive=1"

    def tree(self) -> dict[str, Any]:
        entries = [{"path": "Ground_truth", "type": "tree", "sha": "0" * 40}]
        entries += [
            {"path": p, "type": "blob", "size": len(c), "sha": hashlib.sha1(b"blob %d\0" % len(c) + c).hexdigest()}
            for p, c in self.files.items()
        ]
        return {"sha": "0" * 40, "tree": entries, "truncated": False}

    def asked(self) -> list[tuple[str, str | None]]:
        """Requests for files (not for the list) since the last call."""
        asked = [(path.rsplit("/", 1)[-1], wanted) for path, wanted in self.requests if not path.startswith("/tree")]
        self.requests.clear()
        return asked


@pytest.fixture
def site() -> Iterator[Site]:
    random = np.random.default_rng(0)
    running = Site(
        files={
            SMALL: random.bytes(300),
            LARGE: random.bytes(150_000),
            OTHER: random.bytes(1000),
            "Ground_truth/README.md": b"not a recording",
            "Ground_truth/notes.mat": b"not in a dataset",
            "cascade2p/cascade.py": b"code",
        }
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            running.requests.append((self.path, wanted))
            self.close_connection = True
            path = self.path.removeprefix("/raw/").replace("%20", " ")
            if self.path.startswith("/tree"):
                content = json.dumps(running.tree() if running.listing is None else running.listing).encode()
            elif path in running.files:
                content = running.sent.get(path, running.files[path])
            else:
                self.send_error(404)
                return
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            self.wfile.write(content[first:][: running.cut.pop(path, len(content))])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    running.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield running
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ground truth"


def fetch(site: Site, folder: Path, retries: int = 2, **options: Any) -> Fetched:
    return download_ground_truth(
        folder, tree_url=site.tree_url, raw_url=f"{site.url}/raw/", retries=retries, wait_s=0.0, **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {f"Ground_truth/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files}


def the_datasets(site: Site, *names: str) -> dict[str, bytes]:
    return {p: c for p, c in site.files.items() if p.count("/") == 2 and (not names or p.split("/")[1][:4] in names)}


def test_everything_is_fetched_once(site: Site, folder: Path) -> None:
    reports: list[tuple[float | None, str]] = []
    done = fetch(site, folder, report=lambda fraction, text: reports.append((fraction, text)))
    assert contents(folder) == the_datasets(site)
    assert (done.datasets, done.files, done.fetched, done.present) == (2, 3, 3, 0)
    assert done.bytes_all == done.bytes_fetched == 151_300
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert reports[-1] == (1.0, "file 3 of 3, 0.2 of 0.2 MB")
    assert len(site.asked()) == 3

    again = fetch(site, folder)
    assert site.asked() == []
    assert (again.fetched, again.present, again.bytes_fetched) == (0, 3, 0)


def test_a_broken_connection_is_resumed_at_once(site: Site, folder: Path) -> None:
    site.cut[LARGE] = 70_000
    fetch(site, folder, datasets=["DS31"])
    assert contents(folder) == the_datasets(site, "DS31")
    assert site.asked() == [("cell2_mini.mat", None), ("cell2_mini.mat", "bytes=70000-"), ("cell3_mini.mat", None)]


def test_a_download_that_was_given_up_goes_on_the_next_time(site: Site, folder: Path) -> None:
    site.cut[LARGE] = 70_000
    with pytest.raises(DownloadError, match=r"cell2_mini\.mat could not be fetched whole .* goes on from there"):
        fetch(site, folder, retries=0)
    assert {**the_datasets(site, "DS30")}.items() <= contents(folder).items()
    assert not (folder / "DS31-GCaMP8m-m-V1" / "cell2_mini.mat").exists()
    site.asked()
    done = fetch(site, folder)
    assert site.asked() == [("cell2_mini.mat", "bytes=70000-"), ("cell3_mini.mat", None)]
    assert contents(folder) == the_datasets(site)
    assert (done.fetched, done.present) == (2, 1)


def test_a_part_of_another_version_is_not_built_upon(site: Site, folder: Path) -> None:
    site.cut[LARGE] = 70_000
    with pytest.raises(DownloadError):
        fetch(site, folder, retries=0, datasets=["DS31"])
    site.files[LARGE] = np.random.default_rng(1).bytes(160_000)
    site.asked()
    fetch(site, folder, datasets=["DS31"])
    assert [wanted for name, wanted in site.asked() if name == "cell2_mini.mat"] == ["bytes=70000-", None]
    assert contents(folder) == the_datasets(site, "DS31")


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_file_is_fetched_again(site: Site, folder: Path, damage: str) -> None:
    fetch(site, folder)
    path = folder / "DS31-GCaMP8m-m-V1" / "cell3_mini.mat"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "cut" else b"x" + content[1:])
    own = folder / "DS31-GCaMP8m-m-V1" / "my own_mini.mat"
    own.write_bytes(b"mine")
    site.asked()
    assert fetch(site, folder).fetched == 1
    assert site.asked() == [("cell3_mini.mat", None)]
    assert path.read_bytes() == content
    assert own.read_bytes() == b"mine"


def test_what_is_not_what_the_list_says_replaces_nothing(site: Site, folder: Path) -> None:
    kept = folder / "DS31-GCaMP8m-m-V1" / "cell3_mini.mat"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"an older version")
    site.sent[OTHER] = b"y" * 1000
    with pytest.raises(
        DownloadError, match=r"cell3_mini\.mat: came with 1000 bytes and git hash \w{10}, expected 1000"
    ):
        fetch(site, folder)
    assert kept.read_bytes() == b"an older version"
    assert len(site.asked()) == 3
    assert sorted(p.name for p in kept.parent.iterdir()) == ["cell2_mini.mat", "cell3_mini.mat"]


def test_unknown_datasets_are_named_with_those_there_are(site: Site, folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"no dataset DS99, DS3; it has DS30-GCaMP8f-m-V1, DS31-GCaMP8m-m-V1"):
        fetch(site, folder, datasets=["DS30", "DS99", "DS3"])
    assert not folder.exists()
    assert site.asked() == []
    fetch(site, folder, datasets=["DS30-GCaMP8f-m-V1"])
    assert contents(folder) == the_datasets(site, "DS30")


@pytest.mark.parametrize(
    "path",
    [
        "Ground_truth/../../evil.mat",
        "Ground_truth/DS30-x/..\\..\\evil.mat",
        "Ground_truth/DS30-x/C:evil.mat",
        "Ground_truth//evil.mat",
        "Ground_truth/DS30-x/.mat",
        "Ground_truth/DS30-x /evil.mat",
        "Ground_truth/DS30-x/a\nb.mat",
    ],
)
def test_names_that_lead_elsewhere_stop_everything(site: Site, folder: Path, path: str) -> None:
    site.files[path] = b"evil"
    with pytest.raises(DownloadError, match="is not safe to write; nothing was fetched"):
        fetch(site, folder)
    assert not folder.exists()
    assert site.asked() == []


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ({"tree": [], "truncated": True}, r"cut off \(truncated: true\); nothing was fetched"),
        ({"tree": [], "truncated": False}, "the database may have moved"),
        ({"message": "Not Found"}, "is not a list of files"),
        ([1, 2], "is not a list of files"),
        ({"tree": [{"path": SMALL, "type": "blob", "size": 3}]}, "lacks path, type, size or sha"),
        ({"tree": [{"path": SMALL, "type": "blob", "size": 3, "sha": "12"}]}, "no usable size and sha1"),
        ({"tree": [7]}, "lacks path, type, size or sha"),
    ],
)
def test_lists_that_are_none(site: Site, folder: Path, listing: Any, message: str) -> None:
    site.listing = listing
    with pytest.raises(DownloadError, match=message):
        fetch(site, folder)
    assert not folder.exists()


def test_the_list_has_the_recordings_only(site: Site) -> None:
    assert [f"Ground_truth/{f.dataset}/{f.name}" for f in list_files(site.tree_url)] == sorted(the_datasets(site))


def test_the_command(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training.download, "TREE_URL", site.tree_url)
    monkeypatch.setattr(training.download, "RAW_URL", f"{site.url}/raw")
    assert main(["ground-truth", "--download", str(folder), "--datasets", "DS30"]) == 0
    shown = capsys.readouterr().out
    assert "1 dataset, 1 file, 0.0 MB; 1 fetched (0.0 MB), 0 were there; all checked" in shown
    assert f"ground-truth --ground-truth {folder}" in shown
    # Without a folder, where the other commands look for the data.
    assert main(["ground-truth", "--ground-truth", str(folder), "--json", "--download"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["folder"], answer["fetched"], answer["present"]) == (str(folder), 2, 1)
    assert contents(folder) == the_datasets(site)
    assert main(["ground-truth", "--download", str(folder), "--datasets", "DS1"]) == 1
    assert "no dataset DS1" in capsys.readouterr().err

"""Fetch the public CASCADE ground-truth database from GitHub: resumable, every file checked.

The list of files comes from GitHub's tree interface, which gives the size and the git hash of each; the files
themselves come from the server of raw content. What is there already and has the right hash is not fetched again, so
that the same command completes, repairs or updates a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cascade_rt.errors import DownloadError, TrainingError
from cascade_rt.registry import download

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    Report = Callable[[float | None, str], None]

__all__ = ["RAW_URL", "TREE_URL", "Fetched", "RemoteFile", "download_ground_truth", "list_files"]

#: List of all files of the repository, with sizes and hashes.
TREE_URL = "https://api.github.com/repos/HelmchenLabSoftware/Cascade/git/trees/master?recursive=1"
#: Where the files are: this, and their path in the repository.
RAW_URL = "https://raw.githubusercontent.com/HelmchenLabSoftware/Cascade/master"
#: Folder of the repository that holds the datasets.
ROOT = "Ground_truth"

_MEGABYTE = 1e6
#: Names that mean something else than a file of that name on some system.
_UNSAFE = re.compile(r'[\x00-\x1f<>:"|?*\\]|^\.|[. ]$')
_SHA1 = re.compile(r"[0-9a-f]{40}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of the database.

    Parameters
    ----------
    dataset, name : str
        Its folder and its name.
    size : int
        Bytes.
    sha1 : str
        Hash of the git blob.
    """

    dataset: str
    name: str
    size: int
    sha1: str

    def is_at(self, path: Path) -> bool:
        """Tell whether ``path`` is this file, by size and hash."""
        return path.is_file() and path.stat().st_size == self.size and _git_sha1(path) == self.sha1


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a download did.

    Parameters
    ----------
    folder : str
    datasets, files : int
        In the selection.
    fetched, present : int
        Files fetched now; files that were there already.
    bytes_fetched, bytes_all : int
        Bytes of the files fetched now, and of all.
    """

    folder: str
    datasets: int
    files: int
    fetched: int
    present: int
    bytes_fetched: int
    bytes_all: int

    def summary(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.datasets} dataset{'s' * (self.datasets != 1)}, "
            f"{self.files} file{'s' * (self.files != 1)}, "
            f"{self.bytes_all / _MEGABYTE:.1f} MB; {self.fetched} fetched ({self.bytes_fetched / _MEGABYTE:.1f} MB), "
            f"{self.present} were there; all checked"
        )


def download_ground_truth(
    folder: Path,
    *,
    datasets: Collection[str] = (),
    tree_url: str = TREE_URL,
    raw_url: str = RAW_URL,
    report: Report | None = None,
    retries: int = 4,
    wait_s: float = 1.0,
) -> Fetched:
    """Bring a folder up to date with the public database.

    Parameters
    ----------
    folder : Path
        Gets a subfolder for each dataset. Files in it that the database does not have are left alone.
    datasets : collection of str
        Names or numbers ("DS30"); all if empty.
    tree_url, raw_url : str
        Where the list and the files come from.
    report : callable, optional
        Called with the fraction done and a text.
    retries, wait_s
        As in :func:`cascade_rt.registry.download`.

    Returns
    -------
    Fetched

    Raises
    ------
    TrainingError
        The database has no such dataset; names those it has.
    DownloadError
        The list or a file could not be fetched, or a file that came has another content than the list says. What had
        come by then is kept, and the same command goes on from there.
    """
    files = _select(list_files(tree_url, retries=retries, wait_s=wait_s), datasets)
    missing = [file for file in files if not file.is_at(folder / file.dataset / file.name)]
    needed = sum(file.size for file in missing)
    done = 0
    for number, file in enumerate(missing):

        def show(fraction: float | None, _: str, start: int = done, size: int = file.size, n: int = number) -> None:
            if report is not None:
                now = start + (fraction or 0.0) * size
                text = f"file {n + 1} of {len(missing)}, {now / _MEGABYTE:.1f} of {needed / _MEGABYTE:.1f} MB"
                report(now / max(needed, 1), text)

        _fetch(file, folder, raw_url=raw_url, report=show, retries=retries, wait_s=wait_s)
        done += file.size
    return Fetched(
        folder=str(folder),
        datasets=len({file.dataset for file in files}),
        files=len(files),
        fetched=len(missing),
        present=len(files) - len(missing),
        bytes_fetched=needed,
        bytes_all=sum(file.size for file in files),
    )


def list_files(tree_url: str = TREE_URL, *, retries: int = 4, wait_s: float = 1.0) -> list[RemoteFile]:
    """List the recordings of the database.

    Parameters
    ----------
    tree_url : str
        A recursive tree of GitHub's interface: ``{"truncated": false, "tree": [{path, type, size, sha}, …]}``.
    retries, wait_s
        As in :func:`cascade_rt.registry.download`.

    Returns
    -------
    list of RemoteFile
        Sorted by dataset and name.

    Raises
    ------
    DownloadError
        The list could not be fetched, is not complete, or has a name that leads out of the folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        text = download(tree_url, Path(temporary) / "tree.json", retries=retries, wait_s=wait_s).read_bytes()
    try:
        listing = json.loads(text)
        truncated, entries = listing.get("truncated", False), list(listing["tree"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{tree_url} is not a list of files: expected JSON with 'tree'") from error
    if truncated:
        raise DownloadError(f"{tree_url}: the list of files is cut off (truncated: true); nothing was fetched")
    files = [file for entry in entries if (file := _remote_file(entry, tree_url)) is not None]
    if not files:
        raise DownloadError(f"{tree_url} lists no file {ROOT}/DS…/….mat: the database may have moved")
    return sorted(files, key=lambda file: (file.dataset, file.name))


def _remote_file(entry: Any, tree_url: str) -> RemoteFile | None:
    """File of the database that an entry of the list describes; None for other entries."""
    try:
        path, kind = str(entry["path"]), entry["type"]
        parts = path.split("/")
        if kind != "blob" or parts[0] != ROOT or not path.endswith(".mat"):
            return None
        size, sha1 = int(entry["size"]), str(entry["sha"])
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(f"{tree_url}: an entry lacks path, type, size or sha: {entry!r:.200}") from error
    if any(not part or _UNSAFE.search(part) for part in parts):
        raise DownloadError(f"{tree_url}: the name {path!r} is not safe to write; nothing was fetched")
    if not _SHA1.fullmatch(sha1) or size < 0:
        raise DownloadError(f"{tree_url}: {path} has no usable size and sha1 ({size}, {sha1!r})")
    if len(parts) != 3 or not re.match(r"DS\d", parts[1]):
        _log.info("%s is not a recording of a dataset; left out", path)
        return None
    return RemoteFile(dataset=parts[1], name=parts[2], size=size, sha1=sha1)


def _select(files: Sequence[RemoteFile], datasets: Collection[str]) -> list[RemoteFile]:
    known = sorted({file.dataset for file in files})
    unknown = [name for name in datasets if not any(_is(dataset, name) for dataset in known)]
    if unknown:
        raise TrainingError(f"the database has no dataset {', '.join(unknown)}; it has {', '.join(known)}")
    return [file for file in files if not datasets or any(_is(file.dataset, name) for name in datasets)]


def _is(dataset: str, name: str) -> bool:
    return name in (dataset, dataset.split("-")[0])


def _fetch(file: RemoteFile, folder: Path, *, raw_url: str, report: Report, retries: int, wait_s: float) -> None:
    """Fetch one file; what is at its place is replaced only by the right content."""
    target = folder / file.dataset / file.name
    incoming = target.with_name(target.name + ".incoming")
    part = incoming.with_name(incoming.name + ".part")
    url = "/".join([raw_url.rstrip("/"), *(quote(name) for name in (ROOT, file.dataset, file.name))])
    while True:
        resumed = part.exists()
        download(url, incoming, report=report, retries=retries, wait_s=wait_s)
        if file.is_at(incoming):
            incoming.replace(target)
            return
        size, sha1 = incoming.stat().st_size, _git_sha1(incoming)
        incoming.unlink()
        if not resumed:
            raise DownloadError(
                f"{url}: came with {size} bytes and git hash {sha1[:10]}, expected {file.size} bytes and "
                f"{file.sha1[:10]}; try again later, and report it if it stays"
            )
        # The part was of another version of the file, or damaged; without one, the server is at fault.
        _log.info("the resumed file %s is damaged; fetching it whole", url)


def _git_sha1(path: Path) -> str:
    """Hash of a file as git names its content: SHA-1 of "blob", the size, a zero byte and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

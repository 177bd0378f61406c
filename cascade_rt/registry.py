"""Published CASCADE models: find one by name in the registry, fetch its archive, check it, unpack it.

The registry is a YAML file, ``name: {Link: URL}``. An archive is a zip that holds ``config.yaml`` and one
``Model_NoiseLevel_<level>_Ensemble_<member>.h5`` for every noise level and ensemble member that the config
names. Nothing that fails a check is installed; the only thing that a failed download leaves behind is
``NAME.zip.part``, with which the next try goes on.
"""

from __future__ import annotations

import difflib
import http.client
import logging
import math
import re
import shutil
import stat
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from .errors import BundleError, DownloadError, InputError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Report = Callable[[float | None, str], None]

__all__ = ["REGISTRY_URL", "check_archive", "download", "fetch_model", "read_registry", "resolve"]

#: Where CASCADE publishes the names and links of its models.
REGISTRY_URL = (
    "https://raw.githubusercontent.com/HelmchenLabSoftware/Cascade/master/Pretrained_models/available_models.yaml"
)

_CHUNK_BYTES = 1 << 16
_MAX_REGISTRY_BYTES = 4 << 20
_MAX_UNPACKED_BYTES = 4 << 30

_log = logging.getLogger(__name__)


def read_registry(source: str | Path = REGISTRY_URL, *, timeout_s: float = 30.0) -> dict[str, str]:
    """Names of the published models and the links of their archives.

    Parameters
    ----------
    source : str or Path
        URL or path of the registry.
    timeout_s : float
        Longest wait for the server (s).

    Returns
    -------
    dict of str to str

    Raises
    ------
    DownloadError
        The registry cannot be fetched or is not one.
    """
    import yaml

    if _is_url(source):
        try:
            with _open(str(source), timeout_s=timeout_s) as response:
                text = response.read(_MAX_REGISTRY_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"the registry {source} cannot be fetched: {_reason(error)}") from error
    else:
        try:
            text = Path(source).read_bytes()
        except OSError as error:
            raise DownloadError(f"the registry {source} cannot be read: {error.strerror or error}") from error
    try:
        entries = yaml.safe_load(text)
        links = {str(name): str(entry["Link"]) for name, entry in entries.items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DownloadError(f"{source} is not a registry: expected YAML entries 'NAME: {{Link: URL}}'") from error
    return links


def resolve(name: str, links: dict[str, str]) -> str:
    """Link of the model ``name``; ModelNotFoundError with the nearest names if the registry has none of it."""
    if name in links:
        return links[name]
    lowered = {known.lower(): known for known in links}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=4, cutoff=0.5)]
    hint = f"near names: {', '.join(near)}" if near else f"it lists {len(links)} models"
    raise ModelNotFoundError(f"the registry has no model {name!r}; {hint}")


def download(
    url: str,
    target: Path,
    *,
    report: Report | None = None,
    retries: int = 4,
    wait_s: float = 1.0,
    timeout_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch ``url`` into the file ``target``; go on where an earlier try stopped.

    The bytes collect in ``target`` + ``.part``, which is renamed when all have come. A server that cannot
    resume is asked for the whole file again.

    Parameters
    ----------
    url : str
        http or https.
    target : Path
        File to write; its folder is made if need be.
    report : callable, optional
        Called with the fraction done (None if the size is unknown) and a text such as ``"3.2 of 11.0 MB"``.
    retries : int
        Tries after the first one.
    wait_s : float
        Wait before the first retry; doubles each time (s).
    timeout_s : float
        Longest silence of the server (s).
    sleep : callable
        Waits; replaced in tests.

    Raises
    ------
    DownloadError
        The file could not be fetched whole; says what the server answered.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    for attempt in range(retries + 1):
        if attempt:
            _log.info("download of %s interrupted (%s); trying again", url, problem)
            sleep(wait_s * 2 ** (attempt - 1))
        try:
            missing = _fetch_once(url, part, report, timeout_s)
        except HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
            problem = f"the server answered {error.code} {error.reason}"
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            problem = _reason(error)
        else:
            if not missing:
                part.replace(target)
                return target
            problem = missing
    kept = f"; {_megabytes(part.stat().st_size)} are kept, the same command goes on from there" if _size(part) else ""
    raise DownloadError(f"{url} could not be fetched whole after {retries + 1} tries: {problem}{kept}")


def check_archive(path: Path, *, name: str) -> PurePosixPath:
    """Check that a zip is whole and holds every network that its config names.

    Parameters
    ----------
    path : Path
        The archive.
    name : str
        The model's name, for messages.

    Returns
    -------
    PurePosixPath
        The folder inside the archive that holds ``config.yaml``.

    Raises
    ------
    DownloadError
        Names the archive and what is wrong with it.
    """
    what = f"the archive of {name!r} ({path.name})"
    if _size(path) == 0:
        raise DownloadError(f"{what} is empty: 0 bytes came")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, what)
            damaged = archive.testzip()
            if damaged is not None:
                raise DownloadError(f"{what} is damaged: the checksum of {damaged} does not match")
            return _check_networks(archive, what)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{what} is not a readable zip file: {error}") from error


def fetch_model(
    name: str,
    target_folder: Path,
    *,
    registry: str | Path = REGISTRY_URL,
    mirror: str | Path | None = None,
    report: Report | None = None,
    retries: int = 4,
    wait_s: float = 1.0,
) -> Path:
    """Fetch a published model and unpack it into a folder that ``import_cascade`` reads.

    Parameters
    ----------
    name : str
        Name of the model in the registry.
    target_folder : Path
        Existing folder; the model is unpacked into a new folder ``NAME`` in it. The unfinished archive
        ``NAME.zip.part`` is kept beside ``target_folder`` for the next try.
    registry : str or Path
        URL or path of the registry.
    mirror : str or Path, optional
        Folder or URL that holds ``NAME.zip``: used instead of the registry.
    report : callable, optional
        See :func:`download`.
    retries : int
        See :func:`download`.
    wait_s : float
        See :func:`download`.

    Returns
    -------
    Path
        Folder with ``config.yaml`` and the networks.

    Raises
    ------
    ModelNotFoundError
        The registry does not have the model; names those that are near.
    DownloadError
        The archive could not be fetched, is damaged or incomplete.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise InputError(f"model name {name!r}: expected letters, digits and . _ + - only")
    archive = target_folder.parent / f"{name}.zip"
    if mirror is not None and not _is_url(mirror):
        local = Path(mirror) / f"{name}.zip"
        if not local.is_file():
            raise DownloadError(f"the mirror {mirror} has no {name}.zip")
        return _unpack(local, target_folder / name, check_archive(local, name=name))
    if mirror is not None:
        url = f"{str(mirror).rstrip('/')}/{quote(name)}.zip"
    else:
        url = resolve(name, read_registry(registry))
    with _removed_afterwards(archive):
        for fresh in (False, True):
            resumed = not fresh and _size(archive.with_name(archive.name + ".part")) > 0
            download(url, archive, report=report, retries=retries, wait_s=wait_s)
            try:
                root = check_archive(archive, name=name)
            except DownloadError:
                # A part of another version of the file spoils the whole; without one, the source is at fault.
                if not resumed:
                    raise
                _log.info("the resumed archive of %s is damaged; fetching it whole", name)
                archive.unlink()
                continue
            return _unpack(archive, target_folder / name, root)
    raise AssertionError("unreachable")  # pragma: no cover


def _fetch_once(url: str, part: Path, report: Report | None, timeout_s: float) -> str:
    """Append to ``part`` what the server sends. Returns what is missing, "" if nothing is."""
    have = _size(part)
    try:
        response = _open(url, timeout_s=timeout_s, first_byte=have)
    except HTTPError as error:
        if error.code != 416:
            raise
        total = _total_from_range(error.headers.get("Content-Range"))
        error.close()
        if total is not None and total == have:
            return ""
        part.unlink(missing_ok=True)  # longer than the file: it belongs to another one
        return _fetch_once(url, part, report, timeout_s) if have else "the server answered 416 to a whole request"
    with response:
        length = response.headers.get("Content-Length")
        expected = None if length is None else int(length)
        resumes = response.status == 206 and _first_from_range(response.headers.get("Content-Range")) == have
        if response.status == 206 and not resumes:
            raise http.client.HTTPException("the server sent another part of the file than was asked for")
        total = None if expected is None else expected + (have if resumes else 0)
        done = have if resumes else 0
        with part.open("ab" if resumes else "wb") as file:
            while True:
                try:
                    block = response.read(_CHUNK_BYTES)
                except http.client.IncompleteRead as error:
                    file.write(error.partial)
                    return f"the connection closed after {done + len(error.partial)} bytes"
                if not block:
                    break
                file.write(block)
                done += len(block)
                if report is not None:
                    of = "" if total is None else f" of {_megabytes(total)}"
                    report(None if not total else done / total, f"{_megabytes(done)}{of}")
    if total is not None and done < total:
        return f"the connection closed after {done} of {total} bytes"
    return ""


def _open(url: str, *, timeout_s: float, first_byte: int = 0) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: expected an address that starts with http:// or https://")
    headers = {"User-Agent": "cascade-rt", "Accept-Encoding": "identity"}
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
    return urlopen(Request(url, headers=headers), timeout=timeout_s)


def _check_members(archive: zipfile.ZipFile, what: str) -> None:
    members = archive.infolist()
    if not any(not member.is_dir() for member in members):
        raise DownloadError(f"{what} is empty: it holds no files")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", member.filename)
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise DownloadError(f"{what} is not safe to unpack: the entry {member.filename!r} leads outside")
    unpacked = sum(member.file_size for member in members)
    if unpacked > _MAX_UNPACKED_BYTES:
        raise DownloadError(
            f"{what} would unpack to {_megabytes(unpacked)}: expected at most {_megabytes(_MAX_UNPACKED_BYTES)}"
        )


def _check_networks(archive: zipfile.ZipFile, what: str) -> PurePosixPath:
    from .published import expected_files, read_config

    names = {PurePosixPath(name) for name in archive.namelist()}
    configs = sorted((name for name in names if name.name == "config.yaml"), key=lambda name: len(name.parts))
    if not configs:
        raise DownloadError(f"{what} holds no config.yaml: it is not a CASCADE model")
    root = configs[0].parent
    try:
        config = read_config(archive.read(configs[0].as_posix()).decode("utf-8"), "config.yaml")
        wanted = [name for names in expected_files(config).values() for name in names]
    except (BundleError, TypeError, ValueError) as error:
        raise DownloadError(f"{what} cannot be used: {error}") from error
    if not wanted:
        raise DownloadError(f"{what} cannot be used: its config.yaml names no network")
    missing = [name for name in wanted if root / name not in names]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise DownloadError(
            f"{what} is incomplete: {len(missing)} of the {len(wanted)} networks that its config.yaml names "
            f"are missing ({shown})"
        )
    return root


def _unpack(archive: Path, folder: Path, root: PurePosixPath) -> Path:
    """Unpack the files of the folder ``root``; ``folder`` appears only when it is complete."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "model"
        new.mkdir()
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                path = PurePosixPath(member.filename)
                if not member.is_dir() and path.parent == root:
                    with opened.open(member) as source, (new / path.name).open("wb") as target:
                        shutil.copyfileobj(source, target)
        return new.rename(folder)


@contextmanager
def _removed_afterwards(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _first_from_range(header: str | None) -> int | None:
    found = re.match(r"bytes (\d+)-", header or "")
    return int(found[1]) if found else None


def _total_from_range(header: str | None) -> int | None:
    found = re.match(r"bytes (?:\*|\d+-\d+)/(\d+)", header or "")
    return int(found[1]) if found else None


def _is_url(source: str | Path) -> bool:
    return isinstance(source, str) and "://" in source


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.{0 if size >= 1e8 else 1}f} MB" if size >= 1e5 else f"{math.ceil(size)} bytes"


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, URLError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    return str(error) or type(error).__name__

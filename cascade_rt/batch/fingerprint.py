"""By what a session is known as done: the contents of its files, its options, and the model."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt import __version__
from cascade_rt.bundle import find_bundle, read_spec
from cascade_rt.catalogue import installed_models
from cascade_rt.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cascade_rt.session import InferOptions

__all__ = ["fingerprint", "hash_file", "hash_files", "model_identity"]

#: Increased when the same input would give other results.
VERSION = 1
#: Bytes read at a time.
BLOCK = 1 << 22
#: A file changed within this time (ns) may change once more without its time telling: such hashes are not kept.
UNSETTLED_NS = 2_000_000_000

Hashes = dict[str, list[Any]]


def hash_file(path: Path) -> str:
    """Hash of the whole contents (BLAKE2b, 256 bits, hexadecimal)."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_files(files: Iterable[Path], known: Mapping[str, list[Any]]) -> tuple[dict[str, str], Hashes]:
    """Hashes of files, and of all files in folders.

    Parameters
    ----------
    files : iterable of Path
    known : mapping
        ``{path: [size, mtime_ns, hash]}`` of earlier: a file that still has that size and time is not read again.

    Returns
    -------
    hashes : dict of str to str
        By path.
    fresh : dict
        What was computed now and may be kept, in the form of ``known``.

    Raises
    ------
    FileFormatError
        A file cannot be read.
    InputError
        A file changed while it was read.
    """
    hashes: dict[str, str] = {}
    fresh: Hashes = {}
    for path in _all_files(files):
        try:
            before = path.stat()
            entry = known.get(str(path))
            if entry is not None and entry[:2] == [before.st_size, before.st_mtime_ns]:
                hashes[str(path)] = entry[2]
                continue
            hashes[str(path)] = hash_file(path)
            after = path.stat()
        except OSError as error:
            raise FileFormatError(f"{path}: cannot be read: {error}") from error
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise InputError(f"{path} changed while it was read: is it still being written? Run the batch again later")
        if time.time_ns() - after.st_mtime_ns > UNSETTLED_NS:
            fresh[str(path)] = [after.st_size, after.st_mtime_ns, hashes[str(path)]]
    return hashes, fresh


def model_identity(options: InferOptions) -> dict[str, Any]:
    """What decides which weights are used: those of the named model, or all from which one would be chosen."""
    if options.model is not None:
        spec = read_spec(find_bundle(options.model))
        return {"name": spec.name, "source_sha256": spec.source_sha256}
    models = {model.name: model.spec.source_sha256 for model in installed_models()[0]}
    return {"version": __version__, "installed": models}


def fingerprint(source: Path, hashes: Mapping[str, str], options: InferOptions, model: Mapping[str, Any]) -> str:
    """Hash of all that the result depends on.

    Parameters
    ----------
    source : Path
        The session; its files count by their names from its folder on, so that a session that was moved stays done.
    hashes : mapping of str to str
        Of its files, by path.
    options : InferOptions
    model : mapping
        From :func:`model_identity`.
    """
    plain = options.to_dict()
    plain.pop("model")  # its name or folder; what it holds is in the identity
    content = {
        "version": VERSION,
        "files": {_relative(Path(path), source.parent): digest for path, digest in sorted(hashes.items())},
        "options": plain,
        "model": dict(model),
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _all_files(files: Iterable[Path]) -> list[Path]:
    found = []
    for path in files:
        found += sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    return list(dict.fromkeys(path.absolute() for path in found))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()

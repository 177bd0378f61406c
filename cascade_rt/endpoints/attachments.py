"""What is put into a recording beside the data: the model and the rules, so that a run can be done again anywhere."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["attach_model", "attach_rules", "folder_hash"]

#: Names in the folder of a recording.
MODEL, RULES = "model", "rules"
RULE_FILE = "rules.yaml"


def attach_model(bundle: Path, folder: Path) -> dict[str, Any]:
    """Copy a model's bundle into the recording.

    Parameters
    ----------
    bundle : Path
        Folder of the model.
    folder : Path
        Folder of the recording.

    Returns
    -------
    dict
        ``copy``, where it lies in the recording, and ``folder_sha256``.
    """
    target = folder / MODEL / bundle.absolute().name
    target.mkdir(parents=True)
    for path in _files(bundle):
        shutil.copyfile(path, target / path.name)
    return {"copy": target.relative_to(folder).as_posix(), "folder_sha256": folder_hash(target)}


def folder_hash(bundle: Path) -> str:
    """Hash of the names and contents of a bundle's files."""
    total = hashlib.sha256()
    for path in _files(bundle):
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def attach_rules(rules: Path, folder: Path) -> dict[str, Any]:
    """Copy a rule file, and the plug-ins and weights that it names, into the recording.

    Names that lead out of the rule file's folder are rewritten in the copy; the file itself is kept beside it.

    Parameters
    ----------
    rules : Path
    folder : Path
        Folder of the recording.

    Returns
    -------
    dict
        ``copy``, ``sha256`` of the file itself, and ``files``, with the hash of each file that it names.
    """
    target = folder / RULES
    target.mkdir()
    data = rules.read_bytes()
    text = data.decode("utf-8")
    files: dict[str, str] = {}
    for number, named in enumerate(sorted(set(_named_files(text)))):
        source = rules.parent / named
        if not source.is_file():
            continue
        place = PurePosixPath(Path(named).as_posix())
        if Path(named).is_absolute() or ".." in place.parts:
            place = PurePosixPath(f"elsewhere{number}") / source.name
            text = text.replace(named, str(place))
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / place)
        files[str(place)] = hashlib.sha256(source.read_bytes()).hexdigest()
    (target / RULE_FILE).write_text(text, encoding="utf-8", newline="")
    if text.encode() != data:
        (target / "as_given.yaml").write_bytes(data)
    return {
        "copy": f"{RULES}/{RULE_FILE}",
        "given_as": str(rules),
        "sha256": hashlib.sha256(data).hexdigest(),
        "files": files,
    }


def _files(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.iterdir() if path.is_file())


def _named_files(text: str) -> Iterator[str]:
    """Files of plug-ins and weights; see docs/triggers.md for the form of the file, which has been checked before."""
    import yaml

    for rule in (yaml.safe_load(text) or {}).get("rules", {}).values():
        plugin, weights = rule.get("plugin"), rule.get("weights")
        if isinstance(plugin, str):
            yield plugin.rpartition(":")[0]
        if isinstance(weights, str):
            yield weights

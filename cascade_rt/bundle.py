"""Model bundles: a folder with a manifest, a configuration, a card and ONNX files. Find, check, read, write.

A bundle is never used unless every file that its manifest names is there with the hash that it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chunks import ModelSpec
from .errors import BundleError, ModelError, ModelNotFoundError, OutputExistsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .network import Network

__all__ = [
    "Bundle",
    "find_bundle",
    "import_cascade",
    "list_models",
    "read_bundle",
    "read_card",
    "read_spec",
    "user_model_folder",
    "write_bundle",
]

FORMAT = 1
MANIFEST, CONFIG, CARD = "manifest.json", "config.yaml", "CARD.md"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a bundle holds.

    Parameters
    ----------
    folder : Path
    spec : ModelSpec
    networks : mapping
        From the trained noise level (None for a conditioned model) to its network.
    """

    folder: Path
    spec: ModelSpec
    networks: Mapping[float | None, Network]


def user_model_folder() -> Path:
    """Folder for models that the user installs: ``$CASCADE_RT_MODELS``, or the platform's place for such data."""
    chosen = os.environ.get("CASCADE_RT_MODELS")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "cascade_rt" / "models"


def _model_folders() -> list[Path]:
    package = Path(__file__).parent
    return [user_model_folder(), package / "exported_models", package.parent / "exported_models"]


def list_models() -> list[str]:
    """Names of the models shipped with the package and of those installed by the user, sorted.

    Returns
    -------
    list of str
        Each can be given to :func:`cascade_rt.load_model`.
    """
    found = {p.parent.name for folder in _model_folders() for p in folder.glob(f"*/{MANIFEST}")}
    return sorted(found)


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Folder of a bundle, given its name or its path.

    Raises
    ------
    ModelNotFoundError
        Naming the models that there are.
    """
    direct = Path(name_or_path)
    if (direct / MANIFEST).is_file():
        return direct
    for folder in _model_folders():
        if direct.name == str(name_or_path) and (folder / direct / MANIFEST).is_file():
            return folder / direct
    if (direct / CONFIG).is_file():
        raise ModelNotFoundError(
            f"{direct}: a published CASCADE folder, not a bundle; import it first: cascade-rt import {direct}"
        )
    import difflib

    names = list_models()
    near = difflib.get_close_matches(str(name_or_path), names, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ModelNotFoundError(
        f"no model {str(name_or_path)!r}: {hint}installed: {', '.join(names) or 'none'}; "
        "cascade-rt import --download NAME fetches published models"
    )


# ---------------------------------------------------------------------------------------------------- reading


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, files = manifest["format"], dict(manifest["files"])
        networks = [(entry["file"], entry["noise_level"]) for entry in manifest["networks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {folder.name}: {MANIFEST} cannot be read ({error!r})") from error
    if version != FORMAT:
        raise BundleError(f"bundle {folder.name}: format {version!r}; this version of cascade_rt reads {FORMAT}")
    if not networks:
        raise BundleError(f"bundle {folder.name}: {MANIFEST} names no network")
    for name in files:
        if Path(name).name != name:
            raise BundleError(f"bundle {folder.name}: {MANIFEST} names {name!r}; expected files of its own folder")
    for name, _ in networks:
        if name not in files:
            raise BundleError(f"bundle {folder.name}: {name} has no hash in {MANIFEST}")
    return dict(manifest)


def _verified(folder: Path, name: str, expected: str) -> bytes:
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {folder.name}: {name} is missing or unreadable ({error})") from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != expected:
        raise BundleError(
            f"bundle {folder.name}: {name} has sha256 {seen[:12]}…, its manifest says {expected[:12]}…; "
            "the file was changed or damaged: install the model again"
        )
    return data


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check it whole.

    Raises
    ------
    BundleError
        If a file is missing or altered, or the networks do not fit the description.
    """
    from .graph import read_model

    manifest = _manifest(folder)
    data = {name: _verified(folder, name, digest) for name, digest in manifest["files"].items()}
    networks: dict[float | None, Network] = {}
    specs: list[ModelSpec] = []
    for entry in manifest["networks"]:
        try:
            network, spec, level = read_model(data[entry["file"]], f"{folder.name}/{entry['file']}")
        except ModelError as error:
            raise BundleError(f"bundle {folder.name}: {error}") from error
        if level != entry["noise_level"]:
            told = f"{MANIFEST} says {entry['noise_level']}"
            raise BundleError(f"bundle {folder.name}: {entry['file']} is for noise level {level}, {told}")
        networks[level] = network
        specs.append(spec)
    spec = specs[0]
    if any(other != spec for other in specs):
        raise BundleError(f"bundle {folder.name}: its networks describe themselves differently")
    if read_spec(folder) != spec:
        raise BundleError(f"bundle {folder.name}: {MANIFEST} describes another model than its networks do")
    _check_networks(folder.name, spec, networks)
    return Bundle(folder=folder, spec=spec, networks=networks)


def _check_networks(name: str, spec: ModelSpec, networks: Mapping[float | None, Network]) -> None:
    expected = {None} if spec.family == "conditioned" else set(spec.noise_levels)
    if set(networks) != expected:
        raise BundleError(f"bundle {name}: has networks for {sorted(map(str, networks))}, expected {expected}")
    for level, network in networks.items():
        seen = (network.receptive_field, network.n_outputs, network.members, network.conditioning is not None)
        wanted = (spec.windowsize, len(spec.lookaheads), spec.ensemble_size, spec.family == "conditioned")
        if seen != wanted:
            raise BundleError(
                f"bundle {name}, network for noise level {level}: (window, outputs, members, conditioned) is {seen}, "
                f"described as {wanted}"
            )


def read_spec(folder: Path) -> ModelSpec:
    """Description of a bundle from its manifest, without reading the networks."""
    try:
        return ModelSpec.from_dict(_manifest(folder)["spec"])
    except KeyError as error:
        raise BundleError(f"bundle {folder.name}: {MANIFEST} has no description of the model") from error


def read_card(folder: Path) -> str:
    """Text of a bundle's model card (Markdown)."""
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"bundle {folder.name}: {CARD} is missing or unreadable ({error})") from error


# ---------------------------------------------------------------------------------------------------- writing


def write_bundle(
    folder: str | os.PathLike[str],
    spec: ModelSpec,
    networks: Mapping[float | None, Network],
    *,
    card: str,
    config: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write a bundle; it appears under its name only when it is complete.

    Parameters
    ----------
    folder : path
        The bundle's folder; its parents are made.
    spec : ModelSpec
    networks : mapping
        From noise level (None for a conditioned model) to network.
    card : str
        CARD.md, Markdown.
    config : mapping
        config.yaml: CASCADE's keys and provenance.
    overwrite : bool
        Replace a bundle that is there.

    Raises
    ------
    OutputExistsError
        If ``folder`` exists and ``overwrite`` is False.
    BundleError
        If the networks do not fit ``spec``.
    """
    import yaml

    from .graph import dense_model

    target = Path(folder)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists; choose another folder or pass overwrite=True (--overwrite)")
    _check_networks(spec.name, spec, networks)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        fresh = Path(temporary) / target.name
        fresh.mkdir()
        entries = []
        for level, network in networks.items():
            name = "network.onnx" if level is None else f"noise_{level:g}.onnx"
            model = dense_model(network, spec, noise_level=level)
            (fresh / name).write_bytes(model.SerializeToString(deterministic=True))
            entries.append({"file": name, "noise_level": level})
        (fresh / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), "utf-8")
        (fresh / CARD).write_text(card, encoding="utf-8", newline="\n")
        files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(fresh.iterdir())}
        manifest = {"format": FORMAT, "spec": spec.to_dict(), "networks": entries, "files": files}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8", newline="\n")
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    return target


def import_cascade(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, name: str | None = None, overwrite: bool = False
) -> Path:
    """Turn a published CASCADE model folder into a bundle, without TensorFlow.

    Parameters
    ----------
    source : path
        Folder with ``config.yaml`` and ``Model_NoiseLevel_*_Ensemble_*.h5``.
    target : path
        Folder of the new bundle.
    name : str, optional
        Name of the model; ``model_name`` of the configuration if not given.
    overwrite : bool
        Replace a bundle that is there.

    Returns
    -------
    Path
        ``target``, for :func:`cascade_rt.load_model`.

    Raises
    ------
    BundleError
        If a network that the configuration names is missing or cannot be used.
    OutputExistsError
        If ``target`` exists and ``overwrite`` is False.
    """
    from .published import read_published

    if Path(target).exists() and not overwrite:
        raise OutputExistsError(f"{target} exists; choose another folder or pass overwrite=True (--overwrite)")
    spec, networks, config, card = read_published(Path(source), name)
    return write_bundle(target, spec, networks, card=card, config=config, overwrite=overwrite)

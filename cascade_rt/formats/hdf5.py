"""HDF5 files of any layout; the array may be named by its path, such as ``/processed/dff``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import FileFormatError

from .archive import Archive
from .hierarchy import choose_in_hierarchy, refuse_result
from .recording import ReadOptions, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["has_signature", "open_file", "open_hdf5", "recognises"]

NAME = "hdf5"
TITLE = "HDF5 file"
WHAT = ".h5 or .hdf5, any array by its path"

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")


def recognises(path: Path) -> bool:
    """Whether it is HDF5, or is named so, and not of a format that has a reader of its own."""
    if not path.is_file() or path.suffix.lower() in (".mat", ".nwb"):
        return False
    if not has_signature(path):
        return path.suffix.lower() in SUFFIXES
    from .caiman import recognises as is_caiman

    return not is_caiman(path) and not _is_nwb(path)


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open an HDF5 file; the traces stay in it."""
    import h5py

    with ExitStack() as stack:
        file = open_hdf5(path, stack)
        refuse_result(path, file.attrs)
        shapes: dict[str, tuple[int, ...]] = {}
        if options.key is not None and isinstance(_get(file, options.key), h5py.Dataset):
            # First, and although links are not followed below: it may lie behind one.
            shapes[options.key.strip("/")] = tuple(_get(file, options.key).shape)

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                shapes.setdefault(name, tuple(item.shape or ()))

        try:
            file.visititems(note)
        except Exception as error:
            raise FileFormatError(f"{path}: its contents cannot be listed, the file is damaged: {error}") from error

        def read(name: str) -> Any:
            try:
                return file[name]
            except Exception as error:
                raise FileFormatError(f"{path}: {name!r} cannot be read, the file is damaged: {error}") from error

        def attributes(name: str) -> Mapping[str, Any]:
            item = _get(file, name or "/")
            return {} if item is None else item.attrs

        recording = choose_in_hierarchy(Archive(path, shapes, read), options, attributes)
        files = (path, *_elsewhere(path, file[recording.key]))
        close = stack.pop_all().close
    return Source(path=path, format=NAME, title=TITLE, recordings=(recording,), files=files, on_close=close)


def has_signature(path: Path) -> bool:
    """Whether a file begins as HDF5 does, at byte 0 or after a user block."""
    try:
        with path.open("rb") as file:
            place = 0
            while file.seek(place) == place:
                found = file.read(len(SIGNATURE))
                if found == SIGNATURE:
                    return True
                if len(found) < len(SIGNATURE) or place > 2**20:
                    return False
                place = 2 * place or 512
    except OSError:
        pass
    return False


def open_hdf5(path: Path, stack: ExitStack) -> Any:
    """Open an HDF5 file for reading; ``stack`` closes it.

    Raises
    ------
    FileFormatError
        It is not HDF5, or truncated.
    """
    import h5py

    try:
        return stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        size = path.stat().st_size if path.is_file() else 0
        raise FileFormatError(f"{path}: not a readable HDF5 file ({size} bytes): {error}") from error


def _is_nwb(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "nwb_version" in file.attrs or "nwb_version" in file
    except OSError:
        return False


def _get(file: Any, name: str) -> Any:
    try:
        return file.get(name)
    except (KeyError, OSError):  # a link that leads nowhere
        return None


def _elsewhere(path: Path, dataset: Any) -> list[Path]:
    """Other files in which a dataset's values lie."""
    places = [Path(dataset.file.filename)]
    if dataset.is_virtual:
        places += [path.parent / source.file_name for source in dataset.virtual_sources() if source.file_name != "."]
    places += [path.parent / name for name, _, _ in dataset.external or ()]
    known = {path.resolve()}
    found = []
    for place in places:
        if place.resolve() not in known and place.is_file():
            known.add(place.resolve())
            found.append(place)
    return found

"""What several commands share: options that mean the same everywhere, and machine-readable answers."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, for programs")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--threads``."""
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda", "auto"),
        default="cpu",
        help="where to compute: cuda fails if there is no usable GPU, auto falls back to the CPU (default: cpu)",
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: all cores)")


def add_values(parser: argparse._ActionsContainer) -> None:
    """Add ``--threshold`` and ``--alignment``."""
    parser.add_argument(
        "--threshold",
        choices=("zero", "noise_floor", "none"),
        default="zero",
        help="zero: no negative values; noise_floor: also nothing below the noise; none: as computed (default: zero)",
    )
    parser.add_argument(
        "--alignment",
        choices=("target", "cascade"),
        default="target",
        help="cascade: place values one frame earlier, where the CASCADE software places them (default: target)",
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``."""
    parser.add_argument("--overwrite", action="store_true", help="replace output that exists")


def positive_int(text: str) -> int:
    """Argument type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def positive_float(text: str) -> float:
    """Argument type: a finite number above 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return value


positive_int.__name__ = "whole number above 0"
positive_float.__name__ = "number above 0"


def print_json(answer: Any) -> None:
    """Print one JSON document; NaN and infinity, which JSON has not, become null."""
    print(json.dumps(_plain(answer), indent=2, ensure_ascii=False, allow_nan=False))


def check_free(paths: Sequence[Path | None], *, overwrite: bool) -> None:
    """Raise OutputExistsError if an output is there already, before any work is done for it."""
    for path in paths:
        if path is not None and path.exists() and not overwrite:
            raise OutputExistsError(f"{path} exists; choose another name or pass --overwrite")


def read_noise_levels(path: Path, n_neurons: int) -> NDArray[np.float64]:
    """Read one noise level for each neuron from a .npy file.

    Parameters
    ----------
    path : Path
        File with ``n_neurons`` numbers, % Hz^-1/2.
    n_neurons : int
        Neurons of the recording.
    """
    import numpy as np

    try:
        levels = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: not a .npy file of noise levels ({error})") from error
    if not isinstance(levels, np.ndarray) or levels.shape != (n_neurons,) or levels.dtype.kind not in "fiu":
        shape = getattr(levels, "shape", type(levels).__name__)
        raise InputError(f"{path}: has {shape}; expected one noise level for each of the {n_neurons} neurons")
    return levels.astype(np.float64)


def _plain(value: Any) -> Any:
    """Nested containers of numpy values as plain Python values."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

"""Folders written by ``cascade-rt run --record``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from cascade_rt.errors import FileFormatError

from .numpy_files import read_array
from .recording import ReadOptions, Recording, Source, check_traces

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_file", "recognises"]

NAME = "run"
TITLE = "folder of a live run"
WHAT = "a folder written by cascade-rt run --record"


def recognises(path: Path) -> bool:
    """Whether it is a folder with what a run leaves."""
    return (path / "run.json").is_file() and (path / "dff.npy").is_file()


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open what a run received; after a crash too."""
    del options  # a run records one array of ΔF/F
    try:
        described = json.loads((path / "run.json").read_text(encoding="utf-8"))
        rate = described.get("frame_rate_hz")
    except (OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path}: not the folder of a recorded run: run.json: {error}") from error
    dff = check_traces(read_array(path / "dff.npy"), path / "dff.npy")
    frames = np.array(read_array(path / "dff_frame.npy"), np.int64)
    # Written one after the other: after a crash one may be a few frames longer.
    n_frames = min(dff.shape[1], frames.size)
    noise = path / "noise_levels.npy"
    recording = Recording(
        traces=dff[:, :n_frames],
        path=path,
        frame_rate_hz=float(rate) if isinstance(rate, (int, float)) and rate > 0 else None,
        noise_levels=np.array(read_array(noise), np.float64) if noise.is_file() else None,
        frames=frames[:n_frames],
    )
    files = tuple(
        file for file in (path / "dff.npy", path / "dff_frame.npy", path / "run.json", noise) if file.is_file()
    )
    return Source(path=path, format=NAME, title=TITLE, recordings=(recording,), files=files)

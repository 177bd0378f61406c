"""Writes a file that grows: growing_writer.py DFF PATH KIND MARKER; KIND is raw, stale, renewed or saved.

raw: float32 frames in pieces that do not end at a frame. stale: a .npy file whose header never changes. renewed: its
header is rewritten after each piece. saved: all of it is saved anew beside it and put in its place.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

dff, path, kind, marker = np.load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
frames = np.ascontiguousarray(dff.T, "<f4")


def header(n_frames):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_frames}, {frames.shape[1]}), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


if kind == "saved":
    for stop in range(25, len(frames) + 1, 25):
        new = path.with_suffix(".new.npy")
        np.save(new, frames[:stop])
        new.replace(path)
        time.sleep(0.02)
else:
    data = frames.tobytes()
    with path.open("wb", buffering=0) as file:
        start = 0
        if kind != "raw":
            start = file.write(header(0))
        for at in range(0, len(data), 1001):
            file.seek(0, os.SEEK_END)
            file.write(data[at : at + 1001])
            if kind == "renewed":
                file.seek(0)
                file.write(header(min(at + 1001, len(data)) // frames[0].nbytes))
            time.sleep(0.002)
marker.touch()

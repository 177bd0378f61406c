#!/usr/bin/env python3
# ruff: noqa: T201
"""Make tests/data/suite2p: folders as the real Suite2p leaves them, from a movie whose spikes are known.

Suite2p is not a dependency of this project. Install both versions in environments of their own (a few minutes each)
and name their interpreters; this program calls itself with them::

    python -m venv s2p1 && s2p1/bin/pip install torch==2.13.0 torchvision==0.28.0 suite2p==1.1.0 "pynwb<4"
    python -m venv s2p0 && s2p0/bin/pip install torch==2.13.0 torchvision==0.28.0 suite2p==0.14.6 "pynwb<4" "numpy<2.4"
    python scripts/make_suite2p_samples.py s2p1/bin/python s2p0/bin/python

With numpy 2.4, Suite2p 0.x stops; with pynwb 4, neither writes NWB. Everything happens in ``session`` inside of the
system's folder for temporary files, because Suite2p stores the paths it was run with. What is too large for a
repository is left out: binary movies, logs, and some of what would be there twice (see ``LEFT_OUT``); what is kept is
byte for byte what Suite2p wrote.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tests" / "data" / "suite2p"
SESSION = Path(tempfile.gettempdir()) / "session"

RATE, N_PLANES, CELLS_PER_PLANE = 30.0, 2, 11
#: Frames of both planes together: odd, so that the second plane has one frame less.
N_FRAMES = 2 * 4400 - 1
#: Not square, so that swapped axes are noticed. The margin is what motion brings into view.
HEIGHT, WIDTH, MARGIN = 72, 80, 12
RADIUS, SPACING = 4.5, 14.0
#: Photons per pixel and frame, and what the detector makes of them.
CELL_PHOTONS, NEUROPIL_PHOTONS, COUNTS_PER_PHOTON, READ_NOISE = 2.0, 1.0, 50.0, 15.0
#: Part of the surrounding neuropil that is seen on top of a cell: what Suite2p's default coefficient takes away.
CONTAMINATION = 0.7
#: Frames of each plane: hidden by a light flash (Suite2p is told of it), and displaced by a jerk (it finds out).
FLASH, JERK = range(2000, 2012), range(3500, 3503)
#: A row belongs to a simulated cell if its centre is at most so far away (pixels), once all are moved to where the
#: registration put them.
MATCH_PIXELS = 2.5
LEFT_OUT = {
    "v1": (
        "combined/Fneu.npy",
        "combined/spks.npy",
        "combined/stat.npy",
        "combined/db.npy",
        "*/detect_outputs.npy",
        "plane1/ops.npy",
    ),
    "v0": ("*.nwb",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("python", nargs="*", help="interpreters with Suite2p 1.x and 0.x, in this order")
    parser.add_argument("--suite2p", action="store_true", help="run the Suite2p of this interpreter (called by itself)")
    options = parser.parse_args()
    if options.suite2p:
        run_suite2p()
        return
    if len(options.python) != 2:
        parser.error("name two interpreters: with Suite2p 1.x and with 0.x")
    try:
        SESSION.mkdir()
    except FileExistsError:
        parser.error(f"{SESSION} is there already, and may be somebody else's: move it away or remove it first")
    try:
        truth = make_movie()
        for version, python in zip(("v1", "v0"), options.python, strict=True):
            subprocess.run([python, __file__, "--suite2p"], check=True, cwd=SESSION)
            truth |= keep(version, truth)
            shutil.rmtree(SESSION / "suite2p")
    finally:
        shutil.rmtree(SESSION)
    np.savez_compressed(TARGET / "truth.npz", **truth)
    size = sum(file.stat().st_size for file in TARGET.rglob("*") if file.is_file())
    print(f"{TARGET}: {size / 1e6:.2f} MB")


def make_movie() -> dict[str, Any]:
    """Write the movie, planes interleaved, and the list of bad frames; return what is true of it."""
    import h5py

    sys.path.insert(0, str(ROOT))
    from cascade_rt.simulation import simulate

    rng = np.random.default_rng(7)
    n_frames = -(-N_FRAMES // N_PLANES)
    n_cells = N_PLANES * CELLS_PER_PLANE
    made = simulate(n_cells, n_frames / RATE, RATE, indicator="GCaMP8m", noise_levels=0.0, spike_rate_hz=0.4, seed=11)
    shifts = np.clip(np.cumsum(rng.choice([-1, 0, 1], (n_frames, 2), p=[0.02, 0.96, 0.02]), axis=0), -2, 2)
    shifts[JERK] += (9, 0)
    centres = np.concatenate([scatter(rng) for _ in range(N_PLANES)])
    with h5py.File(SESSION / "movie.h5", "w") as file:
        movie = file.create_dataset("data", (N_FRAMES, HEIGHT, WIDTH), "i2")
        for plane in range(N_PLANES):
            rows = slice(plane * CELLS_PER_PLANE, (plane + 1) * CELLS_PER_PLANE)
            frames = film(rng, made.dff[rows], centres[rows], shifts)
            movie[plane::N_PLANES] = frames[: len(range(plane, N_FRAMES, N_PLANES))]
    np.save(SESSION / "bad_frames.npy", np.array(FLASH))
    return {
        "frame_rate_hz": np.array(RATE),
        "spike_time_s": np.concatenate(made.spike_times),
        "spike_cell": np.repeat(np.arange(n_cells), [times.size for times in made.spike_times]).astype(np.int16),
        "cell_plane": np.repeat(np.arange(N_PLANES), CELLS_PER_PLANE).astype(np.int16),
        "cell_y_x": centres,
        "flash_frames": np.array(FLASH),
        "jerk_frames": np.array(JERK),
    }


def scatter(rng: np.random.Generator) -> np.ndarray:
    """Draw centres (y, x) of cells that do not touch."""
    found: list[np.ndarray] = []
    while len(found) < CELLS_PER_PLANE:
        y_x = rng.uniform((9, 9), (HEIGHT - 9, WIDTH - 9))
        if all(np.hypot(*(y_x - other)) > SPACING for other in found):
            found.append(y_x)
    return np.array(found)


def film(rng: np.random.Generator, dff: np.ndarray, centres: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return (n_frames, HEIGHT, WIDTH) of detector counts."""
    from scipy import ndimage

    n_frames = dff.shape[1]
    y, x = np.mgrid[-MARGIN : HEIGHT + MARGIN, -MARGIN : WIDTH + MARGIN]
    distance = np.hypot(y - centres[:, :1, None], x - centres[:, 1:, None])
    cells = 1 / (1 + np.exp((distance - RADIUS) / 0.4))
    texture = ndimage.gaussian_filter(rng.standard_normal(y.shape), 3)
    surround = NEUROPIL_PHOTONS * (1 + 0.2 * texture / texture.std()) * (1 - (1 - CONTAMINATION) * cells.max(axis=0))
    slow = ndimage.gaussian_filter1d(rng.standard_normal(n_frames), 1.5 * RATE)
    crowd = ndimage.gaussian_filter1d(dff.mean(axis=0), 0.3 * RATE)
    neuropil = 1 + 0.15 * slow / slow.std() + 0.1 * (crowd - crowd.mean()) / crowd.std()
    brightness = CELL_PHOTONS * rng.lognormal(0, 0.2, len(dff))
    out = np.empty((n_frames, HEIGHT, WIDTH), np.int16)
    for t in range(n_frames):
        photons = surround * neuropil[t] + np.tensordot(brightness * (1 + dff[:, t]), cells, 1)
        top, left = MARGIN - shifts[t]
        seen = photons[top : top + HEIGHT, left : left + WIDTH] + (6.0 if t in FLASH else 0.0)
        counts = COUNTS_PER_PHOTON * rng.poisson(seen) + READ_NOISE * rng.standard_normal(seen.shape)
        out[t] = np.clip(np.rint(counts), -500, 30000)
    return out


def run_suite2p() -> None:
    """Run whichever Suite2p this interpreter has on the movie."""
    import torch

    # The torchvision of the package index needs CUDA; without it, Suite2p's import stops at these two, which it never
    # calls.
    missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        missing.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import suite2p

    if hasattr(suite2p, "default_settings"):
        settings = suite2p.default_settings()
        settings |= {"fs": RATE, "tau": 0.3, "torch_device": "cpu", "diameter": [9.0, 9.0]}
        settings["registration"] |= {"nonrigid": False}
        settings["run"] |= {"do_regmetrics": False}
        settings["io"] |= {"save_NWB": True, "delete_bin": True}
        db = {"data_path": [str(SESSION)], "save_path0": str(SESSION), "input_format": "h5", "nplanes": N_PLANES}
        suite2p.run_s2p(db=db, settings=settings)
    else:
        changed = {"fs": RATE, "tau": 0.3, "nonrigid": False, "do_regmetrics": False, "save_NWB": True}
        changed |= {"data_path": [str(SESSION)], "save_path0": str(SESSION), "input_format": "h5", "nplanes": N_PLANES}
        # 0.14.5 and 0.14.6 stop while they combine planes of one channel.
        changed |= {"combined": False, "delete_bin": True}
        suite2p.run_s2p(ops={**suite2p.default_ops(), **changed})


def keep(version: str, truth: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copy the small files; return which simulated cell each row of each plane is, -1 where it is none."""
    from cascade_rt.formats.restricted import read_objects

    target = TARGET / version
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SESSION / "suite2p", target / "suite2p", ignore=shutil.ignore_patterns("*.bin", "*.log"))
    for pattern in LEFT_OUT[version]:
        for file in (target / "suite2p").glob(pattern):
            file.unlink()
    matched = {}
    for plane in range(N_PLANES):
        middle = np.array([roi["med"] for roi in read_objects(SESSION / "suite2p" / f"plane{plane}" / "stat.npy")])
        cells = np.flatnonzero(truth["cell_plane"] == plane)
        away = middle[:, None] - truth["cell_y_x"][cells]
        nearest = np.hypot(*away.transpose(2, 0, 1)).argmin(axis=1)
        distance = np.hypot(*(away - np.median(away[np.arange(len(middle)), nearest], axis=0)).transpose(2, 0, 1))
        rows = np.full(len(middle), -1, np.int16)
        for cell, distances in zip(cells, distance.T, strict=True):
            if distances.min() <= MATCH_PIXELS:
                rows[distances.argmin()] = cell
        matched[f"{version}_plane{plane}_cell"] = rows
        print(f"{version} plane{plane}: {len(rows)} rows, {np.sum(rows >= 0)} of {CELLS_PER_PLANE} cells found")
    return matched


if __name__ == "__main__":
    main()

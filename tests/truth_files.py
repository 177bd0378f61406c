"""Ground-truth files for tests: recordings in which ΔF/F is the smoothed true spikes, so that scores are known."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from scipy.io import savemat

from training.targets import smooth_spikes


def write_dataset(
    folder: Path, dataset: str, *, neurons: int = 2, seconds: float = 200.0, rate: float = 30.0, late_frames: int = 0
) -> None:
    """Neurons with isolated spikes, at least 0.8 s apart; ``late_frames`` shifts ΔF/F against the spikes."""
    (folder / dataset).mkdir(parents=True)
    rng = np.random.default_rng(zlib.crc32(dataset.encode()))
    n_frames = round(seconds * rate)
    for neuron in range(neurons):
        gaps = rng.uniform(0.8, 3.0, n_frames)
        spikes = np.round(np.cumsum(gaps) * rate).astype(int)
        counts = np.bincount(spikes[spikes < n_frames], minlength=n_frames)
        clean = np.roll(smooth_spikes(counts, smoothing_s=0.05, frame_rate_hz=rate), late_frames)
        cells = np.empty((1, 1), object)
        cells[0, 0] = {
            "fluo_time": np.arange(n_frames) / rate,
            "fluo_mean": clean + 0.004 * rng.standard_normal(n_frames),
            "events_AP": np.flatnonzero(counts) / rate * 1e4,
        }
        savemat(folder / dataset / f"cell{neuron}_mini.mat", {"CAttached": cells})

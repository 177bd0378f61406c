"""Results for tests: values that tell their neuron and frame, so that every exchange and shift shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.chunks import SpikeChunk
from cascade_rt.results import ResultWriter
from cascade_rt.testing import ramp

if TYPE_CHECKING:
    from pathlib import Path

METADATA = {
    "model": "GCaMP8",
    "lookahead_frames": 31,
    "alignment": "target",
    "smoothing_s": 0.025,
    "causal_kernel": False,
    "warnings": ["ν is high"],
    "options": {"baseline": {"percentile": 8.0}},
}
N_NEURONS, N_FRAMES = 6, 50
IS_CELL = np.array([True, True, False, True, True, False])
#: Two of a neuron in one frame, none, one in the first and in the last.
SPIKES = [[3, 3, 7], [], [], [0, 49], [48], []]
NOISE = np.array([1.5, 2.5, np.nan, 3.5, 4.5, np.nan])


def prob_of(n_neurons: int = N_NEURONS, n_frames: int = N_FRAMES, first: int = 0) -> np.ndarray:
    """Spike probabilities, NaN for what is no cell and at the edges."""
    prob = ramp(n_neurons, n_frames, first) / 64
    prob[:, :2] = np.nan
    prob[[row for row in range(n_neurons) if row < IS_CELL.size and not IS_CELL[row]]] = np.nan
    return prob


def write_portable(path: Path, names: tuple[str, ...] = ("",), *, spikes: bool = False, **fields: Any) -> Path:
    """A finished portable result; planes differ by 1000 in their values."""
    options = {"frame_rate_hz": 20.0, "is_cell": IS_CELL, "noise_levels": NOISE, **fields}
    with ResultWriter(path, METADATA) as writer:
        for number, name in enumerate(names):
            target = writer.begin(name, N_NEURONS, N_FRAMES, **options)
            prob = prob_of() + np.float32(1000 * number)
            for rows in ([4, 5], [0, 1, 2], [3]):
                found = [SPIKES[row] for row in rows] if spikes else None
                dff = -prob[rows] if options.get("dff") else None
                target.write(rows, prob[rows], dff=dff, spikes=found)
            why = ["" if cell else "not accepted as a cell" for cell in IS_CELL]
            target.set(why_undefined=why)
        writer.finish()
    return path


def chunk(first: int, n: int, lookahead: int = 2, n_neurons: int = 3, *, valid: bool = True) -> SpikeChunk:
    """A piece of a stream: a ramp."""
    prob = ramp(n_neurons, n, first)
    return SpikeChunk(spike_prob=prob, first_frame=first, valid=np.full(prob.shape, valid), lookahead_frames=lookahead)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())

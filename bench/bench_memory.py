"""Memory of a long recording: predict on 1000 neurons × 80,000 frames, memory-mapped in and out.

Bound: the peak resident memory of the process that predicts stays under 1 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _common import Checks, conditioned_bundle, parse

from cascade_rt.benchmarks import synthetic_dff

# Mapped pages of files count as resident while they are looked at; the system may take them back at any time.
# So the peak is taken of the memory that is the process's own, and that of all pages is told beside it.
CHILD = """
import json, sys, threading, time
import numpy as np
import psutil
from cascade_rt import load_model, predict
source, target, bundle, threads = sys.argv[1:]
me, peak, own, stop = psutil.Process(), [0], [0], threading.Event()
def watch():
    while not stop.wait(0.02):
        info = me.memory_info()
        peak[0] = max(peak[0], info.rss)
        own[0] = max(own[0], info.rss - getattr(info, "shared", 0))
thread = threading.Thread(target=watch)
thread.start()
model = load_model(bundle, threads=int(threads) or None)
dff = np.load(source, mmap_mode="r")
out = np.lib.format.open_memmap(target, "w+", np.float32, dff.shape)
started = time.perf_counter()
predict(dff, model, frame_rate_hz=model.spec.frame_rate_hz, out=out)
out.flush()
took = time.perf_counter() - started
stop.set()
thread.join()
finite = bool(np.isfinite(out[-1, 1000:1100]).all())
print(json.dumps({"seconds": took, "peak_rss": peak[0], "peak_own": own[0], "finite": finite}))
"""


def write_recording(path: Path, n_neurons: int, n_frames: int) -> None:
    """Write a .npy recording in pieces."""
    dff = np.lib.format.open_memmap(path, "w+", np.float32, (n_neurons, n_frames))
    for first in range(0, n_neurons, 50):
        rows = slice(first, min(first + 50, n_neurons))
        levels = np.linspace(1.5, 8, rows.stop - first)
        dff[rows] = synthetic_dff(len(levels), n_frames, frame_rate_hz=30.0, noise_levels=levels, seed=first)
    dff.flush()


def main() -> None:
    args = parse(__doc__)
    checks = Checks(args)
    n_neurons, n_frames = (20, 2000) if args.smoke else (1000, 80_000)
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "dff.npy", Path(temporary) / "spike_prob.npy"
        write_recording(source, n_neurons, n_frames)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(source), str(target), str(conditioned_bundle()), str(args.threads or 0)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    answer = json.loads(done.stdout)
    answer["neuron_frames_per_s"] = round(n_neurons * n_frames / answer["seconds"])
    checks.at_most("peak resident memory (GB)", round(answer["peak_rss"] / 1e9, 3), 1.0)
    checks.at_least("values are there", float(answer["finite"]), 1.0)
    checks.finish("memory", n_neurons=n_neurons, n_frames=n_frames, **answer)


if __name__ == "__main__":
    main()

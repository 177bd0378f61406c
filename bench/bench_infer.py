"""From a file to results on disk: `infer` on 1000 neurons × 80,000 frames in HDF5, against `predict` in memory.

Three sources of the same values: ΔF/F neuron after neuron in chunks, ΔF/F frame after frame (which has to be turned
round), and fluorescence with neuropil, of which ΔF/F is computed. Bounds: the peak resident memory of the process stays
under 1 GB; neuron-frames per second, everything included, are at least half of what `predict` reaches on an array in
memory, measured in between.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from _common import CONDITIONED, Checks, conditioned_bundle, parse

from cascade_rt.benchmarks import synthetic_dff

RATE = 30.0
BLOCK = 50
KINDS = ("by neuron", "by frame", "fluorescence")

INFER = """
import json, sys, threading, time
import psutil
from pathlib import Path
from cascade_rt.inference import infer
from cascade_rt.session import InferOptions
source, out, model, threads = sys.argv[1:]
me, peak, stop = psutil.Process(), [0], threading.Event()
def watch():
    while not stop.wait(0.02):
        peak[0] = max(peak[0], me.memory_info().rss)
thread = threading.Thread(target=watch)
thread.start()
done = infer(source, InferOptions(model=model), out=out, threads=int(threads) or None)
stop.set()
thread.join()
print(json.dumps({"seconds": done.seconds, "peak_rss": peak[0], "spikes": done.planes[0].expected_spikes,
                  "bytes": done.result.stat().st_size}))
"""

PREDICT = """
import json, sys, time
import h5py, numpy as np
from cascade_rt import load_model, predict
source, model, threads = sys.argv[1:]
with h5py.File(source) as file:
    dff = file["dff"][:]
model = load_model(model, threads=int(threads) or None)
predict(dff[:8], model, frame_rate_hz=30.0)
started = time.perf_counter()
prob = predict(dff, model, frame_rate_hz=30.0)
print(json.dumps({"seconds": time.perf_counter() - started, "spikes": float(np.nansum(prob, dtype=float))}))
"""


def write(path: Path, kind: str, n_neurons: int, n_frames: int) -> None:
    """Write one source in pieces."""
    by_frame = kind == "by frame"
    shape = (n_frames, n_neurons) if by_frame else (n_neurons, n_frames)
    chunks = (min(1000, n_frames), min(64, n_neurons))
    name = "F" if kind == "fluorescence" else "dff"
    with h5py.File(path, "w") as file:
        file["frame_rate"] = RATE
        target = file.create_dataset(name, shape, np.float32, chunks=(1, n_neurons) if by_frame else chunks[::-1])
        neuropil = file.create_dataset("Fneu", shape, np.float32, chunks=chunks[::-1]) if name == "F" else None
        if by_frame:
            with h5py.File(path.with_name("by_neuron.h5")) as other:
                for first in range(0, n_frames, 2000):
                    target[first : first + 2000] = other["dff"][:, first : first + 2000].T
            return
        for first in range(0, n_neurons, BLOCK):
            rows = slice(first, min(first + BLOCK, n_neurons))
            levels = np.linspace(1.5, 8, rows.stop - first)
            dff = synthetic_dff(len(levels), n_frames, frame_rate_hz=RATE, noise_levels=levels, seed=first)
            if neuropil is None:
                target[rows] = dff
            else:
                target[rows] = 200 * (1 + dff) + 0.7 * 50
                neuropil[rows] = 50


def child(code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    args = parse(__doc__, ("--only", {"choices": KINDS}))
    checks = Checks(args)
    n_neurons, n_frames = (20, 3000) if args.smoke else (1000, 80_000)
    size, threads, bundle = n_neurons * n_frames, str(args.threads or 0), str(conditioned_bundle())
    answer: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = [args.only] if args.only else list(KINDS)
        for kind in dict.fromkeys(["by neuron", *kinds]):
            write(folder / f"{kind.replace(' ', '_')}.h5", kind, n_neurons, n_frames)
        memory = folder / "by_neuron.h5"
        for kind in kinds:
            source = folder / f"{kind.replace(' ', '_')}.h5"
            arguments = [str(source), str(folder / "out"), bundle, threads]
            if kind == "by frame":
                code = INFER.replace("InferOptions(model=model)", "InferOptions(model=model, transposed=True)")
            else:
                code = INFER
            before = child(PREDICT, str(memory), bundle, threads)
            got = child(code, *arguments)
            after = child(PREDICT, str(memory), bundle, threads)
            source.unlink() if kind != "by neuron" else None
            best = min(before["seconds"], after["seconds"])
            checks.at_most(f"{kind}: peak resident memory (GB)", round(got["peak_rss"] / 1e9, 3), 1.0)
            checks.at_least(f"{kind}: speed relative to predict in memory", round(best / got["seconds"], 3), 0.5)
            if kind != "fluorescence":
                off = abs(got["spikes"] / before["spikes"] - 1)
                checks.at_most(f"{kind}: relative difference of all spikes", off, 1e-5)
            answer[kind] = {
                "infer_s": round(got["seconds"], 2),
                "predict_s": [round(before["seconds"], 2), round(after["seconds"], 2)],
                "infer_neuron_frames_per_s": round(size / got["seconds"]),
                "predict_neuron_frames_per_s": round(size / best),
                "result_bytes": got["bytes"],
            }
    checks.finish("infer", model=CONDITIONED, n_neurons=n_neurons, n_frames=n_frames, **answer)


if __name__ == "__main__":
    main()

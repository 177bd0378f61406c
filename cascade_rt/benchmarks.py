"""How fast this machine runs a model, beside what its matrix products could do at best.

Rates are frames divided by the time they took, never means of rates. The reference is single-precision matrix
multiplication (sgemm, 2048 × 2048 × 2048, numpy) on the same number of threads in the same run: the shares and
multiples that are reported hold on other machines, the milliseconds do not.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CascadeError, CascadeWarning
from .latency import LatencyHistogram
from .offline import predict
from .stream import SpikeStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .engine import Model

__all__ = ["benchmark", "live_latency", "machine", "offline_rate", "sgemm_flops", "sustained", "synthetic_dff"]

_SGEMM = """
import json, sys, time
import numpy as np
size, repeats = int(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(0)
a, b = (random.random((size, size), dtype=np.float32) for _ in range(2))
out = a @ b
times = []
for _ in range(repeats):
    started = time.perf_counter()
    np.matmul(a, b, out=out)
    times.append(time.perf_counter() - started)
print(json.dumps(times))
"""


def machine() -> dict[str, Any]:
    """Describe this machine, for the record beside a measurement."""
    packages = ("cascade-rt", "numpy", "onnxruntime", "numba", "pyzmq")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "blas": _blas(),
        "versions": {name: _version(name) for name in packages},
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def sgemm_flops(threads: int, *, size: int = 2048, repeats: int = 8) -> float:
    """Floating-point operations per second of numpy's single-precision matrix product.

    Runs in a process of its own, where numpy's library can be told the number of threads.

    Parameters
    ----------
    threads : int
        Threads that the library may use.
    size : int
        Rows and columns of the matrices.
    repeats : int
        Products timed; the fastest counts.
    """
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    # A machine may force a slower kernel on OpenBLAS; the reference is what numpy can do.
    kept = {name: value for name, value in os.environ.items() if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    done = subprocess.run(
        [sys.executable, "-c", _SGEMM, str(size), str(repeats)],
        env={**kept, **dict.fromkeys(names, str(threads))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CascadeError(f"the matrix products for reference failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(2 * size**3 / min(json.loads(done.stdout)))


def synthetic_dff(
    n_neurons: int, n_frames: int, *, frame_rate_hz: float, noise_levels: NDArray[np.floating], seed: int = 0
) -> NDArray[np.float32]:
    """White noise of given levels with a few transients: enough to measure speed with.

    Parameters
    ----------
    n_neurons, n_frames : int
        Shape of the recording.
    frame_rate_hz : float
        Frames per second.
    noise_levels : ndarray, (n_neurons,)
        ν of each neuron, % Hz^-1/2.
    seed : int
        Of the random numbers.

    Returns
    -------
    ndarray, (n_neurons, n_frames), float32
    """
    random = np.random.default_rng(seed)
    # The median absolute difference of neighbouring white-noise samples of deviation s is 0.954 s.
    sigma = np.asarray(noise_levels, np.float32) * np.float32(np.sqrt(frame_rate_hz) / 95.4)
    dff: NDArray[np.float32] = random.standard_normal((n_neurons, n_frames), dtype=np.float32) * sigma[:, None]
    decay = np.exp(-np.arange(int(frame_rate_hz)) / (0.3 * frame_rate_hz)).astype(np.float32)
    for neuron in range(n_neurons):
        for start in random.integers(0, n_frames, max(1, int(0.2 * n_frames / frame_rate_hz))):
            length = min(len(decay), n_frames - start)
            dff[neuron, start : start + length] += decay[:length]
    return dff


def offline_rate(
    model: Model,
    dff: NDArray[np.floating],
    *,
    frame_rate_hz: float,
    sgemm: float | None = None,
    repeats: int = 3,
) -> dict[str, Any]:
    """Neuron-frames per second of :func:`cascade_rt.predict`, everything included.

    Parameters
    ----------
    model : Model
        The model to run.
    dff : ndarray, (n_neurons, n_frames)
        ΔF/F.
    frame_rate_hz : float
        Of the recording.
    sgemm : float, optional
        Reference rate (FLOP/s) from the same run.
    repeats : int
        Whole predictions timed after one that warms up; the fastest counts.
    """
    times = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        for _ in range(repeats + 1):
            started = time.perf_counter()
            predict(dff, model, frame_rate_hz=frame_rate_hz)
            times.append(time.perf_counter() - started)
    rate = dff.size / min(times[1:])
    answer = {
        "n_neurons": dff.shape[0],
        "n_frames": dff.shape[1],
        "seconds": round(min(times[1:]), 4),
        "neuron_frames_per_s": round(rate),
        "flop_per_neuron_frame": 2 * model.multiply_adds,
    }
    if sgemm is not None:
        answer["share_of_sgemm"] = round(rate * 2 * model.multiply_adds / sgemm, 4)
    return answer


def live_latency(
    model: Model,
    *,
    n_neurons: int,
    n_frames: int = 300,
    lookahead_frames: Sequence[int] | None = None,
    noise_range: tuple[float, float] | None = None,
    sgemm: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time to take in one frame of all neurons and return its spike probabilities, frame after frame.

    Two times are told: the latency, from the frame to its spike probabilities, and the whole work, which includes
    what is done for the next frame afterwards.

    Parameters
    ----------
    model : Model
        The model to run.
    n_neurons : int
        Neurons in each frame.
    n_frames : int
        Frames timed, after a window's length that warms up.
    lookahead_frames : sequence of int, optional
        All that the model has by default.
    noise_range : (float, float), optional
        Lowest and highest ν of the neurons, % · Hz^-½; the trained range by default, so that every network of a
        binned model is in use.
    sgemm : float, optional
        Reference rate (FLOP/s) from the same run.
    seed : int
        Of the random numbers.
    """
    stream, frames = _live(model, n_neurons, lookahead_frames, seed, noise_range)
    latency, whole = LatencyHistogram(), LatencyHistogram()
    for number in range(-model.spec.windowsize - 5, n_frames):
        frame = frames[number % len(frames)]
        started = time.perf_counter()
        stream.push(frame)
        answered = time.perf_counter()
        stream.prepare()
        prepared = time.perf_counter()
        if number >= 0:
            latency.add(answered - started)
            whole.add(prepared - started)
    answer: dict[str, Any] = {
        "n_neurons": n_neurons,
        "n_frames": n_frames,
        "lookaheads": list(stream.lookahead_frames),
        "latency": latency.to_dict(),
        "whole": whole.to_dict(),
    }
    if sgemm is not None:
        ideal_s = 2 * model.multiply_adds * n_neurons / sgemm
        answer["sgemm_ms"] = round(1000 * ideal_s, 4)
        for name, times in (("latency", latency), ("whole", whole)):
            for quantile in (50, 99):
                answer[f"{name}_p{quantile}_over_sgemm"] = round(times.percentile(quantile) / ideal_s, 3)
    return answer


def sustained(
    model: Model,
    *,
    n_neurons: int,
    frame_rate_hz: float,
    seconds: float,
    lookahead_frames: Sequence[int] | None = None,
    report: Callable[[float], None] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Frames that come at a fixed rate: latency from each frame's arrival, and deadlines missed.

    A deadline is missed when the answer to a frame is not there before the next frame comes.

    Parameters
    ----------
    model : Model
        The model to run.
    n_neurons : int
        Neurons in each frame.
    frame_rate_hz : float
        Frames per second.
    seconds : float
        Length of the run (s).
    lookahead_frames : sequence of int, optional
        All that the model has by default.
    report : callable, optional
        Called with the fraction done.
    seed : int
        Of the random numbers.
    """
    stream, frames = _live(model, n_neurons, lookahead_frames, seed)
    for frame in frames:  # the first frames of a process are slower
        stream.push(frame)
        stream.prepare()
    period = 1.0 / frame_rate_hz
    latency = LatencyHistogram(deadline_s=period)
    busy = 0.0
    n_frames = max(1, round(seconds * frame_rate_hz))
    begin = time.perf_counter() + period
    for number in range(n_frames):
        arrival = begin + number * period
        wait = arrival - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        started = time.perf_counter()
        stream.push(frames[number % len(frames)])
        latency.add(time.perf_counter() - arrival)
        stream.prepare()
        busy += time.perf_counter() - started
        if report is not None:
            report((number + 1) / n_frames)
    return {
        "n_neurons": n_neurons,
        "frame_rate_hz": frame_rate_hz,
        "n_frames": n_frames,
        "seconds": round(n_frames * period, 2),
        "deadline_misses": latency.misses,
        "latency": latency.to_dict(),
        "busy_fraction": round(busy / (n_frames * period), 4),
    }


def benchmark(
    model: Model, *, n_neurons: int = 500, seconds: float = 10.0, report: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Run everything that ``cascade-rt bench`` shows.

    Parameters
    ----------
    model : Model
        The model to run.
    n_neurons : int
        Neurons of the live measurements.
    seconds : float
        Length of the run at the model's own frame rate (s).
    report : callable, optional
        Called with the fraction done.
    """
    spec, rate = model.spec, model.spec.frame_rate_hz
    before = sgemm_flops(model.threads)
    nu = np.linspace(*spec.noise_range, 100)
    dff = synthetic_dff(100, max(2 * spec.windowsize, 3000), frame_rate_hz=rate, noise_levels=nu)
    offline = offline_rate(model, dff, frame_rate_hz=rate)
    live = live_latency(model, n_neurons=n_neurons)
    sgemm = max(before, sgemm_flops(model.threads))
    offline["share_of_sgemm"] = round(offline["neuron_frames_per_s"] * 2 * model.multiply_adds / sgemm, 4)
    ideal_ms = 2e3 * model.multiply_adds * n_neurons / sgemm
    live["sgemm_ms"] = round(ideal_ms, 4)
    for name in ("latency", "whole"):
        live[f"{name}_p50_over_sgemm"] = round(live[name]["p50_ms"] / ideal_ms, 3)
        live[f"{name}_p99_over_sgemm"] = round(live[name]["p99_ms"] / ideal_ms, 3)
    paced = sustained(model, n_neurons=n_neurons, frame_rate_hz=rate, seconds=seconds, report=report)
    return {
        "model": spec.name,
        "device": model.device,
        "threads": model.threads,
        "sgemm_gflops": round(sgemm / 1e9, 1),
        "offline": offline,
        "live": live,
        "sustained": paced,
        "machine": machine(),
    }


def _live(
    model: Model,
    n_neurons: int,
    lookahead_frames: Sequence[int] | None,
    seed: int,
    noise_range: tuple[float, float] | None = None,
) -> tuple[SpikeStream, list[NDArray[np.float32]]]:
    """Make a stream whose neurons have all these noise levels, and some frames to push."""
    spec = model.spec
    nu = np.linspace(*(noise_range or spec.noise_range), n_neurons)
    stream = SpikeStream(
        model,
        n_neurons=n_neurons,
        frame_rate_hz=spec.frame_rate_hz,
        noise_levels=nu,
        lookahead_frames=spec.lookaheads if lookahead_frames is None else tuple(lookahead_frames),
    )
    n_frames = spec.windowsize + 5
    dff = synthetic_dff(n_neurons, n_frames, frame_rate_hz=spec.frame_rate_hz, noise_levels=nu, seed=seed)
    return stream, [np.ascontiguousarray(dff[:, number : number + 1]) for number in range(n_frames)]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return None


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

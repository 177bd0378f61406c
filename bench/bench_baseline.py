"""ΔF/F of 1000 neurons × 80,000 frames (60 s window at 30 Hz) against scipy's percentile filter; and live.

scipy's filter is timed on a part of the recording, its time scaled by neuron-frames: the straightforward call for all
neurons, ``percentile_filter(F, p, size=(1, w))``, and a call for each, ``percentile_filter(row, p, size=w)``, for which
scipy has a fast algorithm of its own. Both run on one core, as scipy does; ours on all.

Bounds: 20 times the straightforward call, for the baseline that scipy computes and for ΔF/F with the default options;
the same baseline, to the bit, wherever the window is whole; ΔF/F from it within 1e-6; memory beside input and output of
at most 40 bytes per frame of a row and thread; live within 1 ms per frame (median and 99th percentile; 30 Hz, window
full, one frame at a time), equal to the batch.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from _common import Checks, parse

from cascade_rt import _kernels
from cascade_rt.baseline import BaselineOptions, RunningBaseline, delta_f_over_f

RATE_HZ, WINDOW_S, PERCENTILE = 30.0, 60.0, 8.0


def fluorescence(n_neurons: int, n_frames: int) -> np.ndarray:
    """Noise, transients and bleaching, (n_neurons, n_frames) float32."""
    rng = np.random.default_rng(0)
    out = rng.standard_normal((n_neurons, n_frames), np.float32)
    out *= np.float32(0.15)
    decay = np.exp(-np.arange(60) / 15).astype(np.float32)
    for row, rate in zip(out, rng.gamma(1.0, 0.01, n_neurons), strict=True):
        for t in rng.integers(0, n_frames, rng.poisson(rate * n_frames)):
            row[t : t + 60] += decay[: n_frames - t]
    out += 1
    out *= rng.uniform(200, 2000, (n_neurons, 1)).astype(np.float32)
    out *= np.linspace(1, 0.7, n_frames, dtype=np.float32)
    return out


def batch(args: argparse.Namespace, checks: Checks) -> dict[str, Any]:
    from scipy.ndimage import percentile_filter

    frames = fluorescence(*((6, 3000) if args.smoke else (1000, 80_000)))
    w = round(WINDOW_S * RATE_HZ)
    before, after = w // 2, w - 1 - w // 2
    n = np.arange(w + 1)
    ranks = np.minimum((n * PERCENTILE / 100).astype(np.int64), np.maximum(n - 1, 0))
    out = np.empty_like(frames)
    plain = BaselineOptions(window_s=WINDOW_S, percentile=PERCENTILE, smoothing_s=0)
    _kernels.over_rows(_kernels.moving_rank_rows, (frames[:2], out[:2]), (before, after, ranks))  # compiles
    delta_f_over_f(frames[:2], frame_rate_hz=RATE_HZ)

    seconds: dict[str, float] = {}
    seconds["baseline alone"] = took(
        lambda: _kernels.over_rows(_kernels.moving_rank_rows, (frames, out), (before, after, ranks))
    )
    whole = took(lambda: delta_f_over_f(frames, frame_rate_hz=RATE_HZ))
    seconds["ΔF/F, default options"] = whole
    # scipy on parts: whole rows for its fast algorithm, a piece of one for the slow.
    few, piece = (2, 2000) if args.smoke else (20, 16_000)
    theirs = np.empty_like(frames[:few])

    def rows() -> None:
        for i in range(few):
            theirs[i] = percentile_filter(frames[i], PERCENTILE, size=w)

    seconds["scipy, a call for each neuron"] = took(rows) * frames.size / theirs.size
    straightforward: list[np.ndarray] = []
    part = frames[:1, :piece]
    seconds["scipy, straightforward"] = (
        took(lambda: straightforward.append(percentile_filter(part, PERCENTILE, size=(1, w)))) * frames.size / part.size
    )

    inside = slice(before, frames.shape[1] - after)
    different = int((out[:few, inside] != theirs[:, inside]).sum())
    within = slice(before, piece - after)
    different += int((out[:1, within] != straightforward[0][:, within]).sum())
    dff = delta_f_over_f(frames[:few], frame_rate_hz=RATE_HZ, options=plain).dff[:, inside]
    f0 = theirs[:, inside].astype(float)
    largest = float(np.abs(dff - (frames[:few, inside] - f0) / f0).max())
    checks.at_most("frames with another baseline than scipy's", different, 0)
    checks.at_most("largest difference of ΔF/F", largest, 1e-6)
    scipy = seconds["scipy, straightforward"]
    for name in ("baseline alone", "ΔF/F, default options"):
        checks.at_least(f"{name}: times as fast as scipy, straightforward", round(scipy / seconds[name], 1), 20)
    return {
        "neurons_frames": list(frames.shape),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "scipy_measured_on": {"straightforward": list(part.shape), "a call for each neuron": list(theirs.shape)},
        "neuron_frames_per_s": {name: round(frames.size / value) for name, value in seconds.items()},
        "times_scipys_call_for_each_neuron": {
            name: round(seconds["scipy, a call for each neuron"] / seconds[name], 1)
            for name in ("baseline alone", "ΔF/F, default options")
        },
    }


def took(what: Any) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def live(args: argparse.Namespace, checks: Checks) -> dict[str, Any]:
    answers = {}
    for rate, bound in ((RATE_HZ, 1.0), (200.0, None)):
        w = round(WINDOW_S * rate)
        n_neurons, n_timed = (20, 50) if args.smoke else (1000, 1500)
        frames = fluorescence(n_neurons, w + n_timed)
        running = RunningBaseline(n_neurons, rate)
        parts = [running.push(frames[:, :w])]
        times = []
        for t in range(w, w + n_timed):
            column = np.ascontiguousarray(frames[:, t : t + 1])
            started = time.perf_counter()
            parts.append(running.push(column))
            times.append(1000 * (time.perf_counter() - started))
        options = BaselineOptions(position="trailing")
        few = slice(0, 50)
        expected = delta_f_over_f(frames[few], frame_rate_hz=rate, options=options).dff
        different = int((np.concatenate(parts, axis=1)[few] != expected).sum())
        checks.at_most(f"live, {rate:g} Hz: frames with another ΔF/F than in batch", different, 0)
        p50, p99 = np.percentile(times, [50, 99])
        if bound is not None:
            checks.at_most(f"live, {n_neurons} neurons, {rate:g} Hz (ms, p50)", round(p50, 3), bound)
            checks.at_most(f"live, {n_neurons} neurons, {rate:g} Hz (ms, p99)", round(p99, 3), bound)
        answers[f"{rate:g} Hz"] = {
            "neurons": n_neurons,
            "window_frames": w,
            "p50_ms": round(p50, 3),
            "p99_ms": round(p99, 3),
            "largest_ms": round(max(times), 3),
        }
    return answers


def memory(args: argparse.Namespace, checks: Checks) -> dict[str, Any] | None:
    """Room that the kernel takes beside its input and output; measured first, as the process only ever grows."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    n_frames = 20_000 if args.smoke else 1_000_000
    frames = fluorescence(16, n_frames)
    out, levels = np.zeros_like(frames), np.zeros((16, 3))
    ranks = (np.arange(1801) * PERCENTILE / 100).astype(np.int64)
    short, room = frames[:, :2000].copy(), np.empty((16, 2000), np.float32)
    grown = []
    for given, answer in ((short, room), (frames, out)):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _kernels.over_rows(_kernels.delta_rows, (given, answer, levels), (30, 14, 900, 899, ranks))
        unit = 1 if sys.platform == "darwin" else 1024
        grown.append(unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
    threads = machine_threads()
    per_frame = grown[1] / n_frames / threads
    checks.at_most("bytes per frame of a row and thread, beside input and output", round(per_frame, 1), 40)
    return {"frames": n_frames, "threads": threads, "grown_bytes": grown[1], "bytes_per_frame": round(per_frame, 1)}


def machine_threads() -> int:
    from numba import config

    return int(config.NUMBA_NUM_THREADS)


def main() -> None:
    args = parse(__doc__)
    checks = Checks(args)
    room = memory(args, checks)
    checks.finish("baseline", memory=room, batch=batch(args, checks), live=live(args, checks))


if __name__ == "__main__":
    main()

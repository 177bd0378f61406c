"""A long run through real processes: recording and live page on, nothing lost, memory flat, latency without drift.

Two runs at once on the cores of a machine, each with sender, `cascade-rt run`, receiver, recording and page: 1000
neurons at 30 Hz and 200 neurons at 200 Hz, for 30 minutes. Bounds: no frame lost; memory of `run` grows by less than
10 MB after the first five minutes; the median latency of the last fifth is at most 1.25 times that of the second fifth;
`rerun` makes of the recording what the run had made. `--only 30` or `--only 200` takes one of the two.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _common import Checks, parse

from cascade_rt.loopback import loopback

RUNS = {
    30: {"model": "GCaMP8_EXC_30Hz_smoothing25ms", "n_neurons": 1000, "frame_rate_hz": 30.0},
    200: {"model": "GCaMP8_EXC_60Hz_smoothing12ms", "n_neurons": 200, "frame_rate_hz": 200.0},
}
EVERY_S = 5.0
WARM_UP_S = 300.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def watch(folder: Path, stop: threading.Event) -> list[tuple[float, float]]:
    """Memory (MB) of the `run` that records into ``folder``, over time (s)."""
    samples, started, found = [], time.monotonic(), None
    while not stop.wait(EVERY_S):
        try:
            if found is None:
                family = psutil.Process().children(recursive=True)
                found = next((one for one in family if {str(folder), "run"} <= set(one.cmdline())), None)
            if found is not None:
                samples.append((time.monotonic() - started, found.memory_info().rss / 1e6))
        except psutil.NoSuchProcess:  # other processes come and go; when the run itself has ended, the soak has too
            if found is not None:
                break
    return samples


def open_page(port: int, folder: Path) -> subprocess.Popen[bytes] | None:
    """Let a browser look at the page, where there is one."""
    name = next((shutil.which(one) for one in BROWSERS if shutil.which(one)), None)
    if name is None:
        return None
    command = [name, *QUIET, f"--user-data-dir={folder}", "--remote-debugging-port=0", f"http://127.0.0.1:{port}/"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def soak(rate: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One run, and what came of it."""
    record, stop = folder / f"recording{rate}", threading.Event()
    port = 18700 + rate
    options = ["--record", str(record), "--monitor", f"127.0.0.1:{port}", "--allow-rate-mismatch"]
    with ThreadPoolExecutor(2) as pool:
        memory = pool.submit(watch, record, stop)
        page = pool.submit(lambda: (time.sleep(min(10.0, seconds / 3)), open_page(port, folder / f"browser{rate}"))[1])
        try:
            loop = loopback(**RUNS[rate], seconds=seconds, run_options=options)
        finally:
            stop.set()
            browser = page.result()
            if browser is not None:
                browser.terminate()
                browser.wait()
        samples = np.array(memory.result())
    times = loop.received - loop.sent
    fifths = [1000 * float(np.nanmedian(part)) for part in np.array_split(times, 5)]
    settled = samples[samples[:, 0] >= min(WARM_UP_S, seconds / 2)][:, 1] if samples.size else np.zeros(1)
    done = subprocess.run(
        [sys.executable, "-m", "cascade_rt", "rerun", str(record), "--check", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    values = loop.to_dict()
    return {
        "frames": values["frames"],
        "summary": {name: loop.summary[name] for name in ("frames", "recordings", "sink_dropped", "load")},
        "end_to_end": values["end_to_end"],
        "event": values["event"]["frame_received_to_subscriber"],
        "median_ms_by_fifth": [round(value, 3) for value in fifths],
        "memory_mb": {
            "after_warm_up": round(float(np.median(settled[:6])), 2),
            "at_the_end": round(float(np.median(settled[-6:])), 2),
            "highest": round(float(settled.max()), 2),
        },
        "browser": browser is not None,
        "rerun": {"code": done.returncode, "answer": json.loads(done.stdout) if done.stdout.strip() else done.stderr},
    }


def main() -> None:
    args = parse(
        __doc__, ("--only", {"type": int, "choices": tuple(RUNS)}), ("--minutes", {"type": float, "default": 30})
    )
    checks = Checks(args)
    seconds = 8.0 if args.smoke else 60 * args.minutes
    rates = [args.only] if args.only else list(RUNS)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(len(rates)) as pool:
        futures = {rate: pool.submit(soak, rate, seconds, Path(temporary)) for rate in rates}
        answer = {rate: future.result() for rate, future in futures.items()}
    for rate, got in answer.items():
        grown = got["memory_mb"]["at_the_end"] - got["memory_mb"]["after_warm_up"]
        checks.at_most(f"{rate} Hz: frames lost", got["frames"]["lost"], 0)
        checks.at_least(
            f"{rate} Hz: frames processed of those sent", got["frames"]["processed"] / got["frames"]["sent"], 1
        )
        checks.at_most(f"{rate} Hz: growth of memory after warming up (MB)", round(grown, 2), 10)
        fifths = got["median_ms_by_fifth"]
        checks.at_most(f"{rate} Hz: median latency, last fifth to second", round(fifths[-1] / fifths[1], 3), 1.25)
        checks.at_most(f"{rate} Hz: exit code of rerun --check", got["rerun"]["code"], 0)
    checks.finish("soak", seconds=seconds, runs={f"{rate} Hz": got for rate, got in answer.items()})


if __name__ == "__main__":
    main()

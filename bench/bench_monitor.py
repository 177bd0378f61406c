"""What the live page costs a run: 2000 neurons at 30 Hz, with and without the page, in turns.

The run is a process of its own with the shipped model. With the page, a browser (Chromium where there is one, else a
program that reads all updates) is connected and shows what comes. Bound: neither the median nor the 99th percentile of
the time from receiving to publishing grows by more than a millisecond or a quarter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
from _common import ROOT, Checks, conditioned_bundle, parse

from cascade_rt.benchmarks import synthetic_dff

RATE = 30.0


def child(n_neurons: int, seconds: float, *, page: bool, threads: int, priority: int) -> None:
    """Run once; prints the page's address, if there is one, and then the summary."""
    import gc

    from cascade_rt.engine import load_model
    from cascade_rt.monitor import start_monitor
    from cascade_rt.runner import Runner
    from cascade_rt.stream import SpikeStream

    sys.path.insert(0, str(ROOT / "tests"))
    from monitor_run import Paced

    if priority:
        os.nice(-priority)
    nu = np.linspace(1.5, 8, n_neurons)
    dff = synthetic_dff(n_neurons, 600, frame_rate_hz=RATE, noise_levels=nu)
    model = load_model(conditioned_bundle(), threads=threads or None)
    stream = SpikeStream(model, n_neurons=n_neurons, frame_rate_hz=RATE, noise_levels=nu, lookahead_frames=(2,))
    for _ in range(5):
        stream.push(dff[:, :1])
        stream.prepare()
    stream.reset()
    with ExitStack() as stack:
        sinks = []
        if page:
            monitor = stack.enter_context(start_monitor("127.0.0.1:0"))
            sinks.append(monitor.sink)
            print(json.dumps({"url": monitor.url}), flush=True)
        runner = Runner(
            Paced(dff, RATE, seconds, lose=False, stream="bench"),
            sinks,
            lambda n, rate: stream,  # type: ignore[list-item]
        )
        if page:
            monitor.watch(runner.statistics)
        gc.collect()
        gc.freeze()
        summary = runner.run()
        stages = summary.values["stages"]
        skipped = monitor.sink.skipped if page else 0
    print(
        json.dumps(
            {"latency": summary.latency, "lost": summary.frames["lost"], "wait": stages["wait"], "skipped": skipped,
             "load": summary.values["load"]}
        ),
        flush=True,
    )  # fmt: skip


def measure(args: Any, n_neurons: int, seconds: float, *, page: bool) -> dict[str, Any]:
    """Run once in a process of its own, with a browser if there is a page."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import bench_monitor as b; "
        f"b.child({n_neurons}, {seconds}, page={page}, threads={args.threads or 0}, priority={args.priority})"
    )
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import Browser, find_browser

    with ExitStack() as stack:
        # the browser starts before the run: what its start takes from the processor is not what the page costs
        shown = stack.enter_context(Browser()) if page and find_browser() is not None else None
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        browser: dict[str, Any] = {}
        if page:
            url = json.loads(process.stdout.readline())["url"]
            if shown is None:
                threading.Thread(target=read_all, args=(url,), daemon=True).start()
                browser = {"browser": "a program that reads all updates"}
            else:
                shown.open(url)
                shown.wait_for("window.__stats && window.__stats.updates > 20")
                shown.evaluate(f"new Promise((done) => setTimeout(done, {1000 * max(1.0, seconds - 8)}))")
                browser = {"browser": shown.evaluate("window.__stats")}
        answer = json.loads(process.stdout.readlines()[-1])
    return {"page": page, **answer, **browser}


def read_all(url: str) -> None:
    """Take all updates of some neurons, as a page does."""
    sys.path.insert(0, str(ROOT / "tests"))
    from pages import Page

    with Page(int(url.partition("#")[0].rsplit(":", 1)[1].strip("/"))) as page:
        page.until("info")
        page.say(type="select", neurons=list(range(6)), lookahead=2)
        while page.read()[0] != 8:
            pass


def main() -> None:
    args = parse(
        __doc__,
        ("--neurons", {"type": int, "default": 2000, "help": "neurons"}),
        ("--seconds", {"type": float, "default": 30.0, "help": "length of each run (s)"}),
        ("--priority", {"type": int, "default": 0, "help": "raise the run above others by this (needs to be allowed)"}),
        ("--rounds", {"type": int, "default": 3, "help": "runs of each kind"}),
    )
    checks = Checks(args)
    n_neurons, seconds, rounds = (50, 8.0, 1) if args.smoke else (args.neurons, args.seconds, args.rounds)
    runs = [measure(args, n_neurons, seconds, page=page) for _ in range(rounds) for page in (False, True)]
    median = {
        page: {
            name: float(np.median([run["latency"][name] for run in runs if run["page"] is page]))
            for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")
        }
        for page in (False, True)
    }
    for name in ("p50_ms", "p99_ms"):
        without = median[False][name]
        checks.at_most(f"{name} with the page", median[True][name], without + max(1.0, 0.25 * without))
    checks.at_most("frames lost", sum(run["lost"] for run in runs), 0)
    checks.finish(
        "monitor", n_neurons=n_neurons, rate_hz=RATE, seconds=seconds,
        without_page=median[False], with_page=median[True], runs=runs,
    )  # fmt: skip


if __name__ == "__main__":
    main()

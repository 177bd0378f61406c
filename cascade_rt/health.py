"""Checks of an installation: what ``cascade-rt doctor`` looks at. Each check tells what it saw and what to do."""

from __future__ import annotations

import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHECKS", "Check", "check_all"]

Status = Literal["ok", "look", "failed"]

#: Where Linux tells about itself; tests put another folder here.
ROOT = Path("/")
#: Oldest version of ZeroMQ's library with all that is used.
ZEROMQ = (4, 3)
#: Memory that should be free (GB), and the share of the cores that other programs may use.
FREE_GB, OTHERS = 2.0, 0.5
#: Windows' power plans by the beginning of their identifier.
POWER_PLANS = {"381b4222": "balanced", "a1841308": "power saver", "8c5e7fda": "high performance"}

#: Packages that a run needs, and those that add something.
NEEDED = ("numpy", "numba", "onnx", "onnxruntime", "pyzmq", "scipy", "h5py", "pyyaml", "rich", "matplotlib")
OPTIONAL = ("onnxruntime-gpu", "tensorflow", "tf2onnx")

#: Largest difference between live and offline values.
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Check:
    """Outcome of one check.

    Parameters
    ----------
    name : str
        What was looked at.
    status : "ok", "look" or "failed"
        "look": works, but something is worth attention.
    seen : str
        What was found, in words.
    advice : str
        What to do about it.
    values : dict
        The numbers, for programs.
    """

    name: str
    status: Status
    seen: str
    advice: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def check_all() -> list[Check]:
    """Run every check; one that breaks counts as failed and does not stop the others."""
    return [check() for check in CHECKS]


def check_packages() -> Check:
    """Look for the packages that a run needs."""
    found = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    missing = [name for name in NEEDED if found[name] is None]
    if found["onnxruntime"] is None and found["onnxruntime-gpu"] is not None:
        missing.remove("onnxruntime")
    seen = ", ".join(f"{name} {number}" for name, number in found.items() if number is not None)
    values = {"python": platform.python_version(), **found}
    if missing:
        return Check(
            name="packages",
            status="failed",
            seen=f"missing: {', '.join(missing)}; found: {seen}",
            advice="install again in a fresh environment: pip install cascade-rt",
            values=values,
        )
    if found["onnxruntime"] is not None and found["onnxruntime-gpu"] is not None:
        return Check(
            name="packages",
            status="look",
            seen=seen,
            advice="onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, then install one",
            values=values,
        )
    return Check(name="packages", status="ok", seen=f"Python {platform.python_version()}, {seen}", values=values)


def check_processor() -> Check:
    """Look at the cores and the linear algebra library."""
    from .benchmarks import machine

    here = machine()
    seen = f"{here['cores_usable']} of {here['cores']} cores usable, {here['processor']}, {here['blas']}"
    forced = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS") if name in os.environ}
    values = {**here, "forced": forced}
    if here["cores_usable"] < here["cores"]:
        advice = "this process may not use all cores (container or affinity): a large population may need more"
        return Check(name="processor", status="look", seen=seen, advice=advice, values=values)
    return Check(name="processor", status="ok", seen=seen, values=values)


def check_threads() -> Check:
    """Compare the threads that a run would use with the cores that it may use."""
    cores = _usable_cores()
    share = _container_cores()
    values: dict[str, Any] = {"cores_usable": cores, "container_cores": share}
    forced = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ}
    values["forced"] = forced
    seen = f"{cores} cores" + (f", of which the container gets {share:g}" if share is not None else "")
    many = [f"{name}={text}" for name, text in forced.items() if text.isdigit() and int(text) > cores]
    if many:
        advice = (
            f"{many[0]} is more than there are cores, so that they wait for each other: unset {many[0].split('=')[0]}"
        )
        return Check(name="threads", status="look", seen=f"{seen}; {', '.join(many)}", advice=advice, values=values)
    if share is not None and share < cores:
        advice = f"threads beyond the container's share are stopped for a while: run … --threads {max(1, int(share))}"
        return Check(name="threads", status="look", seen=seen, advice=advice, values=values)
    if cores < 2:
        advice = "receiving, inference and the acquisition program share one core: use a computer with two or more"
        return Check(name="threads", status="look", seen=seen, advice=advice, values=values)
    free = max(1, cores - 1)
    advice = f"where an acquisition program runs on this computer too, leave it a core: run … --threads {free}"
    return Check(name="threads", status="ok", seen=seen, advice=advice, values=values)


def check_power() -> Check:
    """Find out whether the processor is slowed down to save power between frames."""
    if sys.platform == "win32":
        return _check_power_plan()
    governors: dict[str, int] = {}
    for file in (ROOT / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        name = _read(file)
        governors[name] = governors.get(name, 0) + 1
    values = {"governors": governors}
    if not governors:
        return Check(
            name="power", status="ok", seen="the system does not tell how the clock rate is chosen", values=values
        )
    seen = ", ".join(f"{name} ({count} cores)" for name, count in sorted(governors.items()))
    if set(governors) != {"performance"}:
        advice = (
            "the clock rate falls between two frames, and rising again takes time: "
            "sudo cpupower frequency-set -g performance"
        )
        return Check(name="power", status="look", seen=f"clock rate: {seen}", advice=advice, values=values)
    return Check(name="power", status="ok", seen=f"clock rate: {seen}", values=values)


def _check_power_plan() -> Check:
    tool = shutil.which("powercfg")
    if tool is None:
        return Check(name="power", status="ok", seen="the power plan cannot be read (no powercfg)")
    told = subprocess.run(
        [tool, "/getactivescheme"], capture_output=True, text=True, errors="replace", check=False
    ).stdout
    plan = next((name for key, name in POWER_PLANS.items() if key in told.lower()), "")
    seen = f"power plan: {plan or ' '.join(told.split()) or 'unknown'}"
    if plan in ("balanced", "power saver"):
        advice = "the processor slows down between two frames: powercfg /setactive SCHEME_MIN (high performance)"
        return Check(name="power", status="look", seen=seen, advice=advice, values={"plan": plan})
    return Check(name="power", status="ok", seen=seen, values={"plan": plan})


def check_messages() -> Check:
    """Look at the ZeroMQ library: version, encryption, and how much it holds for a slow receiver."""
    import zmq

    from .endpoints import ZmqEndpoint

    hwm = ZmqEndpoint.hwm
    encrypted = bool(zmq.has("curve"))
    values = {"zeromq": zmq.zmq_version(), "pyzmq": zmq.pyzmq_version(), "curve": encrypted, "hwm": hwm}
    seen = (
        f"ZeroMQ {zmq.zmq_version()}, pyzmq {zmq.pyzmq_version()}, {'with' if encrypted else 'without'} encryption; "
        f"holds {hwm} messages for each receiver ({hwm / 30:.0f} s at 30 Hz; more with ?hwm=N)"
    )
    if zmq.zmq_version_info()[:2] < ZEROMQ:
        advice = "this ZeroMQ is old: pip install --upgrade pyzmq"
        return Check(name="messages", status="look", seen=seen, advice=advice, values=values)
    if not encrypted:
        advice = "connections to other computers cannot be encrypted: pip install --force-reinstall pyzmq"
        return Check(name="messages", status="look", seen=seen, advice=advice, values=values)
    return Check(name="messages", status="ok", seen=seen, values=values)


def check_clock() -> Check:
    """Look at where Linux takes the time from: some sources take microseconds to read."""
    source = _read(ROOT / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    values = {"clocksource": source}
    if source in ("hpet", "acpi_pm", "jiffies"):
        advice = (
            f"reading the time from {source} is slow; see what else there is with cat "
            "/sys/devices/system/clocksource/clocksource0/available_clocksource, and boot with clocksource=tsc"
        )
        return Check(name="clock", status="look", seen=f"time comes from {source}", advice=advice, values=values)
    seen = f"time comes from {source}" if source else "the system's own"
    return Check(name="clock", status="ok", seen=seen, values=values)


def check_memory() -> Check:
    """Look at the free memory."""
    lines = dict(line.split(":", 1) for line in _read(ROOT / "proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" not in lines:
        return Check(name="memory", status="ok", seen="the system does not tell how much is free")
    total, free, swap, swap_free = (
        int(lines.get(name, "0 kB").split()[0]) / 1024**2
        for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    )
    values = {"total_gb": round(total, 2), "free_gb": round(free, 2), "swap_used_gb": round(swap - swap_free, 2)}
    seen = f"{free:.1f} of {total:.1f} GB free"
    if free < FREE_GB:
        advice = (
            "what does not fit is swapped to disk, and frames wait for it: close programs "
            "(ps aux --sort=-rss | head shows the largest)"
        )
        return Check(name="memory", status="look", seen=seen, advice=advice, values=values)
    return Check(name="memory", status="ok", seen=seen, values=values)


def check_load() -> Check:
    """Find out what other programs do with the processor."""
    if not hasattr(os, "getloadavg"):
        return Check(name="other programs", status="ok", seen="the system does not tell the load")
    load, cores = os.getloadavg()[0], _usable_cores()
    busy = _busiest()
    values = {"load": round(load, 2), "cores_usable": cores, "busiest": busy}
    seen = f"load {load:.1f} on {cores} cores"
    if busy:
        seen += "; busiest: " + ", ".join(f"{name} ({share:.0f} % of a core)" for name, share in busy)
    if load > OTHERS * cores:
        advice = (
            "other programs compete with the run: close them, or give them what is left with "
            "renice -n 10 -p PID (ps aux --sort=-%cpu | head shows them)"
        )
        return Check(name="other programs", status="look", seen=seen, advice=advice, values=values)
    return Check(name="other programs", status="ok", seen=seen, values=values)


def _busiest(interval_s: float = 0.3, count: int = 3) -> list[tuple[str, float]]:
    """Return the programs that used most of the processor just now, with their share of a core (%)."""
    before = _processor_times()
    if not before:
        return []
    started = time.perf_counter()
    time.sleep(interval_s)
    ticks = (time.perf_counter() - started) * os.sysconf("SC_CLK_TCK")
    used = [
        (name, round(100 * (now - before[pid][1]) / ticks, 1))
        for pid, (name, now) in _processor_times().items()
        if pid in before and pid != os.getpid()
    ]
    return sorted((entry for entry in used if entry[1] >= 10), key=lambda entry: -entry[1])[:count]


def _processor_times() -> dict[int, tuple[str, int]]:
    times = {}
    for folder in (ROOT / "proc").glob("[0-9]*"):
        # The name stands in brackets and may hold anything; times are the 14th and 15th field.
        head, _, rest = _read(folder / "stat").rpartition(")")
        fields = rest.split()
        if len(fields) > 12:
            times[int(folder.name)] = head.partition("(")[2], int(fields[11]) + int(fields[12])
    return times


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _container_cores() -> float | None:
    """Return the share that a container gets (cgroup v2), in cores."""
    quota, _, period = _read(ROOT / "sys/fs/cgroup/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str:
    """Return what a file of the system says; "" if it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def check_models() -> Check:
    """Read every installed model whole, with its hashes."""
    from .bundle import find_bundle, list_models, read_bundle, user_model_folder
    from .errors import CascadeError

    names, damaged = list_models(), []
    for name in names:
        try:
            read_bundle(find_bundle(name))
        except CascadeError as error:
            damaged.append(f"{name}: {error}")
    values = {"models": names, "damaged": damaged, "folder": str(user_model_folder())}
    if damaged or not names:
        seen = "; ".join(damaged) or "no model is installed"
        return Check(name="models", status="failed", seen=seen, advice="install cascade-rt again", values=values)
    return Check(name="models", status="ok", seen=", ".join(names), values=values)


def check_device() -> Check:
    """Find out whether models can run on a GPU."""
    from .bundle import find_bundle, list_models, read_bundle
    from .engine import Model
    from .errors import CascadeError, DeviceError

    names = list_models()
    if not names:
        return Check(name="GPU", status="ok", seen="not tried, there is no model")
    try:
        model = Model(read_bundle(find_bundle(names[0])), device="cuda")
    except DeviceError as error:
        advice = "" if _version("onnxruntime-gpu") is None else str(error)
        status: Status = "ok" if _version("onnxruntime-gpu") is None else "look"
        return Check(name="GPU", status=status, seen="not usable; models run on the CPU", advice=advice)
    except CascadeError as error:
        return Check(name="GPU", status="failed", seen=str(error), advice="use --device cpu")
    return Check(name="GPU", status="ok", seen=f"usable ({model.provider})", values={"provider": model.provider})


def check_timer() -> Check:
    """Measure the clock's resolution and how late a short sleep ends: it paces replays and the live view."""
    steps = []
    for _ in range(200):
        started = now = time.perf_counter()
        while now == started:
            now = time.perf_counter()
        steps.append(now - started)
    late = []
    for _ in range(100):
        started = time.perf_counter()
        time.sleep(0.002)
        late.append(1000 * (time.perf_counter() - started - 0.002))
    late.sort()
    values = {
        "clock_step_us": 1e6 * min(steps),
        "sleep_late_p50_ms": statistics.median(late),
        "sleep_late_max_ms": late[-1],
    }
    seen = (
        f"clock step {values['clock_step_us']:.2f} µs; a sleep ends {values['sleep_late_p50_ms']:.2f} ms late (p50), "
        f"{values['sleep_late_max_ms']:.2f} ms at most"
    )
    if values["sleep_late_p50_ms"] > 2 or values["sleep_late_max_ms"] > 20:
        advice = "other programs keep the processor busy, or the system's timer is coarse: close what is not needed"
        return Check(name="timer", status="look", seen=seen, advice=advice, values=values)
    return Check(name="timer", status="ok", seen=seen, values=values)


def check_loopback(n_messages: int = 200) -> Check:
    """Send messages of 500 neurons' size through a socket on this machine and back."""
    import zmq

    context = zmq.Context()
    payload = bytes(2000)
    trips = []
    try:
        with context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
            for socket in (near, far):
                socket.linger = 0
                socket.rcvtimeo = socket.sndtimeo = 3000
            port = far.bind_to_random_port("tcp://127.0.0.1")
            near.connect(f"tcp://127.0.0.1:{port}")
            for _ in range(n_messages):
                started = time.perf_counter()
                near.send(payload)
                far.send(far.recv())
                near.recv()
                trips.append(1000 * (time.perf_counter() - started))
    except zmq.ZMQError as error:
        return Check(
            name="sockets",
            status="failed",
            seen=f"no round trip on 127.0.0.1: {error}",
            advice="a firewall or security program blocks connections within this machine: allow Python",
        )
    finally:
        context.term()
    trips.sort()
    p50, p99 = trips[len(trips) // 2], trips[math.ceil(0.99 * len(trips)) - 1]
    values = {"round_trip_p50_ms": p50, "round_trip_p99_ms": p99}
    seen = f"round trip on 127.0.0.1: {p50:.2f} ms (p50), {p99:.2f} ms (p99)"
    if p99 > 10:
        advice = "sockets on this machine are slow: look for security programs that inspect them, or for a busy machine"
        return Check(name="sockets", status="look", seen=seen, advice=advice, values=values)
    return Check(name="sockets", status="ok", seen=seen, values=values)


def check_self() -> Check:
    """Run a shipped model on the demo's recording, live and offline, and compare with the true spikes."""
    from .demo import MODEL, load_demo, median_correlation
    from .engine import load_model
    from .errors import CascadeError

    try:
        demo = load_demo()
        model = load_model(MODEL)
        prob, difference, same = _live_and_offline(demo.dff[:, :900], model, demo.frame_rate_hz, demo.noise_levels)
        correlation = median_correlation(prob, demo.spike_counts()[:, :900], model.spec)
    except (CascadeError, OSError) as error:
        return Check(name="self-test", status="failed", seen=str(error), advice="install cascade-rt again")
    values = {"largest_difference": difference, "same_undefined": same, "correlation": correlation, "model": MODEL}
    seen = (
        f"{MODEL} on a simulated recording: live equals offline to {difference:.1e}, "
        f"correlation with the true spikes {correlation:.2f} (median)"
    )
    if not same or not difference <= TOLERANCE or not correlation > 0.5:
        advice = (
            f"expected differences up to {TOLERANCE:g} and a correlation above 0.5: results of this installation "
            "cannot be trusted; install in a fresh environment, and report this output"
        )
        return Check(name="self-test", status="failed", seen=seen, advice=advice, values=values)
    return Check(name="self-test", status="ok", seen=seen, values=values)


def _live_and_offline(dff: Any, model: Any, rate: float, nu: Any) -> tuple[Any, float, bool]:
    """Offline values, their largest difference to live ones, and whether both are undefined in the same places."""
    import numpy as np

    from .offline import predict
    from .stream import SpikeStream

    lookahead = model.spec.lookaheads[-1]
    whole = predict(dff, model, frame_rate_hz=rate, noise_levels=nu, lookahead_frames=lookahead)
    stream = SpikeStream(model, n_neurons=len(dff), frame_rate_hz=rate, noise_levels=nu, lookahead_frames=lookahead)
    pieces = [
        stream.push(dff[:, first:stop])
        for first, stop in zip((0, 1, 8, 100, 101), (1, 8, 100, 101, dff.shape[1]), strict=True)
    ]
    live = np.concatenate([piece.spike_prob for piece in (*pieces, stream.flush())], axis=1)
    same = bool(np.array_equal(np.isnan(live), np.isnan(whole)))
    return whole, float(np.nanmax(np.abs(live - whole))), same


CHECKS: tuple[Callable[[], Check], ...] = (
    check_packages,
    check_processor,
    check_threads,
    check_power,
    check_memory,
    check_load,
    check_models,
    check_device,
    check_clock,
    check_timer,
    check_messages,
    check_loopback,
    check_self,
)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

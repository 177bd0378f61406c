"""Checks of an installation: what ``cascade-rt doctor`` looks at. Each check tells what it saw and what to do."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHECKS", "Check", "check_all"]

Status = Literal["ok", "look", "failed"]

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
    check_models,
    check_device,
    check_timer,
    check_loopback,
    check_self,
)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

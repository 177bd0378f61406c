"""The latency of a whole closed loop, measured on the real path: sender, run and receiver as processes, with sockets.

All times are of one monotonic clock (``time.perf_counter``), which the processes of a machine share. Every frame of the
run counts, also the first ones.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import codec
from .bundle import find_bundle
from .chunks import FrameChunk
from .errors import CascadeError, InputError, WireError
from .rehearsal import PATIENCE_S, Processes, free_port

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["STAGES", "Loop", "loopback", "main", "percentiles"]

#: Stages of a frame's way, in order, and what they are.
STAGES = {
    "receive": "socket readable to message read",
    "decode": "message to frames",
    "wait": "message read to processing begun",
    "dff": "fluorescence to ΔF/F",
    "inference": "ΔF/F to spike probabilities",
    "send": "spike probabilities to the socket",
    "triggers": "results to decisions",
    "event": "frame received to event handed to the socket",
}
#: Length of the recording that is sent again and again (s).
_RECORDING_S = 60.0
#: Spikes per second of the neuron on which the built-in rule decides.
_BUSY_HZ = 3.0
#: Silence between the first contact and the first frame, in which subscriptions arrive (s).
_SETTLE_S = 1.0
#: Frame time below which the sender no longer sleeps but watches the clock (s).
_SPIN_S = 0.0015


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What was measured.

    Parameters
    ----------
    summary : dict
        Of the run.
    sent : ndarray, (n_frames,)
        When each frame was sent (s).
    received : ndarray, (n_frames,)
        When the result that its arrival made possible came to the subscriber (s); NaN where none came.
    events : ndarray, (n_events, 3)
        For each stimulation: when its newest frame was sent and received by the run, and when the event came to the
        subscriber (s).
    rule : str
        The rules, as text.
    """

    summary: dict[str, Any]
    sent: NDArray[np.float64]
    received: NDArray[np.float64]
    events: NDArray[np.float64]
    rule: str = ""
    described: dict[str, Any] = field(default_factory=dict)

    @property
    def end_to_end(self) -> NDArray[np.float64]:
        """Frame sent to result received (s), of the frames whose result came."""
        times = self.received - self.sent
        return times[np.isfinite(times)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        summary = self.summary
        rate = summary["frame_rate_hz"]
        stages = {name: summary["stages"][name] for name in STAGES if summary["stages"].get(name, {}).get("count")}
        end_to_end = percentiles(self.end_to_end)
        integration = summary["integration"][0]
        return {
            **self.described,
            "model": summary["model"],
            "n_neurons": summary["n_neurons"],
            "frame_rate_hz": rate,
            "deadline_ms": round(1000 / rate, 3),
            "frames": {
                "sent": len(self.sent),
                "processed": summary["frames"]["processed"],
                "lost": summary["frames"]["lost"],
                # The first ones make no result possible yet.
                "without_result": int(np.isnan(self.received[integration["frames"] - 1 :]).sum()),
                "late": int((self.end_to_end > 1 / rate).sum()),
            },
            "stages": stages,
            "receive_to_publish": summary["latency"],
            "end_to_end": end_to_end,
            "event": {
                "rule": self.rule,
                "frame_received_to_subscriber": percentiles(self.events[:, 2] - self.events[:, 1]),
                "frame_sent_to_subscriber": percentiles(self.events[:, 2] - self.events[:, 0]),
            },
            "integration": integration,
            "sum_p99_ms": None if not end_to_end["count"] else round(integration["ms"] + end_to_end["p99_ms"], 3),
            "load": summary["load"],
        }


def percentiles(times_s: NDArray[np.float64]) -> dict[str, Any]:
    """Count, p50, p99, p99.9 and maximum (ms) of times (s)."""
    if not len(times_s):
        return {"count": 0, "p50_ms": None, "p99_ms": None, "p99.9_ms": None, "max_ms": None}
    # "higher": a percentile is a time that occurred, never one between two.
    values = np.quantile(1000 * times_s, (0.5, 0.99, 0.999, 1), method="higher")
    names = ("p50_ms", "p99_ms", "p99.9_ms", "max_ms")
    return {"count": len(times_s), **{k: round(float(v), 3) for k, v in zip(names, values, strict=True)}}


def loopback(
    *,
    model: str | os.PathLike[str],
    n_neurons: int = 1000,
    frame_rate_hz: float | None = None,
    seconds: float = 30.0,
    rules: Path | None = None,
    fluorescence: bool = False,
    run_options: Sequence[str] = (),
    report: Callable[[float], None] | None = None,
) -> Loop:
    """Send simulated frames through a run, at their frame rate, and measure when results and events come back.

    Parameters
    ----------
    model : str or path
    n_neurons : int
    frame_rate_hz : float, optional
        The model's if not given.
    seconds : float
        Length of the measurement.
    rules : Path, optional
        A rule file; a threshold on the busiest neuron if not given.
    fluorescence : bool
        Send fluorescence, of which the run makes ΔF/F.
    run_options : sequence of str
        Further options of ``cascade-rt run``.
    report : callable, optional
        Called with the finished fraction.

    Raises
    ------
    CascadeError
        A process failed.
    """
    from .benchmarks import machine, synthetic_dff
    from .bundle import read_spec

    bundle = find_bundle(model).absolute()
    spec = read_spec(bundle)
    rate = frame_rate_hz or spec.frame_rate_hz
    n_frames = max(1, round(seconds * rate))
    nu = np.full(n_neurons, 2.0)
    dff = synthetic_dff(
        n_neurons, round(min(_RECORDING_S, max(seconds, 10)) * rate), frame_rate_hz=rate, noise_levels=nu
    )
    _let_fire(dff[0], rate)
    with tempfile.TemporaryDirectory(prefix="cascade-rt-") as folder, Processes(Path(folder)) as processes:
        work = Path(folder)
        if rules is not None:
            text = rules.read_text(encoding="utf-8")
        else:
            text = _rule(bundle, dff[0], rate, spec, only_valid=not fluorescence)
        (work / "rules.yaml").write_text(text, encoding="utf-8")
        np.save(work / "frames.npy", 100 * (1 + dff) if fluorescence else dff)
        np.save(work / "noise_levels.npy", nu)
        frames, results = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        options = [
            "--rules",
            str(work / "rules.yaml" if rules is None else rules.absolute()),
            "--view",
            "none",
            "--json",
        ]
        # Given also with fluorescence, whose results are provisional at first: nothing is to wait for a calibration.
        options += ["--noise-levels", "noise_levels.npy", *(["--fluorescence"] if fluorescence else [])]
        told = ["--model", str(bundle), "--frame-rate", f"{rate:.10g}", *options, *run_options]
        processes.start(
            "run", ["run", "--source", f"{frames}?type=pull&bind=true", "--sink", f"{results}?hwm=100000", *told]
        )
        listener = _Listener(results)
        try:
            sending = ["--to", frames, "--frames", "frames.npy", "--rate", f"{rate:.10g}", "--count", str(n_frames)]
            processes.start("sender", [*sending, "--log", "sent.npy"], module="cascade_rt.loopback")
            listener.listen(processes, None if report is None else lambda heard: report(min(1.0, heard / n_frames)))
        finally:
            listener.close()
        summary = processes.summary()
        sent = np.load(work / "sent.npy")
    described = {"machine": machine(), "seconds": seconds, "options": list(run_options), "fluorescence": fluorescence}
    return Loop(
        summary=summary,
        sent=sent,
        received=listener.arrivals(len(sent), summary["integration"][0]),
        events=listener.events(sent),
        rule=text.strip(),
        described=described,
    )


def _let_fire(trace: NDArray[np.float32], rate: float) -> None:
    """Add transients to a trace, three per second."""
    random = np.random.default_rng(1)
    spikes = random.random(trace.size) < _BUSY_HZ / rate
    kernel = np.exp(-np.arange(int(rate)) / (0.2 * rate))
    trace += np.convolve(spikes, kernel)[: trace.size].astype(np.float32)


def _rule(bundle: Path, trace: NDArray[np.float32], rate: float, spec: Any, *, only_valid: bool) -> str:
    """Make a rule that the busiest neuron meets in a fifth of the frames: enough for percentiles."""
    from .engine import load_model
    from .offline import predict

    lookahead = min(spec.lookaheads, key=lambda n: abs(n - 2))
    prob = predict(
        trace[None, :], load_model(bundle, threads=1), frame_rate_hz=rate, noise_levels=[2.0],
        lookahead_frames=lookahead, allow_rate_mismatch=True,
    )  # fmt: skip
    known = prob[np.isfinite(prob)]
    above = float(np.quantile(known, 0.8)) if known.size else 0.1
    return (
        f"rules:\n  busiest neuron:\n    neuron: 0\n    above: {max(above, 1e-6):.6g}\n    repeat: true\n"
        f"    refractory_s: {1 / rate:.4g}\n    only_valid: {str(only_valid).lower()}\n"
    )


class _Listener:
    """A subscriber to results and events that notes when each came."""

    def __init__(self, address: str) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.rcvhwm = 0
        self._socket.reconnect_ivl = 20
        self._socket.subscribe(b"")
        self._socket.connect(address)
        self._heard: list[tuple[float, bytes, bytes]] = []

    def close(self) -> None:
        self._context.destroy(linger=0)

    def listen(self, processes: Processes, report: Callable[[int], None] | None) -> None:
        """Take in messages until the stream ends."""
        last = time.monotonic()
        gc.collect()
        gc.disable()
        try:
            while True:
                if not self._socket.poll(200):
                    if processes.check() and not self._socket.poll(0):
                        raise CascadeError("the run process ended without closing its stream")
                    if time.monotonic() - last > PATIENCE_S:
                        raise CascadeError(f"nothing came from the run process for {PATIENCE_S:g} s")
                    continue
                parts = self._socket.recv_multipart()
                now = time.perf_counter()
                last = time.monotonic()
                if parts[0] == codec.TOPIC_END:
                    return
                self._heard.append((now, parts[0], parts[1]))
                if report is not None and len(self._heard) % 32 == 0:
                    report(len(self._heard))
        finally:
            gc.enable()

    def arrivals(self, n_frames: int, integration: dict[str, Any]) -> NDArray[np.float64]:
        """When the result came whose newest frame each one was, in the shortest look-ahead (s)."""
        arrived = np.full(n_frames, np.nan)
        lookahead, lag = integration["lookahead_frames"], integration["frames"] - 1
        for now, topic, header in self._heard:
            if topic != codec.TOPIC_SPIKES:
                continue
            told = json.loads(header)
            if told["lookahead"] != lookahead or told["t_recv"] is None:
                continue  # a revision; what is left at the end, for which no frame came
            newest = told["frame"] + lag
            arrived[newest : newest + told["shape"][1]] = now
        return arrived

    def events(self, sent: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sent, received by the run, and received here, of each stimulation."""
        rows = []
        for now, topic, header in self._heard:
            if topic != codec.TOPIC_EVENT:
                continue
            try:
                event = codec.decode_event([topic, header, b""])
            except WireError as error:
                raise CascadeError(f"an event of the run cannot be read: {error}") from error
            if event.kind == "stimulate" and event.t_recv is not None and event.newest_frame < len(sent):
                rows.append((sent[event.newest_frame], event.t_recv, now))
        return np.array(rows, np.float64).reshape(-1, 3)


# --------------------------------------------------------------------------------------------------- the sender


def main(argv: Sequence[str] | None = None) -> int:
    """Send frames at their rate, as an acquisition program does; a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m cascade_rt.loopback")
    parser.add_argument("--to", required=True, metavar="ADDRESS")
    parser.add_argument("--frames", required=True, type=Path, metavar="FILE.npy")
    parser.add_argument("--rate", required=True, type=float, metavar="HZ")
    parser.add_argument("--count", required=True, type=int)
    parser.add_argument("--log", required=True, type=Path, metavar="FILE.npy")
    args = parser.parse_args(argv)
    np.save(args.log, _send(args.to, np.load(args.frames, allow_pickle=False), args.rate, args.count))
    return 0


def _send(address: str, frames: NDArray[np.float32], rate: float, count: int) -> NDArray[np.float64]:
    import zmq

    sent = np.full(count, math.nan)
    context = zmq.Context()
    try:
        socket = context.socket(zmq.PUSH)
        socket.linger = 5000
        socket.immediate = True
        socket.connect(address)
        if not socket.poll(int(1000 * PATIENCE_S), zmq.POLLOUT):
            raise InputError(f"no run listens at {address}")
        time.sleep(_SETTLE_S)
        gc.collect()
        gc.disable()
        begun = time.perf_counter()
        for number in range(count):
            due = begun + number / rate
            while (left := due - time.perf_counter()) > 0:
                if left > _SPIN_S:
                    time.sleep(left - _SPIN_S)
            chunk = FrameChunk(
                frames=frames[:, number % frames.shape[1]][:, None], first_frame=number, stream="loopback",
                t_source=number / rate, frame_rate_hz=rate,
            )  # fmt: skip
            sent[number] = time.perf_counter()
            socket.send_multipart(codec.encode_frames(chunk))
        socket.send_multipart(codec.encode_end("loopback", count))
    finally:
        context.destroy(linger=5000)
    return sent


if __name__ == "__main__":
    raise SystemExit(main())

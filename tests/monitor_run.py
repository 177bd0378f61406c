"""A run with a page, for tests and trials: random ΔF/F at its frame rate through a small stream, in this process.

``python monitor_run.py`` runs it; it prints the address of the page as its first line, and every message of a page.
"""

from __future__ import annotations

import argparse
import json
import queue
import time
from typing import Any

import numpy as np

from cascade_rt.chunks import FrameChunk, ModelSpec, SpikeChunk
from cascade_rt.events import Event
from cascade_rt.monitor import start_monitor
from cascade_rt.ports import EndOfStream
from cascade_rt.runner import Runner

LOOKAHEADS = (2, 7)
SPEC = ModelSpec(
    name="GCaMP8_EXC_30Hz_smoothing25ms", family="conditioned", frame_rate_hz=30.0, windowsize=64,
    lookaheads=LOOKAHEADS, smoothing_s=0.025, causal_kernel=False, noise_levels=(1.0, 8.0),
)  # fmt: skip


def simulated(n_neurons: int, n_frames: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ΔF/F and spikes with bursts of the whole population, so that there is something to see."""
    rng = np.random.default_rng(seed)
    own = rng.gamma(0.6, 0.9, n_neurons)[:, None] / rate
    bursts = 1 + 7 * (np.sin(np.arange(n_frames) / rate * 0.9) > 0.93)
    spikes = rng.poisson(own * bursts).astype(np.float32)
    kernel = 0.35 * np.exp(-np.arange(int(rate)) / (0.25 * rate)).astype(np.float32)
    dff = np.zeros_like(spikes)
    for k, weight in enumerate(kernel):
        dff[:, k:] += weight * spikes[:, : n_frames - k]
    dff += rng.normal(0, 1, dff.shape) * rng.gamma(9, 0.011, n_neurons)[:, None]
    return dff.astype(np.float32), spikes


class Paced:
    """Source that gives one frame after another at its rate."""

    lossless, finite, name = False, False, "tcp://127.0.0.1:5555"

    def __init__(self, dff: np.ndarray, rate: float, seconds: float, *, lose: bool, stream: str) -> None:
        self._dff, self._rate, self._n, self._lose = dff, rate, int(seconds * rate), lose
        self._stream = stream
        self._frame = 0
        self._begun: float | None = None

    def open(self) -> None:
        pass

    def receive(self, timeout_s: float) -> Any:
        if self._begun is None:  # not before: what a run does until it receives would come as a burst of frames
            self._begun = time.perf_counter()
        if self._frame >= self._n:
            return EndOfStream(stream=self._stream, next_frame=self._n)
        if self._lose and self._frame and self._frame % 331 == 0:
            self._frame += 3
        due = self._begun + self._frame / self._rate - time.perf_counter()
        if due > timeout_s:
            time.sleep(timeout_s)
            return None
        time.sleep(max(0.0, due))
        column = self._frame % self._dff.shape[1]
        self._frame += 1
        return FrameChunk(
            frames=np.ascontiguousarray(self._dff[:, column : column + 1]), first_frame=self._frame - 1,
            t_recv=time.perf_counter(), stream=self._stream, frame_rate_hz=self._rate,
        )  # fmt: skip

    def close(self) -> None:
        pass


class Stream:
    """As quick a stand-in for inference as can be: smoothed spikes that are known beforehand."""

    spec, lookahead_frames, delay_frames, calibrating, calibration_progress = SPEC, LOOKAHEADS, 0, False, 1.0

    def __init__(self, prob: np.ndarray) -> None:
        self._prob = prob
        self.frame = 0
        self.noise_levels = np.random.default_rng(1).gamma(6, 0.5, prob.shape[0]) + 0.6

    def _chunk(self, lookahead: int, frame: int, n: int, revisions: Any = None) -> SpikeChunk:
        columns = np.arange(frame, frame + n) % self._prob.shape[1]
        prob = self._prob[:, columns]
        return SpikeChunk(
            spike_prob=prob, first_frame=frame, valid=np.ones(prob.shape, bool), lookahead_frames=lookahead,
            model=SPEC.name, revisions=revisions or {},
        )  # fmt: skip

    def push(self, frames: Any, *, touched: bool = False) -> SpikeChunk:
        n, frame = frames.shape[1], self.frame
        self.frame += n
        if frame < 7:
            return self._chunk(2, frame, 0)
        return self._chunk(2, frame - 2, n, {7: self._chunk(7, frame - 7, n)})

    def prepare(self) -> None:
        pass

    def skip(self, n_frames: int) -> SpikeChunk:
        self.frame += n_frames
        return self._chunk(2, 0, 0)

    def flush(self) -> SpikeChunk:
        return self._chunk(2, 0, 0)


class Rules:
    """A rule on the mean of the first neurons, as triggers are."""

    def __init__(self) -> None:
        self.state = {"burst": {"rule": "burst", "armed": True, "threshold": 0.15, "what": "mean of 0-199 above"},
                      "single neuron": {"rule": "single neuron", "armed": False, "threshold": 0.8}}  # fmt: skip
        self._n = 0
        self._last = -100

    def start(self, info: Any) -> None:
        pass

    def process(self, chunk: SpikeChunk) -> list[Event]:
        rule, value = self.state["burst"], float(chunk.spike_prob[:200].mean())
        if chunk.lookahead_frames != 2 or not rule["armed"] or value < rule["threshold"]:
            return []
        frame = chunk.first_frame
        if frame - self._last < 20:
            return []
        self._last = frame
        self._n += 1
        kind = ("stimulate", "stimulate", "sham", "suppressed")[self._n % 4]
        return [self._event("burst", kind, frame, value, chunk.t_recv)]

    def _event(self, rule: str, kind: Any, frame: int, value: float, t_recv: float | None = None) -> Event:
        data = {"threshold": self.state[rule]["threshold"]}
        return Event(rule=rule, kind=kind, number=self._n, frame=frame, newest_frame=frame + 2, value=value,
                     lookahead=2, t_recv=t_recv, t_emit=time.perf_counter(), data=data)  # fmt: skip

    def restart(self) -> None:
        pass

    def control(self, message: Any) -> list[Event]:
        print(json.dumps({"control": dict(message)}), flush=True)
        if message["rule"] == "*":
            return [event for name in self.state for event in self._obey({**message, "rule": name})]
        return self._obey(message)

    def _obey(self, message: Any) -> list[Event]:
        rule = self.state[message["rule"]]
        if message["action"] == "set":
            rule["threshold"] = message["threshold"]
            return [self._event(message["rule"], "changed", 0, float("nan"))]
        rule["armed"] = message["action"] == "arm"
        return [self._event(message["rule"], "armed" if rule["armed"] else "disarmed", 0, float("nan"))]

    def poll(self) -> list[Event]:
        return []

    def describe(self) -> list[dict[str, Any]]:
        return list(self.state.values())

    def finish(self) -> dict[str, Any]:
        return {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--neurons", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--protect", action="store_true")
    parser.add_argument("--lose", action="store_true", help="frames now and then")
    parser.add_argument("--stream", default="mouse7_session2")
    args = parser.parse_args()
    dff, spikes = simulated(args.neurons, 3000, args.rate)
    kernel = np.array([0.1, 0.25, 0.3, 0.25, 0.1], np.float32)
    prob = sum(w * np.roll(spikes, k - 2, axis=1) for k, w in enumerate(kernel)).astype(np.float32)
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def controls() -> list[dict[str, Any]]:
        return [messages.get() for _ in range(messages.qsize())]

    rules = Rules()
    monitor = start_monitor(args.address, control=messages.put if args.control else None, protect=args.protect)
    source = Paced(dff, args.rate, args.seconds, lose=args.lose, stream=args.stream)
    runner = Runner(source, [monitor.sink], lambda n, rate: Stream(prob), triggers=rules, controls=controls)
    monitor.watch(runner.statistics, rules.describe)
    print(json.dumps({"url": monitor.url}), flush=True)
    try:
        summary = runner.run()
    finally:
        monitor.close()
    print(
        json.dumps({"latency": summary.latency, "frames": summary.frames, "skipped": monitor.sink.skipped}), flush=True
    )


if __name__ == "__main__":
    main()

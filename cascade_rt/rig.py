"""A virtual rig: neurons that are imaged, and that fire when a rule says so. Closes the loop without a microscope.

``python -m cascade_rt.rig --help``. A process of its own, as a real rig is: it sends ΔF/F frame by frame, listens to
the events of a run, and lets chosen neurons fire in the frames after each ``stimulate``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import codec
from .chunks import FrameChunk
from .endpoints import ZmqEndpoint, parse_endpoint
from .errors import InputError, WireError
from .simulation import INDICATORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .events import Event

__all__ = ["VirtualTissue", "main", "run_rig"]

#: Frames without activity at the beginning, in which the run can start and the first windows fill.
QUIET_FRAMES = 30


class VirtualTissue:
    """Neurons that fire at random and on demand, one frame at a time.

    Parameters
    ----------
    n_neurons : int
    frame_rate_hz : float
    indicator : str
        One of :data:`cascade_rt.simulation.INDICATORS`; each spike adds its transient, without saturation.
    spike_rate_hz : float
        Of every neuron, on its own.
    noise_level : float
        ν of the noise, % · Hz^-½.
    seed : int
    """

    def __init__(
        self,
        n_neurons: int,
        frame_rate_hz: float,
        *,
        indicator: str = "GCaMP8m",
        spike_rate_hz: float = 0.2,
        noise_level: float = 1.5,
        seed: int = 0,
    ) -> None:
        if indicator not in INDICATORS:
            raise InputError(f"indicator={indicator!r}: expected one of {', '.join(map(repr, INDICATORS))}")
        kind = INDICATORS[indicator]
        self.n_neurons = n_neurons
        self._rng = np.random.default_rng(seed)
        self._expected = spike_rate_hz / frame_rate_hz
        # ν is the median absolute difference of frames, which for white noise of standard deviation s is 0.954 s.
        self._noise = noise_level / 100 * math.sqrt(frame_rate_hz) / 0.954
        self._weights = kind.amplitude * np.array([1 - kind.slow_fraction, kind.slow_fraction])[:, None]
        self._keep = np.exp(-1 / frame_rate_hz / np.array([kind.decay_s, kind.slow_decay_s]))[:, None]
        self._parts = np.zeros((2, n_neurons))
        self._asked = np.zeros(n_neurons, np.int64)
        self.frame = 0

    def stimulate(self, neurons: Sequence[int], spikes: int) -> None:
        """Let neurons fire in the next frame."""
        self._asked[list(neurons)] += spikes

    def step(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Go on by one frame.

        Returns
        -------
        dff : ndarray, (n_neurons,), float32
        spikes : ndarray, (n_neurons,), int64
        """
        expected = self._expected if self.frame >= QUIET_FRAMES else 0.0
        spikes = self._rng.poisson(expected, self.n_neurons) + self._asked
        self._asked[:] = 0
        self._parts = self._parts * self._keep + spikes
        dff = (self._weights * self._parts).sum(axis=0) + self._rng.normal(0, self._noise, self.n_neurons)
        self.frame += 1
        return dff.astype(np.float32), spikes


@dataclass(frozen=True, kw_only=True)
class _Rig:
    """What a rig needs to know."""

    frames: str
    events: str
    n_neurons: int
    frame_rate_hz: float
    n_frames: int
    pace_hz: float
    responding: tuple[int, ...]
    spikes: int
    spike_rate_hz: float
    seed: int
    out: Path


def run_rig(rig: _Rig) -> dict[str, Any]:
    """Send frames and respond to events until all frames are sent; writes the log and returns its counts."""
    import zmq

    tissue = VirtualTissue(rig.n_neurons, rig.frame_rate_hz, spike_rate_hz=rig.spike_rate_hz, seed=rig.seed)
    spikes = np.zeros((rig.n_neurons, rig.n_frames), np.int16)
    heard: list[dict[str, Any]] = []
    context = zmq.Context()
    try:
        sender = context.socket(zmq.PUSH)
        sender.linger = 3000
        sender.bind(_local(rig.frames, "sink"))
        listener = context.socket(zmq.SUB)
        listener.linger = 0
        listener.subscribe(codec.TOPIC_EVENT)
        listener.connect(_local(rig.events, "source"))
        _wait_for_run(sender)
        begun = time.perf_counter()
        for frame in range(rig.n_frames):
            for event in _heard(listener):
                heard.append({**event.to_dict(), "heard_before_frame": frame})
                if event.kind == "stimulate":
                    tissue.stimulate(rig.responding, rig.spikes)
            dff, spikes[:, frame] = tissue.step()
            chunk = FrameChunk(
                frames=dff[:, None], first_frame=frame, t_source=frame / rig.frame_rate_hz, stream="rig",
                frame_rate_hz=rig.frame_rate_hz,
            )  # fmt: skip
            sender.send_multipart(codec.encode_frames(chunk))
            time.sleep(max(0.0, begun + (frame + 1) / rig.pace_hz - time.perf_counter()))
        sender.send_multipart(codec.encode_end("rig", rig.n_frames))
    finally:
        context.destroy(linger=3000)
    np.savez(rig.out, spikes=spikes, events=np.array(json.dumps(heard)))
    return {"frames": rig.n_frames, "events": len(heard)}


def _wait_for_run(sender: Any, timeout_s: float = 120.0) -> None:
    import zmq

    if not sender.poll(int(1000 * timeout_s), zmq.POLLOUT):
        raise InputError(f"no run has connected within {timeout_s:g} s")


def _heard(listener: Any) -> list[Event]:
    events = []
    while listener.poll(0):
        try:
            events.append(codec.decode_event(listener.recv_multipart()))
        except WireError:
            continue  # not for us
    return events


def _local(address: str, role: Any) -> str:
    endpoint = parse_endpoint(address, role)
    if not isinstance(endpoint, ZmqEndpoint) or not endpoint.is_loopback:
        raise InputError(f"{address}: the virtual rig works on this machine alone: tcp://127.0.0.1:PORT")
    return endpoint.address


def main(argv: Sequence[str] | None = None) -> int:
    """Run a rig from the command line."""
    parser = argparse.ArgumentParser(prog="python -m cascade_rt.rig", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", required=True, metavar="ADDRESS", help="where frames are sent (PUSH, bound)")
    parser.add_argument("--events", required=True, metavar="ADDRESS", help="the run's --sink, whose events are heard")
    parser.add_argument("--neurons", type=int, default=20)
    parser.add_argument("--frame-rate", type=float, default=30.0, metavar="HZ", help="of the simulated imaging")
    parser.add_argument("--n-frames", type=int, default=900)
    parser.add_argument("--pace", type=float, metavar="HZ", help="frames sent per second (default: the frame rate)")
    parser.add_argument("--respond", default="1,2,3", metavar="N,…", help="neurons that fire on stimulation")
    parser.add_argument("--spikes", type=int, default=4, help="spikes of each of them")
    parser.add_argument("--spike-rate", type=float, default=0.3, metavar="HZ", help="of all neurons, on their own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="log: spikes, and events heard")
    args = parser.parse_args(argv)
    run_rig(
        _Rig(
            frames=args.frames, events=args.events, n_neurons=args.neurons, frame_rate_hz=args.frame_rate,
            n_frames=args.n_frames, pace_hz=args.pace or args.frame_rate,
            responding=tuple(int(n) for n in args.respond.split(",")), spikes=args.spikes,
            spike_rate_hz=args.spike_rate, seed=args.seed, out=args.out,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

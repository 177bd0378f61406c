"""A live run of three processes on this machine: a replay, a run, and this one, which receives what is published."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import codec
from .bundle import find_bundle
from .errors import CascadeError, WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .chunks import SpikeChunk

__all__ = ["PATIENCE_S", "Processes", "Received", "free_port", "rehearse"]

#: Time without any result after which it gives up (s): the first start on a machine compiles the kernels.
PATIENCE_S = 180.0


class Received:
    """Puts published messages back together, one array for each look-ahead.

    Parameters
    ----------
    n_neurons, n_frames : int
        Size of the recording.
    lookaheads : sequence of int
        What should come.

    Attributes
    ----------
    spike_prob : dict of int to ndarray, (n_neurons, n_frames), float32
        NaN where nothing came.
    times : dict of int to ndarray, (n_frames,)
        How often each frame came.
    unexpected : list of str
        Messages that do not belong to the recording.
    """

    def __init__(self, n_neurons: int, n_frames: int, lookaheads: Sequence[int]) -> None:
        self.spike_prob = {lag: np.full((n_neurons, n_frames), np.nan, np.float32) for lag in lookaheads}
        self.times = {lag: np.zeros(n_frames, np.int64) for lag in lookaheads}
        self.unexpected: list[str] = []

    def add(self, chunk: SpikeChunk) -> None:
        """Take in one message."""
        lag, first, stop = chunk.lookahead_frames, chunk.first_frame, chunk.first_frame + chunk.n_frames
        if lag not in self.spike_prob or stop > self.times[lag].size:
            self.unexpected.append(f"look-ahead {lag}, frames {first} to {stop - 1}")
        elif chunk.n_neurons != len(self.spike_prob[lag]):
            self.unexpected.append(f"{chunk.n_neurons} neurons")
        else:
            self.spike_prob[lag][:, first:stop] = chunk.spike_prob
            self.times[lag][first:stop] += 1

    def lost(self) -> int:
        """Frames that did not come exactly once in every look-ahead."""
        wrong = [times != 1 for times in self.times.values()]
        return int(np.any(wrong, axis=0).sum())


def rehearse(
    dff: NDArray[np.float32],
    noise_levels: NDArray[np.floating],
    *,
    model: str | os.PathLike[str],
    frame_rate_hz: float,
    lookaheads: Sequence[int],
    live_view: bool = False,
    run_options: Sequence[str] = (),
) -> tuple[Received, dict[str, Any]]:
    """Replay a recording at its frame rate through a live run, over PUSH/PULL sockets on the loopback.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames)
        The recording.
    noise_levels : ndarray, (n_neurons,)
        ν, % Hz^-1/2.
    model : str or path
        Name of the model, or its bundle.
    frame_rate_hz : float
        Of the recording.
    lookaheads : sequence of int
        Look-aheads to publish (frames).
    live_view : bool
        Let the run show its live view on this process's stderr.
    run_options : sequence of str
        Further options of ``cascade-rt run``.

    Returns
    -------
    (Received, dict)
        What was published, and the run's own summary.

    Raises
    ------
    CascadeError
        A process failed; says which, and its last words.
    """
    bundle = find_bundle(model).absolute()
    received = Received(dff.shape[0], dff.shape[1], sorted(lookaheads))
    with tempfile.TemporaryDirectory(prefix="cascade-rt-") as work, Processes(Path(work)) as processes:
        np.save(Path(work) / "dff.npy", dff)
        np.save(Path(work) / "noise_levels.npy", np.asarray(noise_levels, np.float64))
        rate = f"{frame_rate_hz:.10g}"
        source = f"tcp://127.0.0.1:{free_port()}"
        run = ["run", "--model", str(bundle), "--frame-rate", rate, "--noise-levels", "noise_levels.npy"]
        run += ["--source", f"{source}?type=pull&bind=true", "--sink", processes.sink]
        run += ["--lookahead", ",".join(map(str, lookaheads)), "--json", *run_options]
        processes.start("run", [*run, "--view", "auto" if live_view else "none"], shown=live_view)
        replay = ["replay", "dff.npy", "--frame-rate", rate, "--sink", f"{source}?type=push&bind=false"]
        processes.start("replay", replay, shown=False)
        _receive(processes, received)
        return received, processes.summary()


class Processes:
    """The other processes, and a socket on which results can come in.

    Parameters
    ----------
    work : Path
        Folder in which they run, and for what they print.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._stack = ExitStack()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        import zmq

        context = self._stack.enter_context(zmq.Context())
        self.socket = self._stack.enter_context(context.socket(zmq.PULL))
        self.socket.linger = 0
        self.socket.rcvhwm = 0
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.sink = f"tcp://127.0.0.1:{port}?type=push&bind=false"
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            for process in self._running.values():
                _stop(process, patience_s=10.0 if kind is None else 0.0)
        finally:
            self._stack.close()

    def start(self, name: str, arguments: list[str], *, shown: bool = False, module: str = "cascade_rt") -> None:
        """Start ``python -m module`` (``cascade-rt``) with some arguments."""
        source = str(Path(__file__).parents[1])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._file(name, "out").open("wb") as out, self._file(name, "log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self._work,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=None if shown else log,
            )

    def check(self) -> bool:
        """Raise CascadeError if a process failed; True once the run has ended by itself."""
        for name, process in self._running.items():
            code = process.poll()
            if code:
                lines = self._file(name, "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
                last = f": {lines[-1]}" if lines else ""
                raise CascadeError(f"the {name} process ended with exit code {code}{last}")
        return self._running["run"].poll() is not None

    def summary(self) -> dict[str, Any]:
        """Wait for the run to end and read its summary."""
        self._running["run"].wait(timeout=PATIENCE_S)
        self.check()
        told: dict[str, Any] = json.loads(self._file("run", "out").read_text(encoding="utf-8"))
        return told

    def _file(self, name: str, kind: str) -> Path:
        return self._work / f"{name}.{kind}"


def _receive(processes: Processes, received: Received) -> None:
    """Take in results until the stream ends."""
    last = time.monotonic()
    while True:
        if not processes.socket.poll(200):
            if processes.check() and not processes.socket.poll(0):
                raise CascadeError("the run process ended without closing its stream")
            if time.monotonic() - last > PATIENCE_S:
                raise CascadeError(f"nothing came from the run process for {PATIENCE_S:g} s")
            continue
        parts = processes.socket.recv_multipart()
        last = time.monotonic()
        if parts[0] == codec.TOPIC_END:
            return
        try:
            received.add(codec.decode_spikes(parts))
        except WireError as error:
            received.unexpected.append(str(error))


def free_port() -> int:
    """Return a TCP port of this machine that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Let a process end by itself, then ask it to, then end it."""
    for hurry, wait_s in ((None, patience_s), (process.terminate, 5.0), (process.kill, None)):
        if hurry is not None:
            hurry()
        try:
            process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            continue
        return

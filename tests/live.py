"""Real processes and sockets for tests of live runs: starts commands, feeds them, collects what they publish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq

import cascade_rt
from cascade_rt import codec
from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.testing import chunked

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(cascade_rt.__file__).parents[1]
PATIENCE_MS = 60_000


def recording(n_neurons: int = 6, n_frames: int = 200, seed: int = 0) -> np.ndarray:
    """ΔF/F with some transients and noise of ν about 2."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((n_neurons, n_frames)) < 0.03
    kernel = np.exp(-np.arange(60) / 12)
    dff = np.stack([np.convolve(row, kernel)[:n_frames] for row in spikes])
    return (dff + rng.normal(0, 0.12, dff.shape)).astype(np.float32)


class Command:
    """A ``cascade-rt`` command in a process of its own."""

    def __init__(self, *arguments: Any, folder: Path) -> None:
        flags = subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cascade_rt.cli", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=flags,
        )
        self.stderr = ""

    def interrupt(self) -> None:
        """Press Ctrl-C (on Windows: Ctrl-Break, the only one that a process can send to another)."""
        self.process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.communicate()

    def wait(self, timeout_s: float = 60.0) -> tuple[int, str]:
        """Exit code and standard output."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"did not end by itself:\n{err.decode(errors='replace')}") from None
        self.stderr = err.decode(errors="replace")
        return self.process.returncode, out.decode(errors="replace")

    def summary(self, code: int = 0) -> dict[str, Any]:
        """Wait for the end; the JSON summary, after a check of the exit code."""
        returned, out = self.wait()
        assert returned == code, f"exit code {returned}\n{out}\n{self.stderr}"
        return json.loads(out)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Bench:
    """Both ends of a live run: a socket that sends frames and one that receives results."""

    def __init__(self, source: int = zmq.PUSH) -> None:
        self.context = zmq.Context()
        self._kind = source
        self.source = self._socket(source)
        self.source_address = self._bind(self.source)
        self.sink = self._socket(zmq.PULL)
        self.sink_address = self._bind(self.sink)
        self.results: dict[int, list[SpikeChunk]] = {}
        self.end: Any = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close(0)
        self.sink.close(0)
        self.context.term()

    @property
    def endpoints(self) -> list[str]:
        """Arguments that connect a run to both ends without loss."""
        kind = "sub" if self._kind in (zmq.PUB, zmq.XPUB) else "pull"
        return [
            "--source", f"{self.source_address}?type={kind}",
            "--sink", f"{self.sink_address}?type=push&bind=false",
        ]  # fmt: skip

    def send(
        self,
        dff: np.ndarray,
        sizes: Iterable[int] = (),
        *,
        first_frame: int = 0,
        rate: float = 30.0,
        pause_s: float = 0.0,
    ) -> int:
        """Send frames as messages of the given sizes; returns the index that follows."""
        for part in chunked(dff.shape[1], sizes):
            chunk = FrameChunk(
                frames=dff[:, part], first_frame=first_frame + part.start, stream="test", frame_rate_hz=rate
            )
            self.send_parts(codec.encode_frames(chunk))
            if pause_s:
                time.sleep(pause_s)
        return first_frame + dff.shape[1]

    def send_parts(self, parts: list[bytes]) -> None:
        """Send a message, or fail if nobody takes it."""
        assert self.source.poll(PATIENCE_MS, zmq.POLLOUT), "nobody receives"
        self.source.send_multipart(parts)

    def send_end(self, next_frame: int) -> None:
        """End the stream."""
        self.send_parts(codec.encode_end("test", next_frame))

    def receive(self, *, until: tuple[int, int] | None = None) -> None:
        """Collect results up to the end, or until look-ahead and frame of ``until`` have come."""
        while True:
            assert self.sink.poll(PATIENCE_MS), "no results come"
            parts = self.sink.recv_multipart()
            if parts[0] == codec.TOPIC_END:
                self.end = codec.decode_end(parts)
                return
            chunk = codec.decode_spikes(parts)
            self.results.setdefault(chunk.lookahead_frames, []).append(chunk)
            if until == (chunk.lookahead_frames, chunk.first_frame + chunk.n_frames - 1):
                return

    def values(self, lookahead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frame indices, values and validity received for a look-ahead, in order of arrival."""
        chunks = self.results[lookahead]
        frame = np.concatenate([np.arange(c.first_frame, c.first_frame + c.n_frames) for c in chunks])
        prob = np.concatenate([c.spike_prob for c in chunks], axis=1)
        return frame, prob, np.concatenate([c.valid for c in chunks], axis=1)

    def reopen_source(self) -> None:
        """Die and come back at the same address."""
        self.source.close(0)
        self.source = self._socket(self._kind)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.source.bind(self.source_address)
                return
            except zmq.ZMQError:  # the old socket is closed in the background
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def _socket(self, kind: int) -> Any:
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0
        return socket

    @staticmethod
    def _bind(socket: Any) -> str:
        return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def same(live: np.ndarray, offline: np.ndarray) -> None:
    """Check that values agree to 1e-5 and are undefined in the same places."""
    np.testing.assert_array_equal(np.isnan(live), np.isnan(offline))
    np.testing.assert_allclose(live, offline, rtol=0, atol=1e-5)

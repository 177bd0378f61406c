"""A user's plug-in in a process of its own: fed through a bounded queue, asked for answers without waiting."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt import codec
from cascade_rt.errors import InputError

from .pipes import read_message, write_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascade_rt.chunks import SpikeChunk

__all__ = ["Answer", "PluginProcess"]

log = logging.getLogger(__name__)

#: Results that wait for a plug-in at most, in chunks.
QUEUE_CHUNKS = 64
#: How long loading the file and making the object may take (s).
START_S = 60.0
#: A plug-in that has been late for this long hangs and is ended (s).
HANG_S = 2.0


@dataclass(frozen=True)
class Answer:
    """What a plug-in said about a chunk.

    Parameters
    ----------
    chunk : SpikeChunk or None
        The chunk that it is about.
    now : int
        Time of its newest frame, as it was told to :meth:`PluginProcess.offer`.
    events : tuple of dict
    fault : str
        Empty if all is well.
    """

    chunk: SpikeChunk | None
    now: int = 0
    events: tuple[dict[str, Any], ...] = ()
    fault: str = ""


class PluginProcess:
    """Runs one plug-in.

    Parameters
    ----------
    path : Path
    class_name : str
    options : mapping
        Keyword arguments of the class.
    timeout_ms : float
        After which a missing answer is a fault.
    patient : bool
        Nobody waits for the results (a finished recording): a slow plug-in is waited for, until it hangs.
    clock : callable
        Monotonic time (s).
    """

    def __init__(
        self,
        path: Path,
        class_name: str,
        options: Mapping[str, Any],
        *,
        timeout_ms: float = 100.0,
        patient: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path = path
        self._class_name = class_name
        self._options = dict(options)
        self._timeout_s = START_S if patient else timeout_ms / 1000
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_info: dict[str, Any] | None = None
        self.chunks = self.dropped_frames = 0
        self.slowest_ms = 0.0
        self._forget()

    def _forget(self) -> None:
        self._outbox: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._inbox: deque[dict[str, Any] | None] = deque()
        self._arrived = threading.Condition()
        self._waiting: OrderedDict[int, tuple[str, float, SpikeChunk | None, int]] = OrderedDict()
        self._number = 0
        self._loaded = False
        self._ready = False
        self._since = 0.0
        self._late = False
        self._failed = False
        self._saved: Any = None
        self._last_words: deque[str] = deque(maxlen=3)

    @property
    def alive(self) -> bool:
        """Whether the process runs and can be asked."""
        return self._process is not None and not self._failed

    @property
    def ready(self) -> bool:
        """Whether the plug-in has been made and takes results."""
        return self._ready and self.alive

    def launch(self) -> None:
        """Start the process; does not wait until the file is loaded."""
        self._forget()
        source = str(Path(__file__).parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        process = subprocess.Popen(
            [sys.executable, "-m", "cascade_rt.triggers.plugin_worker", str(self._path.absolute()), self._class_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._process = process
        self._since = self._clock()
        for target, arguments in (
            (_write, (process, self._outbox)),
            (_read, (process, self._inbox, self._arrived)),
            (_listen, (process, self._last_words, self._path.name)),
        ):
            threading.Thread(target=target, args=arguments, daemon=True).start()

    def load(self) -> None:
        """Wait until the file is loaded.

        Raises
        ------
        InputError
            It cannot be, or has no such class.
        """
        deadline = self._clock() + START_S
        while not self._loaded:
            for answer in self.answers(wait_s=0.2):
                if answer.fault:
                    self.close()
                    raise InputError(f"plug-in {self._path}: {answer.fault}")
            if self._clock() > deadline:
                self.close()
                raise InputError(f"plug-in {self._path}: not loaded within {START_S:g} s")

    def start(self, info: Mapping[str, Any]) -> None:
        """Let the object be made; ``info`` is its first argument."""
        self._started_info = dict(info)
        self._ask("start", [json.dumps({"info": self._started_info, "options": self._options}).encode()])

    def restart(self) -> None:
        """Begin anew: the object is reset, or the process started again if it is gone; does not wait."""
        if self.alive and not self._late:
            self.reset()
            return
        self.kill()
        self.launch()
        if self._started_info is not None:
            self.start(self._started_info)

    def reset(self) -> None:
        """Let the plug-in forget what was."""
        if self.alive:
            self._ask("reset", [])

    def offer(self, chunk: SpikeChunk, now: int = 0) -> bool:
        """Hand over results; False, and counted, where the plug-in does not keep up."""
        if not self.alive or self._late or len(self._waiting) >= QUEUE_CHUNKS:
            self.dropped_frames += chunk.n_frames
            return False
        self._ask("process", codec.encode_spikes(chunk), chunk, now)
        self.chunks += 1
        return True

    def _ask(self, what: str, parts: list[bytes], chunk: SpikeChunk | None = None, now: int = 0) -> None:
        self._number += 1
        self._waiting[self._number] = what, self._clock(), chunk, now
        self._outbox.put([what.encode(), str(self._number).encode(), *parts])

    @property
    def busy(self) -> bool:
        """Whether answers are outstanding."""
        return self.alive and bool(self._waiting)

    def answers(self, wait_s: float = 0.0) -> list[Answer]:
        """Return what has come, also faults; waits only if asked to."""
        if wait_s and self.alive and not self._inbox:
            with self._arrived:
                self._arrived.wait_for(lambda: bool(self._inbox), wait_s)
        found = []
        while self._inbox:
            values = self._inbox.popleft()
            found += self._take(values)
        found += self._check_time()
        return found

    def _take(self, values: dict[str, Any] | None) -> list[Answer]:
        if values is None:
            return self._died()
        if values.get("loaded"):
            self._loaded = True
        what, asked, chunk, at = self._waiting.pop(values.get("number", 0), ("loading", self._since, None, 0))
        answered_s = self._clock() - max(asked, self._since)
        if what == "start":
            self._ready, self._since = True, self._clock()
        if "fault" in values:
            if values["where"] in ("loading", "start"):
                self._failed = True
            return [Answer(chunk, at, fault=values["fault"])]
        if "saved" in values:
            self._saved = values["saved"]
        self.slowest_ms = max(self.slowest_ms, values.get("ms", 0.0))
        was_late = self._late
        if was_late or (what == "process" and answered_s > self._timeout_s):
            self._late = bool(self._waiting)
            self.dropped_frames += chunk.n_frames if chunk is not None else 0
            return [] if was_late else [Answer(chunk, at, fault=self._slow(answered_s))]
        return [Answer(chunk, at, tuple(values.get("events", ())))]

    def _check_time(self) -> list[Answer]:
        """Look whether the oldest question has waited too long."""
        if not self._waiting or not self.alive:
            return []
        what, asked, chunk, at = next(iter(self._waiting.values()))
        waited = self._clock() - max(asked, self._since)
        limit = self._timeout_s if self._ready and what == "process" else START_S
        if self._late:
            if waited > limit + HANG_S:
                log.warning("plug-in %s hangs: its process is ended", self._path.name)
                self._drop_waiting()
                self.kill()
            return []
        if waited <= limit:
            return []
        self._late = True
        return [Answer(chunk, at, fault=self._slow(waited))]

    def _slow(self, waited_s: float) -> str:
        return f"slow: no answer within {self._timeout_ms:g} ms (waited {1000 * waited_s:.0f} ms)"

    def _died(self) -> list[Answer]:
        if self._failed or self._process is None:
            return []
        self._failed = True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        last = f": {self._last_words[-1]}" if self._last_words else ""
        self._drop_waiting()
        return [Answer(None, fault=f"its process ended with exit code {self._process.returncode}{last}")]

    def _drop_waiting(self) -> None:
        self.dropped_frames += sum(chunk.n_frames for _, _, chunk, _ in self._waiting.values() if chunk is not None)
        self._waiting.clear()

    def save(self, timeout_s: float) -> Any:
        """Ask for the plug-in's state, after the answers still outstanding were taken; None if it gives none."""
        self._saved = None
        if not self.ready or self._late:
            return None
        self._ask("save", [])
        deadline = self._clock() + timeout_s
        while self.busy and self._clock() < deadline:
            for answer in self.answers(wait_s=0.05):
                if answer.fault:
                    log.warning("plug-in %s: save: %s", self._path.name, answer.fault)
                    return None
        return self._saved

    def close(self) -> None:
        """End the process, in order if it can."""
        process = self._process
        if process is None:
            return
        self._outbox.put(None)
        try:
            process.wait(0.0 if self._late or self._failed else 2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def kill(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is not None:
            self._outbox.put(None)
            process.kill()
            threading.Thread(target=process.wait, daemon=True).start()  # lets the system forget it


def _write(process: subprocess.Popen[bytes], outbox: queue.SimpleQueue[list[bytes] | None]) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin as file:  # a process that is gone is noticed by the reader
        while (parts := outbox.get()) is not None:
            write_message(file, parts)  # type: ignore[arg-type]


def _read(process: subprocess.Popen[bytes], inbox: deque[dict[str, Any] | None], arrived: threading.Condition) -> None:
    assert process.stdout is not None
    with process.stdout as file:
        while True:
            parts = read_message(file)  # type: ignore[arg-type]
            try:
                values = None if parts is None else json.loads(parts[0])
            except ValueError:
                values = None
            with arrived:
                inbox.append(values)
                arrived.notify_all()
            if values is None:
                return


def _listen(process: subprocess.Popen[bytes], last_words: deque[str], name: str) -> None:
    assert process.stderr is not None
    with process.stderr as file:
        for line in file:
            text = line.decode(errors="replace").rstrip()
            if text:
                last_words.append(text[:300])
                log.info("plug-in %s: %s", name, text)

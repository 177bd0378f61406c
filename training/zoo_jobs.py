"""Make the zoo: its fits, scores and bundles as tasks, several at a time, each in a process with one thread.

Trainings with one thread each, side by side, are together faster than one with several: the convolutions are too
small to be shared out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from .zoo import Entry

__all__ = ["Outcome", "Task", "make", "tasks_left", "worker_environment"]

#: What scoring and export take, as frames of a fit; for the estimate of the time left only.
FINISH_FRAMES = 2_000_000
LOG = "log.txt"
TAIL_LINES = 12
_POLL_S, _PATIENCE_S = 0.2, 10.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """A fit, or the scoring and export of a model.

    Parameters
    ----------
    entry : Entry
    part : str
        Of the training; "" to score and export.
    """

    entry: Entry
    part: str

    @property
    def label(self) -> str:
        """For people."""
        done = self.part or ("scores and bundle" if self.entry.exports else "scores")
        return f"{self.entry.name}, {done}"

    @property
    def frames(self) -> int:
        """Effort."""
        return self.entry.fit_frames if self.part else FINISH_FRAMES

    @property
    def frames_done(self) -> float:
        """Effort that an unfinished one need not do again."""
        return self.frames * self.entry.fraction(self.part) if self.part else 0.0

    @property
    def log(self) -> Path:
        """File of its messages."""
        return self.entry.folder / self.part / LOG


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A task that has ended, and how far the whole is.

    Parameters
    ----------
    task : Task
    seconds : float
        That it took.
    error : str or None
        Last lines of its log, if it failed.
    n_done, n_tasks : int
        Tasks that have succeeded, of all.
    left_s : float
        Estimate of the time left.
    """

    task: Task
    seconds: float
    error: str | None
    n_done: int
    n_tasks: int
    left_s: float


def tasks_left(entries: Sequence[Entry]) -> list[Task]:
    """Tasks that are not done, the longest first; each model's scoring and export at the end of its fits."""
    out: list[Task] = []
    for entry in sorted(entries, key=lambda e: (-e.fit_frames, e.name)):
        fits = [Task(entry=entry, part=part) for part in entry.parts if entry.fraction(part) < 1.0]
        if fits or not entry.finished:
            out += [*fits, Task(entry=entry, part="")]
    return out


def make(tasks: Sequence[Task], *, jobs: int) -> Generator[Outcome, None, None]:
    """Do tasks, ``jobs`` at a time; one that fails does not stop the others.

    The processes end when the iterator is closed, and when this process ends in any way.

    Parameters
    ----------
    tasks : sequence of Task
        Of :func:`tasks_left`.
    jobs : int

    Yields
    ------
    Outcome
        As tasks end.
    """
    made = _Making(tasks, jobs)
    try:
        yield from made.outcomes()
    finally:
        made.stop()


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of a process that computes with one thread; takes effect before TensorFlow is imported."""
    packages = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
    flags = [environment.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false"]
    return {
        **environment,
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "XLA_FLAGS": " ".join(filter(None, flags)),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
    }


def _command(task: Task) -> list[str]:
    entry = task.entry
    places = {name: str(folder) for name, folder in asdict(entry.places).items()}
    told = json.dumps({"config": str(entry.path), "places": places, "part": task.part})
    return [sys.executable, "-m", f"{__package__}.zoo_worker", told]


class _Worker:
    """A running task."""

    def __init__(self, task: Task) -> None:
        self.task, self.started = task, time.monotonic()
        self.frames_before = task.frames_done
        task.log.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = task.log.open("ab")
        self._log_start = self._log.tell()
        self.process = subprocess.Popen(
            _command(task),
            env=worker_environment(os.environ),
            stdin=subprocess.PIPE,  # that ends with this process
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def frames(self) -> float:
        """Effort so far."""
        return max(self.task.frames_done - self.frames_before, 0.0)

    def error(self) -> str | None:
        """Close the files of an ended process; returns the end of its log if it failed."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._log.close()
        if self.process.returncode == 0:
            return None
        with self.task.log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode("utf-8", "replace").splitlines()
        code = self.process.returncode
        return "\n".join(lines[-TAIL_LINES:]) or f"ended with exit code {code} without a word"


class _Making:
    """Tasks that wait, run, and are done."""

    def __init__(self, tasks: Sequence[Task], jobs: int) -> None:
        self.waiting, self.running, self.jobs = list(tasks), list[_Worker](), jobs
        self.n_tasks, self.n_done, self.frames = len(self.waiting), 0, 0.0
        self.started = time.monotonic()

    def outcomes(self) -> Iterator[Outcome]:
        while True:
            while len(self.running) < self.jobs and (task := self._next()) is not None:
                self.running.append(_Worker(task))
            if not self.running:
                return
            ended = [worker for worker in self.running if worker.process.poll() is not None]
            for worker in ended:
                self.running.remove(worker)
                yield self._ended(worker)
            if not ended:
                time.sleep(_POLL_S)

    def stop(self) -> None:
        """End what runs."""
        for worker in self.running:
            worker.process.terminate()
        for worker in self.running:
            try:
                worker.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.error()
        self.running = []

    def _next(self) -> Task | None:
        """Take the next task: scores and bundles of models whose fits are all there come before other fits."""
        busy = {task.entry.name for task in [*self.waiting, *(w.task for w in self.running)] if task.part}
        ready = [task for task in self.waiting if not task.part and task.entry.name not in busy]
        fits = [task for task in self.waiting if task.part]
        task = next(iter([*ready, *fits]), None)
        if task is not None:
            self.waiting.remove(task)
        return task

    def _ended(self, worker: _Worker) -> Outcome:
        task, error = worker.task, worker.error()
        self.frames += worker.frames if task.part else FINISH_FRAMES
        if error is None:
            self.n_done += 1
        else:  # what is missing cannot be scored
            self.waiting = [t for t in self.waiting if t.part or t.entry.name != task.entry.name]
        return Outcome(
            task=task,
            seconds=time.monotonic() - worker.started,
            error=error,
            n_done=self.n_done,
            n_tasks=self.n_tasks,
            left_s=self._left_s(),
        )

    def _left_s(self) -> float:
        """Time left, if all goes on as it did so far."""
        so_far = self.frames + sum(worker.frames for worker in self.running)
        left = sum(task.frames - task.frames_done for task in [*self.waiting, *(w.task for w in self.running)])
        return (time.monotonic() - self.started) * left / so_far if so_far else float("nan")

"""Workers on this machine: processes that each take one session at a time, and are replaced when they die."""

from __future__ import annotations

import multiprocessing
from collections import deque
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from .sessions import Session
from .task import Outcome, process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["run_local"]

#: What a worker is waited for when it is asked to end (s).
PATIENCE_S = 5.0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]
    session: Session | None = None


def run_local(
    sessions: Sequence[Session], n_workers: int, settings: dict[str, Any], hashes: dict[str, list[Any]]
) -> Iterator[tuple[str, Session, Outcome | None]]:
    """Process sessions in ``n_workers`` processes.

    Parameters
    ----------
    sessions : sequence of Session
    n_workers : int
    settings : dict
        Keywords of :func:`cascade_rt.batch.task.process`.
    hashes : dict
        Hashes of files from earlier, by path.

    Yields
    ------
    ("start", session, None) or ("end", session, Outcome)
        As they happen. Whoever stops to ask ends the workers.
    """
    waiting = deque(sessions)
    # Spawned on every system: threads of numba and onnxruntime do not survive a fork.
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.session for worker in workers):
            for worker in [one for one in workers if one.session is None and not one.process.is_alive()]:
                workers.remove(worker)  # it died while it had nothing to do
            while waiting and len(workers) < n_workers:
                workers.append(_start(context))
            for worker in workers:
                if worker.session is None and waiting:
                    worker.session = waiting.popleft()
                    yield "start", worker.session, None
                    _give(worker, settings, hashes)
            for worker in _ready(workers):
                session = worker.session
                assert session is not None
                outcome = _take(worker, session)
                worker.session = None
                if not worker.process.is_alive():
                    workers.remove(worker)
                yield "end", session, outcome
    finally:
        for worker in workers:
            worker.pipe.close()  # an idle one ends by itself
        for worker in workers:
            if worker.session is not None:
                worker.process.terminate()
            worker.process.join(PATIENCE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _start(context: Any) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


def _give(worker: _Worker, settings: dict[str, Any], hashes: dict[str, list[Any]]) -> None:
    session = worker.session
    assert session is not None
    known = {path: entry for path, entry in hashes.items() if path.startswith(session.name)}
    try:
        worker.pipe.send((session, {**settings, "known": known}))
    except OSError:  # it died meanwhile, which is noticed next
        return


def _ready(workers: list[_Worker]) -> list[_Worker]:
    """Busy workers that have answered, or died."""
    busy = [worker for worker in workers if worker.session is not None]
    if not busy:
        return []
    connection.wait([*(worker.pipe for worker in busy), *(worker.process.sentinel for worker in busy)])
    return [worker for worker in busy if worker.pipe.poll() or not worker.process.is_alive()]


def _take(worker: _Worker, session: Session) -> Outcome:
    try:
        if worker.pipe.poll():
            outcome: Outcome = worker.pipe.recv()
            return outcome
    except (EOFError, OSError):
        pass
    worker.process.join(PATIENCE_S)
    worker.pipe.close()
    code = worker.process.exitcode
    why = (
        f"was killed by signal {-code} (out of memory?)" if code is not None and code < 0 else f"ended with code {code}"
    )
    return Outcome(session=session.name, status="failed", reason=f"its worker {why}")


def _work(pipe: Connection[Any, Any]) -> None:
    """Loop of a worker: ends when the other side of the pipe is closed."""
    import signal

    # Ctrl-C reaches all processes of a terminal; who started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            session, settings = pipe.recv()
        except (EOFError, OSError):
            return
        outcome = process(session, **settings)
        try:
            pipe.send(outcome)
        except OSError:
            return

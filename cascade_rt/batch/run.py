"""A batch: give its sessions to workers, keep the log, write the report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt import __version__
from cascade_rt.engine import available_cores
from cascade_rt.errors import InputError

from .cluster import run_on_cluster
from .local import run_local
from .log import BatchLog
from .page import write_page
from .task import Outcome

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from .sessions import Session

__all__ = ["BatchSummary", "Outcome", "run_batch"]

LOG, PAGE = "cascade_batch.jsonl", "cascade_batch.html"


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """What became of a batch.

    Parameters
    ----------
    outcomes : tuple of Outcome
        In the order in which they were finished.
    log, page : Path
        Log (JSON lines) and report (HTML).
    seconds : float
    where : str
        On what it ran.
    """

    outcomes: tuple[Outcome, ...]
    log: Path
    page: Path
    seconds: float
    where: str

    def count(self, status: str) -> int:
        """Number of sessions with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "sessions": len(self.outcomes),
            **{status: self.count(status) for status in ("done", "skipped", "failed")},
            "seconds": self.seconds,
            "where": self.where,
            "log": str(self.log),
            "report": str(self.page),
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
        }


def run_batch(
    sessions: Sequence[Session],
    *,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    page: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: bool = True,
    beside: bool = True,
    progress: Callable[[Outcome, int, int], None] | None = None,
) -> BatchSummary:
    """Process many sessions; those that are finished already are skipped, those that fail do not stop the others.

    Parameters
    ----------
    sessions : sequence of Session
        From :func:`find_sessions` or :func:`read_list`.
    out : path, optional
        Folder for all results; by default they go where the sessions are, and log and report into the current folder.
    workers : int, optional
        Processes on this machine; by default one for each core, or for each session if these are fewer.
    scheduler : str, optional
        Address of a Dask scheduler: its workers are used instead.
    page : path, optional
        The report (HTML).
    overwrite : bool
        Replace results that no batch has made, too.
    report, beside : bool
        See :func:`cascade_rt.infer`.
    progress : callable, optional
        Called with each outcome, the number of sessions finished, and of all.

    Returns
    -------
    BatchSummary

    Raises
    ------
    InputError
        There is no session, or no scheduler.
    """
    if not sessions:
        raise InputError("a batch without sessions: expected at least one")
    started = time.perf_counter()
    folder = Path.cwd() if out is None else Path(out)
    cores = available_cores()
    n_workers = min(workers or cores, len(sessions))
    settings: dict[str, Any] = {
        "out": None if out is None else Path(out).absolute(),
        "overwrite": overwrite,
        "report": report,
        "beside": beside,
        "threads": 1 if scheduler else max(1, cores // n_workers),
        "batch": frozenset(session.name for session in sessions),
    }
    where = f"Dask {scheduler}" if scheduler else f"{n_workers} processes"
    target = folder / PAGE if page is None else Path(page)
    outcomes: list[Outcome] = []
    with BatchLog(folder / LOG) as log:
        log.add("batch", version=__version__, sessions=len(sessions), where=where)
        if scheduler:
            events = run_on_cluster(sessions, scheduler, settings, log.hashes)
        else:
            events = run_local(sessions, n_workers, settings, log.hashes)
        ended = "interrupted"
        try:
            for kind, session, outcome in events:
                if outcome is None:
                    log.add(kind, session=session.name)
                    continue
                if outcome.hashes:
                    log.add("hashed", hashes=outcome.hashes)
                log.add(outcome.status, **outcome.to_dict())
                outcomes.append(outcome)
                if progress is not None:
                    progress(outcome, len(outcomes), len(sessions))
            ended = "finished"
        finally:
            events.close()  # type: ignore[attr-defined]
            summary = BatchSummary(
                outcomes=tuple(outcomes),
                log=log.path,
                page=target,
                seconds=time.perf_counter() - started,
                where=where,
            )
            counts = {status: summary.count(status) for status in ("done", "skipped", "failed")}
            log.add("end", how=ended, **counts)
            write_page(summary, len(sessions), target)
    return summary

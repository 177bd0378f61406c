"""Workers of a Dask cluster that is there already, on this machine or on many.

On SLURM or PBS, start one with dask-jobqueue and give its address to the batch::

    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(cores=4, processes=4, memory="16GB", walltime="02:00:00")
    cluster.scale(jobs=8)
    print(cluster.scheduler_address)  # cascade-rt batch … --scheduler ADDRESS
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError
from cascade_rt.formats.extras import require

from .task import Outcome, process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .sessions import Session

__all__ = ["run_on_cluster"]

#: Time in which the scheduler must answer (s).
CONNECT_S = 30


def run_on_cluster(
    sessions: Sequence[Session], scheduler: str, settings: dict[str, Any], hashes: dict[str, list[Any]]
) -> Iterator[tuple[str, Session, Outcome | None]]:
    """Process sessions on the workers of a scheduler.

    Parameters
    ----------
    sessions : sequence of Session
        Their paths must mean the same on every worker.
    scheduler : str
        Address, such as ``tcp://10.0.0.1:8786``.
    settings, hashes : dict
        See :func:`cascade_rt.batch.local.run_local`.

    Yields
    ------
    ("start", session, None) or ("end", session, Outcome)

    Raises
    ------
    InputError
        The package is missing, or the scheduler does not answer.
    """
    distributed: Any = require("distributed", "dask", "a Dask cluster")
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
    with client:
        futures = {}
        for session in sessions:
            known = {path: entry for path, entry in hashes.items() if path.startswith(session.name)}
            yield "start", session, None
            # Not pure: a session that is given again is looked at again.
            futures[client.submit(process, session, **settings, known=known, pure=False)] = session
        for future in distributed.as_completed(futures):
            session = futures[future]
            if future.status == "finished":
                yield "end", session, future.result()
            else:
                # Those that the scheduler has lost, or was told to drop, have no exception.
                lost = future.status != "error"
                reason = f"its Dask worker failed: {future.exception()}" if not lost else f"no answer: {future.status}"
                yield "end", session, Outcome(session=session.name, status="failed", reason=reason)
            future.release()

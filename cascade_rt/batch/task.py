"""One session of a batch, from its files to its results; runs in a worker."""

from __future__ import annotations

import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade_rt.errors import CascadeError, CascadeWarning, InputError
from cascade_rt.inference import infer
from cascade_rt.inference.outputs import plan_outputs
from cascade_rt.inference.pipeline import open_described
from cascade_rt.results import open_result

from .fingerprint import Hashes, fingerprint, hash_files, model_identity
from .lock import locked
from .sessions import Session

if TYPE_CHECKING:
    from cascade_rt.session import Inference

__all__ = ["Outcome", "process"]

#: Time between two looks at a session that another program is processing (s).
LOCK_POLL_S = 0.2

#: What a batch adds to the metadata of a result: the fingerprint, whose result it is, and what else was written.
MARK, SESSION, WRITTEN = "fingerprint", "batch_session", "batch_wrote"

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a session.

    Parameters
    ----------
    session : str
        Its path.
    status : "done", "skipped" or "failed"
        Skipped: it had been finished before, from the same contents, with the same options and model.
    reason : str
        Why it failed.
    result, report : str
        Files.
    summary : dict
        Plain values: model, median noise level, neurons, frames, spikes, warnings.
    fingerprint : str
    hashes : dict
        Hashes of files that were computed now.
    seconds : float
    """

    session: str
    status: Status
    reason: str = ""
    result: str = ""
    report: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    hashes: Hashes = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the hashes."""
        values = asdict(self)
        del values["hashes"]
        return values


def process(
    session: Session,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    report: bool = True,
    beside: bool = True,
    threads: int = 1,
    known: Hashes | None = None,
    batch: frozenset[str] = frozenset(),
) -> Outcome:
    """Process a session, unless it has been finished before; never raises for what is wrong with it.

    Parameters
    ----------
    session : Session
    out : Path, optional
        Folder for the results of the batch; by default they go where the session is.
    overwrite : bool
        Replace results that no batch has made, too.
    report, beside : bool
        See :func:`cascade_rt.infer`.
    threads : int
    known : dict, optional
        Hashes of files from earlier.
    batch : frozenset of str
        Names of all sessions of the batch, of which no two may write the same file.
    """
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CascadeWarning)  # they are among the findings
            made = _process(session, out, overwrite, report, beside, threads, known or {}, batch)
    except (CascadeError, OSError, MemoryError) as error:
        made = _failed(session, " ".join(str(error).split()) or type(error).__name__)
    except Exception as error:  # noqa: BLE001 - recorded, and told in the report; the other sessions go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        made = _failed(session, f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})")
    return Outcome(**{**made, "seconds": time.perf_counter() - started})


def _failed(session: Session, reason: str) -> dict[str, Any]:
    return {"session": session.name, "status": "failed", "reason": reason}


def _process(
    session: Session,
    out: Path | None,
    overwrite: bool,
    report: bool,
    beside: bool,
    threads: int,
    known: Hashes,
    batch: frozenset[str],
) -> dict[str, Any]:
    folder = None if out is None else out / session.place
    with open_described(session.path, session.options) as source:
        hashes, fresh = hash_files(source.files, known)
        planned = plan_outputs(source, out=folder, report=report, beside=beside, overwrite=True)
    mark = fingerprint(session.path, hashes, session.options, model_identity(session.options))
    common = {
        "session": session.name,
        "fingerprint": mark,
        "hashes": fresh,
        "result": str(planned.result),
        "report": "" if planned.report is None else str(planned.report),
    }
    wanted = [name for name, asked in (("report", report), ("beside", beside)) if asked]
    while True:
        with locked(planned.result) as mine:
            if mine:
                there, whole = _own_metadata(planned.result), _own_metadata(planned.whole)
                if there.get(MARK) == mark and set(wanted) <= set(there.get(WRITTEN, ())):
                    return {**common, "status": "skipped", "summary": _stored_summary(planned.result)}
                other = there.get(SESSION, session.name)
                if other != session.name and other in batch:
                    raise InputError(
                        f"{planned.result} is the result of {other}, of the same batch: rename one of them, or give "
                        "a folder above both of them, below which --out keeps them apart"
                    )
                inference = infer(
                    session.path,
                    session.options,
                    out=folder,
                    # What a batch has made, or was about to make when it was killed, is a batch's to replace.
                    overwrite=overwrite or bool(there or whole),
                    report=report,
                    beside=beside,
                    threads=threads,
                    metadata={MARK: mark, SESSION: session.name, WRITTEN: wanted},
                )
                return {**common, "status": "done", "summary": _summary(inference)}
        time.sleep(LOCK_POLL_S)


def _own_metadata(result: Path) -> dict[str, Any]:
    """Metadata of a finished result that a batch has made; empty if there is none."""
    if not result.is_file():
        return {}
    try:
        with open_result(result) as stored:
            return dict(stored.metadata) if stored.complete and MARK in stored.metadata else {}
    except CascadeError:
        return {}


def _summary(inference: Inference) -> dict[str, Any]:
    nu = np.concatenate([plane.noise_levels for plane in inference.planes])
    return {
        "format": inference.title,
        "model": inference.spec.name,
        "planes": len(inference.planes),
        "neurons": sum(plane.n_cells for plane in inference.planes),
        "frames": max(plane.n_frames for plane in inference.planes),
        "median_noise_level": float(np.nanmedian(nu)) if np.isfinite(nu).any() else None,
        "expected_spikes": sum(plane.expected_spikes for plane in inference.planes),
        "warnings": [finding.text for finding in inference.findings if finding.severity != "note"],
    }


def _stored_summary(result: Path) -> dict[str, Any]:
    with open_result(result) as stored:
        planes = stored.recordings
        nu = np.concatenate([plane.noise_levels for plane in planes if plane.noise_levels is not None])
        return {
            "model": stored.metadata.get("model"),
            "planes": len(planes),
            "neurons": int(np.isfinite(nu).sum()),
            "frames": max(plane.n_frames for plane in planes),
            "median_noise_level": float(np.nanmedian(nu)) if np.isfinite(nu).any() else None,
            "warnings": list(stored.metadata.get("warnings", [])),
        }

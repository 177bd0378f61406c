"""The log of a batch: JSON lines that are only ever appended; at the same time what a restart remembers.

=============  ==================================================================================================
event          when, and what it holds
=============  ==================================================================================================
``batch``      a batch began: version, sessions, where it runs
``hashed``     files were read: ``hashes`` {path: [size, mtime_ns, hash]}
``start``      a session was given to a worker
``done``       it was finished: model, noise level, spikes, seconds, warnings, files
``skipped``    it had been finished before
``failed``     ``reason``
``end``        the batch came to its end: numbers of sessions; or was interrupted
=============  ==================================================================================================
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BatchLog"]

_log = logging.getLogger(__name__)


class BatchLog:
    """Reads what earlier batches left, and appends; a context manager.

    Each event is one write that is on the disk when :meth:`add` returns. A last line that is torn, since its program or
    the computer stopped, is passed over; batches that run at once may share a log.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Hash of each file by path: ``[size, mtime_ns, hash]``.
        self.hashes: dict[str, list[Any]] = {}
        torn = self._read()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise InputError(
                f"{path}: the log of the batch cannot be written ({error.strerror}): choose a folder with --out FOLDER"
            ) from error
        if torn:
            os.write(self._file, b"\n")

    def __enter__(self) -> BatchLog:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._file)

    def add(self, event: str, **values: Any) -> None:
        """Append an event; plain values only."""
        entry = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **values}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        data = line.encode()
        # In one write, as another batch may be appending too.
        written = os.write(self._file, data)
        while written < len(data):  # the disk is nearly full, or a signal came
            written += os.write(self._file, data[written:])
        os.fsync(self._file)
        self._take(entry)

    def _read(self) -> bool:
        """Take in what there is; returns whether the last line is torn."""
        if not self.path.exists():
            return False
        last, skipped = b"\n", 0
        with self.path.open("rb") as file:
            for last in file:
                try:
                    entry = json.loads(last)
                    self._take(entry)
                except (ValueError, KeyError, TypeError, AttributeError):
                    skipped += bool(last.strip())
        if skipped:
            _log.info("%s: %d lines are damaged and were passed over", self.path, skipped)
        return not last.endswith(b"\n")

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["event"] == "hashed":
            self.hashes.update(entry["hashes"])

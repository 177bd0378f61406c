"""Keeps two programs from processing one session at the same time."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["locked"]

_log = logging.getLogger(__name__)


@contextmanager
def locked(result: Path) -> Iterator[bool]:
    """Hold the lock of a result in the ``with`` block.

    The system gives a lock back when its program ends, in whatever way. Between computers that share a folder it works
    where the file system has locks (NFS from version 4 on, SMB); where there are none, the log says so.

    Parameters
    ----------
    result : Path
        The lock is a file beside it.

    Yields
    ------
    bool
        False: another program has it.
    """
    path = result.with_name(f".{result.name}.lock")
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            mine = _take(file)
        except OSError as error:
            _log.warning("%s: this file system has no locks (%s): run one batch at a time", path.parent, error.strerror)
            mine = True
        if not mine or _same(file, path):
            break
        os.close(file)  # its owner deleted it after it had been opened here
    try:
        yield mine
    finally:
        if mine and sys.platform != "win32":
            path.unlink(missing_ok=True)
        os.close(file)
        if mine and sys.platform == "win32":
            with suppress(OSError):  # another program has opened it meanwhile, and will delete it
                path.unlink()


if sys.platform == "win32":
    import msvcrt

    def _take(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _same(file: int, path: Path) -> bool:
        return True  # a file that is open cannot be deleted

else:
    import fcntl

    def _take(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _same(file: int, path: Path) -> bool:
        try:
            there, here = path.stat(), os.fstat(file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

"""One task of the zoo in a process of its own: ``python -m training.zoo_worker TASK`` (:mod:`training.zoo_jobs`).

TASK is JSON: ``config``, the folders of :class:`training.zoo.Places`, and ``part``, which is a fit or "" for scoring
and export. What happens is logged to stderr. The process ends as soon as its stdin does, so that it does not outlive
the one that started it, however that one ended.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_rt.errors import CascadeError

if TYPE_CHECKING:
    from training.zoo import Entry

logger = logging.getLogger(__name__)

#: Time between two lines of the log that say how far a fit is.
TELL_EVERY_S = 30.0


def main() -> int:
    """Do the task; returns 0 done, 1 failed."""
    task = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    from training.zoo import Places, read_entry

    places = Places(**{name: Path(folder) for name, folder in task["places"].items()})
    try:
        entry = read_entry(Path(task["config"]), places)
        if task["part"]:
            _fit(entry, task["part"])
        else:
            for done in entry.finish():
                logger.info("%s: %s", entry.name, done)
    except (CascadeError, OSError, ModuleNotFoundError) as error:
        logger.error("%s", " ".join(str(error).split()))
        return 1
    return 0


def _fit(entry: Entry, part: str) -> None:
    told = time.monotonic()

    def progress(step: int, steps: int, loss: float, left_s: float) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY_S or step == steps:
            told = time.monotonic()
            logger.info("%s, %s: step %d of %d, loss %.4f, %.0f s left", entry.name, part, step, steps, loss, left_s)

    logger.info("%s, %s: begins", entry.name, part)
    entry.run.fit(leave_out=entry.left_out(part), part=part, progress=progress)


def _end_with_stdin() -> None:
    while os.read(0, 1024):  # not through sys.stdin: its lock would be held when the process ends by itself
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

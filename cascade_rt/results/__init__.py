"""Results on disk: the portable file, what other programs read, and what goes beside the source.

- ``ResultWriter`` and ``ResultAppender`` write the portable result: of a recording, by neurons; of a stream, by frames.
- ``open_result`` opens it, and every other kind of result, as a ``Result``.
- ``export_result`` writes a result in another format, ``write_beside`` where its source's pipeline would look for it.
"""

from __future__ import annotations

from .appending import ResultAppender
from .beside import planned_paths, write_beside
from .exports import export_result
from .model import RecordingResult, Result
from .portable import RecordingWriter, ResultWriter
from .reading import open_result

__all__ = [
    "RecordingResult",
    "RecordingWriter",
    "Result",
    "ResultAppender",
    "ResultWriter",
    "export_result",
    "open_result",
    "planned_paths",
    "write_beside",
]

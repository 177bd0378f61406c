"""The process in which a user's plug-in runs: ``python -m cascade_rt.triggers.plugin_worker FILE CLASS``.

Messages come in on stdin and answers leave on stdout (:mod:`.pipes`); what the plug-in prints goes to stderr. It ends
when stdin does, also while the plug-in is busy, so that nothing is left over when the run is killed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cascade_rt import codec
from cascade_rt.errors import InputError
from cascade_rt.events import Event

from .pipes import read_message, write_message

__all__: list[str] = []

#: Keys of an event that a plug-in may give as a mapping.
_KEYS = ("kind", "value", "frame", "data")
#: How long a plug-in may go on once nobody listens any more (s).
_GRACE_S = 1.0


def main() -> int:
    """Answer messages until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the run, which ends this process in order
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    inbox: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, inbox), daemon=True).start()
    try:
        plugin_class = _load(Path(sys.argv[1]), sys.argv[2])
    except BaseException as error:  # noqa: BLE001 - a user's code raises anything; it is reported
        _answer(answers, {"fault": _describe(error), "where": "loading"})
        return 1
    _answer(answers, {"loaded": True})
    worker = _Worker(plugin_class)
    while (parts := inbox.get()) is not None:
        number = int(parts[1])
        try:
            answer = worker.handle(parts[0].decode(), parts[2:])
        except BaseException as error:  # noqa: BLE001 - the same
            answer = {"fault": _describe(error), "where": parts[0].decode()}
        _answer(answers, {"number": number, **answer})
    return 0


class _Worker:
    """The plug-in and what is asked of it."""

    def __init__(self, plugin_class: Any) -> None:
        self._class = plugin_class
        self._plugin: Any = None

    def handle(self, what: str, parts: list[bytes]) -> dict[str, Any]:
        """Do one thing and tell what came of it."""
        if what == "start":
            told = json.loads(parts[0])
            self._plugin = self._class(told["info"], **told["options"])
            return {"ready": True}
        if what == "reset":
            self._plugin.reset()
            return {}
        if what == "save":
            return {"saved": _plain(self._plugin.save())}
        chunk = codec.decode_spikes(parts)
        begun = time.perf_counter()
        events = self._plugin.process(chunk)
        took = 1000 * (time.perf_counter() - begun)
        if isinstance(events, (Event, Mapping)):
            events = [events]
        if events is not None and not isinstance(events, Iterable):
            raise InputError(f"process returned {type(events).__name__}: expected a list of events")
        return {"events": [_event(event, chunk) for event in events or ()], "ms": took}


def _event(event: Any, chunk: Any) -> dict[str, Any]:
    """Plain values of what a plug-in gave as an event, checked."""
    if isinstance(event, Event):
        event = {"kind": event.kind, "value": event.value, "frame": event.frame, "data": dict(event.data)}
    if not isinstance(event, Mapping):
        raise InputError(f"process gave {event!r}: expected events, or mappings with {', '.join(_KEYS)}")
    unknown = [key for key in event if key not in _KEYS]
    if unknown:
        raise InputError(f"process gave an event with {unknown[0]!r}: expected {', '.join(_KEYS)}")
    if event.get("kind", "stimulate") != "stimulate":
        raise InputError(f"process gave kind {event['kind']!r}: a plug-in says 'stimulate'; the rule may make it sham")
    last = chunk.first_frame + chunk.n_frames - 1
    frame = int(event.get("frame", last))
    if not chunk.first_frame <= frame <= last:
        raise InputError(f"process gave frame {frame}: the chunk has {chunk.first_frame} to {last}")
    value = float(event.get("value", float("nan")))
    return {"frame": frame, "value": value if np.isfinite(value) else None, "data": _plain(dict(event.get("data", {})))}


def _load(path: Path, class_name: str) -> Any:
    sys.path.insert(0, str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    plugin_class = getattr(module, class_name, None)
    if not isinstance(plugin_class, type):
        raise InputError(f"{path} has no class {class_name}")
    missing = [name for name in ("process", "reset", "save") if not callable(getattr(plugin_class, name, None))]
    if missing:
        raise InputError(f"class {class_name} has no {' and no '.join(missing)}: expected process, reset and save")
    return plugin_class


def _receive(file: BinaryIO, inbox: queue.SimpleQueue[list[bytes] | None]) -> None:
    while (parts := read_message(file)) is not None:
        inbox.put(parts)
    inbox.put(None)
    time.sleep(_GRACE_S)
    os._exit(1)  # the plug-in hangs, and the run is gone


def _answer(file: BinaryIO, values: dict[str, Any]) -> None:
    try:
        write_message(file, [json.dumps(values, allow_nan=False).encode()])
    except BrokenPipeError:
        os._exit(1)


def _describe(error: BaseException) -> str:
    """Last line of the traceback, with the place in the user's code."""
    text = " ".join("".join(traceback.format_exception_only(type(error), error)).split())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) != Path(__file__)]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return text[:400] + place


def _plain(value: Any) -> Any:
    """Values that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"{type(value).__name__} in the data of an event or in save(): expected numbers, text and lists")


if __name__ == "__main__":
    sys.exit(main())

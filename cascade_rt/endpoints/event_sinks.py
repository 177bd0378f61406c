"""Where events go besides the sockets of the results: a serial line, a file, a Python function, other programs.

Each output has a thread and a bounded queue of its own, so that a slow one keeps nobody waiting; what does not fit is
counted. An output that fails is reported and tried again with the next event; the run goes on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args

from cascade_rt.errors import InputError, OutputExistsError
from cascade_rt.events import EventKind

from .options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.ports import RunInfo

__all__ = ["CallbackEventSink", "EventSink", "FileEventSink", "SerialEventSink", "make_event_sink"]

log = logging.getLogger(__name__)

#: Events that wait for a slow output at most.
QUEUE_EVENTS = 1000
#: How long an output may take for what is left at the end (s).
DRAIN_S = 3.0
#: What a serial port gets, with a newline.
DEFAULT_LINE = "{kind} {rule} {frame}"
#: Time between two attempts to open an output that failed (s).
RETRY_S = 1.0


class EventSink:
    """A sink of a run that takes events alone and delivers them in a thread of its own.

    Subclasses have ``_connect``, ``_deliver`` and ``_disconnect``; the first runs once in the thread that opens the
    sink, so that mistakes are seen before the run, everything else in the sink's own.

    Parameters
    ----------
    name : str
    kinds : tuple of str
        Which events are delivered; empty: all.
    queue_events : int
        Events that may wait.

    Attributes
    ----------
    dropped : int
        Events that did not fit into the queue or could not be delivered.
    failure : str
        What went wrong first; empty if nothing did.
    """

    live = True

    def __init__(self, name: str, kinds: tuple[str, ...] = (), *, queue_events: int = QUEUE_EVENTS) -> None:
        self.name = name
        self._kinds = kinds
        self._queue: queue.Queue[Event | None] = queue.Queue(queue_events)
        self._thread: threading.Thread | None = None
        self._connected = False
        self._retry_at = 0.0
        self._lost = self._overrun = 0
        self.sent = 0
        self.failure = ""

    @property
    def dropped(self) -> int:
        return self._overrun + self._lost

    def open(self, stopped: Callable[[], bool]) -> None:
        """Connect; raises InputError if that is not possible."""
        del stopped
        self._connect()
        self._connected = True
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def start(self, info: RunInfo) -> None:
        """Nothing to learn."""

    def send(self, chunk: SpikeChunk) -> None:
        """Results are not for it."""

    def send_event(self, event: Event) -> None:
        """Queue an event; never waits."""
        if self._kinds and event.kind not in self._kinds:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._overrun += 1

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Wait for what is queued, but not for long."""
        del next_frame, complete, metadata
        self._end(DRAIN_S)

    def close(self) -> None:
        """Let go of everything."""
        self._end(0.0)

    def describe(self) -> dict[str, Any]:
        """Account for the summary, plain values."""
        return {"name": self.name, "sent": self.sent, "dropped": self.dropped, "failure": self.failure or None}

    def _end(self, patience_s: float) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        deadline = time.monotonic() + patience_s
        try:
            self._queue.put(None, timeout=max(patience_s, 0.01))
        except queue.Full:  # stuck: its thread, a daemon, is left behind
            return
        thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            self._try(event)
        self._disconnect()

    def _try(self, event: Event) -> None:
        try:
            if not self._connected:
                if time.monotonic() < self._retry_at:
                    self._lost += 1
                    return
                self._connect()
                self._connected = True
            self._deliver(event)
            self.sent += 1
        except Exception as error:  # noqa: BLE001 - a user's function or a driver raises anything; it is reported
            self._lost += 1
            self._retry_at = time.monotonic() + RETRY_S
            if not self.failure:
                self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
                log.warning("output %s failed: %s", self.name, self.failure)
            if self._connected:
                self._connected = False
                self._disconnect()

    def _connect(self) -> None:
        """Open the output; raises InputError."""

    def _deliver(self, event: Event) -> None:
        """Hand over one event; may take its time."""
        raise NotImplementedError

    def _disconnect(self) -> None:
        """Let go; never raises."""


class CallbackEventSink(EventSink):
    """Calls a function with each event.

    Parameters
    ----------
    function : callable
        Takes an :class:`~cascade_rt.events.Event`; runs in a thread of its own, one event after the other.
    kinds : tuple of str
    """

    def __init__(self, function: Callable[[Event], object], kinds: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(f"callback:{getattr(function, '__qualname__', 'function')}", kinds, **options)
        self._function = function

    def _try(self, event: Event) -> None:
        self._retry_at = 0.0  # a function that raised once is called again at once
        super()._try(event)

    def _deliver(self, event: Event) -> None:
        self._function(event)


class FileEventSink(EventSink):
    """Writes each event as a line of JSON.

    Parameters
    ----------
    path : Path
        Must not exist.
    kinds : tuple of str
    """

    def __init__(self, path: Path, kinds: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(f"file:{path}", kinds, **options)
        self._path = path
        self._file: TextIO | None = None
        self._begun = False

    def _connect(self) -> None:
        try:
            self._file = self._path.open("a" if self._begun else "x", encoding="utf-8")
        except FileExistsError as error:
            raise OutputExistsError(f"{self._path} exists: choose another name for the events") from error
        except OSError as error:
            raise InputError(f"{self._path}: events cannot be written there: {error}") from error
        self._begun = True

    def _deliver(self, event: Event) -> None:
        assert self._file is not None
        self._file.write(json.dumps(event.to_dict(), allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()

    def _disconnect(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                log.warning("output %s: %s", self.name, error)
            self._file = None


class SerialEventSink(EventSink):
    """Writes a line to a serial port, for example to a microcontroller that drives a laser.

    Parameters
    ----------
    port : str
        ``COM3``, ``/dev/ttyACM0``.
    baud : int
    line : str
        What is sent, with ``{kind}``, ``{rule}``, ``{frame}``, ``{newest_frame}``, ``{number}``; a newline follows.
    kinds : tuple of str
        By default only what is to act: ``stimulate``.
    """

    def __init__(
        self,
        port: str,
        *,
        baud: int = 115200,
        line: str = DEFAULT_LINE,
        kinds: tuple[str, ...] = ("stimulate",),
        **options: Any,
    ) -> None:
        super().__init__(f"serial:{port}", kinds, **options)
        self._port = port
        self._baud = baud
        self._line = line
        self._serial: Any = None
        try:
            line.format(kind="", rule="", frame=0, newest_frame=0, number=0)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"line={line!r}: expected text with {{kind}}, {{rule}}, {{frame}}, {{newest_frame}} or {{number}}"
            ) from error

    def _connect(self) -> None:
        try:
            serial = importlib.import_module("serial")
        except ImportError as error:
            raise InputError("a serial output needs the package pyserial: pip install pyserial") from error
        try:
            self._serial = serial.Serial(self._port, self._baud, timeout=1, write_timeout=1)
        except (OSError, ValueError) as error:
            raise InputError(f"serial port {self._port} cannot be opened: {error}") from error

    def _deliver(self, event: Event) -> None:
        text = self._line.format(
            kind=event.kind, rule=event.rule, frame=event.frame, newest_frame=event.newest_frame, number=event.number
        )
        self._serial.write(text.encode() + b"\n")
        self._serial.flush()

    def _disconnect(self) -> None:
        if self._serial is not None:
            try:
                self._serial.close()
            except OSError as error:
                log.warning("output %s: %s", self.name, error)
            self._serial = None


def make_event_sink(text: str, *, callback: Callable[[Event], object] | None = None, insecure: bool = False) -> Any:
    """Make the output that ``text`` describes; nothing is opened before its ``open``.

    Parameters
    ----------
    text : str
        ``serial:PORT[?baud=…&line=…]``, ``file:PATH.jsonl``, ``callback:FILE.py:FUNCTION``, ``lsl:NAME`` or
        ``openephys:tcp://HOST:PORT`` (or ``openephys://HOST:PORT``), all with ``?kinds=stimulate,sham,…`` if wanted.
    callback : callable, optional
        The function for the text ``callback``.
    insecure : bool
        Allow what can be heard or answered by other machines: LSL, and Open Ephys elsewhere.

    Returns
    -------
    Sink
        With ``send_event``.

    Raises
    ------
    InputError
        Naming what is wrong.
    """
    kind, _, rest = text.partition(":")
    if kind == "callback" and callback is not None:
        return CallbackEventSink(callback)
    if not rest:
        raise InputError(
            f"event sink {text!r}: expected serial:PORT, file:PATH.jsonl, callback:FILE.py:FUNCTION, lsl:NAME or "
            "openephys:tcp://HOST:PORT"
        )
    if kind == "lsl":
        return _bridge("lsl", "event_sink_from")(text, insecure=insecure)
    if kind == "openephys":
        return _bridge("openephys", "sink_from")(f"openephys:{rest.removeprefix('tcp:')}", insecure=insecure)
    path, _, query = rest.partition("?")
    if kind == "serial":
        options = Options(text, query, ("baud", "line", "kinds"))
        return SerialEventSink(
            path,
            baud=options.positive("baud") or 115200,
            line=options.text_of("line", DEFAULT_LINE),
            kinds=_kinds(text, options) or ("stimulate",),
        )
    kinds = _kinds(text, Options(text, query, ("kinds",)))
    if kind == "file":
        if not path.endswith(".jsonl"):
            raise InputError(f"event sink {text!r}: expected a file that ends in .jsonl")
        return FileEventSink(Path(path), kinds)
    if kind == "callback":
        return CallbackEventSink(_function(text, path), kinds)
    raise InputError(f"event sink {text!r}: unknown kind {kind!r}: known are serial, file, callback, lsl, openephys")


def _kinds(text: str, options: Options) -> tuple[str, ...]:
    kinds = tuple(filter(None, options.text_of("kinds").split(",")))
    unknown = [kind for kind in kinds if kind not in get_args(EventKind)]
    if unknown:
        raise InputError(f"event sink {text!r}: kinds={unknown[0]}: known are {', '.join(get_args(EventKind))}")
    return kinds


def _function(text: str, path_text: str) -> Callable[[Event], object]:
    file, colon, name = path_text.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not path.is_file():
        raise InputError(f"event sink {text!r}: expected callback:FILE.py:FUNCTION with an existing file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"event sink {text!r}: {path} cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"event sink {text!r}: {path} has no function {name}")
    return function  # type: ignore[no-any-return]


def _bridge(module: str, name: str) -> Any:
    """What makes the output of a bridge, imported when it is asked for: bridges need packages of their own."""
    try:
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"events through {module} are not available here: {error}") from error

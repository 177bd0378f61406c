"""Lab Streaming Layer: streams of results and of markers. Options and facts stand in lsl.py."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import InputError

from .background import BackgroundSender, EventOnlySink
from .lsl_time import FrameTimes
from .options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.events import Event
    from cascade_rt.ports import RunInfo

__all__ = ["LslEventSink", "LslSink"]

#: Time that inlets get to fetch the last samples before an outlet disappears (s).
LINGER_S = 0.5


def load_pylsl() -> Any:
    """Import pylsl.

    Raises
    ------
    InputError
        It is not installed, or its library is missing.
    """
    try:
        import pylsl  # type: ignore[import-untyped,unused-ignore]
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: installed, but without liblsl
        raise InputError(
            f"LSL needs pylsl and liblsl ({error}). pip install 'cascade-rt[lsl]'; wheels of pylsl bring liblsl for "
            "Windows, macOS and recent Linux, elsewhere: conda install -c conda-forge liblsl"
        ) from error
    return pylsl


def check_open_network(text: str, *, insecure: bool) -> None:
    """Raise InputError unless the user knows that LSL is open to the network."""
    if not insecure:
        raise InputError(
            f"{text}: LSL streams are visible in the whole network, without encryption or access control. Allow it "
            "knowingly with --insecure (insecure=True)"
        )


class LslSink:
    """Publishes the earliest results as a stream of ``SpikeProbability``, one channel per neuron.

    A value without validity is NaN. The time of a sample is that of the frame it describes, not of the result: it lies
    in the past by the integration time. Revisions are not sent.

    Parameters
    ----------
    stream : str
        Name of the stream.
    stream_type, source_id : str
    time_of_source : bool
        Frames bear the time that the source gave them (it must be LSL time), not that of their arrival.
    events : bool
        Open a stream of markers as well.
    insecure : bool
        Must be True: see the module.
    """

    live = True

    def __init__(
        self,
        stream: str,
        *,
        stream_type: str = "SpikeProbability",
        source_id: str = "",
        time_of_source: bool = False,
        events: bool = False,
        insecure: bool = False,
    ) -> None:
        check_open_network(f"lsl:{stream}", insecure=insecure)
        self.name = f"lsl:{stream}"
        self._stream = stream
        self._type = stream_type
        self._source_id = source_id or f"cascade_rt:{stream}"
        self._time_of_source = time_of_source
        self._events = LslEventSink(f"{stream} events", insecure=True) if events else None
        self._pylsl: Any = None
        self._outlet: Any = None
        self._times: FrameTimes | None = None
        self._lookahead = 0
        self._sender: BackgroundSender[tuple[NDArray[np.float32], list[float]]] = BackgroundSender(
            "lsl", self._push, end=self._drop_outlet
        )

    @property
    def dropped(self) -> int:
        """Results that could not be handed to LSL in time."""
        return self._sender.dropped + (0 if self._events is None else self._events.dropped)

    def open(self, stopped: Callable[[], bool]) -> None:
        """Check that LSL is there; the stream appears with the first frame, which tells its number of channels."""
        self._pylsl = load_pylsl()
        if self._events is not None:
            self._events.open(stopped)

    def start(self, info: RunInfo) -> None:
        """Make the stream."""
        self._lookahead = info.lookaheads[0]
        self._times = FrameTimes(
            info.frame_rate_hz,
            offset=0.0 if self._time_of_source else self._pylsl.local_clock() - time.perf_counter(),
            of_source=self._time_of_source,
        )
        self._outlet = self._pylsl.StreamOutlet(self._describe(info))
        self._sender.start()

    def send(self, chunk: SpikeChunk) -> None:
        """Hand results to the stream, without waiting."""
        if chunk.lookahead_frames != self._lookahead or self._times is None:
            return
        stamps = self._times.of(chunk, now=self._pylsl.local_clock())
        values = np.where(chunk.valid, chunk.spike_prob, np.float32("nan")).T
        self._sender.put((np.ascontiguousarray(values, np.float32), stamps))

    def send_event(self, event: Event) -> None:
        """Send a marker, if markers were asked for."""
        if self._events is not None:
            self._events.send_event(event)

    def finish(self, next_frame: int, *, complete: bool, metadata: Mapping[str, Any]) -> None:
        """Nothing to say: LSL has no end of a stream; it disappears."""

    def close(self) -> None:
        """Give readers a moment for the last samples, then end the stream."""
        self._sender.close()
        if self._events is not None:
            self._events.close()

    def _push(self, item: tuple[NDArray[np.float32], list[float]]) -> None:
        values, stamps = item
        self._outlet.push_chunk(values, stamps if len(stamps) > 1 else stamps[0])

    def _drop_outlet(self) -> None:
        linger(self._outlet)
        self._outlet = None

    def _describe(self, info: RunInfo) -> Any:
        described = self._pylsl.StreamInfo(
            self._stream, self._type, info.n_neurons, info.frame_rate_hz, self._pylsl.cf_float32, self._source_id
        )
        desc = described.desc()
        desc.append_child_value("manufacturer", "cascade_rt")
        desc.append_child_value("model", info.spec.name)
        desc.append_child_value("lookahead_frames", str(self._lookahead))
        desc.append_child_value("integration_ms", f"{1000 * (self._lookahead + 1) / info.frame_rate_hz:.3f}")
        desc.append_child_value("alignment", str(info.metadata.get("alignment", "target")))
        desc.append_child_value("source_stream", info.stream)
        channels = desc.append_child("channels")
        for number in range(info.n_neurons):
            channel = channels.append_child("channel")
            channel.append_child_value("label", f"n{number}")
            channel.append_child_value("unit", "expected spikes per frame")
            channel.append_child_value("type", self._type)
        return described


class LslEventSink(EventOnlySink):
    """Sends the events of a run as markers: one text per event, JSON with rule, kind, frame and times.

    Parameters
    ----------
    stream : str
        Name of the stream; its type is ``Markers``.
    kinds : sequence of str, optional
        Kinds of event that are sent; default: all.
    insecure : bool
        Must be True: see the module.
    """

    def __init__(self, stream: str, *, kinds: Sequence[str] = (), insecure: bool = False) -> None:
        check_open_network(f"lsl:{stream}", insecure=insecure)
        self.name = f"lsl:{stream}"
        self._stream = stream
        self._kinds = tuple(kinds)
        self._outlet: Any = None
        self._offset = 0.0
        self._sender: BackgroundSender[Event] = BackgroundSender("lsl-events", self._push, end=self._drop_outlet)

    @property
    def dropped(self) -> int:
        """Events that could not be handed to LSL in time."""
        return self._sender.dropped

    def open(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Make the stream."""
        del stopped
        pylsl = load_pylsl()
        info = pylsl.StreamInfo(
            self._stream, "Markers", 1, pylsl.IRREGULAR_RATE, pylsl.cf_string, f"cascade_rt:{self._stream}"
        )
        info.desc().append_child_value("manufacturer", "cascade_rt")
        self._outlet = pylsl.StreamOutlet(info)
        self._offset = pylsl.local_clock() - time.perf_counter()
        self._sender.start()

    def send_event(self, event: Event) -> None:
        """Send a marker, without waiting; its time is when the event was made."""
        if not self._kinds or event.kind in self._kinds:
            self._sender.put(event)

    def close(self) -> None:
        """Give readers a moment for the last markers, then end the stream."""
        self._sender.close()

    def _push(self, event: Event) -> None:
        text = json.dumps(event.to_dict(), allow_nan=False, separators=(",", ":"))
        self._outlet.push_sample([text], 0.0 if event.t_emit is None else event.t_emit + self._offset)

    def _drop_outlet(self) -> None:
        linger(self._outlet)
        self._outlet = None


def linger(outlet: Any) -> None:
    """Wait a moment if somebody is still reading: an outlet that is dropped takes unread samples with it."""
    if outlet is not None and outlet.have_consumers():
        time.sleep(LINGER_S)


def sink_from(text: str, *, insecure: bool) -> LslSink:
    """Make the sink of ``lsl:NAME``."""
    stream, options = parse(text, ("type", "source_id", "time", "events"))
    return LslSink(
        stream,
        stream_type=options.text_of("type", "SpikeProbability"),
        source_id=options.text_of("source_id"),
        time_of_source=options.choice("time", ("received", "source"), "received") == "source",
        events=options.boolean("events", default=False),
        insecure=insecure,
    )


def event_sink_from(text: str, *, insecure: bool) -> LslEventSink:
    """Make the receiver of events of ``lsl:NAME?kinds=stimulate,sham``."""
    stream, options = parse(text, ("kinds",))
    kinds = tuple(filter(None, options.text_of("kinds").split(",")))
    return LslEventSink(stream, kinds=kinds, insecure=insecure)


def parse(text: str, known: tuple[str, ...]) -> tuple[str, Options]:
    """Return the name of the stream, and the options."""
    stream, _, query = text.removeprefix("lsl:").partition("?")
    options = Options(text, query, known)
    if not stream:
        raise InputError(f"{text!r}: expected lsl:NAME, the name of the stream")
    return stream, options

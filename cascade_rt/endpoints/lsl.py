"""Lab Streaming Layer: a stream as source of frames, one for results, one for markers (needs ``pip install pylsl``).

Facts about LSL: a stream has a name, a type, a number of channels, a number format and a nominal rate (0: irregular);
each sample carries a time of the sender's clock (``local_clock``, monotonic). Samples travel by TCP, so that they are
lost only where a buffer overflows, or while a sender is away. Streams are found by multicast and served on all network
interfaces: LSL knows no encryption and no access control, hence ``--insecure``.

=============  ==================================================================================================
option         meaning
=============  ==================================================================================================
``type``       source: look only at streams of this type; sink: type of the stream (``SpikeProbability``)
``source_id``  source: look only at the stream with this source id; sink: id of ours
``scale``      source: factor that makes ΔF/F as a fraction (default 1)
``gaps``       source: ``time`` (default where the stream has a nominal rate): the time of a sample tells whether some
               before it were lost; ``none``: they are counted as they come
``clock``      source: ``sender`` (default): times as they were stamped; ``local``: mapped to this machine's clock
``idle_s``     source: silence after which the recording is over (s); without it, never
``time``       sink: ``received`` (default): frames are stamped by when they came here; ``source``: by the time that
               the source gave them, right where that is LSL time
``events``     sink: ``true``: a second stream ``NAME events`` with markers
=============  ==================================================================================================

A channel of the source with the label ``frame`` is not a neuron but the frame's index, which shows every loss.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.chunks import FrameChunk
from cascade_rt.errors import InputError, WireError
from cascade_rt.ports import EndOfStream

from .lsl_outlets import LslEventSink, LslSink, check_open_network, event_sink_from, load_pylsl, parse, sink_from
from .lsl_time import LossFinder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["LslEventSink", "LslSink", "LslSource", "event_sink_from", "sink_from", "source_from"]

log = logging.getLogger(__name__)

#: Samples that are taken together at most.
MAX_SAMPLES = 64
#: Buffer of the inlet (s).
BUFFER_S = 60


class LslSource:
    """Receives frames from an LSL stream: a channel is a neuron, a sample a frame.

    Parameters
    ----------
    stream : str
        Name of the stream; it need not exist yet.
    stream_type, source_id : str
        Empty: any.
    scale : float
    gaps : "time" or "none"
    local_time : bool
        Map the times of samples to the local clock.
    idle_s : float
        0: never over by silence.
    insecure : bool
        Must be True: see the module.
    clock : callable
        Monotonic time (s) for ``t_recv``.
    """

    finite = False
    lossless = False

    def __init__(
        self,
        stream: str,
        *,
        stream_type: str = "",
        source_id: str = "",
        scale: float = 1.0,
        gaps: str = "time",
        local_time: bool = False,
        idle_s: float = 0.0,
        insecure: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_open_network(f"lsl:{stream}", insecure=insecure)
        self.name = f"lsl:{stream}"
        self._stream = stream
        self._type = stream_type
        self._source_id = source_id
        self._scale = np.float32(scale)
        self._gaps = gaps
        self._local_time = local_time
        self._idle_s = idle_s
        self._clock = clock
        self._pylsl: Any = None
        self._resolver: Any = None
        self._inlet: Any = None
        self._rate: float | None = None
        self._index_channel: int | None = None
        self._neurons: NDArray[np.intp] | slice = slice(None)
        self._losses: LossFinder | None = None
        self._frame = 0
        self._ready: deque[FrameChunk | WireError] = deque()
        self._last: float | None = None

    def open(self) -> None:
        """Begin to look for the stream.

        Raises
        ------
        InputError
            pylsl is missing.
        """
        self._pylsl = load_pylsl()
        self._resolver = self._pylsl.ContinuousResolver(prop="name", value=self._stream)

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Return the samples that have come, None if none came in time.

        Raises
        ------
        WireError
            A frame index is impossible.
        InputError
            More than one stream has that name, or it does not hold numbers.
        """
        if self._inlet is None and not self._connect(timeout_s):
            return None
        if not self._ready:
            self._pull(timeout_s)
        if self._ready:
            item = self._ready.popleft()
            if isinstance(item, WireError):
                raise item
            return item
        if self._idle_s and self._last is not None and self._clock() - self._last > self._idle_s:
            self._last = None
            return EndOfStream(stream=self._stream[:200], next_frame=self._frame)
        return None

    def close(self) -> None:
        """Close the inlet."""
        if self._inlet is not None:
            self._inlet.close_stream()
        self._inlet = self._resolver = None

    # --------------------------------------------------------------------------------------------- the stream

    def _connect(self, timeout_s: float) -> bool:
        if self._resolver is None:
            raise RuntimeError(f"{self.name} is not open")
        found = [
            info
            for info in self._resolver.results()
            if self._type in ("", info.type()) and self._source_id in ("", info.source_id())
        ]
        if not found:
            time.sleep(min(timeout_s, 0.05))
            return False
        if len(found) > 1:
            ids = ", ".join(f"{info.source_id()!r} on {info.hostname()}" for info in found)
            raise InputError(f"{len(found)} LSL streams are called {self._stream!r}: choose one by source_id ({ids})")
        if found[0].channel_format() == self._pylsl.cf_string:
            raise InputError(f"the LSL stream {self._stream!r} holds text: expected float32 samples")
        flags = self._pylsl.proc_clocksync if self._local_time else self._pylsl.proc_none
        inlet = self._pylsl.StreamInlet(found[0], max_buflen=BUFFER_S, processing_flags=flags)
        try:
            inlet.open_stream(timeout=5.0)
            self._describe(inlet.info(timeout=5.0))
        except RuntimeError as error:  # the base of all errors of pylsl
            log.warning("%s was found but does not answer (%s); trying again", self.name, error)
            return False
        self._inlet = inlet
        self._resolver = None
        return True

    def _describe(self, info: Any) -> None:
        rate = float(info.nominal_srate())
        self._rate = rate if rate > 0 else None
        labels = channel_labels(info)
        if "frame" in labels:
            self._index_channel = labels.index("frame")
            self._neurons = np.delete(np.arange(info.channel_count()), self._index_channel)
        elif self._rate is not None and self._gaps == "time" and self._losses is None:
            self._losses = LossFinder(self._rate)

    def _pull(self, timeout_s: float) -> None:
        try:
            first, stamp = self._inlet.pull_sample(timeout=timeout_s)
            more, stamps = (
                self._inlet.pull_chunk(timeout=0.0, max_samples=MAX_SAMPLES) if first is not None else ([], [])
            )
        except RuntimeError as error:  # LostError: the sender is gone, and cannot be recovered by its source id
            log.warning("%s has disappeared (%s); looking for it again", self.name, error)
            time.sleep(min(timeout_s, 0.05))
            self._inlet = None
            self._resolver = self._pylsl.ContinuousResolver(prop="name", value=self._stream)
            return
        now = self._clock()
        if first is None:
            for sample, t, t_recv, lost in [] if self._losses is None else self._losses.settle(now):
                self._hand_on(sample, t, t_recv, self._frame + lost)
            return
        self._last = now
        for sample, stamped in zip(np.asarray([first, *more], np.float64), [stamp, *stamps], strict=True):
            if self._index_channel is not None:
                self._hand_on_indexed(sample, stamped, now)
            elif self._losses is not None:
                for held, t, t_recv, lost in self._losses.add(sample, stamped, now):
                    self._hand_on(held, t, t_recv, self._frame + lost)
            else:
                self._hand_on(sample, stamped, now, self._frame)

    def _hand_on(self, sample: NDArray[np.float64], t: float, t_recv: float, frame: int) -> None:
        values = (sample[self._neurons].astype(np.float32) * self._scale)[:, None]
        self._ready.append(
            FrameChunk(
                frames=values,
                first_frame=frame,
                t_source=t,
                t_recv=t_recv,
                stream=self._stream[:200],
                frame_rate_hz=self._rate,
            )
        )
        self._frame = frame + 1

    def _hand_on_indexed(self, sample: NDArray[np.float64], t: float, t_recv: float) -> None:
        value = sample[self._index_channel]
        if 0 <= value < 2**53 and value == int(value):
            self._hand_on(sample, t, t_recv, int(value))
        else:
            text = f"{self.name}: the channel 'frame' says {value}: expected an integer from 0"
            self._ready.append(WireError("frame", text))


def channel_labels(info: Any) -> list[str]:
    """Return the labels of a stream's channels, as far as it has any."""
    labels = []
    channel = info.desc().child("channels").child("channel")
    for _ in range(info.channel_count()):
        labels.append(channel.child_value("label"))
        channel = channel.next_sibling("channel")
    return labels


def source_from(text: str, *, insecure: bool) -> LslSource:
    """Make the source of ``lsl:NAME``."""
    stream, options = parse(text, ("type", "source_id", "scale", "gaps", "clock", "idle_s"))
    return LslSource(
        stream,
        stream_type=options.text_of("type"),
        source_id=options.text_of("source_id"),
        scale=options.number("scale", 1.0, positive=False),
        gaps=options.choice("gaps", ("time", "none"), "time"),
        local_time=options.choice("clock", ("sender", "local"), "sender") == "local",
        idle_s=options.number("idle_s", 0.0),
        insecure=insecure,
    )

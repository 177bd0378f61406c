"""What becomes of the results of a run: live sinks and rules at once, files once nobody waits any more."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .latency import LatencyHistogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .chunks import SpikeChunk
    from .events import Event
    from .gaps import Piece
    from .ports import Sink, Triggers
    from .runstats import RunStatistics

__all__ = ["Publisher"]

_NO_REVISIONS: Mapping[int, SpikeChunk] = MappingProxyType({})


class Publisher:
    """Hands out results and events, and measures how long that takes.

    Parameters
    ----------
    sinks : sequence of Sink
    triggers : Triggers or None
    statistics : RunStatistics
    clock : callable
        Monotonic time (s).
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        triggers: Triggers | None,
        statistics: RunStatistics,
        clock: Callable[[], float],
    ) -> None:
        self._live = [sink for sink in sinks if sink.live]
        self._files = [sink for sink in sinks if not sink.live]
        self._triggers = triggers
        self._statistics = statistics
        self._clock = clock
        self._unstored: list[Event] = []

    def publish(
        self, out: SpikeChunk, piece: Piece | None, offset: int, *, provisional: bool = False
    ) -> list[SpikeChunk]:
        """Send results to the live sinks, the immediate one first, each followed by what the rules make of it.

        Parameters
        ----------
        out : SpikeChunk
        piece : Piece or None
            The frames that led to it.
        offset : int
            Difference of the source's frame index to the stream's.
        provisional : bool
            For another reason than the stream's own.

        Returns
        -------
        list of SpikeChunk
            What the files get afterwards.
        """
        statistics = self._statistics
        times = {} if piece is None or piece.touched else {"t_source": piece.t_source, "t_recv": _newest(piece)}
        results = []
        for number, chunk in enumerate([out, *(out.revisions[n] for n in sorted(out.revisions))]):
            if not chunk.n_frames:
                continue
            begun = self._clock()
            result = replace(
                chunk,
                first_frame=chunk.first_frame + offset,
                revisions=_NO_REVISIONS,
                provisional=chunk.provisional or provisional,
                t_emit=begun,
                **times,  # type: ignore[arg-type]
            )
            for sink in self._live:
                sink.send(result)
            published = self._clock()
            self.count("send", published - begun)
            if number == 0 and piece is not None:
                for arrived in piece.arrivals:
                    statistics.latency.add(published - arrived)
                    statistics.recent_latency.add(published - arrived)
            if self._triggers is not None:
                events = self._triggers.process(result)
                self.count("triggers", self._clock() - published)
                self.announce(events)
            statistics.published[result.lookahead_frames] += result.n_frames
            results.append(result)
        return results

    def announce(self, events: Iterable[Event]) -> None:
        """Send events to whoever waits for them."""
        for event in events:
            for sink in self._live:
                send = getattr(sink, "send_event", None)
                if send is not None:
                    send(event)
            self._statistics.add_event(event)
            if event.kind == "stimulate" and event.t_recv is not None:
                self.count("event", self._clock() - event.t_recv)
            self._unstored.append(event)

    def store(self, results: Sequence[SpikeChunk]) -> None:
        """Give results and events to the files."""
        for sink in self._files:
            for result in results:
                sink.send(result)
            send = getattr(sink, "send_event", None)
            if send is not None:
                for event in self._unstored:
                    send(event)
        self._unstored.clear()
        neurons = self._statistics.neurons
        if results and neurons is not None and results[0].lookahead_frames == self._statistics.integration[0][0]:
            neurons.add_result(results[0])

    def keep(self, hook: str, *what: Any) -> None:
        """Give frames and what else came in to the sinks that have this method for it."""
        for sink in (*self._live, *self._files):
            keep = getattr(sink, hook, None)
            if keep is not None:
                keep(*what)

    def count(self, stage: str, duration_s: float) -> None:
        """Count the duration of a stage (s)."""
        stages = self._statistics.stages
        if stage not in stages:
            stages[stage] = LatencyHistogram()
        stages[stage].add(duration_s)


def _newest(piece: Piece) -> float | None:
    return piece.arrivals[-1] if piece.arrivals else None

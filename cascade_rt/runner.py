"""A live run: source → bounded queue → sequencer → stream → sinks, with an account of every frame."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .admission import Admission, same_rate
from .chunks import FrameChunk, GapPolicy
from .errors import CascadeError, InputError, StreamError
from .gaps import FrameSequencer, Piece, coalesce
from .latency import LatencyHistogram
from .ports import EndOfStream, RunInfo
from .publishing import Publisher
from .receiving import FrameQueue, Receiver, Rejections, Stopped
from .rows import RowStream
from .runstats import ExitReason, NeuronStatistics, RunStatistics, RunSummary, ValueCheck, describe, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from .ports import Baseline, LiveStream, Observer, Sink, Source, Triggers

__all__ = ["Runner"]

log = logging.getLogger(__name__)

#: Frames that are processed together at most when several wait.
BATCH_FRAMES = 64
#: Frames that wait at most between receiving and processing.
QUEUE_FRAMES = 256
#: Silence of a source that is worth a word (s).
SILENCE_S = 5.0


class Runner:
    """Carries frames from a source through a stream to sinks until the source ends or :meth:`stop` is called.

    The first message decides the number of neurons, and the frame rate if none is given; later messages that
    differ are rejected and counted. :meth:`run` may be called once.

    Parameters
    ----------
    source : Source
    sinks : sequence of Sink
        Live ones are served before files.
    make_stream : callable
        Called with (n_neurons, frame_rate_hz) when the first frames have come.
    frame_rate_hz : float, optional
        Must agree with what the source tells (within 1 %).
    gap : "hold", "nan" or "stop"
    metadata : mapping, optional
        Goes into every result and the summary (threshold, alignment, device, …).
    observer : Observer, optional
        Called between frames.
    triggers : Triggers, optional
        Looks at each result as soon as it is published.
    controls : callable, optional
        Gives the messages for the triggers that have come since the last call; called between frames.
    make_baseline : callable, optional
        The source gives fluorescence: called with (n_neurons, frame_rate_hz), returns what makes ΔF/F of it.
    max_neurons : int, optional
        Rows altogether, where the source tells ids and neurons may join (:mod:`cascade_rt.rows`).
    make_joined : callable, optional
        As ``make_stream``, for neurons that join; their noise levels are not known.
    queue_frames : int
        Frames that may wait between receiving and processing.
    clock : callable
        Monotonic time (s); must be the one that stamps the source's ``t_recv``.
    """

    def __init__(
        self,
        source: Source,
        sinks: Sequence[Sink],
        make_stream: Callable[[int, float], LiveStream],
        *,
        frame_rate_hz: float | None = None,
        gap: GapPolicy = "hold",
        metadata: dict[str, Any] | None = None,
        observer: Observer | None = None,
        triggers: Triggers | None = None,
        controls: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
        make_baseline: Callable[[int, float], Baseline] | None = None,
        max_neurons: int | None = None,
        make_joined: Callable[[int, float], LiveStream] | None = None,
        queue_frames: int = QUEUE_FRAMES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._source = source
        self._sinks = sorted(sinks, key=lambda sink: not sink.live)
        self._make_stream = make_stream
        self._rate = frame_rate_hz
        self._metadata = dict(metadata or {})
        self._clock = clock
        self.observer = observer
        self._sequencer = FrameSequencer(policy=gap)
        self._queue = FrameQueue(queue_frames)
        self._rejections = Rejections()
        self._receiver = Receiver(source, self._queue, self._rejections)
        self._opened: list[Sink] = []
        self._stream: LiveStream | None = None
        self._stream_failed = False
        self._offset = 0
        self._rows_kept = 0
        self._silent = False
        self._values = ValueCheck(thorough=source.finite)
        self._stopped = False
        #: What is known so far; read it between frames or after the end.
        self.statistics = RunStatistics(
            counters=self._sequencer.counters, rejections=self._rejections, source=source.name
        )
        self._triggers = triggers
        self._controls = controls
        self._make_baseline = make_baseline
        self._make_joined = make_joined
        self._admission = Admission(self._rejections, max_neurons)
        self._baseline: Baseline | None = None
        self._publisher = Publisher(self._sinks, triggers, self.statistics, clock)
        #: Set when the run has ended, also by an error.
        self.summary: RunSummary | None = None

    def stop(self) -> None:
        """Receive no more, process what was received, and end. May be called from a signal handler."""
        self._stopped = self.statistics.stopping = True
        self._receiver.stop()

    def run(self) -> RunSummary:
        """Run to the end.

        Returns
        -------
        RunSummary

        Raises
        ------
        CascadeError
            What stopped the run; everything is closed, and :attr:`summary` tells the account up to there.
        """
        reason: ExitReason = "error"
        error: BaseException | None = None
        try:
            self._open()
            reason = self._loop()
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._receiver.join()
            self._source.close()
            self._end(reason, error)
        assert self.summary is not None
        return self.summary

    # ---------------------------------------------------------------------------------------------- the loop

    def _open(self) -> None:
        for sink in self._sinks:
            sink.open(lambda: self._stopped)
            self._opened.append(sink)
        self._source.open()
        statistics = self.statistics
        statistics.source = self._source.name
        statistics.sinks = [sink.name for sink in self._sinks]
        statistics.started = statistics.now = self._clock()
        log.info("source: %s; results: %s", statistics.source, ", ".join(statistics.sinks) or "nowhere")
        statistics.stages.update(getattr(self._source, "stages", {}))
        self._values.warm_up()
        if self.observer is not None:
            self.observer.update(force=True)
        self._receiver.start()

    def _loop(self) -> ExitReason:
        """Receive and process; :class:`cascade_rt.rerun.Rerunner` takes pieces of a recording instead."""
        while True:
            items = self._queue.take(BATCH_FRAMES, 0.1)
            reason = self._handle(items)
            if reason is not None:
                return reason
            if not len(self._queue):
                self._between_frames(idle=not items)

    def _handle(self, items: Sequence[FrameChunk | EndOfStream | Stopped | BaseException]) -> ExitReason | None:
        """Process what came together; returns why the run ends, if it does."""
        pieces: list[Piece] = []
        reason: ExitReason | None = None
        try:
            for item in items:
                if isinstance(item, FrameChunk):
                    accepted = self._accept(item)
                    if accepted is not None:
                        self._publisher.keep("keep_message", accepted)
                        pieces += self._sequencer.feed(accepted)
                elif isinstance(item, EndOfStream):
                    if self._admission.is_end(item, self.statistics.info):
                        self._sequencer.finish(item.next_frame)
                        reason = "end"
                        break
                elif isinstance(item, Stopped):
                    reason = "interrupted"
                else:
                    raise item
        finally:  # after a gap that ends the run, the frames before it still count
            for piece in coalesce(pieces):
                self._process(piece)
        return reason

    def _accept(self, chunk: FrameChunk) -> FrameChunk | None:
        """Return a chunk as the run takes it, None if it does not belong to it; the first one starts the run."""
        self.statistics.last_arrival = chunk.t_recv
        if self.statistics.info is not None:
            return self._admission.later(chunk, self.statistics.info)
        chunk = self._admission.first(chunk)
        self._start(chunk)
        return chunk

    def _start(self, chunk: FrameChunk) -> None:
        rate = self._rate if self._rate is not None else chunk.frame_rate_hz
        if rate is None:
            raise InputError(f"{self._source.name} does not tell its frame rate: give it (--frame-rate, frame_rate_hz)")
        if not same_rate(chunk.frame_rate_hz, rate):
            raise StreamError(
                f"{self._source.name} says {chunk.frame_rate_hz:g} Hz, the run was started with {rate:g} Hz"
            )
        stream = self._stream = self._first_stream(chunk.n_neurons, rate)
        if self._make_baseline is not None:
            self._baseline = self._make_baseline(chunk.n_neurons, rate)
            self.statistics.baseline_filling = True
        self._offset = chunk.first_frame - stream.frame
        self._sequencer.max_fill = stream.spec.windowsize
        statistics = self.statistics
        metadata = {
            **self._metadata,
            "model": stream.spec.name,
            "stream": chunk.stream,
            "frame_rate_hz": rate,
            "lookahead_frames": list(stream.lookahead_frames),
            "first_frame": chunk.first_frame,
            "versions": versions(),
        }
        if statistics.rows is not None:
            metadata["rows_at_start"] = statistics.rows.n_first
        statistics.info = RunInfo(
            stream=chunk.stream,
            n_neurons=chunk.n_neurons,
            frame_rate_hz=rate,
            lookaheads=stream.lookahead_frames,
            spec=stream.spec,
            metadata=MappingProxyType(metadata),
        )
        deadline = None if self._source.finite else 1 / rate
        statistics.latency = LatencyHistogram(deadline)
        statistics.recent_latency = LatencyHistogram(deadline)
        statistics.neurons = NeuronStatistics(chunk.n_neurons, rate)
        statistics.integration = tuple((n, n + stream.delay_frames + 1) for n in stream.lookahead_frames)
        statistics.calibrating = stream.calibrating
        statistics.noise_levels = stream.noise_levels
        for sink in self._sinks:
            sink.start(statistics.info)
        if self._triggers is not None:
            self._triggers.start(statistics.info)
        log.info(
            "first frame: index %d of stream %r, %d neurons at %g Hz",
            chunk.first_frame, chunk.stream, chunk.n_neurons, rate,
        )  # fmt: skip

    def _first_stream(self, n_neurons: int, rate: float) -> LiveStream:
        rows = self.statistics.rows = self._admission.rows
        if rows is None:
            return self._make_stream(n_neurons, rate)
        make = self._make_joined or self._make_stream
        return RowStream(self._make_stream(rows.n_first, rate), lambda n: make(n, rate), rows, frame_rate_hz=rate)

    # ------------------------------------------------------------------------------------------------ frames

    def _process(self, piece: Piece) -> None:
        stream, statistics = self._stream, self.statistics
        assert stream is not None
        publisher = self._publisher
        begun = self._clock()
        for arrived in piece.arrivals:
            publisher.count("wait", begun - arrived)
        self._obey()
        self._keep_rows()
        if piece.reset:
            self._start_afresh(piece)
        dff = piece.frames
        settled = self._baseline is None or self._baseline.full
        if self._baseline is not None:
            before = self._clock()
            dff = self._baseline.push(dff)
            publisher.count("dff", self._clock() - before)
        self._stream_failed = True
        before = self._clock()
        out = stream.push(dff, touched=piece.touched)
        publisher.count("inference", self._clock() - before)
        self._stream_failed = False
        results = publisher.publish(out, piece, self._offset, provisional=not settled)
        stream.prepare()
        publisher.keep("keep_piece", piece, None if dff is piece.frames else dff)
        publisher.store(results)
        if statistics.calibrating and not stream.calibrating:
            self._follow_calibration(stream)
        if statistics.baseline_filling and settled:
            log.info("the window of the baseline is full: from here on ΔF/F is what it should be")
        statistics.baseline_filling = not settled
        if not piece.touched:
            publisher.keep("keep_frames", piece if dff is piece.frames else replace(piece, frames=dff))
            self._look_at(piece, dff)
        statistics.now = self._clock()
        statistics.busy_s += statistics.now - begun

    def _start_afresh(self, piece: Piece) -> None:
        """Let the stream go on at another index: after a long gap, or with a source that counts anew."""
        stream = self._stream
        assert stream is not None
        jump = piece.first_frame - (stream.frame + self._offset)
        if piece.reset == "gap":
            log.warning("%d frames are missing before frame %d: going on from there", jump, piece.first_frame)
        else:
            log.warning("the source counts anew from frame %d: taken as a new recording", piece.first_frame)
        skipped = stream.skip(jump if piece.reset == "gap" else 0)
        self._publisher.store(self._publisher.publish(skipped, None, self._offset))
        self._offset = piece.first_frame - stream.frame
        if self._baseline is not None and piece.reset == "restart":
            self._baseline.reset()
        if self._triggers is not None:
            self._triggers.restart()

    def _obey(self) -> None:
        """Pass on what was asked for from outside, and what slow rules have answered."""
        if self._triggers is None:
            return
        for message in self._controls() if self._controls is not None else ():
            self._publisher.keep("keep_control", message)
            self._publisher.announce(self._triggers.control(message))
        self._publisher.announce(self._triggers.poll())

    def _keep_rows(self) -> None:
        """Tell those who keep it whose rows they are, when that has changed."""
        rows = self._admission.rows
        if rows is not None and rows.version != self._rows_kept:
            self._rows_kept = rows.version
            self._publisher.keep("keep_rows", rows.ids)

    def _look_at(self, piece: Piece, dff: NDArray[np.float32]) -> None:
        """Keep account of frames that were received."""
        statistics = self.statistics
        assert statistics.neurons is not None
        statistics.neurons.add_frames(piece)
        statistics.last_frame = piece.stop_frame - 1
        self._values.add(dff)
        if self._source.finite:  # nobody waits: refuse wrong values before more is made of them
            self._check_values()

    # ------------------------------------------------------------------------------------------ between frames

    def _between_frames(self, *, idle: bool) -> None:
        statistics = self.statistics
        statistics.now = self._clock()
        self._refresh()
        if self._stream is not None:
            self._obey()
            self._publisher.store([])
            self._follow_calibration(self._stream)
            self._check_values()
        if idle:
            self._publisher.keep("keep_readable")
            self._notice_silence()
        elif self._silent:
            self._silent = False
            log.warning("frames from %s again", self._source.name)
        if self.observer is not None:
            self.observer.update()

    def _refresh(self) -> None:
        statistics = self.statistics
        statistics.queue_frames = len(self._queue)
        statistics.messages = self._receiver.messages
        statistics.overrun = self._queue.dropped
        statistics.sink_dropped = sum(sink.dropped for sink in self._sinks)

    def _follow_calibration(self, stream: LiveStream) -> None:
        statistics = self.statistics
        if not statistics.calibrating:
            return
        statistics.calibration_progress = stream.calibration_progress
        statistics.noise_levels = stream.noise_levels
        statistics.calibrating = stream.calibrating
        if not stream.calibrating:
            nu = stream.noise_levels
            self._publisher.keep("keep_noise_levels", nu, stream.frame + self._offset)
            some = np.nanmedian(nu) if np.isfinite(nu).any() else np.nan
            log.info("noise levels measured: median %.2f, %d neurons without one", some, int(np.isnan(nu).sum()))

    def _check_values(self, *, anyway: bool = False) -> None:
        """Look once for percent, fluorescence and the like; a live run goes on with a warning."""
        statistics = self.statistics
        info = statistics.info
        if info is None or not self._values.due(info.spec.windowsize if anyway else None):
            return
        try:
            found = self._values.check(info)
        except InputError as error:
            if self._source.finite:
                raise
            found = [str(error)]
        for sentence in found:
            log.warning("%s", sentence)
        statistics.warnings += found

    def _notice_silence(self) -> None:
        statistics = self.statistics
        since = statistics.last_arrival if statistics.last_arrival is not None else statistics.started
        if not self._silent and since is not None and statistics.now - since > SILENCE_S:
            self._silent = True
            log.warning("no frames from %s for %.0f s", self._source.name, statistics.now - since)

    # ------------------------------------------------------------------------------------------------- the end

    def _end(self, reason: ExitReason, error: BaseException | None) -> None:
        """Flush the stream, close everything and make the summary; raises only what went wrong here first."""
        in_order = error is None or isinstance(error, Exception)
        statistics = self.statistics
        failures: list[BaseException] = []
        if in_order and self._stream is not None and not self._stream_failed:
            try:
                self._check_values(anyway=True)
                self._follow_calibration(self._stream)
                statistics.noise_levels = self._stream.noise_levels
                self._publisher.store(self._publisher.publish(self._stream.flush(), None, self._offset))
            except (CascadeError, OSError) as failure:
                failures.append(failure)
        if self._triggers is not None:
            statistics.triggers = self._triggers.finish()
            self._publisher.announce(self._triggers.poll())
            self._publisher.store([])
        complete = error is None and not failures and not (reason == "interrupted" and self._source.finite)
        next_frame, metadata = self._sequencer.expected or 0, self._result_metadata(reason)
        for sink in self._opened:
            try:
                if in_order:
                    sink.finish(next_frame, complete=complete, metadata=metadata)
            except (CascadeError, OSError) as failure:
                failures.append(failure)
            finally:
                sink.close()
        statistics.recordings = [sink.account() for sink in self._opened if hasattr(sink, "account")]
        self._refresh()
        if failures and error is None:
            reason, complete = "error", False
        what = error if error is not None else failures[0] if failures else None
        statistics.ended = "interrupted" if isinstance(error, KeyboardInterrupt) else reason
        self.summary = RunSummary(
            exit_reason=reason,
            error="" if what is None else str(what) or type(what).__name__,
            complete=complete,
            values=describe(statistics),
        )
        if self.observer is not None:
            self.observer.update(force=True)
        if failures and error is None:
            raise failures[0]

    def _result_metadata(self, reason: ExitReason) -> dict[str, Any]:
        info = self.statistics.info
        if info is None:
            return {}
        return {
            **info.metadata,
            "noise_levels": self.statistics.noise_levels,
            "exit_reason": reason,
            "run": describe(self.statistics),
        }

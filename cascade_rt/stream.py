"""Live inference: :class:`SpikeStream` owns all that changes from frame to frame in one recording."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_frame_rate, check_matrix, check_noise_levels
from .chunks import LIVE_LOOKAHEAD, Alignment, SpikeChunk, Threshold, check_choice
from .errors import InputError, StreamError
from .noise import NoiseTracker
from .threshold import ThresholdStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .chunks import ModelSpec
    from .engine import Model

__all__ = ["SpikeStream"]


class SpikeStream:
    """Spike probabilities of a recording while it is made.

    What comes out is the same, whatever the pieces in which the frames come in, and the same as
    :func:`cascade_rt.predict` gives for the whole recording. (One exception: an infinite value there makes its neuron
    NaN throughout, while here only the windows that hold it are.)

    Parameters
    ----------
    model : Model
        Shared with other streams if wanted; it is not changed.
    n_neurons : int
    frame_rate_hz : float
        Within 5 % of the model's, unless ``allow_rate_mismatch``.
    noise_levels : ndarray, (n_neurons,), optional
        ν, unit % · Hz^-½, best from an earlier recording of the same neurons. If not given, ν is measured during
        the first ``calibration_s`` seconds and then kept; until then results are marked provisional.
    lookahead_frames : int or sequence of int, optional
        The shortest is what :meth:`push` returns, the others are revisions. Default: 2, or the model's only one.
    threshold : "zero", "noise_floor" or "none"
        As in :func:`cascade_rt.predict`. ``"noise_floor"`` needs some frames more than the look-ahead.
    alignment : "target" or "cascade"
        As in :func:`cascade_rt.predict`.
    allow_rate_mismatch : bool
    calibration_s : float
        Length of the calibration (s).

    Raises
    ------
    InputError
        If an argument does not fit the model.

    Notes
    -----
    Not for use from several threads at once.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_neurons: int,
        frame_rate_hz: float,
        noise_levels: Any = None,
        lookahead_frames: int | Sequence[int] | None = None,
        threshold: Threshold = "zero",
        alignment: Alignment = "target",
        allow_rate_mismatch: bool = False,
        calibration_s: float = 60.0,
    ) -> None:
        check_choice("threshold", threshold, Threshold)
        check_choice("alignment", alignment, Alignment)
        if n_neurons < 1:
            raise InputError(f"n_neurons={n_neurons}: expected at least 1")
        self.model = model
        self.spec: ModelSpec = model.spec
        self.n_neurons = int(n_neurons)
        self.frame_rate_hz = check_frame_rate(frame_rate_hz, model.spec, allow_mismatch=allow_rate_mismatch)
        self.alignment: Alignment = alignment
        self.threshold: Threshold = threshold
        self.lookahead_frames = _choose_lookaheads(model.spec, lookahead_frames)
        self._given = None if noise_levels is None else check_noise_levels(noise_levels, self.n_neurons)
        window = model.spec.windowsize
        if self._given is None and calibration_s * self.frame_rate_hz < window:
            raise InputError(
                f"calibration_s={calibration_s:g}: expected at least the model's window, "
                f"{window / self.frame_rate_hz:.2g} s, or give noise_levels"
            )
        self._calibration_frames = round(calibration_s * self.frame_rate_hz)
        self._drop_first = alignment == "cascade" and model.spec.family == "binned"
        shift = model.spec.cascade_shift if alignment == "cascade" else 0
        self._lanes = [_Lane(self, lookahead, shift) for lookahead in self.lookahead_frames]
        self.reset()

    # ------------------------------------------------------------------------------------------------ state

    def reset(self) -> None:
        """Forget the recording: what follows is as from a new stream with the same arguments."""
        self._history = _History(self.n_neurons, self.spec.windowsize)
        self._last_bad = np.full(self.n_neurons, -self.spec.windowsize, np.int64)
        self._last_touched = -self.spec.windowsize
        self._frame = self._origin = self._calibrated = 0
        #: Outputs for which this frame or a later one was the newest are final; None during the calibration.
        self._final_from: int | None = None if self._given is None else 0
        self._tracker = None
        if self._given is None:
            self._tracker = NoiseTracker(
                self.n_neurons, frame_rate_hz=self.frame_rate_hz, capacity_frames=self._calibration_frames
            )
        self._nu = np.full(self.n_neurons, np.nan) if self._given is None else self._given.copy()
        for lane in self._lanes:
            lane.restart(0)
        self._restart_networks()

    @property
    def frame(self) -> int:
        """Index of the next frame expected."""
        return self._frame

    @property
    def noise_levels(self) -> NDArray[np.float64]:
        """ν in use, (n_neurons,), % · Hz^-½; NaN where not known, which leaves that neuron without output."""
        return np.array(self._nu)

    @property
    def calibrating(self) -> bool:
        """True until ν is frozen."""
        return self._tracker is not None

    @property
    def calibration_progress(self) -> float:
        """Fraction of the calibration that is done; 1 if there was none."""
        return min(1.0, self._calibrated / self._calibration_frames) if self.calibrating else 1.0

    @property
    def delay_frames(self) -> int:
        """Frames that an output waits beyond its look-ahead, for the alignment and the threshold chosen."""
        return self._lanes[0].shift + self._lanes[0].threshold.delay_frames

    def set_noise_levels(self, noise_levels: Any) -> None:
        """Use these noise levels from the next frame on, and end a calibration.

        Neurons that change network have their recent frames replayed through the new one.

        Parameters
        ----------
        noise_levels : ndarray, (n_neurons,)
            ν, % · Hz^-½; NaN leaves a neuron without output.
        """
        self._nu = check_noise_levels(noise_levels, self.n_neurons)
        self._end_calibration()
        self._restart_networks()

    def _restart_networks(self) -> None:
        """Give every neuron with a known ν its network, and show it the recent frames."""
        self._stale = False
        self._stepper = self.model.stepper(self._nu)
        for x in self._history:
            self._stepper.step(x)

    # ----------------------------------------------------------------------------------------------- frames

    def push(self, frames: Any, *, touched: bool = False) -> SpikeChunk:
        """Take in frames and return what can be said now.

        Parameters
        ----------
        frames : ndarray, (n_neurons, k), any k >= 1
            ΔF/F as a fraction; not modified. Values that are not finite leave their neuron without output until
            its window is clean again.
        touched : bool
            These frames fill a gap: outputs that made use of them get ``valid`` False.

        Returns
        -------
        SpikeChunk
            For the shortest look-ahead; ``revisions`` holds the others. May have no columns.

        Raises
        ------
        StreamError
            If the number of neurons differs from the stream's.
        """
        frames = check_matrix(frames, "frames")
        if frames.shape[0] != self.n_neurons:
            raise StreamError(
                f"frames have {frames.shape[0]} neurons, the stream was declared with {self.n_neurons}; "
                "frames are (n_neurons, k); a stream for other neurons is a new SpikeStream"
            )
        with np.errstate(over="ignore"):
            frames = frames.astype(np.float32)
        k = frames.shape[1]
        picks = [self.spec.lookaheads.index(lane.lookahead) for lane in self._lanes]
        prob = np.full((len(picks), k, self.n_neurons), np.nan, np.float32)
        valid = np.zeros((k, self.n_neurons), np.bool_)
        for j in range(k):
            self._advance(frames[:, j], touched, picks, prob[:, j], valid[j])
        chunks = [lane.push(prob[i].T, valid.T) for i, lane in enumerate(self._lanes)]
        return _combine(chunks)

    def _advance(
        self,
        x: NDArray[np.float32],
        touched: bool,
        picks: list[int],
        prob: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> None:
        """Take in one frame; writes ``prob`` (lanes, n_neurons) and ``valid`` (n_neurons,)."""
        finite = np.isfinite(x)
        if not finite.all():
            self._last_bad[~finite] = self._frame
            x = np.where(finite, x, np.float32(0))
        if touched:
            self._last_touched = self._frame
        if self._stale:
            self._restart_networks()
        window, seen = self.spec.windowsize, self._frame - self._origin + 1
        whole = seen >= window
        y = self._stepper.step(x)
        self._history.push(x)
        if whole:
            prob[:] = y.T[picks]
            known = (self._frame - self._last_bad >= window) & np.isfinite(self._nu)
            if not known.all():
                prob[:, ~known] = np.nan
            if self._frame - self._last_touched >= window:
                valid[:] = known
        self._frame += 1
        if self._tracker is not None:
            self._calibrate(np.where(finite, x, np.nan) if not touched else np.full_like(x, np.nan))

    def _calibrate(self, x: NDArray[np.float32]) -> None:
        """Follow ν: a first value when a window is full, the final one at the end of the calibration."""
        assert self._tracker is not None
        self._tracker.push(x[:, None])
        self._calibrated += 1
        done = self._calibrated >= self._calibration_frames
        if done or self._calibrated == self.spec.windowsize:
            self._nu = check_noise_levels(self._tracker.levels(), self.n_neurons)
            self._stale = True  # takes a while: not before this frame's result is out
        if done:
            self._end_calibration()

    def _end_calibration(self) -> None:
        self._tracker = None
        if self._final_from is None:
            self._final_from = self._frame

    def prepare(self) -> None:
        """Do now what the next frame would otherwise wait for; call it after publishing. Optional."""
        if self._stale:
            self._restart_networks()
        self._stepper.prepare()

    def flush(self) -> SpikeChunk:
        """End the recording: the frames that did not get described, as NaN with ``valid`` False."""
        return _combine([lane.finish(self._frame) for lane in self._lanes])

    def skip(self, n_frames: int) -> SpikeChunk:
        """Go on ``n_frames`` later, after a gap too long to be filled; ν is kept, the recent past forgotten.

        Returns
        -------
        SpikeChunk
            What :meth:`flush` gives. Later outputs start with the first frame after the gap.
        """
        if n_frames < 0:
            raise InputError(f"n_frames={n_frames}: expected >= 0")
        tail = self.flush()
        self._frame += int(n_frames)
        self._origin = self._frame
        self._history = _History(self.n_neurons, self.spec.windowsize)
        self._stepper.reset()
        if self._tracker is not None:
            self._tracker.push(np.full((self.n_neurons, 1), np.nan, np.float32))
        for lane in self._lanes:
            lane.restart(self._frame)
        return tail

    @property
    def settled(self) -> bool:
        """True when nothing will start or be measured any more: the window is full, ν is frozen and in use."""
        enough = self.spec.windowsize + max(self.lookahead_frames) + 2 * self.delay_frames + 1
        if self._final_from is None or self._frame - self._final_from <= self.delay_frames:
            return False  # results of the calibration are still to come
        return self._frame - self._origin >= enough

    @classmethod
    def joined(cls, streams: Sequence[SpikeStream]) -> SpikeStream:
        """Make one stream of the neurons of several that have settled and are at the same frame.

        What it gives is what they would have given; it takes less time than they do one by one.

        Raises
        ------
        StreamError
            They are not at the same frame, or have not settled.
        """
        one = streams[0]
        if any(stream.frame != one.frame or not stream.settled for stream in streams):
            raise StreamError("streams can be joined once they have settled and are at the same frame")
        whole = cls(
            one.model,
            n_neurons=sum(stream.n_neurons for stream in streams),
            frame_rate_hz=one.frame_rate_hz,
            noise_levels=np.concatenate([stream._nu for stream in streams]),
            lookahead_frames=one.lookahead_frames,
            threshold=one.threshold,
            alignment=one.alignment,
            allow_rate_mismatch=True,
        )
        whole._frame, whole._origin = one._frame, max(stream._origin for stream in streams)
        whole._last_touched = max(stream._last_touched for stream in streams)
        whole._final_from = max(stream._final_from or 0 for stream in streams)
        whole._last_bad = np.concatenate([stream._last_bad for stream in streams])
        for parts in zip(*(stream._history for stream in streams), strict=True):
            whole._history.push(np.concatenate(parts))
        for number, lane in enumerate(whole._lanes):
            lane.take_over([stream._lanes[number] for stream in streams])
        whole._restart_networks()
        return whole


def _choose_lookaheads(spec: ModelSpec, wanted: int | Iterable[int] | None) -> tuple[int, ...]:
    if wanted is None:
        at_most = [x for x in spec.lookaheads if x <= LIVE_LOOKAHEAD]
        return (at_most[-1] if at_most else spec.lookaheads[0],)
    many = [wanted] if isinstance(wanted, (int, np.integer)) else list(wanted)
    if not many:
        raise InputError("lookahead_frames is empty: expected at least one number of frames")
    return tuple(sorted({spec.check_lookahead(int(x)) for x in many}))


def _combine(chunks: list[SpikeChunk]) -> SpikeChunk:
    from dataclasses import replace

    revisions = MappingProxyType({chunk.lookahead_frames: chunk for chunk in chunks[1:]})
    return replace(chunks[0], revisions=revisions)


class _History:
    """The frames that a network must see again when a neuron changes to it, (window - 1) of them."""

    def __init__(self, n_neurons: int, window: int) -> None:
        self._frames = np.zeros((window - 1, n_neurons), np.float32)
        self._count = 0

    def push(self, x: NDArray[np.float32]) -> None:
        self._frames[self._count % len(self._frames)] = x
        self._count += 1

    def __iter__(self) -> Any:
        length = len(self._frames)
        for index in range(max(0, self._count - length), self._count):
            yield self._frames[index % length]


class _Lane:
    """The outputs of one look-ahead: which frame each describes, and the threshold."""

    def __init__(self, stream: SpikeStream, lookahead: int, shift: int) -> None:
        self._stream = stream
        self.lookahead, self.shift = lookahead, shift
        self.threshold = ThresholdStream(
            stream.n_neurons,
            stream.threshold,
            smoothing_s=stream.spec.smoothing_s,
            frame_rate_hz=stream.spec.frame_rate_hz,
            alignment=stream.alignment,
        )
        self.restart(0)

    def restart(self, frame: int) -> None:
        """Begin again with ``frame`` as the first one to describe."""
        self.threshold.reset()
        self._next = frame
        self._skip = self.lookahead + self.shift
        self._held = np.zeros((self._stream.n_neurons, 0), np.bool_)
        self._undefined = self._stream.spec.windowsize - 1 + self._stream._drop_first - self._skip

    def take_over(self, lanes: Sequence[_Lane]) -> None:
        """Go on where lanes that are at the same frame are, with all their neurons."""
        self._next, self._skip, self._undefined = lanes[0]._next, 0, 0
        self._held = np.concatenate([lane._held for lane in lanes])
        self.threshold.take_over([lane.threshold for lane in lanes])

    def push(self, prob: NDArray[np.float32], valid: NDArray[np.bool_]) -> SpikeChunk:
        """Place network outputs, (n_neurons, k), on the frames that they describe."""
        early = min(self._skip, prob.shape[1])
        self._skip -= early
        self._held = np.concatenate([self._held, valid[:, early:]], axis=1)
        return self._emit(self.threshold.push(prob[:, early:]))

    def finish(self, end: int) -> SpikeChunk:
        """All frames before ``end`` that were not described yet."""
        chunk = self._emit(self.threshold.flush())
        missing = end - self._next
        rest = np.full((self._stream.n_neurons, missing), np.nan, np.float32)
        prob = np.concatenate([chunk.spike_prob, rest], axis=1)
        valid = np.concatenate([chunk.valid, np.zeros(rest.shape, np.bool_)], axis=1)
        self._next = end
        return self._chunk(prob, chunk.first_frame, valid)

    def _emit(self, prob: NDArray[np.float32]) -> SpikeChunk:
        m = prob.shape[1]
        first, self._next = self._next, self._next + m
        valid, self._held = self._held[:, :m], self._held[:, m:]
        if self._undefined > 0 and m:
            lost = min(self._undefined, m)
            self._undefined -= lost
            prob[:, :lost] = np.nan
            valid[:, :lost] = False
        return self._chunk(prob, first, valid)

    def _chunk(self, prob: NDArray[np.float32], first: int, valid: NDArray[np.bool_]) -> SpikeChunk:
        final = self._stream._final_from
        return SpikeChunk(
            spike_prob=np.ascontiguousarray(prob),
            first_frame=first,
            valid=np.ascontiguousarray(valid),
            lookahead_frames=self.lookahead,
            provisional=final is None or first < final - self.lookahead - self.shift,
            model=self._stream.spec.name,
            alignment=self._stream.alignment,
        )

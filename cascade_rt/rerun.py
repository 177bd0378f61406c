"""A recorded run once more: the same pieces in the same order through the same code, or with other rules or models."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .baseline import BaselineOptions, RunningBaseline
from .chunks import FrameChunk
from .comparison import ComparingSink, EventMatch, LookaheadComparison, count_kinds, match_events, same_events
from .endpoints.attachments import folder_hash
from .endpoints.recording_folder import RecordingFolder
from .engine import load_model
from .errors import BundleError, FileFormatError, InputError
from .recorded import RecordedRun
from .rows import RowMap
from .runner import Runner
from .runstats import versions
from .stream import SpikeStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .engine import Device, Model
    from .gaps import Piece
    from .ports import EndOfStream, RunInfo, Sink, Triggers
    from .runstats import ExitReason, RunSummary

__all__ = ["Rerun", "Rerunner", "rerun"]


@dataclass(kw_only=True)
class Rerun:
    """What came of a rerun.

    Parameters
    ----------
    folder : Path
    frames : int
        Frames that were processed.
    changed : list of str
        What was other than in the recording.
    lookaheads : list of LookaheadComparison
    recorded_events, rerun_events : dict
        Events by kind.
    events_same : int
    events_difference : str
        The first one; empty if there is none.
    matches : list of EventMatch
    elsewhere : list of str
        What of the machine or the versions differs: values may then differ in the last digits.
    ended : bool
        The recording has an end; False after a crash.
    missing_frames : int
        Frames that could not be recorded.
    summary : RunSummary
    """

    folder: Path
    frames: int
    changed: list[str]
    lookaheads: list[LookaheadComparison]
    recorded_events: dict[str, int]
    rerun_events: dict[str, int]
    events_same: int
    events_difference: str
    matches: list[EventMatch]
    elsewhere: list[str]
    ended: bool
    missing_frames: int
    summary: RunSummary = field(repr=False)

    def agrees(self, tolerance: float = 0.0) -> bool:
        """Tell whether everything came out as recorded, values to within ``tolerance`` (expected spikes per frame)."""
        if not all(told.agrees(tolerance) for told in self.lookaheads) or not self.lookaheads:
            return False
        if self.ended and any(told.only_recorded or told.only_rerun for told in self.lookaheads):
            return bool(self.missing_frames)
        return not self.events_difference or bool(self.missing_frames)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "frames": self.frames,
            "ended": self.ended,
            "missing_frames": self.missing_frames,
            "changed": self.changed,
            "identical": self.agrees(),
            "lookaheads": [asdict(told) for told in self.lookaheads],
            "events": {
                "recorded": self.recorded_events,
                "rerun": self.rerun_events,
                "same": self.events_same,
                "difference": self.events_difference or None,
                "rules": [match.to_dict() for match in self.matches],
            },
            "elsewhere": self.elsewhere,
        }


def rerun(
    folder: Path,
    *,
    model: str | None = None,
    rules: Path | None = None,
    lookaheads: Sequence[int] | None = None,
    threshold: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    device: Device | None = None,
    threads: int | None = None,
) -> Rerun:
    """Do a recorded run again and compare.

    Parameters
    ----------
    folder : Path
        Written by ``cascade-rt run --record``; also one that ended by a crash.
    model : str, optional
        Another model, by name or path.
    rules : Path, optional
        Another rule file. Control messages that were recorded take effect as they did, if they fit.
    lookaheads : sequence of int, optional
        Others than were published (frames).
    threshold : str, optional
        Another one.
    out : Path, optional
        Folder for results and events; made, must not hold anything.
    overwrite : bool
        Replace an earlier recording or rerun in ``out``.
    device, threads
        Where and how to compute, if not as recorded.

    Returns
    -------
    Rerun

    Raises
    ------
    FileFormatError
        It is not such a recording.
    InputError
        What was asked for does not fit it.
    """
    recorded = RecordedRun(folder)
    if not recorded.n_frames:
        raise FileFormatError(f"{folder}: no frame was recorded")
    if out is not None and out.absolute() == folder.absolute():
        raise InputError(f"{out} is the recording itself: choose another folder")
    loaded = _load(recorded, model, device, threads)
    if lookaheads is None:
        lookaheads = [n for n in recorded.lookaheads if n in loaded.spec.lookaheads] or None
    make_stream = _StreamMaker(recorded, loaded, lookaheads, threshold)
    host = _rules(recorded, rules, loaded)
    comparing = ComparingSink(recorded, make_stream.settle_frames)
    sinks: list[Sink] = [comparing]
    if out is not None:
        sinks.append(_results_folder(recorded, out, overwrite=overwrite, model=model, rules=rules))
    runner = Rerunner(
        recorded, sinks, make_stream, triggers=host,
        metadata={
            "alignment": make_stream.options["alignment"],
            "threshold": make_stream.options["threshold"],
            "gap": recorded.gap,
            "device": loaded.device,
            "source_sha256": loaded.spec.source_sha256,
            "rerun_of": str(folder),
        },
    )  # fmt: skip
    summary = runner.run()
    same, difference = same_events(recorded.events, comparing.events, ended=recorded.ended)
    return Rerun(
        folder=folder,
        frames=recorded.n_frames,
        changed=_changes(model=model, rules=rules, lookaheads=lookaheads, threshold=threshold, recorded=recorded),
        lookaheads=comparing.comparisons,
        recorded_events=count_kinds(recorded.events),
        rerun_events=count_kinds(comparing.events),
        events_same=same,
        events_difference=difference,
        matches=match_events(recorded.events, comparing.events, recorded.frame_rate_hz),
        elsewhere=_elsewhere(recorded, loaded),
        ended=recorded.ended,
        missing_frames=sum(int(hole["frames"]) for hole in recorded.missing),
        summary=summary,
    )


class Rerunner(Runner):
    """A run whose pieces come from a recording, in place of a source and a sequencer."""

    def __init__(
        self,
        recorded: RecordedRun,
        sinks: Sequence[Sink],
        make_stream: _StreamMaker,
        *,
        triggers: Triggers | None,
        metadata: dict[str, Any],
    ) -> None:
        self._recorded = recorded
        self._due: list[Mapping[str, Any]] = []
        self._time = 0.0
        super().__init__(
            _Nowhere(recorded.folder),
            sinks,
            make_stream,
            frame_rate_hz=recorded.frame_rate_hz,
            metadata=metadata,
            triggers=triggers,
            controls=self._take,
            make_joined=make_stream.joined,
            make_baseline=_baseline_maker(recorded),
            clock=lambda: self._time,  # that of the recording
        )

    def _loop(self) -> ExitReason:
        recorded = self._recorded
        force = recorded.noise_levels if recorded.missing and recorded.noise_levels_given is None else None
        for step in recorded.steps():
            piece = step.piece
            self._time = max(self._time, *piece.arrivals, 0.0)
            if self._stream is None:
                self._begin(piece)
            self._due += step.controls
            self._count(piece)
            if self._admission.rows is not None:
                self._admission.rows.learn(step.ids)
            self._process(piece)
            assert self._stream is not None
            if force is not None and not self._stream.calibrating:
                self._stream.set_noise_levels(force)  # frames that they were measured on are missing
                force = None
        self._due += recorded.last_controls()
        self._obey()
        if not recorded.ended:
            self._stream_failed = True  # what followed is not known: nothing is said of the last frames
        return "end"

    def _begin(self, piece: Piece) -> None:
        recorded = self._recorded
        n_first = recorded.rows_at_start
        if n_first is not None:
            ids = recorded.rows[0]["ids"] if recorded.rows else range(n_first)
            self._admission.rows = RowMap(tuple(ids[:n_first]), recorded.n_neurons)
        chunk = FrameChunk(
            frames=piece.frames,
            first_frame=piece.first_frame,
            stream=recorded.stream,
            frame_rate_hz=recorded.frame_rate_hz,
        )
        self._start(chunk)
        self.statistics.started = self._time

    def _count(self, piece: Piece) -> None:
        counters = self._sequencer.counters
        if self._sequencer.expected is None:
            counters.before_start = piece.first_frame
        if piece.touched:
            counters.filled += piece.n_frames
        else:
            counters.received += piece.n_frames
            counters.processed += piece.n_frames
        counters.restarts += piece.reset == "restart"
        self._sequencer.expected = piece.stop_frame

    def _take(self) -> list[Mapping[str, Any]]:
        due, self._due = self._due, []
        return due


class _Nowhere:
    """The source of a run that needs none."""

    lossless = True
    finite = False

    def __init__(self, folder: Path) -> None:
        from threading import Event

        self.name = str(folder)
        self._closed = Event()

    def open(self) -> None:
        """Nothing to open."""

    def receive(self, timeout_s: float) -> FrameChunk | EndOfStream | None:
        """Nothing comes."""
        self._closed.wait(timeout_s)
        return None

    def close(self) -> None:
        """Nothing to close."""


class _RecordedBaseline:
    """Hands on recorded ΔF/F, and knows when the window that it was made with was full."""

    def __init__(self, window_frames: int) -> None:
        self._window_frames = window_frames
        self.reset()

    @property
    def full(self) -> bool:
        return self._n_frames >= self._window_frames

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the frames."""
        self._n_frames += frames.shape[1]
        return frames

    def reset(self) -> None:
        """Begin anew."""
        self._n_frames = 0


def _baseline_maker(recorded: RecordedRun) -> Callable[[int, float], _RecordedBaseline] | None:
    if "baseline" not in recorded.described:
        return None
    options = BaselineOptions(**recorded.described["baseline"])
    return lambda _, rate: _RecordedBaseline(RunningBaseline(1, rate, options).window_frames)


class _StreamMaker:
    """Makes the stream with the recorded options, or others."""

    def __init__(
        self, recorded: RecordedRun, model: Model, lookaheads: Sequence[int] | None, threshold: str | None
    ) -> None:
        self._model = model
        self._lookaheads = lookaheads
        self._noise: NDArray[np.float64] | None = recorded.noise_levels_given
        self.options = dict(recorded.configuration["stream"])
        if threshold is not None:
            self.options["threshold"] = threshold
        self._delay_frames = 0

    def __call__(self, n_neurons: int, rate: float) -> SpikeStream:
        stream = self._make(n_neurons, rate, self._noise)
        self._delay_frames = stream.delay_frames
        return stream

    def joined(self, n_neurons: int, rate: float) -> SpikeStream:
        """Make the stream of neurons that join; their noise levels are not known."""
        return self._make(n_neurons, rate, None)

    def _make(self, n_neurons: int, rate: float, noise_levels: NDArray[np.float64] | None) -> SpikeStream:
        return SpikeStream(
            self._model,
            n_neurons=n_neurons,
            frame_rate_hz=rate,
            noise_levels=noise_levels,
            lookahead_frames=self._lookaheads,
            **self.options,
        )

    def settle_frames(self, info: RunInfo) -> int:
        """Frames from a hole in which results depend on what is missing."""
        return info.spec.windowsize + 2 * self._delay_frames + 1


def _load(recorded: RecordedRun, model: str | None, device: Device | None, threads: int | None) -> Model:
    told = recorded.configuration["model"]
    device = device or told["device"]
    threads = threads or told["threads"]
    if model is not None:
        return load_model(model, device=device, threads=threads)
    seen = folder_hash(recorded.model)
    if seen != told["folder_sha256"]:
        raise BundleError(f"{recorded.model}: was changed since the run (sha256 {seen[:12]}…); name a model (--model)")
    return load_model(recorded.model, device=device, threads=threads)


def _rules(recorded: RecordedRun, rules: Path | None, model: Model) -> Triggers | None:
    path = rules if rules is not None else recorded.rules
    if path is None:
        return None
    from .triggers.host import TriggerHost
    from .triggers.rulefile import read_rules

    told = recorded.configuration.get("rules") or {}
    # A plug-in is waited for, so that what it says does not depend on how busy this machine is.
    host = TriggerHost(read_rules(path), armed=told.get("armed"), patient=True)
    host.prepare(model.spec)
    return host


def _results_folder(
    recorded: RecordedRun, out: Path, *, overwrite: bool, model: str | None, rules: Path | None
) -> RecordingFolder:
    configuration = {
        **recorded.configuration,
        "rerun": {"of": str(recorded.folder), "model": model, "rules": None if rules is None else str(rules)},
    }
    return RecordingFolder(out, overwrite=overwrite, configuration=configuration, keep_inputs=False)


def _changes(
    *,
    model: str | None,
    rules: Path | None,
    lookaheads: Sequence[int] | None,
    threshold: str | None,
    recorded: RecordedRun,
) -> list[str]:
    changed = []
    if model is not None:
        changed.append(f"model {model} in place of {recorded.configuration['model']['name']}")
    if rules is not None:
        changed.append(f"rules {rules}")
    if lookaheads is None or tuple(sorted(lookaheads)) != recorded.lookaheads:
        changed.append(f"look-aheads in place of {', '.join(map(str, recorded.lookaheads))}")
    if threshold is not None and threshold != recorded.configuration["stream"]["threshold"]:
        changed.append(f"threshold {threshold}")
    return changed


def _elsewhere(recorded: RecordedRun, model: Model) -> list[str]:
    """Name what may change the last digits of a value."""
    then, now = recorded.described.get("versions", {}), versions()
    found = [
        f"{name} {then.get(name)} then, {now.get(name)} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    told = recorded.configuration["model"]
    if told["threads"] != model.threads:
        found.append(f"{told['threads']} threads then, {model.threads} now")
    if told["device"] != model.device:
        found.append(f"on the {told['device']} then, on the {model.device} now")
    system = recorded.configuration.get("machine", {}).get("system")
    if system and system != platform.platform():
        found.append(f"{system} then, {platform.platform()} now")
    from .benchmarks import machine

    processor, here = recorded.configuration.get("machine", {}).get("processor"), machine()["processor"]
    if processor != here:
        found.append(f"{processor} then, {here} now")
    return found

"""What rules would do with results that are there already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.chunks import SpikeChunk
from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.ports import RunInfo

from .host import TriggerHost

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.events import Event

    from .rules import RuleSet

__all__ = ["Results", "apply_rules", "read_results"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """Spike probabilities of a recording, for one or more look-aheads.

    Parameters
    ----------
    spike_prob : dict of int to ndarray, (n_neurons, n), float32
        By look-ahead.
    valid : dict of int to ndarray, (n_neurons, n), bool
    frame : dict of int to ndarray, (n,), int64
        Index of the frame that each column describes.
    frame_rate_hz : float
    model : str
        Name of the model, if known.
    first_frame : int
        Of the run: the zero of its time.
    stream : str
    """

    spike_prob: dict[int, NDArray[np.float32]]
    valid: dict[int, NDArray[np.bool_]]
    frame: dict[int, NDArray[np.int64]]
    frame_rate_hz: float
    model: str = ""
    first_frame: int = 0
    stream: str = ""

    @property
    def n_neurons(self) -> int:
        return int(next(iter(self.spike_prob.values())).shape[0])


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read what ``run`` has written: an ``.npz`` of results, or the folder of a recording.

    Raises
    ------
    FileFormatError
        It is neither.
    """
    path = Path(path)
    try:
        if path.is_dir():
            metadata = json.loads((path / "run.json").read_text(encoding="utf-8"))
            arrays = {
                file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in path.glob("*_lookahead*.npy")
            }
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "metadata"}
                metadata = json.loads(str(file["metadata"]))
        found = _by_lookahead(arrays, metadata)
        rate = float(metadata["frame_rate_hz"])
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise FileFormatError(
            f"{path}: expected an .npz of `cascade-rt run --sink`, or a folder of `--record` ({error})"
        ) from error
    first = min(int(frame[0]) for _, _, frame in found.values() if frame.size)
    return Results(
        spike_prob={n: prob for n, (prob, _, _) in found.items()},
        valid={n: valid for n, (_, valid, _) in found.items()},
        frame={n: frame for n, (_, _, frame) in found.items()},
        frame_rate_hz=rate,
        model=str(metadata.get("model", "")),
        first_frame=int(metadata.get("first_frame", first)),
        stream=str(metadata.get("stream", "")),
    )


def _by_lookahead(arrays: dict[str, Any], metadata: dict[str, Any]) -> dict[int, tuple[Any, Any, Any]]:
    lookaheads = [int(n) for n in metadata["lookahead_frames"]]
    found: dict[int, tuple[Any, Any, Any]] = {}
    for lookahead in sorted(lookaheads):
        longest = lookahead == max(lookaheads) and "spike_prob" in arrays
        suffix = "" if longest else f"_lookahead{lookahead}"
        prob, valid, frame = (arrays[f"{name}{suffix}"] for name in ("spike_prob", "valid", "frame"))
        # Only recordings tell which results came during the calibration; in the run those met no condition.
        provisional = arrays.get(f"provisional{suffix}")
        found[lookahead] = prob, valid if provisional is None else valid & ~provisional, frame
    if not any(frame.size for _, _, frame in found.values()):
        raise ValueError("there is no result in it")
    return found


def apply_rules(
    rules: RuleSet,
    results: Results,
    spec: ModelSpec | None = None,
    *,
    armed: bool | None = None,
    chunk_frames: int = 256,
) -> tuple[list[Event], dict[str, Any]]:
    """Let rules decide on results, as they would have in the run.

    Parameters
    ----------
    rules : RuleSet
    results : Results
    spec : ModelSpec, optional
        The model; needed for rules on discrete spikes.
    armed : bool, optional
        As in :class:`TriggerHost`.
    chunk_frames : int
        Frames looked at together; makes no difference to what is decided.

    Returns
    -------
    events : list of Event
    summary : dict

    Raises
    ------
    InputError
        A rule does not fit.
    """
    if spec is None and any(rule.signal == "spike" for rule in rules.rules):
        raise InputError("rules on discrete spikes need the model that made the results (--model)")
    host = TriggerHost(rules, armed=armed, patient=True)
    try:
        host.prepare(spec)
        host.start(
            RunInfo(
                stream=results.stream,
                n_neurons=results.n_neurons,
                frame_rate_hz=results.frame_rate_hz,
                lookaheads=tuple(sorted(results.spike_prob)),
                spec=spec,  # type: ignore[arg-type]
                metadata=MappingProxyType({"first_frame": results.first_frame}),
            )
        )
        events: list[Event] = []
        for lookahead in sorted(results.spike_prob):
            events += _go_through(host, results, lookahead, chunk_frames)
        summary = host.finish()
        events += host.poll()
    finally:
        host.close()
    return events, summary


def _go_through(host: TriggerHost, results: Results, lookahead: int, chunk_frames: int) -> list[Event]:
    prob, valid, frame = (part[lookahead] for part in (results.spike_prob, results.valid, results.frame))
    breaks = set((np.flatnonzero(np.diff(frame) != 1) + 1).tolist())
    stops = sorted({*range(chunk_frames, frame.size, chunk_frames), *breaks, frame.size} - {0})
    events: list[Event] = []
    start = 0
    for stop in stops:
        if start in breaks:
            host.restart()
        chunk = SpikeChunk(
            spike_prob=np.ascontiguousarray(prob[:, start:stop], np.float32),
            first_frame=int(frame[start]),
            valid=np.ascontiguousarray(valid[:, start:stop], bool),
            lookahead_frames=lookahead,
        )
        events += host.process(chunk)
        events += host.poll()
        start = stop
    return events

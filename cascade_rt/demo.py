"""The demonstration: a recording with known spikes goes through sockets and a live run, and everything is checked.

Three processes take part, as in an experiment: ``cascade-rt replay`` stands for the acquisition program,
``cascade-rt run`` infers, and this process receives what is published, compares it with the offline prediction
and with the true spikes, and draws a picture.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CascadeError, InputError
from .rehearsal import rehearse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .chunks import ModelSpec
    from .rehearsal import Received

__all__ = ["MODEL", "Demo", "DemoResult", "load_demo", "median_correlation", "run_demo", "to_json"]

#: The shipped model that fits the demo's recording.
MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"
#: Largest difference between what is published live and the offline prediction.
TOLERANCE = 1e-5

_RECORDING = Path(__file__).parent / "data" / "demo.npz"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A simulated recording whose spikes are known.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames), float32
        ΔF/F.
    spike_times_s : tuple of ndarray
        For each neuron the times of its spikes (s).
    frame_rate_hz : float
        Frames per second.
    noise_levels : ndarray, (n_neurons,)
        ν of the whole recording, % Hz^-1/2.
    """

    dff: NDArray[np.float32]
    spike_times_s: tuple[NDArray[np.float64], ...]
    frame_rate_hz: float
    noise_levels: NDArray[np.float64]

    def spike_counts(self) -> NDArray[np.float32]:
        """Spikes in each frame, (n_neurons, n_frames); a spike belongs to the frame during which it falls."""
        counts = np.zeros(self.dff.shape, np.float32)
        for row, times in zip(counts, self.spike_times_s, strict=True):
            frames = np.floor(times * self.frame_rate_hz).astype(np.intp)
            np.add.at(row, frames[(frames >= 0) & (frames < row.size)], 1)
        return counts

    def first(self, n_frames: int) -> Demo:
        """Return the beginning of the recording; the noise levels stay those of the whole."""
        end = n_frames / self.frame_rate_hz
        return Demo(
            dff=self.dff[:, :n_frames],
            spike_times_s=tuple(times[times < end] for times in self.spike_times_s),
            frame_rate_hz=self.frame_rate_hz,
            noise_levels=self.noise_levels,
        )


@dataclass(kw_only=True)
class DemoResult:
    """What came out of a demonstration.

    Parameters
    ----------
    n_neurons, n_frames : int
        Size of the recording that was sent.
    lost : int
        Frames whose immediate estimate or a revision never came, or came twice.
    lookaheads : dict
        For each look-ahead: ``frames`` received, ``largest_difference`` to offline, ``same_undefined`` (NaN in the
        same places), ``correlation`` with the true spikes (median over neurons).
    latency : dict
        From receiving a frame to having published its immediate estimate, as the run process counts it (ms).
    picture : Path or None
        Where the picture was written.
    problems : list of str
        What was not as it should be; empty if all is well.
    """

    n_neurons: int
    n_frames: int
    seconds: float
    lost: int = 0
    lookaheads: dict[int, dict[str, Any]] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    picture: Path | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def largest_difference(self) -> float:
        """Over all look-aheads."""
        return max((entry["largest_difference"] for entry in self.lookaheads.values()), default=math.nan)


def load_demo(path: Path = _RECORDING) -> Demo:
    """Read the recording that comes with the package."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            dff = stored["dff"].astype(np.float32)
            times, neurons = stored["spike_time_s"].astype(np.float64), stored["spike_neuron"]
            return Demo(
                dff=dff,
                spike_times_s=tuple(times[neurons == neuron] for neuron in range(len(dff))),
                frame_rate_hz=float(stored["frame_rate_hz"]),
                noise_levels=stored["noise_levels"].astype(np.float64),
            )
    except (OSError, KeyError, ValueError) as error:
        raise CascadeError(f"the demo's recording {path} cannot be read: {error}; install cascade-rt again") from error


def median_correlation(spike_prob: NDArray[np.floating], counts: NDArray[np.floating], spec: ModelSpec) -> float:
    """Correlation with the true spikes, smoothed as in the model's training: the median over neurons.

    Parameters
    ----------
    spike_prob : ndarray, (n_neurons, n_frames)
        Expected spikes per frame; NaN is left out.
    counts : ndarray, (n_neurons, n_frames)
        True spikes per frame; neurons without spikes are left out.
    spec : ModelSpec
        The model's smoothing.
    """
    from .smoothing import smooth_spikes

    truth = smooth_spikes(
        counts, smoothing_s=spec.smoothing_s, frame_rate_hz=spec.frame_rate_hz, causal_kernel=spec.causal_kernel
    )
    found = []
    for prob, true in zip(spike_prob, truth, strict=True):
        known = np.isfinite(prob)
        if known.sum() > 1 and np.ptp(true[known]) > 0 and np.ptp(prob[known]) > 0:
            found.append(float(np.corrcoef(prob[known], true[known])[0, 1]))
    return float(np.median(found)) if found else math.nan


def run_demo(
    folder: Path,
    *,
    seconds: float = 30.0,
    lookaheads: Sequence[int] = (2, 15),
    live_view: bool = True,
    report: Callable[[str], None] | None = None,
) -> DemoResult:
    """Replay the demo's recording through a live run at its own frame rate, and check what is published.

    Parameters
    ----------
    folder : Path
        Existing folder for the picture (``demo.png``).
    seconds : float
        How much of the recording (s).
    lookaheads : sequence of int
        Look-aheads to publish: the shortest is the immediate estimate, the others are revisions (frames).
    live_view : bool
        Let the run process show its live view on this terminal.
    report : callable, optional
        Told in words what happens.

    Raises
    ------
    CascadeError
        A process failed; says which and why.
    """
    from .engine import load_model

    whole = load_demo()
    window_s = 70 / whole.frame_rate_hz
    longest_s = whole.dff.shape[1] / whole.frame_rate_hz
    if not window_s <= seconds <= longest_s:
        raise InputError(f"{seconds:g} s: the demo's recording can be shown for {window_s:.1f} to {longest_s:g} s")
    demo = whole.first(round(seconds * whole.frame_rate_hz))
    tell = report or (lambda text: None)
    size = f"{len(demo.dff)} neurons at {demo.frame_rate_hz:g} frames/s for {seconds:g} s"
    tell(f"replaying {size} (the first start on a machine takes longer: code is compiled)")
    started = time.perf_counter()
    received, summary = rehearse(
        demo.dff,
        demo.noise_levels,
        model=MODEL,
        frame_rate_hz=demo.frame_rate_hz,
        lookaheads=lookaheads,
        live_view=live_view,
    )
    result = DemoResult(
        n_neurons=len(demo.dff),
        n_frames=demo.dff.shape[1],
        seconds=round(time.perf_counter() - started, 2),
        latency=summary["latency"],
    )
    if summary["frames"]["lost"] or not summary["complete"]:
        result.problems.append(f"the run counted {summary['frames']['lost']} lost frames")
    tell("comparing with the offline prediction and with the true spikes")
    _judge(result, received, demo, load_model(MODEL))
    result.picture = _draw(folder / "demo.png", received, demo)
    return result


def _judge(result: DemoResult, received: Received, demo: Demo, model: Any) -> None:
    """Compare what came with the offline prediction and the true spikes."""
    from .offline import predict

    counts = demo.spike_counts()
    for lag, live in received.spike_prob.items():
        offline = predict(
            demo.dff, model, frame_rate_hz=demo.frame_rate_hz, noise_levels=demo.noise_levels, lookahead_frames=lag
        )
        both = np.isfinite(live) & np.isfinite(offline)
        entry = {
            "frames": int((received.times[lag] > 0).sum()),
            "largest_difference": float(np.abs(live[both] - offline[both]).max()) if both.any() else math.inf,
            "same_undefined": bool(np.array_equal(np.isnan(live), np.isnan(offline))),
            "correlation": median_correlation(live, counts, model.spec),
        }
        result.lookaheads[lag] = entry
        if not entry["largest_difference"] <= TOLERANCE:
            result.problems.append(f"look-ahead {lag}: live differs from offline by {entry['largest_difference']:.2g}")
        if not entry["same_undefined"]:
            result.problems.append(f"look-ahead {lag}: live is undefined (NaN) in other places than offline")
    result.lost = received.lost()
    if result.lost:
        result.problems.append(f"{result.lost} frames were lost or came twice")
    if received.unexpected:
        result.problems.append(f"{len(received.unexpected)} unexpected messages, first: {received.unexpected[0]}")


def _draw(path: Path, received: Received, demo: Demo) -> Path:
    from .plots import FINAL, IMMEDIATE, Curve, plot_traces

    lags = sorted(received.spike_prob)
    curves = [
        Curve(
            spike_prob=received.spike_prob[lags[-1]], label=f"spike probability, {lags[-1]} frames later", color=FINAL
        )
    ]
    if len(lags) > 1:
        label = f"immediate estimate, {lags[0]} frames later"
        curves.append(Curve(spike_prob=received.spike_prob[lags[0]], label=label, color=IMMEDIATE, filled=False))
    return plot_traces(
        path,
        demo.dff,
        curves,
        frame_rate_hz=demo.frame_rate_hz,
        noise_levels=demo.noise_levels,
        true_spikes=demo.spike_times_s,
        window_s=20.0,
        title=f"cascade-rt demo: simulated neurons, {MODEL}, as received live",
    )


def to_json(result: DemoResult) -> dict[str, Any]:
    """Plain values, for ``--json``."""
    return {
        "ok": not result.problems,
        "n_neurons": result.n_neurons,
        "n_frames": result.n_frames,
        "lost": result.lost,
        "largest_difference": result.largest_difference,
        "lookaheads": {str(lag): entry for lag, entry in result.lookaheads.items()},
        "latency": result.latency,
        "picture": None if result.picture is None else str(result.picture),
        "problems": result.problems,
        "seconds": result.seconds,
    }

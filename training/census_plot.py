"""A picture of the ground truth: for each dataset an example with its spikes, the noise levels and the spike rates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.plots import FINAL, IMMEDIATE, SPIKES, TRACE, busiest_window, round_down

from .census import summary
from .ground_truth import resample

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .census import Census
    from .recordings import Trace

__all__ = ["Example", "choose_example", "plot_census"]

#: Length of an example (s), and the frame rate above which it is averaged down for drawing (Hz).
SHOWN_S, SHOWN_HZ = 30.0, 30.0
#: Recordings of a dataset among which the example is chosen, evenly spaced.
TRIED = 30
#: Least range of noise levels (% Hz^-1/2) and of spike rates (Hz); what is lower yet is drawn at the edge.
NOISE_RANGE, RATE_RANGE = (0.15, 6.0), (0.004, 20.0)
#: Part of a row's height for the trace, and where the spikes lie below it.
TRACE_HEIGHT, SPIKE_ROW = 0.62, (-0.44, -0.30)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A piece of one recording.

    Parameters
    ----------
    trace : Trace
        At most 30 Hz.
    frames : slice
        The part with most spikes.
    native_hz : float
        Frame rate of the recording (Hz).
    """

    trace: Trace
    frames: slice
    native_hz: float

    @property
    def spikes(self) -> float:
        """Spikes in the piece."""
        return float(self.trace.spike_counts[self.frames].sum())


def choose_example(census: Census) -> Example | None:
    """Choose a piece that shows what a dataset is like: a rather active one (not the most), with the typical noise.

    Returns
    -------
    Example or None
        None if the dataset has no usable recording.
    """
    n = len(census.recordings)
    found = []
    for index in np.unique(np.linspace(0, n - 1, min(n, TRIED)).astype(int)) if n else ():
        recording = census.recordings[index]
        trace = resample(recording, min(SHOWN_HZ, recording.frame_rate_hz))
        if trace is not None:
            window = busiest_window(trace.spike_counts[None], round(SHOWN_S * trace.frame_rate_hz))
            example = Example(trace=trace, frames=window, native_hz=recording.frame_rate_hz)
            found.append((example, float(census.noise_levels[index])))
    if not found:
        return None
    typical = np.median(census.noise_levels)
    low, high = np.percentile([example.spikes for example, _ in found], [50, 75], method="nearest")
    active = [f for f in found if low <= f[0].spikes <= high]
    return min(active, key=lambda f: abs(f[1] - typical))[0]


def plot_census(path: str | os.PathLike[str], rows: Sequence[Census]) -> Path:
    """Draw all datasets, one row each.

    Parameters
    ----------
    path : path
        File to write; its ending says what: .png, .pdf or .svg.
    rows : sequence of Census
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 1.5 + 0.52 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    traces, noise, rates = figure.subplots(1, 3, sharey=True, width_ratios=(3.4, 1.15, 1.15))
    for axes in (traces, noise, rates):
        for place in range(0, len(rows), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="#f3f5f7", linewidth=0, zorder=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelsize=8)
    for place, census in enumerate(rows):
        example = choose_example(census)
        if example is not None:
            _draw_example(traces, place, example)
            _draw_dots(noise, place, census.noise_levels, NOISE_RANGE[0])
            _draw_dots(rates, place, census.spike_rates_hz, RATE_RANGE[0])
    traces.set_yticks(range(len(rows)), [_label(census) for census in rows], fontsize=8)
    traces.set_ylim(len(rows) - 0.5, -0.5)
    traces.set_xlim(-0.3, SHOWN_S * 1.075)
    traces.set_xticks(np.arange(0, SHOWN_S + 1, 5))
    _title(traces, "Example: ΔF/F and true spikes", "time (s)")
    _title(noise, "Noise level ν, recordings", "% Hz$^{-1/2}$, native frame rate")
    _title(rates, "Spike rate, neurons", "spikes/s")
    _log_axis(noise, NOISE_RANGE, steps=(1.0, 2.0, 5.0))
    _log_axis(rates, RATE_RANGE, steps=(1.0,))
    figure.savefig(path, dpi=150)
    return Path(path)


def _draw_example(axes: Any, place: int, example: Example) -> None:
    trace, frames = example.trace, example.frames
    time_s = np.arange(frames.stop - frames.start) / trace.frame_rate_hz
    dff = trace.dff[frames].astype(float)
    low, high = np.percentile(dff, [0.5, 99.9])
    height = TRACE_HEIGHT / max(high - low, 1e-9)
    # The axis of the rows points down.
    bottom = place + 0.22
    values = bottom - (np.clip(dff, low - 0.1 * (high - low), high + 0.1 * (high - low)) - low) * height
    axes.plot(time_s, values, color=TRACE, linewidth=0.7, solid_joinstyle="round")
    spikes = np.flatnonzero(trace.spike_counts[frames])
    axes.vlines(time_s[spikes], place - SPIKE_ROW[0], place - SPIKE_ROW[1], color=SPIKES, linewidth=0.6)
    unit = round_down(0.9 * (high - low))
    edge = SHOWN_S * 1.01
    axes.plot([edge, edge], [bottom, bottom - unit * height], color=TRACE, linewidth=1.5, solid_capstyle="butt")
    axes.text(edge + 0.2, bottom - unit * height / 2, f"{100 * unit:g} %", fontsize=7, va="center", color=TRACE)


def _draw_dots(axes: Any, place: int, values: NDArray[np.float64], least: float) -> None:
    """One dot for each value (at the edge if below ``least``), spread over the row's height, and their median."""
    spread = (np.arange(values.size) * 0.618) % 1.0 - 0.5
    axes.scatter(np.maximum(values, 1.05 * least), place + 0.5 * spread, s=7, color=IMMEDIATE, alpha=0.45, linewidth=0)
    median = float(np.median(values))
    axes.vlines(max(median, 1.05 * least), place - 0.34, place + 0.34, color=FINAL, linewidth=1.8)
    beside = axes.get_yaxis_transform()
    axes.text(1.01, place, f"{median:.2f}", transform=beside, fontsize=7.5, va="center", color=FINAL)


def _label(census: Census) -> str:
    values = summary(census)
    if not census.recordings:
        return f"{census.name}\nno usable recording"
    low, high = (f"{values['frame_rates_hz'][k]:.3g}" for k in ("min", "max"))
    span = low if low == high else f"{low}–{high}"
    return f"{census.name}\nneurons: {values['neurons']}, recordings: {values['recordings']}, {span} Hz"


def _title(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(label, fontsize=9)


def _log_axis(axes: Any, least: tuple[float, float], *, steps: tuple[float, ...]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(least[0], max(least[1], axes.get_xlim()[1]))
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="#d5dbe1", linewidth=0.6)
    axes.set_axisbelow(True)

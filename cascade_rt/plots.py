"""Pictures of calcium traces with their spike probabilities (matplotlib, drawn straight into a file)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Curve", "busiest_window", "informative_neurons", "plot_traces", "round_down"]

# Colours that people with colour-blindness can tell apart (Okabe and Ito).
TRACE, FINAL, IMMEDIATE, SPIKES = "#40566b", "#d55e00", "#0072b2", "#000000"
FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One kind of spike probability to draw below each trace.

    Parameters
    ----------
    spike_prob : ndarray, (n_neurons, n_frames)
        Expected spikes per frame; NaN where undefined.
    label : str
        Its name in the legend.
    color : str
        A matplotlib colour.
    filled : bool
        Draw an area instead of a line.
    """

    spike_prob: NDArray[np.floating]
    label: str = "spike probability"
    color: str = FINAL
    filled: bool = True


def informative_neurons(
    dff: NDArray[np.floating], spike_prob: NDArray[np.floating], n_shown: int = 6, *, n_tried: int = 400
) -> NDArray[np.intp]:
    """Choose neurons that show what a recording holds: active ones, from the clearest to the middling.

    Parameters
    ----------
    dff, spike_prob : ndarray, (n_neurons, n_frames)
        ΔF/F (fraction) and expected spikes per frame.
    n_shown : int
        Neurons wanted; fewer come back if fewer have defined values.
    n_tried : int
        In a larger recording only this many evenly spaced neurons are looked at.

    Returns
    -------
    ndarray of int, ascending
    """
    tried = np.unique(np.linspace(0, len(dff) - 1, min(n_tried, len(dff))).astype(np.intp))
    scores = np.full(len(tried), -np.inf)
    for place, neuron in enumerate(tried):
        trace, prob = np.asarray(dff[neuron]), np.asarray(spike_prob[neuron])
        prob = prob[np.isfinite(prob)]
        step = np.abs(np.diff(trace[np.isfinite(trace)]))
        if prob.size and step.size and np.median(step) > 0:
            # Squared, so that clear events count and a floor of small values from noise does not.
            rise = np.nanpercentile(trace, 99) - np.nanmedian(trace)
            scores[place] = np.log1p((prob**2).sum()) + np.log1p(max(0.0, rise / np.median(step)))
    ranked = np.argsort(-scores, kind="stable")[: int(np.isfinite(scores).sum())]
    top = ranked[: max(n_shown, len(ranked) // 4)]
    picked = top[np.linspace(0, len(top) - 1, min(n_shown, len(top))).astype(np.intp)] if len(top) else top
    return np.sort(tried[picked])


def busiest_window(spike_prob: NDArray[np.floating], n_frames: int) -> slice:
    """Find the frames of the window of ``n_frames`` in which most spikes fall.

    Parameters
    ----------
    spike_prob : ndarray, (n_neurons, all_frames)
        Each neuron counts the same, however active it is.
    n_frames : int
        Length of the window.
    """
    total = spike_prob.shape[1]
    if n_frames >= total:
        return slice(0, total)
    prob = np.nan_to_num(np.asarray(spike_prob, dtype=np.float64))
    activity = (prob / np.maximum(prob.sum(axis=1, keepdims=True), 1e-12)).sum(axis=0)
    summed = np.concatenate([[0.0], np.cumsum(activity)])
    first = int(np.argmax(summed[n_frames:] - summed[:-n_frames]))
    return slice(first, first + n_frames)


def plot_traces(
    path: str | os.PathLike[str],
    dff: NDArray[np.floating],
    curves: Sequence[Curve],
    *,
    frame_rate_hz: float,
    neurons: Sequence[int] | NDArray[np.intp] | None = None,
    noise_levels: NDArray[np.floating] | None = None,
    true_spikes: Sequence[NDArray[np.floating]] | None = None,
    frames: slice | None = None,
    window_s: float = 60.0,
    title: str = "",
) -> Path:
    """Draw traces with their spike probabilities below them, all on the same scales, with scale bars.

    Parameters
    ----------
    path : path
        File to write: .png, .pdf or .svg.
    dff : ndarray, (n_neurons, n_frames)
        ΔF/F as a fraction.
    curves : sequence of Curve
        What to draw below each trace; the first chooses the neurons and the time shown.
    frame_rate_hz : float
        Frames per second.
    neurons : sequence of int, optional
        Rows to draw; :func:`informative_neurons` by default.
    noise_levels : ndarray, (n_neurons,), optional
        ν, shown beside each trace (% Hz^-1/2).
    true_spikes : sequence of ndarray, optional
        For each neuron the times of its spikes (s).
    frames : slice, optional
        Frames to draw; the busiest ``window_s`` by default.
    window_s : float
        Length shown (s).
    title : str
        Text above.

    Raises
    ------
    InputError
        There is nothing to draw, or the file name has another ending.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"{target}: a picture is written as one of {', '.join(FORMATS)}")
    chosen = np.asarray(informative_neurons(dff, curves[0].spike_prob) if neurons is None else neurons, dtype=np.intp)
    if not len(chosen):
        raise InputError("no neuron has defined spike probabilities: nothing to draw")
    shown = frames or busiest_window(curves[0].spike_prob[chosen], max(2, round(window_s * frame_rate_hz)))
    if neurons is None:
        chosen = _order_by_activity(chosen, curves[0].spike_prob, shown)
    time_s = np.arange(shown.start, shown.stop) / frame_rate_hz
    traces = [np.asarray(dff[neuron, shown], dtype=np.float64) for neuron in chosen]
    probs = [[np.asarray(curve.spike_prob[neuron, shown], dtype=np.float64) for curve in curves] for neuron in chosen]

    # Heights are in units of one trace scale and one probability scale, common to all neurons.
    spans = np.array([_span(trace) for trace in traces])
    dff_unit = max(float(spans.max()), 1e-6)
    prob_unit = max(1e-6, *(float(np.nanmax(prob, initial=0.0)) for row in probs for prob in row))
    prob_height = 0.32
    heights = np.maximum(spans / dff_unit, 0.25)
    steps = heights + prob_height + 0.25
    bottoms = steps[::-1].cumsum()[::-1] - steps

    figure, axes = _canvas(inches=(11.0, 1.2 + 1.05 * float(bottoms[0] + heights[0] + prob_height) + 0.35))
    for row, neuron in enumerate(chosen):
        foot = bottoms[row]
        base = foot + prob_height + 0.06
        finite = traces[row][np.isfinite(traces[row])]
        low, middle = np.percentile(finite, [0.2, 50]) if finite.size else (0.0, 0.0)
        _line(axes, time_s, base + (traces[row] - low) / dff_unit, color=TRACE, width=0.7)
        for curve, prob in zip(curves, probs[row], strict=True):
            values = foot + prob_height * prob / prob_unit
            if curve.filled:
                axes.fill_between(time_s, foot, values, color=curve.color, alpha=0.75, linewidth=0)
            else:
                _line(axes, time_s, values, color=curve.color, width=0.8)
        if true_spikes is not None:
            times = np.asarray(true_spikes[neuron])
            times = times[(times >= time_s[0]) & (times <= time_s[-1])]
            axes.vlines(times, foot - 0.10, foot - 0.03, color=SPIKES, linewidth=0.7)
        label = f"neuron {neuron}"
        if noise_levels is not None and np.isfinite(noise_levels[neuron]):
            label += f"\nν = {noise_levels[neuron]:.1f}"
        left = time_s[0] - 0.012 * (time_s[-1] - time_s[0])
        axes.text(left, base + (middle - low) / dff_unit, label, ha="right", va="center", fontsize=8, color="#333333")
    _scale_bars(axes, time_s, bottoms, heights, dff_unit, prob_unit / prob_height)
    _legend(axes, curves, spikes=true_spikes is not None)
    if shown.stop - shown.start < dff.shape[1]:
        title = f"{title}, {time_s[0]:.0f} to {time_s[-1]:.0f} s of {dff.shape[1] / frame_rate_hz:.0f} s"
    axes.set_title(title, fontsize=10, loc="left", pad=22)
    figure.savefig(target, dpi=150)
    return target


def _canvas(inches: tuple[float, float]) -> tuple[Any, Any]:
    """Figure and axes without pyplot: no window, no global state, any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _line(axes: Any, x: NDArray[np.floating], y: NDArray[np.floating], *, color: str, width: float) -> None:
    axes.plot(x, y, color=color, linewidth=width, solid_joinstyle="round")


def _span(trace: NDArray[np.floating]) -> float:
    finite = trace[np.isfinite(trace)]
    return float(np.ptp(np.percentile(finite, [0.2, 99.95]))) if finite.size else 0.0


def _order_by_activity(neurons: NDArray[np.intp], spike_prob: NDArray[np.floating], shown: slice) -> NDArray[np.intp]:
    totals = [float(np.nansum(spike_prob[neuron, shown])) for neuron in neurons]
    return neurons[np.argsort(-np.asarray(totals), kind="stable")]


def _scale_bars(
    axes: Any,
    time_s: NDArray[np.floating],
    bottoms: NDArray[np.floating],
    heights: NDArray[np.floating],
    dff_per_height: float,
    prob_per_height: float,
) -> None:
    """Time, ΔF/F and probability bars at the lower right, outside the traces."""
    length = time_s[-1] - time_s[0]
    edge = time_s[-1] + 0.015 * length
    bar = {"color": "#333333", "linewidth": 1.5, "solid_capstyle": "butt", "clip_on": False}
    text = {"fontsize": 8, "color": "#333333", "va": "center"}
    time_bar = round_down(length / 6)
    low = float(bottoms[-1]) - 0.28
    axes.plot([time_s[-1] - time_bar, time_s[-1]], [low, low], **bar)
    axes.text(time_s[-1] - time_bar / 2, low - 0.06, f"{time_bar:g} s", ha="center", **{**text, "va": "top"})
    dff_bar = round_down(0.9 * float(heights[-1]) * dff_per_height)
    base = float(bottoms[-1]) + 0.32 + 0.06
    axes.plot([edge, edge], [base, base + dff_bar / dff_per_height], **bar)
    percent = f"{100 * dff_bar:g} % ΔF/F"
    axes.text(edge + 0.008 * length, base + dff_bar / dff_per_height / 2, percent, **text)
    prob_bar = round_down(0.32 * prob_per_height)
    foot = float(bottoms[-1])
    axes.plot([edge, edge], [foot, foot + prob_bar / prob_per_height], **bar)
    axes.text(
        edge + 0.008 * length,
        foot + prob_bar / prob_per_height / 2,
        f"{prob_bar:g} spike{'s' if prob_bar > 1 else ''}\nper frame",
        **text,
    )
    axes.set_xlim(time_s[0] - 0.1 * length, time_s[-1] + 0.1 * length)
    axes.set_ylim(low - 0.25, float(bottoms[0] + heights[0]) + 0.5)


def round_down(value: float) -> float:
    """Length of a scale bar: the largest of 1, 2, 5 times a power of ten that does not exceed the value.

    Parameters
    ----------
    value : float
        Above 0, in any unit.
    """
    power = 10.0 ** np.floor(np.log10(max(value, 1e-9)))
    return float(max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)) * power)


def _legend(axes: Any, curves: Sequence[Curve], *, spikes: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=TRACE, linewidth=1.2, label="ΔF/F")]
    for curve in curves:
        if curve.filled:
            handles.append(Patch(color=curve.color, alpha=0.75, linewidth=0, label=curve.label))
        else:
            handles.append(Line2D([], [], color=curve.color, linewidth=1.2, label=curve.label))
    if spikes:
        handles.append(Line2D([], [], color=SPIKES, marker="|", linestyle="", markersize=7, label="true spikes"))
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.085, 1.0), ncol=len(handles), frameon=False, fontsize=8
    )

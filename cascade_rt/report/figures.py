"""The pictures of the report, each an SVG text that stands on its own."""

from __future__ import annotations

import base64
import io
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.plots import TRACE, round_down

from .wording import count, number, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cascade_rt.session import PlaneSummary

__all__ = ["Picture", "noise_histogram", "population", "rate_histogram", "traces"]

# Colours that people with colour-blindness can tell apart (Okabe and Ito), and greys.
PROBABILITY, INSIDE, OUTSIDE, TRAINED = "#d55e00", "#0072b2", "#d55e00", "#d9ead9"
INK, FAINT, UNDEFINED = "#333333", "#8a8a8a", "#dddddd"
RATES = ("#ffffff", "#b5d9ee", "#56a5d4", "#0072b2", "#003a5c")

#: Sizes are those on paper (A4, at 96 pixels per inch); a screen shows them larger.
WIDE, MIDDLE, SMALL = (7.2, 3.1), (4.62, 3.0), (2.5, 1.36)
FONT, SMALL_FONT = 7.0, 6.2
#: Points of a trace that are drawn; each stands for the lowest or the highest of some frames.
DRAWN_POINTS = 1400
#: Columns of the population picture, in which neighbouring bins are averaged.
DRAWN_COLUMNS = 600
#: Resolution (pixels per inch) of what is not drawn in lines, and its colours: few make small files.
DPI, SHADES = 160, 40
#: ΔF/F (fraction) and spikes per frame below which there is nothing to draw to scale.
NOTHING = 1e-5
FONTS = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
#: matplotlib's settings are global.
_DRAWING = threading.Lock()


class Picture(NamedTuple):
    """A picture, and what it shows for those who cannot see it.

    Parameters
    ----------
    svg : str
    alt : str
    caption : str
    """

    svg: str
    alt: str
    caption: str


def traces(plane: PlaneSummary) -> Picture | None:
    """Draw the example neurons: ΔF/F, and spike probability below; None if there are none."""
    shown = plane.examples
    if not shown.neurons or not shown.dff.shape[1]:
        return None
    time_s = (shown.first_frame + np.arange(shown.dff.shape[1])) / plane.frame_rate_hz
    spans = np.array([_span(trace) for trace in shown.dff])
    dff_unit = max(float(spans.max()), NOTHING)
    prob_unit = max(float(np.nanmax(shown.spike_prob, initial=0.0)), NOTHING / 2)
    prob_height, gap = 0.42, 0.16
    heights = np.clip(spans / dff_unit, 0.3, 1.0)
    steps = heights + prob_height + gap
    feet = steps[::-1].cumsum()[::-1] - steps
    with _figure((WIDE[0], min(WIDE[1], 0.75 + 0.62 * len(shown.neurons)))) as (figure, svg):
        axes = figure.add_subplot()
        for row, neuron in enumerate(shown.neurons):
            base = feet[row] + prob_height
            finite = shown.dff[row][np.isfinite(shown.dff[row])]
            low = float(np.percentile(finite, 0.2)) if finite.size else 0.0
            x, y = _thinned(time_s, shown.dff[row])
            axes.plot(x, base + (y - low) / dff_unit, color=TRACE, linewidth=0.55)
            x, y = _upright(time_s, shown.spike_prob[row])
            height = prob_height * 0.9 * y / prob_unit
            axes.fill([x[0], *x, x[-1]], feet[row] + np.array([0.0, *height, 0.0]), color=PROBABILITY, linewidth=0)
            label = f"neuron {neuron}\n{_figures(plane.rates_hz[neuron])} Hz, ν {_figures(plane.noise_levels[neuron])}"
            axes.text(-0.008, base, label, transform=axes.get_yaxis_transform(), ha="right", va="center",
                      fontsize=SMALL_FONT, linespacing=1.25, color=INK)  # fmt: skip
        _scale_bars(axes, feet, prob_height, float(heights[-1]), dff_unit, prob_unit / (0.9 * prob_height))
        axes.set_xlim(*_limits(time_s, 1 / plane.frame_rate_hz))
        axes.set_ylim(-0.06, float(feet[0] + prob_height + heights[0]) + 0.12)
        axes.set_yticks([])
        axes.set_xlabel("time (s)")
        _plain(axes, left=False)
    listed = ", ".join(map(str, shown.neurons))
    first, last = number(time_s[0], 4), number(time_s[-1], 4)
    return Picture(
        svg(),
        f"Traces of {count(len(shown.neurons), 'neuron')} (rows {listed}) from {first} to {last} s: ΔF/F, and below "
        f"each its spike probability, at most {number(prob_unit)} spikes per frame.",
        "ΔF/F (grey) and, below each trace, the spike probability (orange), all on the same scales. "
        "Beside: mean rate of the whole recording and noise level. Spikes should stand where ΔF/F rises.",
    )


def noise_histogram(plane: PlaneSummary, trained: tuple[float, float]) -> Picture | None:
    """Draw the noise levels of the neurons, and the range that the model was trained for; None if none is known."""
    known = plane.noise_levels[np.isfinite(plane.noise_levels)]
    if not known.size:
        return None
    low, high = trained
    below, above = int((known < low).sum()), int((known > high).sum())
    # Levels may be 0; those far below all that is usual go into the first bin.
    first = 0.8 * max(min(low, float(known.min())), low / 50)
    last = 1.25 * max(high, float(known.max()))
    edges = np.geomspace(first, last, 41)
    counts = np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0]
    centres = np.sqrt(edges[:-1] * edges[1:])
    colors = [INSIDE if low <= centre <= high else OUTSIDE for centre in centres]
    with _figure(SMALL) as (figure, svg):
        axes = figure.add_subplot()
        axes.axvspan(low, high, color=TRAINED, linewidth=0)
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colors, linewidth=0)
        axes.set_xscale("log")
        _log_ticks(axes, first, last)
        axes.set_xlim(first, last)
        axes.set_ylim(0, 1.22 * counts.max())
        axes.text(np.sqrt(low * high), 1.2 * counts.max(), "model's range", ha="center", va="top",
                  fontsize=SMALL_FONT, color="#2f6b2f")  # fmt: skip
        axes.set_xlabel("noise level ν (% / √Hz)")
        axes.set_ylabel("neurons")
        _whole_ticks(axes)
        _plain(axes)
    outside = f"{below + above} of {count(known.size, 'neuron')} outside of the model's {low:g} to {high:g}"
    where = f" ({below} below, {above} above)" if below + above else ""
    median = number(float(np.median(known)))
    return Picture(
        svg(),
        f"Histogram of noise levels: median {median}, from {number(float(known.min()))} to "
        f"{number(float(known.max()))} % Hz^-1/2; {outside}{where}.",
        f"Noise levels, median {median}: {outside}{where}.",
    )


def rate_histogram(plane: PlaneSummary) -> Picture | None:
    """Draw the mean rates of the neurons; None if none has one."""
    rates = plane.rates_hz[np.isfinite(plane.rates_hz)]
    if not rates.size:
        return None
    # Silent neurons go into the first bin.
    last = max(2.0 * float(rates.max()), 1e-2)
    first = max(min(0.01, last / 100), 0.5 * float(rates[rates > 0].min(initial=last)))
    edges = np.geomspace(first, last, 33)
    counts = np.histogram(np.clip(rates, first, last), edges)[0]
    median = float(np.median(rates))
    n_quiet = int((rates < first).sum())
    quieter = f"; the first bar holds {count(n_quiet, 'neuron')} below {number(first, 2)} Hz" if n_quiet else ""
    with _figure(SMALL) as (figure, svg):
        axes = figure.add_subplot()
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=INSIDE, linewidth=0)
        axes.axvline(max(median, first), color=PROBABILITY, linewidth=1.0)
        axes.set_xscale("log")
        _log_ticks(axes, first, last)
        axes.set_xlim(first, last)
        axes.set_ylim(0, 1.12 * counts.max())
        axes.set_xlabel("mean rate of a neuron (Hz)")
        axes.set_ylabel("neurons")
        _whole_ticks(axes)
        _plain(axes)
    return Picture(
        svg(),
        f"Histogram of the mean spike rates of {count(rates.size, 'neuron')}: median {number(median)} Hz, from "
        f"{number(float(rates.min()))} to {number(float(rates.max()))} Hz.",
        f"Mean rates, median {number(median)} Hz (line){quieter}.",
    )


def population(plane: PlaneSummary) -> Picture | None:
    """Draw the rate of each neuron over time, and their mean; None if nothing is defined."""
    if not np.isfinite(plane.raster).any():
        return None
    raster, bin_s = _fewer_columns(plane.raster, plane.bin_s)
    finite = raster[np.isfinite(raster)]
    top = max(float(np.percentile(finite, 99.5)), 0.1)
    mean = _mean_over_neurons(raster)
    length = raster.shape[1] * bin_s
    unit, name = (1.0, "s") if length <= 1800 else (60.0, "min")
    with _figure(MIDDLE) as (figure, svg):
        from matplotlib.colors import LinearSegmentedColormap

        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.1, 1))
        colors = LinearSegmentedColormap.from_list("rates", RATES, N=SHADES).with_extremes(bad=UNDEFINED)
        n_shown = raster.shape[0]
        image = upper.imshow(
            np.ma.masked_invalid(raster), aspect="auto", cmap=colors, vmin=0, vmax=top,
            extent=(0, length / unit, n_shown - 0.5, -0.5), interpolation="antialiased",
        )  # fmt: skip
        bar = figure.colorbar(
            image, ax=[upper, lower], pad=0.015, aspect=28, extend="max" if finite.max() > top else "neither"
        )
        bar.set_label("spike rate (Hz)", fontsize=FONT, color=INK)
        bar.ax.tick_params(labelsize=SMALL_FONT, length=2, width=0.5, colors=INK)
        bar.outline.set_linewidth(0.4)
        ticks = np.unique(np.linspace(0, n_shown - 1, min(n_shown, 5)).astype(int))
        upper.set_yticks(ticks, [str(plane.raster_neurons[tick]) for tick in ticks])
        upper.set_ylabel("neuron (row)")
        upper.tick_params(labelbottom=False)
        edges = np.arange(raster.shape[1] + 1) * bin_s / unit
        lower.stairs(mean, edges, color=INSIDE, linewidth=0.7, baseline=None)
        lower.set_xlim(0, length / unit)
        lower.set_ylim(0, max(1.1 * float(np.nanmax(mean)), 0.01))
        lower.set_ylabel("mean (Hz)")
        lower.set_xlabel(f"time ({name})")
        for axes in (upper, lower):
            _plain(axes)
        figure.align_ylabels([upper, lower])
    part = "" if n_shown == plane.n_cells else f" of {plane.n_cells:,}, evenly spaced"
    return Picture(
        svg(),
        f"Spike rates of {count(n_shown, 'neuron')}{part} over {number(length)} s in bins of {number(bin_s)} s, up to "
        f"{number(float(finite.max()))} Hz, and below the mean of these neurons, {number(float(np.nanmean(mean)))} Hz.",
        f"Spike rate of {count(n_shown, 'neuron')}{part}, in bins of {number(bin_s)} s; below, their mean. Grey: "
        "undefined. Stripes across all neurons are more often motion or light than spikes.",
    )


# ---------------------------------------------------------------------------------------------------------- helpers


@contextmanager
def _figure(inches: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """Figure without pyplot, and a function that gives its SVG once the block is left."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn: list[str] = []
    # Text stays text: small, selectable, in the font of the page.
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "cascade_rt", "path.simplify_threshold": 0.15}
    nothing = dict.fromkeys(("Date", "Creator", "Type", "Format"))
    with _DRAWING, matplotlib.rc_context(settings):
        figure = Figure(figsize=inches, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
        FigureCanvasSVG(figure)
        yield figure, lambda: drawn[0]
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=DPI, metadata=nothing)
    drawn.append(_compact(buffer.getvalue().decode("utf-8")))


def _compact(svg: str) -> str:
    """Leave out the prologue and digits that nobody sees; take the fonts of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", f"font-family: {FONTS}", svg)
    svg = re.sub(r"(font: [\d.]+px )[^;\"]*", rf"\g<1>{FONTS}", svg)
    # In tags alone: between them stand the labels.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"(?<=data:image/png;base64,)[A-Za-z0-9+/=\s]+", _few_colors, svg)
    return re.sub(r"\s*\n\s*", " ", svg)


def _few_colors(encoded: re.Match[str]) -> str:
    """Encode a PNG with a palette: a quarter of the size, and nothing lost with so few colours."""
    from PIL import Image

    smaller = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded[0]))) as image:
        image.convert("RGB").quantize(SHADES + 16, dither=Image.Dither.NONE).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode("ascii")


def _plain(axes: Any, *, left: bool = True) -> None:
    """Thin axes at the bottom and, if wanted, the left; small letters."""
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" or (side == "left" and left))
        spine.set_linewidth(0.5)
        spine.set_color(FAINT)
    axes.tick_params(which="major", labelsize=SMALL_FONT, length=2.5, width=0.5, color=FAINT, labelcolor=INK, pad=2)
    axes.tick_params(which="minor", length=1.5, width=0.4, color=FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(FONT)
        label.set_color(INK)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 2


def _log_ticks(axes: Any, first: float, last: float) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    powers = 10.0 ** np.arange(np.floor(np.log10(first)), np.ceil(np.log10(last)) + 1)
    steps = (1, 2, 5) if last / first < 300 else (1,)
    ticks = [float(step * power) for power in powers for step in steps if first <= step * power <= last]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _whole_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _limits(time_s: NDArray[np.float64], frame_s: float) -> tuple[float, float]:
    return float(time_s[0]), float(max(time_s[-1], time_s[0] + frame_s))


def _span(trace: NDArray[np.float32]) -> float:
    finite = trace[np.isfinite(trace)]
    return float(np.ptp(np.percentile(finite, [0.2, 99.95]))) if finite.size else 0.0


def _thinned(x: NDArray[np.float64], y: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep the lowest and the highest of every few points, in their order."""
    values = np.asarray(y, np.float64)
    step = -(-2 * values.size // DRAWN_POINTS)
    if step <= 2:
        return x, values
    whole = values.size // step * step
    blocks = values[:whole].reshape(-1, step)
    known = np.isfinite(blocks)
    lowest = np.where(known, blocks, np.inf).argmin(axis=1)
    highest = np.where(known, blocks, -np.inf).argmax(axis=1)
    starts = np.arange(0, whole, step)
    kept = np.unique(np.concatenate([starts + lowest, starts + highest, np.arange(whole, values.size)]))
    return x[kept], values[kept]


def _upright(x: NDArray[np.float64], y: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leave out points between others that cannot be told from 0, which stands for what is undefined too."""
    values = np.clip(np.nan_to_num(np.asarray(y, np.float64)), 0.0, None)
    flat = values < 2e-3 * max(float(np.nanmax(values, initial=0.0)), 1e-9)
    values[flat] = 0.0
    inner = flat & np.roll(flat, 1) & np.roll(flat, -1)
    inner[[0, -1]] = False
    return x[~inner], values[~inner]


def _scale_bars(
    axes: Any, feet: NDArray[np.float64], prob_height: float, height: float, dff_unit: float, prob_per_height: float
) -> None:
    """Bars for ΔF/F and probability at the right of the last neuron."""
    bar = {"color": INK, "linewidth": 1.2, "solid_capstyle": "butt", "clip_on": False}
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
    text: dict[str, Any] = {"fontsize": SMALL_FONT, "color": INK, "va": "center", "linespacing": 1.1, **place}
    base = float(feet[-1]) + prob_height
    if dff_unit > NOTHING:
        dff_bar = round_down(max(height, 0.5) * dff_unit)
        top = base + dff_bar / dff_unit
        axes.plot([1.008, 1.008], [base, top], **bar, **place)
        axes.text(1.016, (base + top) / 2, f"{100 * dff_bar:g} % ΔF/F", **text)
    if prob_per_height * prob_height < NOTHING:
        return
    prob_bar = round_down(0.9 * prob_height * prob_per_height)
    foot = float(feet[-1])
    axes.plot([1.008, 1.008], [foot, foot + prob_bar / prob_per_height], **bar, **place)
    spikes = plural(1 if prob_bar == 1 else 2, "spike")
    axes.text(1.016, foot + 0.11, f"{prob_bar:g} {spikes}\nper frame", **text)


def _figures(value: float) -> str:
    """Write a number of a neuron with two digits."""
    return f"{value:.1f}" if 1 <= value < 100 else number(value, 2)


def _fewer_columns(raster: NDArray[np.float32], bin_s: float) -> tuple[NDArray[np.float64], float]:
    """Average neighbouring bins, of what is defined in them."""
    step = -(-raster.shape[1] // DRAWN_COLUMNS)
    if step == 1:
        return np.asarray(raster, np.float64), bin_s
    starts = np.arange(0, raster.shape[1], step)
    known = np.isfinite(raster)
    sums = np.add.reduceat(np.where(known, raster, 0.0), starts, axis=1)
    counts = np.add.reduceat(known, starts, axis=1, dtype=np.int64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), bin_s * step


def _mean_over_neurons(raster: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(raster)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, raster, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)

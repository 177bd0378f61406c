"""Pictures of scores (matplotlib, drawn straight into a file)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import TrainingError
from cascade_rt.plots import FORMATS

from .summary import ALL, MEASURES, matched, opponent_of, short_lookahead, summarise

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .summary import Summary, Table

__all__ = ["COLORS", "MARKERS", "check_format", "plot_left_out", "plot_scores", "tidy"]

# Colours and shapes of noise levels, from low to high; colours that people with colour-blindness can tell apart
# (Okabe and Ito).
COLORS = ("#0072b2", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
_RIVALS = ("D", "v", "P", "X", "*", "h")
_GREY = "#777777"
#: Of the five panels of a row, as parts of it.
_MARGINS = {"left": 0.04, "right": 0.99, "top": 0.82, "bottom": 0.13, "wspace": 0.3}
_SHOWN = ("correlation", "error", "bias", "timing_error_ms", "detected_percent")


def check_format(path: str | os.PathLike[str]) -> Path:
    """Raise TrainingError unless a picture can be written to such a file; before any work is done for it."""
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise TrainingError(f"{target}: a picture is written as one of {', '.join(FORMATS)}")
    return target


def plot_scores(path: str | os.PathLike[str], tables: Sequence[Table]) -> Path:
    """Draw the scores of a model against look-ahead and noise level, then each rival neuron by neuron.

    Parameters
    ----------
    path : path
        File to write: .png, .pdf or .svg.
    tables : sequence of Table

    Raises
    ------
    TrainingError
        There is nothing to draw, or the file name has another ending.
    """
    target = check_format(path)
    rows = [table for table in tables if table.scores]
    if not rows:
        raise TrainingError("no scores: nothing to draw")
    figure = _figure((3.2 * len(_SHOWN), 3.8 * len(rows)))
    for part, table in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows, strict=True):
        axes = part.subplots(1, len(_SHOWN), gridspec_kw=_MARGINS)
        ours = opponent_of(table, rows) if table.rival else None
        if ours is not None:
            _scatter_row(axes, ours, table)
            _titled(part, f"Each neuron: {ours.model} beside {table.title}")
            _legend(part, _levels(ours), note="large: median; on the edge: beyond it")
        else:
            rivals = _each_once([t for t in rows if t.rival and t.test == table.test])
            _curve_row(axes, table, rivals)
            _titled(part, table.title)
            _legend(part, _levels(table), [rival.model for rival in rivals])
    figure.savefig(target, dpi=130)
    return target


def plot_left_out(path: str | os.PathLike[str], table: Table) -> Path:
    """Draw the scores of each dataset: every neuron, and medians with intervals.

    Parameters
    ----------
    path : path
        File to write: .png, .pdf or .svg.
    table : Table
    """
    target = check_format(path)
    summary = summarise(table.scores)
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in summary))
    short, longest = short_lookahead(table.lookaheads), table.lookaheads[-1]
    panels = [("correlation", k) for k in sorted({short, longest})] + [("error", longest), ("bias", longest)]
    width, height = 3.2 * len(panels) + 3.0, 1.5 + 0.45 * len(datasets)
    figure = _figure((width, height))
    margins = {"left": 2.9 / width, "right": 1 - 0.1 / width, "bottom": 0.6 / height, "top": 1 - 0.7 / height}
    rows = figure.subplots(1, len(panels), sharey=True, squeeze=False, gridspec_kw={**margins, "wspace": 0.08})
    for axes, (name, lookahead) in zip(rows[0], panels, strict=True):
        _dataset_panel(axes, table, summary, datasets, name, lookahead)
        axes.set_xlabel(f"{MEASURES[name].label}, look-ahead {lookahead}", fontsize=9)
    axes.set_yticks(range(len(datasets)), [dataset or "all neurons" for dataset in datasets])
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    _titled(figure, table.title)
    _legend(figure, _levels(table), note="dots: neurons")
    figure.savefig(target, dpi=130)
    return target


# ── parts ──


def _figure(inches: tuple[float, float]) -> Any:
    """Figure without pyplot: no window, no global state, any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches)
    FigureCanvasAgg(figure)
    return figure


def _curve_row(axes: Sequence[Any], table: Table, rivals: Sequence[Table]) -> None:
    """One measure per panel, by look-ahead: the model in full, rivals as open symbols."""
    shown = [table, *rivals]
    places = {k: x for x, k in enumerate(sorted({k for t in shown for k in t.lookaheads}))}
    for number, one in enumerate(shown):
        summary = summarise(one.scores)
        levels = _levels(one)
        for place, level in enumerate(levels):
            shift = 0.11 * (place - (len(levels) - 1) / 2) + 0.36 * number
            x = np.array([places[k] + shift for k in one.lookaheads])
            for panel, name in zip(axes, _SHOWN, strict=True):
                cells = np.array([summary[ALL, level, k][name][:3] for k in one.lookaheads])
                _points(panel, x, cells, place, rival=number)
    for panel, name in zip(axes, _SHOWN, strict=True):
        panel.set_ylabel(MEASURES[name].label, fontsize=9)
        panel.set_xlabel("look-ahead (frames)", fontsize=9)
        panel.set_xticks(list(places.values()), [str(k) for k in places])
        panel.set_xlim(-0.5, len(places) - 0.5 + 0.36 * len(rivals))
        tidy(panel)
        if name == "bias":
            panel.axhline(0, color=_GREY, linewidth=0.8, zorder=0)


def _scatter_row(axes: Sequence[Any], ours: Table, rival: Table) -> None:
    """One measure per panel, a point for each neuron at the model's longest look-ahead, a large one at the medians."""
    pairs = [(s, other) for s, other in matched(ours, rival) if s.lookahead == ours.lookaheads[-1]]
    for panel, name in zip(axes, _SHOWN, strict=True):
        value = MEASURES[name].value
        points = np.array([(value(other), value(s)) for s, other in pairs]).reshape(-1, 2)
        low, high = _limits(points)
        for place, level in enumerate(_levels(ours)):
            own = points[[s.noise_level == level for s, _ in pairs]]
            own = own[np.isfinite(own).all(axis=1)]
            style = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": "", "clip_on": False}
            panel.plot(*np.clip(own, low, high).T, **style, markersize=4.5, alpha=0.45, markeredgewidth=0)
            if own.size:
                middle = np.clip(np.median(own, axis=0), low, high)
                panel.plot(*middle, **style, markersize=10, markeredgecolor="white", markeredgewidth=1.2, zorder=5)
        panel.axline((low, low), slope=1, color=_GREY, linewidth=0.8, zorder=0)
        panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        panel.set_title(f"{MEASURES[name].label} ({MEASURES[name].better} is better)", fontsize=9)
        panel.set_xlabel("the other model", fontsize=9)
        panel.set_ylabel("this model", fontsize=9)
        tidy(panel)


def _dataset_panel(
    axes: Any, table: Table, summary: Summary, datasets: Sequence[str], name: str, lookahead: int
) -> None:
    """Datasets below each other: each neuron a dot, medians with intervals."""
    value = MEASURES[name].value
    shown = [s for s in table.scores if s.lookahead == lookahead]
    low, high = _limits(np.array([value(s) for s in shown]))
    levels = _levels(table)
    for place, level in enumerate(levels):
        shift = 0.26 * (place - (len(levels) - 1) / 2)
        for row, dataset in enumerate(datasets):
            if (dataset, level, lookahead) not in summary:
                continue
            own = [value(s) for s in shown if s.noise_level == level and dataset in (s.dataset, ALL)]
            dots = {"color": COLORS[place], "markersize": 4.5, "alpha": 0.45, "markeredgewidth": 0}
            axes.plot(np.clip(own, low, high), [row + shift + 0.1] * len(own), ".", **dots)
            cell = summary[dataset, level, lookahead][name]
            _points(axes, np.array([row + shift]), np.array([cell[:3]]), place, horizontal=True)
    axes.axhline(len(datasets) - 1.5, color=_GREY, linewidth=0.8)
    if name == "bias":
        axes.axvline(0, color=_GREY, linewidth=0.8, zorder=0)
    axes.set_xlim(low, high)
    tidy(axes)


def _points(
    axes: Any,
    at: NDArray[np.floating],
    cells: NDArray[np.floating],
    place: int,
    *,
    rival: int = 0,
    horizontal: bool = False,
) -> None:
    """Medians with intervals: (n, 3) median, low, high; rivals (from 1) as open symbols of their own shape."""
    reach = np.abs(cells[:, 1:] - cells[:, :1]).T
    reach[~np.isfinite(reach)] = 0.0
    style: dict[str, Any] = {"color": COLORS[place], "linewidth": 1.2, "elinewidth": 1.0, "markersize": 4.5}
    if rival:
        style |= {"fmt": f"{_RIVALS[rival - 1]}:", "mfc": "white", "markersize": 5.5}
    else:
        style |= {"fmt": f"{MARKERS[place]}-"}
    if horizontal:
        axes.errorbar(cells[:, 0], at, xerr=reach, **style)
    else:
        axes.errorbar(at, cells[:, 0], yerr=reach, **style)


def tidy(axes: Any) -> None:
    """Leave out the lines above and to the right; small numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _limits(values: NDArray[np.floating]) -> tuple[float, float]:
    """Range of the values, but for those so far out that they would squeeze the rest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [25, 75])
    reach = 3.0 * max(high - low, 1e-3)
    low, high = max(float(finite.min()), low - reach), min(float(finite.max()), high + reach)
    margin = 0.05 * max(high - low, 0.2 * abs(high), 0.02)
    return low - margin, high + margin


def _levels(table: Table) -> list[float]:
    return sorted({s.noise_level for s in table.scores})


def _each_once(rivals: Sequence[Table]) -> list[Table]:
    """The first table of each rival: against its own kernel."""
    return list({rival.model: rival for rival in reversed(rivals)}.values())[::-1]


def _titled(figure: Any, title: str) -> None:
    figure.suptitle("\n".join(textwrap.wrap(title, 130)), fontsize=10, x=0.01, ha="left", y=0.97, va="top")


def _legend(figure: Any, levels: Sequence[float], rivals: Sequence[str] = (), note: str = "") -> None:
    """Legend at the upper right, outside the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=f"ν = {level:g}")
        for color, marker, level in zip(COLORS, MARKERS, levels, strict=False)
    ]
    handles += [
        Line2D([], [], color=_GREY, marker=marker, mfc="white", linestyle="", label=name)
        for marker, name in zip(_RIVALS, rivals, strict=False)
    ]
    if note:
        handles.append(Line2D([], [], linestyle="", label=note))
    place = {"loc": "upper right", "bbox_to_anchor": (0.995, 1.0)}
    figure.legend(handles=handles, **place, ncol=len(handles), frameon=False, fontsize=8, handletextpad=0.2)

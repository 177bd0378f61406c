"""The delay curve: what waiting for further frames gives, in correlation and in timing.

Made of the scores of finished runs, those of neurons that the scored network did not learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.catalogue import training_data
from cascade_rt.errors import TrainingError

from .bootstrap import CONFIDENCE, median_interval
from .checkpoint import replaced
from .noised import NOISE_LEVELS
from .pictures import COLORS, MARKERS, check_format, tidy
from .run import Run
from .summary import MEASURES
from .tables import head_rows, number_text, with_interval

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from .bootstrap import Interval
    from .config import TrainingConfig
    from .summary import Table

__all__ = ["CONFIGURATIONS", "SHOWN", "Point", "plot", "points_of", "read_points", "to_markdown", "write_csv"]

#: Configurations that the curve is made of, below the folder of configurations.
CONFIGURATIONS = (
    *(f"GCaMP8_EXC_{kind}" for kind in ("15Hz_smoothing100ms", "30Hz_smoothing25ms", "60Hz_smoothing12ms")),
    *(f"studies/GCaMP6_EXC_{kind}" for kind in ("15Hz_smoothing100ms", "30Hz_smoothing25ms", "60Hz_smoothing12ms")),
)
#: Indicators and families of them in the tables and in the picture; the CSV has the others too.
SHOWN = ("GCaMP8", "GCaMP6f", "GCaMP6s")
_ALSO = ("GCaMP8f", "GCaMP8m", "GCaMP8s")
#: What a shorter look-ahead may lose in correlation against the best one and still be called enough.
ENOUGH = 0.02
#: The test whose scores are read: cross-validation over neurons.
_TEST = "folds"
_COLUMNS = ("correlation", "error", "bias", "timing_error_ms", "detected_percent")
_DRAWN = ("correlation", "timing_error_ms")
_LINES = ("-", "--", ":")
_TICKS_MS = (20, 50, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Medians over neurons at one delay.

    Parameters
    ----------
    indicator : str
        Or a family of indicators.
    frame_rate_hz : float
    smoothing_s : float
        Standard deviation of the Gaussian that smoothed the true spikes (s).
    noise_level : float
        ν that recordings were brought to, % Hz^-1/2.
    lookahead : int
        Frames.
    values : dict
        By name of :data:`training.summary.MEASURES`.
    """

    indicator: str
    frame_rate_hz: float
    smoothing_s: float
    noise_level: float
    lookahead: int
    values: dict[str, Interval]

    @property
    def integration_ms(self) -> float:
        """From the start of the described frame to the end of the last one that is waited for (ms)."""
        return 1000 * (self.lookahead + 1) / self.frame_rate_hz


# ── from scores ──


def read_points(configs: Sequence[TrainingConfig], *, runs: Path) -> tuple[list[Point], dict[str, str]]:
    """Read the scores of finished runs.

    Parameters
    ----------
    configs : sequence of TrainingConfig
    runs : Path
        Folder of the runs, each in a subfolder of its name.

    Returns
    -------
    points : list of Point
        By indicator, frame rate, noise level and look-ahead.
    lacking : dict
        From the name of a model to what its run lacks.
    """
    points: list[Point] = []
    lacking: dict[str, str] = {}
    for config in configs:
        try:
            tables = Run(config, ground_truth=Path(), folder=runs / config.name).tables()
        except TrainingError as error:
            lacking[config.name] = str(error)
            continue
        own = [table for table in tables if table.test == _TEST and not table.rival]
        points += [point for table in own for point in points_of(table, config)]
        absent = sorted(set(NOISE_LEVELS) - {s.noise_level for table in own for s in table.scores})
        if absent:
            levels = ", ".join(f"{level:g}" for level in absent)
            lacking[config.name] = f"no scores of a cross-validation at ν = {levels}" if own else "no scores"
    order = (*SHOWN, *_ALSO)
    points.sort(key=lambda p: (order.index(p.indicator), p.frame_rate_hz, p.noise_level, p.lookahead))
    return points, lacking


def points_of(table: Table, config: TrainingConfig) -> list[Point]:
    """Medians for each indicator, noise level and look-ahead of one model."""
    kinds = {s.dataset: training_data([s.dataset]).indicators for s in table.scores}
    out = []
    for indicator in (*SHOWN, *_ALSO):
        own = [s for s in table.scores if any(indicator in (kind.name, kind.family) for kind in kinds[s.dataset])]
        for level, lookahead in sorted({(s.noise_level, s.lookahead) for s in own}):
            scores = [s for s in own if (s.noise_level, s.lookahead) == (level, lookahead)]
            values = {name: median_interval([m.value(s) for s in scores]) for name, m in MEASURES.items()}
            out.append(
                Point(
                    indicator=indicator,
                    frame_rate_hz=config.frame_rate_hz,
                    smoothing_s=config.smoothing_s,
                    noise_level=level,
                    lookahead=lookahead,
                    values=values,
                )
            )
    return out


# ── table of numbers ──


def write_csv(path: Path, points: Sequence[Point]) -> None:
    """Write every point: each measure with its interval and the number of neurons for which it is defined."""
    places = ("indicator", "frame_rate_hz", "smoothing_ms", "noise_level", "lookahead_frames", "integration_ms")
    parts = ("", "_low", "_high", "_neurons")
    rows: list[list[object]] = [[*places, *(f"{name}{part}" for name in MEASURES for part in parts)]]
    for p in points:
        where = (p.frame_rate_hz, 1000 * p.smoothing_s, p.noise_level, p.lookahead, p.integration_ms)
        numbers = [number for name in MEASURES for number in p.values[name]]
        rows.append([p.indicator, *map(_plain, where), *map(_plain, numbers)])
    with replaced(path) as file:
        file.write("".join(",".join(map(str, row)) + "\n" for row in rows).encode())


def _plain(number: float) -> str:
    return f"{number:.5g}" if np.isfinite(number) else ""


# ── text ──


def to_markdown(points: Sequence[Point], *, picture: str, data: str, lacking: Sequence[str] = ()) -> str:
    """Page with the curve: how to read it, which delay is enough, the picture, and all numbers.

    Parameters
    ----------
    points : sequence of Point
    picture, data : str
        Links to the picture and to the CSV file.
    lacking : sequence of str
        Models of which there are no scores.
    """
    shown = [p for p in points if p.indicator in SHOWN]
    conditions = _conditions(shown)
    rates = {p.frame_rate_hz: 1000 * p.smoothing_s for p in shown}
    smoothing = ", ".join(f"{ms:g} ms at {rate:g} Hz" for rate, ms in sorted(rates.items()))
    parts = [_TEXT.format(picture=picture, confidence=100 * CONFIDENCE, enough=ENOUGH)]
    if lacking:
        parts += [f"Not measured: {', '.join(lacking)}.\n"]
    parts += ["\n".join(_enough_rows(shown)), f"\n## All numbers\n\n{_NUMBERS.format(data=data, smoothing=smoothing)}"]
    for indicator, rate in conditions:
        own = [p for p in shown if (p.indicator, p.frame_rate_hz) == (indicator, rate)]
        parts += [f"\n### {indicator}, {rate:g} Hz\n", "\n".join(_rows(own))]
    return "\n".join(parts) + "\n"


_TEXT = """\
# The delay curve

A spike is told apart from noise by what follows it: the longer one waits, the better its frame can be described.
A model of this project gives an estimate for each of its look-aheads; this page says what each is worth, so that a
delay can be chosen for an experiment. It is made by `python -m training delay-curve`.

**Integration time** is (look-ahead + 1) / frame rate: from the start of the described frame to the end of the last one
that is waited for. What computing and transport take comes on top of it.

![Correlation and timing error against integration time]({picture})

Medians over neurons that the scored network did not learn from (cross-validation), with {confidence:g} % bootstrap
intervals; ν is the noise level that the recordings were brought to (% Hz^-1/2).

## Choosing a delay

Find the panel of your indicator and frame rate and the line of your noise level, and go left from its right end until
it falls: left of the bend, spikes are missed or smeared; right of it, waiting gains nothing. If a reaction is needed
sooner than that, look up what it costs, and take the later revisions of the same frames for the analysis.

Shortest integration time that loses at most {enough:g} in correlation against the best look-ahead; in brackets the
look-ahead in frames:
"""

_NUMBERS = """\
The timing error is the distance between an isolated spike's bump in the estimate and where it should be, over the
spikes that are detected: read it together with the share detected, since at the shortest delays only the largest are.
Neurons are fewer where recordings are noisier than ν by themselves, and fewer still for timing, which needs isolated
spikes. GCaMP8f, GCaMP8m and GCaMP8s by themselves, the signed timing error, false events and all intervals are in
[{data}]({data}).

Correlations are to be compared within a frame rate, not between: the true spikes were smoothed with a Gaussian of
{smoothing}."""


def _conditions(points: Sequence[Point]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((p.indicator, p.frame_rate_hz) for p in points))


def _enough_rows(points: Sequence[Point]) -> list[str]:
    levels = sorted({p.noise_level for p in points})
    rows = head_rows(["indicator", "frame rate (Hz)", *(f"ν = {level:g}" for level in levels)])
    for indicator, rate in _conditions(points):
        cells = []
        for level in levels:
            curve = [p for p in points if (p.indicator, p.frame_rate_hz, p.noise_level) == (indicator, rate, level)]
            cells.append(_enough(curve))
        rows.append(f"| {indicator} | {rate:g} | " + " | ".join(cells) + " |")
    return rows


def _enough(curve: Sequence[Point]) -> str:
    correlation = [p.values["correlation"].median for p in curve]
    best = max((r for r in correlation if np.isfinite(r)), default=np.nan)
    first = next((p for p, r in zip(curve, correlation, strict=True) if r >= best - ENOUGH), None)
    return "n/a" if first is None else f"{first.integration_ms:.0f} ms ({first.lookahead})"


def _rows(points: Sequence[Point]) -> list[str]:
    rows = head_rows(
        ["ν", "look-ahead", "integration (ms)", "neurons", *(MEASURES[name].label for name in _COLUMNS)],
    )
    for p in points:
        values = [
            (with_interval if name in _DRAWN else _median)(p.values[name], MEASURES[name].style) for name in _COLUMNS
        ]
        where = f"{p.noise_level:g} | {p.lookahead} | {p.integration_ms:.0f} | {p.values['correlation'].n}"
        rows.append(f"| {where} | " + " | ".join(values) + " |")
    return rows


def _median(value: Interval, style: str) -> str:
    return number_text(value.median, style)


# ── picture ──


def plot(path: str | os.PathLike[str], points: Sequence[Point]) -> Path:
    """Draw correlation and timing error against integration time: a panel for each indicator and frame rate.

    Parameters
    ----------
    path : path
        File to write: .png, .pdf or .svg.
    points : sequence of Point

    Raises
    ------
    TrainingError
        There is nothing to draw, or the file name has another ending.
    """
    from matplotlib.figure import Figure

    target = check_format(path)
    shown = [p for p in points if p.indicator in SHOWN]
    if not shown:
        raise TrainingError(f"no scores of {', '.join(SHOWN)}: nothing to draw")
    indicators, rates = list(dict.fromkeys(p.indicator for p in shown)), sorted({p.frame_rate_hz for p in shown})
    levels = sorted({p.noise_level for p in shown})
    n_rows = len(indicators) * len(_DRAWN)
    height = 1.2 + 1.75 * n_rows
    figure = Figure(figsize=(2.2 + 2.5 * len(rates), height), layout="constrained")
    grid = figure.subplots(n_rows, len(rates), squeeze=False, sharex=True, sharey="row")
    for row, (indicator, name) in enumerate((i, n) for i in indicators for n in _DRAWN):
        for axes, rate in zip(grid[row], rates, strict=True):
            own = [p for p in shown if (p.indicator, p.frame_rate_hz) == (indicator, rate)]
            for place, level in enumerate(levels):
                _curve(axes, [p for p in own if p.noise_level == level], name, place, level)
            tidy(axes)
            axes.grid(axis="both", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
        grid[row, 0].set_ylabel(f"{indicator}\n{MEASURES[name].label}", fontsize=9)
        if name != "correlation":
            grid[row, 0].set_ylim(bottom=0)
    for axes in grid[-1]:
        _time_below(axes, shown)
    for axes, rate in zip(grid[0], rates, strict=True):
        _frames_above(axes, rate, sorted({p.lookahead for p in shown if p.frame_rate_hz == rate}))
    most = max(grid.flat, key=lambda axes: len(axes.containers))
    handles, labels = most.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=len(levels), frameon=False, fontsize=9)
    figure.savefig(target, dpi=130)
    return target


def _curve(axes: Any, curve: Sequence[Point], name: str, place: int, level: float) -> None:
    """One noise level: medians with intervals, moved a little aside from those of the other levels."""
    cells = np.array([p.values[name][:3] for p in curve]).reshape(-1, 3)
    x = np.array([p.integration_ms for p in curve]) * 1.025 ** (place - 1)
    reach = np.nan_to_num(np.abs(cells[:, 1:] - cells[:, :1])).T
    axes.errorbar(
        x,
        cells[:, 0],
        yerr=reach,
        label=f"ν = {level:g} % Hz$^{{-1/2}}$",
        color=COLORS[place % len(COLORS)],
        marker=MARKERS[place % len(MARKERS)],
        linestyle=_LINES[place % len(_LINES)],
        linewidth=1.3,
        elinewidth=0.8,
        markersize=4,
    )


def _frames_above(axes: Any, rate: float, lookaheads: Sequence[int]) -> None:
    """Name the look-aheads above a column of panels."""
    above = axes.secondary_xaxis("top")
    above.set_xticks([1000 * (k + 1) / rate for k in lookaheads], [str(k) for k in lookaheads])
    above.minorticks_off()
    above.tick_params(labelsize=8)
    above.set_xlabel(f"{rate:g} Hz: look-ahead (frames)", fontsize=9)


def _time_below(axes: Any, points: Sequence[Point]) -> None:
    times = [p.integration_ms for p in points]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.2, max(times) * 1.2)
    axes.set_xticks([ms for ms in _TICKS_MS if min(times) <= ms <= max(times)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("integration time (ms)", fontsize=9)

"""How the baseline F0 moves correlation, error and bias, on recordings in which the spikes are known.

The ground truth holds ΔF/F. It is brought to a noise level, turned into fluorescence with a baseline that bleaches and
drifts, F = F0(t) · (1 + ΔF/F), and ΔF/F is computed anew with each choice of baseline; the shipped models predict from
it, with the noise level measured on it, as for any recording. The ΔF/F as delivered is the reference.

The models were trained on these neurons (with the ΔF/F as delivered): the scores compare baselines and do not tell how
good the models are. Prints the tables of ``docs/baseline.md`` and draws its picture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

import cascade_rt as crt
from cascade_rt import _kernels
from cascade_rt.baseline import BaselineOptions, delta_f_over_f
from cascade_rt.noise import noise_levels

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the training package, where only the runtime is installed

from training.evaluate import engine_predictor, metrics  # noqa: E402
from training.ground_truth import read_datasets, resample_recordings  # noqa: E402
from training.noised import NoisedTraces  # noqa: E402
from training.targets import smooth_spikes  # noqa: E402

RATE = 30.0
LEVELS = (2.0, 4.0, 8.0)
#: Model, and what it is scored on. The last group holds the most active neurons of the database.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "GCaMP8": ("GCaMP8_EXC_30Hz_smoothing25ms", ("DS30", "DS31", "DS32")),
    "GCaMP6": ("Global_EXC_30Hz_smoothing50ms", ("DS09", "DS14", "DS15")),
    "busy": ("Global_EXC_30Hz_smoothing50ms", ("DS07", "DS08", "DS16")),
}
#: Recordings of a neuron are put end to end up to this length; shorter ones are left out, s.
LONGEST_S, SHORTEST_S = 480.0, 100.0
BROWN, BLUE, GREEN, GREY = "#b3561d", "#2060a8", "#3a8a4a", "0.5"


# ── baselines ──


def with_options(fluorescence: np.ndarray, **options: Any) -> np.ndarray:
    """ΔF/F by the library."""
    chosen = BaselineOptions(**options)
    return delta_f_over_f(fluorescence[None], frame_rate_hz=RATE, options=chosen).dff[0]


def moving(values: np.ndarray, percentile: float, window_s: float) -> np.ndarray:
    w = round(window_s * RATE)
    n = np.arange(w + 1)
    ranks = np.minimum((n * percentile / 100).astype(np.int64), np.maximum(n - 1, 0))
    row = np.ascontiguousarray(values, np.float32)[None]
    out = np.empty_like(row)
    _kernels.over_rows(_kernels.moving_rank_rows, (row, out), (w // 2, w - 1 - w // 2, ranks))
    return out[0].astype(float)


def noise_corrected(fluorescence: np.ndarray, *, percentile: float, smoothing_s: float = 0.0) -> np.ndarray:
    """Add what the percentile of white noise lies below its mean; the noise as in ν, from differences."""
    from scipy.ndimage import uniform_filter1d

    m = max(1, round(smoothing_s * RATE))
    sigma = moving(np.abs(np.diff(fluorescence, append=np.nan)), 50, 60) / (0.6745 * np.sqrt(2 * m))
    smooth = uniform_filter1d(fluorescence, m, mode="nearest")
    return by(moving(smooth, percentile, 60) - NormalDist().inv_cdf(percentile / 100) * sigma, fluorescence)


def maximin(fluorescence: np.ndarray) -> np.ndarray:
    """Suite2p's baseline by its defaults: Gaussian of 10 s, then a moving minimum, then maximum, of 60 s."""
    from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

    w = int(60 * RATE)
    return by(maximum_filter1d(minimum_filter1d(gaussian_filter1d(fluorescence, 10 * RATE), w), w), fluorescence)


def whole(fluorescence: np.ndarray, *, percentile: float) -> np.ndarray:
    return by(np.full(fluorescence.size, np.percentile(fluorescence, percentile)), fluorescence)


def by(baseline: np.ndarray, fluorescence: np.ndarray) -> np.ndarray:
    if baseline.min() <= 0:
        return np.full(fluorescence.size, np.nan, np.float32)
    return ((fluorescence - baseline) / baseline).astype(np.float32)


DEFAULT = "default: 8 %, 60 s, mean of 1 s"
CHOICES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    DEFAULT: with_options,
    "percentile 5 %": partial(with_options, percentile=5),
    "percentile 10 %": partial(with_options, percentile=10),
    "percentile 20 %": partial(with_options, percentile=20),
    "percentile 50 %": partial(with_options, percentile=50),
    "no mean": partial(with_options, smoothing_s=0),
    "mean of 0.5 s": partial(with_options, smoothing_s=0.5),
    "mean of 2 s": partial(with_options, smoothing_s=2),
    "mean of 4 s": partial(with_options, smoothing_s=4),
    "window of 15 s": partial(with_options, window_s=15),
    "window of 30 s": partial(with_options, window_s=30),
    "window of 120 s": partial(with_options, window_s=120),
    "window of 300 s": partial(with_options, window_s=300),
    "no mean, 20 %": partial(with_options, smoothing_s=0, percentile=20),
    "no mean, 50 %": partial(with_options, smoothing_s=0, percentile=50),
    "no mean, noise added": partial(noise_corrected, percentile=8),
    "noise added": partial(noise_corrected, percentile=8, smoothing_s=1),
    "no mean, 20 %, noise added": partial(noise_corrected, percentile=20),
    "Suite2p's maximin": maximin,
    "one value: 8 % of all frames": partial(whole, percentile=8),
    "one value: median of all frames": partial(whole, percentile=50),
    "trailing (live)": partial(with_options, position="trailing"),
    "trailing, 120 s": partial(with_options, position="trailing", window_s=120),
}
FEW = (DEFAULT, "no mean", "no mean, noise added", "trailing (live)")
PARTS = {"": slice(None), " first 60 s": slice(0, round(60 * RATE)), " after 60 s": slice(round(60 * RATE), None)}


# ── data ──


@dataclass
class Cell:
    """One neuron at one noise level: recordings end to end."""

    key: tuple[str, str]
    dff: np.ndarray
    truth: np.ndarray
    spikes_per_s: float
    scores: dict[str, Any] = field(default_factory=dict)
    level: dict[str, float] = field(default_factory=dict)

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32("/".join(self.key).encode()))

    def f0(self) -> np.ndarray:
        """Baseline that loses 30 % by bleaching and wanders by 5 % (standard deviation), slowly."""
        from scipy.ndimage import gaussian_filter1d

        n = self.dff.size
        slow = gaussian_filter1d(self.rng.standard_normal(n + 12_000), 30 * RATE)[6000 : 6000 + n]
        return 800 * (0.7 + 0.3 * np.exp(-3 * np.arange(n) / n)) * (1 + 0.05 * (slow - slow.mean()) / slow.std())


def cells(args: argparse.Namespace, group: str, spec: Any) -> dict[float, list[Cell]]:
    recordings, _ = read_datasets(args.shared / "ground_truth", GROUPS[group][1])
    traces, _ = resample_recordings(recordings, RATE)
    tests = NoisedTraces(traces, noise_levels=args.levels)
    out: dict[float, list[Cell]] = defaultdict(list)
    for count, (key, parts) in enumerate(tests.neurons()):
        if args.quick and count % 8:
            continue
        for level in args.levels:
            dff: list[np.ndarray] = []
            truth: list[np.ndarray] = []
            spikes = 0.0
            for lifted, trace in zip(tests.lifted(key, level), parts, strict=True):
                if lifted is None or sum(part.size for part in dff) + lifted.size > LONGEST_S * RATE * 1.3:
                    continue
                dff.append(lifted)
                spikes += float(trace.spike_counts.sum())
                truth.append(
                    smooth_spikes(
                        trace.spike_counts,
                        smoothing_s=spec.smoothing_s,
                        frame_rate_hz=RATE,
                        causal_kernel=spec.causal_kernel,
                    )
                )
            n = sum(part.size for part in dff)
            if n >= SHORTEST_S * RATE and spikes:
                out[level].append(Cell(key, np.concatenate(dff), np.concatenate(truth), spikes / n * RATE))
    return out


def score(cell: Cell, name: str, dff: np.ndarray, predict: Any) -> None:
    nu = noise_levels(dff[None], frame_rate_hz=RATE)
    nothing = np.full(dff.size, np.nan)
    prediction = np.maximum(predict(dff, float(nu[0]))[-1], 0) if np.isfinite(nu[0]) else nothing
    for part, frames in PARTS.items():
        if not part or name in ("as delivered", DEFAULT) or name.startswith("trailing"):
            cell.scores[name + part] = metrics(prediction[frames], cell.truth[frames])


# ── tables ──


def collect(of: list[Cell], names: list[str], part: str = "") -> list[dict[str, Any]]:
    """Scores of each choice over neurons; changes are against the ΔF/F as delivered, neuron by neuron."""
    reference = np.array([cell.scores["as delivered" + part] for cell in of])
    rows = []
    for name in names:
        values = np.array([cell.scores[name + part] for cell in of], float)
        good = np.isfinite(values[:, 0])
        median = np.nanmedian(values[good], axis=0) if good.any() else np.full(3, np.nan)
        change = values[good, 0] - reference[good, 0] if good.any() else np.array([np.nan])
        rows.append(
            {
                "baseline": name,
                "neurons": len(of),
                **dict(zip(("correlation", "error", "bias"), map(float, median), strict=True)),
                "mean_change": float(change.mean()),
                "worst_change": float(change.min()),
                "f0_over_true": float(np.nanmedian([cell.level.get(name, np.nan) for cell in of])),
                "without": int(np.isfinite(reference[:, 0]).sum() - good.sum()),
            }
        )
    return rows


def study(args: argparse.Namespace) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    names = [name for name in CHOICES if not args.quick or name in FEW]
    for group, (model_name, _) in GROUPS.items():
        model = crt.load_model(model_name)
        predict = engine_predictor(model)
        for level, of in cells(args, group, model.spec).items():
            for cell in of:
                f0 = cell.f0()
                fluorescence = f0 * (1 + cell.dff)
                score(cell, "as delivered", cell.dff, predict)
                for name in names:
                    dff = CHOICES[name](fluorescence)
                    score(cell, name, dff, predict)
                    # F0 = F / (1 + ΔF/F), wherever that is well defined.
                    with np.errstate(all="ignore"):
                        ratio = fluorescence / (1 + dff.astype(float)) / f0
                    cell.level["as delivered"] = 1.0
                    cell.level[name] = float(np.nanmedian(ratio)) if np.isfinite(ratio).any() else np.nan
            key = f"{group}, ν = {level:g}"
            bound = np.quantile([cell.spikes_per_s for cell in of], 0.75)
            most = [cell for cell in of if cell.spikes_per_s >= bound]
            answer[key] = collect(of, ["as delivered", *names])
            answer[f"{key}, most active"] = collect(most, ["as delivered", *names])
            placed = ["as delivered", DEFAULT, *(name for name in names if name.startswith("trailing"))]
            for part in ("first 60 s", "after 60 s"):
                answer[f"{key}, {part}"] = collect(of, placed, f" {part}")
            print(f"{key}: {len(of)} neurons, most active from {bound:.1f} spikes/s", file=sys.stderr)
    answer["neuropil"] = neuropil(args)
    return answer


def neuropil(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulated contamination: how much of a bright neuropil is in the trace against how much is subtracted."""
    from scipy.ndimage import gaussian_filter1d

    model = crt.load_model(GROUPS["GCaMP8"][0])
    predict = engine_predictor(model)
    of = cells(args, "GCaMP8", model.spec)[args.levels[0]]
    rows = []
    for brightness, share in ((1.0, 0.7), (2.0, 0.3)):
        for coefficient in (0.0, 0.15, 0.3, 0.7, 1.0):
            found, lost = [], 0
            for number, cell in enumerate(of):
                others = [other.dff for other in of[:number] + of[number + 1 :]]
                mean = np.mean([np.resize(dff, cell.dff.size) for dff in others], axis=0)
                around = brightness * cell.f0() * (1 + gaussian_filter1d(mean, 0.2 * RATE))
                fluorescence = cell.f0() * (1 + cell.dff) + share * around
                result = delta_f_over_f(
                    fluorescence[None],
                    frame_rate_hz=RATE,
                    neuropil=around[None],
                    options=BaselineOptions(neuropil_coefficient=coefficient),
                )
                if result.non_positive[0]:
                    lost += 1
                    continue
                score(cell, "neuropil", result.dff[0], predict)
                found.append(cell.scores["neuropil"])
            c, e, b = np.nanmedian(np.array(found, float), axis=0) if found else (np.nan,) * 3
            rows.append(
                {
                    "brightness": brightness,
                    "share": share,
                    "subtracted": coefficient,
                    "scores": [float(c), float(e), float(b)],
                    "without": lost,
                    "neurons": len(of),
                }
            )
    return rows


def report(answer: dict[str, Any]) -> None:
    """Print the tables of the documentation."""
    keys = [key for key in answer if key.count(",") == 1 and key != "neuropil"]
    for what, form in (("mean_change", "+.3f"), ("error", ".2f"), ("bias", "+.2f"), ("f0_over_true", ".2f")):
        head(f"{what}: all neurons", ["baseline", *(f"{key} ({answer[key][0]['neurons']})" for key in keys)])
        for number, row in enumerate(answer[keys[0]]):
            cells_of = [answer[key][number] for key in keys]
            first = what == "mean_change" and number == 0
            values = [f"{c['correlation']:.3f}" if first else f"{c[what]:{form}}" for c in cells_of]
            print(f"| {row['baseline']} | {' | '.join(values)} |")
    for part in ("most active", "first 60 s", "after 60 s"):
        head(f"mean change of correlation, bias: {part}", ["baseline", *keys])
        for number, row in enumerate(answer[f"{keys[0]}, {part}"]):
            cells_of = [answer[f"{key}, {part}"][number] for key in keys]
            values = [
                f"{c['correlation'] if number == 0 else c['mean_change']:{'.3f' if number == 0 else '+.3f'}}, "
                f"{c['bias']:+.2f}" + (f" ({c['without']} without)" if c["without"] else "")
                for c in cells_of
            ]
            print(f"| {row['baseline']} | {' | '.join(values)} |")
    titles = ["neuropil / cell", "in the trace", "subtracted", "correlation", "error", "bias", "without ΔF/F"]
    head("neuropil", titles)
    for row in answer["neuropil"]:
        c, e, b = row["scores"]
        scores = f"{c:.3f} | {e:.2f} | {b:+.2f}" if np.isfinite(c) else "– | – | –"
        lost = f"{row['without']} of {row['neurons']}" if row["without"] else ""
        print(f"| {row['brightness']:g} | {row['share']:g} | {row['subtracted']:g} | {scores} | {lost} |")


def head(title: str, columns: list[str]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


# ── picture ──


def picture(args: argparse.Namespace, answer: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    example(args, axes[0, 0])
    shown = {
        "no mean": ("8 %, no mean", BROWN, "s"),
        "no mean, noise added": ("8 %, noise added", GREEN, "^"),
        "one value: 8 % of all frames": ("8 % of all frames", GREY, "v"),
        DEFAULT: ("default", BLUE, "o"),
    }
    for axis, what in ((axes[0, 1], "mean_change"), (axes[0, 2], "bias")):
        for name, (label, colour, marker) in shown.items():
            for group, style in (("GCaMP8", "-"), ("GCaMP6", "--")):
                points = [
                    (level, row[what])
                    for level in args.levels
                    for row in answer.get(f"{group}, ν = {level:g}", [])
                    if row["baseline"] == name
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=colour, marker=marker, label=f"{label}, {group}")
        axis.axhline(0, color="0.8", zorder=0)
        axis.set(xlabel="noise level ν (% Hz$^{-1/2}$)", xticks=args.levels)
    axes[0, 1].set(title="Noise: correlation", ylabel="change of correlation against\nΔF/F as delivered (mean)")
    axes[0, 2].set(title="Noise: bias", ylabel="bias (median)", yscale="symlog", yticks=[-0.5, 0, 0.5, 1, 5])
    axes[0, 2].yaxis.set_major_formatter("{x:g}")
    axes[0, 1].legend(fontsize=7)
    sweeps = {
        "Window": ([(15, "window of 15 s"), (30, "window of 30 s"), (60, DEFAULT), (120, "window of 120 s"),
                    (300, "window of 300 s")], "window (s)"),
        "Percentile": ([(5, "percentile 5 %"), (8, DEFAULT), (10, "percentile 10 %"), (20, "percentile 20 %"),
                        (50, "percentile 50 %")], "percentile"),
        "Averaging before the percentile": ([(0.25, "no mean"), (0.5, "mean of 0.5 s"), (1, DEFAULT),
                                             (2, "mean of 2 s"), (4, "mean of 4 s")], "mean over (s)"),
    }  # fmt: skip
    for axis, (title, (sweep, label)) in zip(axes[1], sweeps.items(), strict=True):
        for (group, colour), (level, style) in (
            (g, v) for g in (("GCaMP8", BLUE), ("GCaMP6", GREEN), ("busy", BROWN)) for v in ((2.0, "-"), (8.0, "--"))
        ):
            rows = {row["baseline"]: row for row in answer.get(f"{group}, ν = {level:g}", [])}
            points = [(x, rows[name]["mean_change"]) for x, name in sweep if name in rows]
            if points:
                axis.plot(*zip(*points, strict=True), style, color=colour, marker="o", label=f"{group}, ν = {level:g}")
        axis.axhline(0, color="0.8", zorder=0)
        places = [x for x, _ in sweep]
        axis.set(title=title, xlabel=label, xscale="log", ylabel="change of correlation (mean)")
        axis.set_xticks(places, [f"{x:g}" if x != 0.25 else "none" for x in places])
        axis.minorticks_off()
    axes[1, 0].legend(fontsize=7)
    figure.savefig(args.figure, dpi=110)


def example(args: argparse.Namespace, axis: Any) -> None:
    model = crt.load_model(GROUPS["GCaMP8"][0])
    cell = cells(args, "GCaMP8", model.spec)[args.levels[-1]][0]
    f0 = cell.f0()
    fluorescence = f0 * (1 + cell.dff)
    seconds = np.arange(f0.size) / RATE
    axis.plot(seconds, fluorescence, color="0.8", linewidth=0.3, label="F")
    axis.plot(seconds, f0, color="k", linewidth=1.5, label="true F0")
    for options, colour, label in (({"smoothing_s": 0}, BROWN, "8 %, no mean"), ({}, BLUE, "default")):
        dff = with_options(fluorescence, **options).astype(float)
        axis.plot(seconds, fluorescence / (1 + dff), color=colour, linewidth=1.2, label=label)
    axis.set(
        title=f"One neuron, ν = {args.levels[-1]:g}",
        xlabel="time (s)",
        ylabel="fluorescence",
        ylim=(0, np.percentile(fluorescence, 99.8)),
        xlim=(0, seconds[-1]),
    )
    axis.legend(fontsize=7, ncols=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few neurons and choices, one noise level")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    parser.add_argument("--figure", type=Path, help="write the picture, such as docs/baseline.png")
    parser.add_argument("--redraw", type=Path, help="JSON of an earlier run: only tell and draw it")
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("CASCADE_RT_SHARED", ROOT.parent / "shared"))
    )
    args = parser.parse_args()
    args.levels = LEVELS[:1] if args.quick else LEVELS
    started = time.perf_counter()
    if args.redraw is None:
        answer = study(args)
        print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    else:
        answer = json.loads(args.redraw.read_text(encoding="utf-8"))
    report(answer)
    if args.out is not None:
        args.out.write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.figure is not None:
        picture(args, answer)


if __name__ == "__main__":
    main()

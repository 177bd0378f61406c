"""One page about a measured loop: figures, picture, machine. A single HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from .loopback import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .loopback import Loop

__all__ = ["html_report", "picture"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff; max-width: 52rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
.sum { font-size: 1.05rem; background: #eef3f8; border-left: 4px solid #0072b2; padding: .6rem .9rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #d5dde5; }
th:first-child, td:first-child, .words td { text-align: left; } th { font-weight: 600; color: #40566b; }
small { color: #5a6b7b; } img { width: 100%; } pre { background: #f4f6f8; padding: .6rem; overflow-x: auto; }
@media print { body { margin: 0 auto; font-size: 12px; } }
"""
_COLUMNS = ("p50_ms", "p99_ms", "p99.9_ms", "max_ms")


def picture(loop: Loop) -> bytes:
    """Draw how the latencies are distributed and how they went over time, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    deadline = 1000 / loop.summary["frame_rate_hz"]
    curves = {
        "frame sent → result received": (1000 * (loop.received - loop.sent), "#0072b2"),
        "frame received → event at a subscriber": (1000 * (loop.events[:, 2] - loop.events[:, 1]), "#d55e00"),
    }
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    known = {name: (times[np.isfinite(times)], color) for name, (times, color) in curves.items()}
    every = np.concatenate([times for times, _ in known.values()])
    lowest, highest = (max(every.min(), 1e-3), every.max()) if every.size else (1.0, 1.0)
    edges = np.geomspace(lowest * 0.9, max(highest, deadline) * 1.15, 90)
    for name, (times, color) in known.items():
        if times.size:
            above.hist(times, edges, color=color, alpha=0.35, label=f"{name} ({times.size})")
            above.hist(times, edges, color=color, histtype="step", linewidth=1.2)
    above.axvline(deadline, color="#000000", linestyle="--", linewidth=1)
    above.text(
        deadline, 0.97, f" a frame: {deadline:.1f} ms ", transform=above.get_xaxis_transform(), va="top", ha="right"
    )
    above.set_xscale("log")
    above.set_yscale("log")
    above.set_xlabel("latency (ms)")
    above.set_ylabel("how often")
    if every.size:
        above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    seconds = np.arange(len(loop.sent)) / loop.summary["frame_rate_hz"]
    below.plot(
        seconds, curves["frame sent → result received"][0], color="#0072b2", linewidth=0, marker=".", markersize=2
    )
    below.axhline(deadline, color="#000000", linestyle="--", linewidth=1)
    below.set_yscale("log")
    below.set_xlabel("time of the run (s)")
    below.set_ylabel("sent → result (ms)")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    for axis in (above.xaxis, above.yaxis, below.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def html_report(loop: Loop) -> str:
    """Write the page."""
    values = loop.to_dict()
    here, frames, integration = values["machine"], values["frames"], values["integration"]
    end_to_end, event = values["end_to_end"], values["event"]
    rows = [_row(f"{name} <small>{escape(STAGES[name])}</small>", stage) for name, stage in values["stages"].items()]
    whole = [
        _row("receive to publish <small>all of it, inside the run</small>", values["receive_to_publish"]),
        _row("<b>frame sent to result received</b>", end_to_end),
        _row("<b>frame received by the run to event at a subscriber</b>", event["frame_received_to_subscriber"]),
        _row("frame sent to event at a subscriber", event["frame_sent_to_subscriber"]),
    ]
    machine = {
        "processor": f"{here['processor']}, {here['cores_usable']} of {here['cores']} cores",
        "memory": f"{here['memory_gb']} GB",
        "system": here["system"],
        "software": ", ".join(f"{name} {number}" for name, number in here["versions"].items() if number),
        "Python": here["python"],
        "linear algebra": here["blas"],
        "measured": here["time"],
        "options": " ".join(values["options"]) or "none",
    }
    image = base64.b64encode(picture(loop)).decode("ascii")
    title = f"Latency of {values['model']} with {values['n_neurons']} neurons at {values['frame_rate_hz']:g} Hz"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p><small>{frames["sent"]} frames in {values["seconds"]:g} s, through a sender, <code>cascade-rt run</code> and a
subscriber, each a process of its own, connected by sockets on one machine. Load of the run: {
        _percent(values["load"])
    }.</small></p>
<p class="sum">{sum_in_words(values)}</p>
<p>{frames_in_words(values)}</p>
<h2>Distribution</h2>
<img alt="Histogram of the latencies with the frame time, and the latency over the run" src="data:image/png;base64,{
        image
    }">
<h2>From end to end (ms)</h2>{_table(whole)}
<h2>Stage by stage (ms)</h2>{_table(rows)}
<p><small>The integration time of {
        integration["frames"]
    } frames is what the model waits for by design: from the start of
the described frame to the end of the newest frame that its estimate makes use of (look-ahead
{
        integration["lookahead_frames"]
    }). A camera's own exposure and read-out come before, a stimulator's delay after.</small></p>
<h2>Rules</h2><pre>{escape(event["rule"])}</pre>
<h2>Machine</h2><table class="words">{
        "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in machine.items())
    }</table>
</body></html>
"""


def sum_in_words(values: Mapping[str, Any]) -> str:
    """Integration time, compute time, and both together."""
    integration, end_to_end = values["integration"], values["end_to_end"]
    if not end_to_end["count"]:
        return "no result came back"
    return (
        f"integration {integration['ms']:.1f} ms ({integration['frames']} frames) + compute and transport "
        f"{end_to_end['p99_ms']:.2f} ms (p99) = {values['sum_p99_ms']:.1f} ms from the start of a frame to its result"
    )


def frames_in_words(values: Mapping[str, Any]) -> str:
    """Say how many frames were lost or late."""
    frames = values["frames"]
    return (
        f"{frames['sent']} frames sent, {frames['processed']} processed, {frames['lost']} lost, "
        f"{frames['without_result']} without a result, {frames['late']} later than a frame "
        f"({values['deadline_ms']:.1f} ms)"
    )


def _table(rows: list[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "count", "p50", "p99", "p99.9", "max"))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _row(name: str, values: Mapping[str, Any]) -> str:
    cells = "".join(f"<td>{'' if values[k] is None else format(values[k], '.3f')}</td>" for k in _COLUMNS)
    return f"<tr><td>{name}</td><td>{values['count']}</td>{cells}</tr>"


def _percent(load: float | None) -> str:
    return "unknown" if load is None else f"{100 * load:.0f} %"

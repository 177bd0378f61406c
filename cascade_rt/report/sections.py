"""The parts of the report that are words and numbers, each as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from cascade_rt.catalogue import training_data

from .accuracy import expected_accuracy
from .methods import methods, resampled_to
from .verdict import named_findings, verdict
from .wording import all_levels, count, defined, duration, mean_rate, number, sentence, series, spread

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cascade_rt.quality import Finding
    from cascade_rt.session import Inference

__all__ = ["accuracy", "facts", "files", "findings", "headline", "paper", "reading", "tiles"]

_MARKS = {"good": "✓", "warning": "!", "error": "✕"}
_ALIGNMENTS = {
    "target": "a value describes the frame that the model was trained to describe",
    "cascade": "placed as the published CASCADE software does, {} earlier than trained",
}
#: Rows and runs of frames listed at a finding.
LISTED = 12
SQRT_HZ = "% Hz<sup>−1/2</sup>"


def headline(inference: Inference) -> str:
    """Verdict in one line."""
    level, text = verdict(inference)
    return f'<p class="verdict {level}"><span aria-hidden="true">{_MARKS[level]}</span><span>{escape(text)}</span></p>'


def findings(inference: Inference) -> str:
    """List of all findings, the worst first; empty if there are none."""
    items = []
    for finding, planes in named_findings(inference):
        where = [f"in {series(planes)}"] if planes else []
        where += _where(finding)
        told = f'<span class="where">{escape("; ".join(where))}</span>' if where else ""
        items.append(
            f'<li><span class="label {finding.severity}">{finding.severity}</span>'
            f"<div>{escape(sentence(finding.text))}{told}</div></li>"
        )
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def _where(finding: Finding) -> list[str]:
    """Rows and frames of a finding, unless its text lists them already."""
    told = []
    if finding.neurons and ", ".join(map(str, finding.neurons[: min(3, len(finding.neurons))])) not in finding.text:
        told.append(f"rows {_listed(map(str, finding.neurons[:LISTED]), len(finding.neurons))}")
    if finding.frames and str(finding.frames[0][0]) not in finding.text:
        runs = (f"{start}–{stop - 1}" if stop - start > 1 else str(start) for start, stop in finding.frames[:LISTED])
        told.append(f"frames {_listed(runs, len(finding.frames))}")
    return told


def _listed(items: Iterable[str], n: int) -> str:
    return ", ".join(items) + (f" and {n - LISTED} more" if n > LISTED else "")


def tiles(inference: Inference) -> str:
    """The five numbers that one looks for first."""
    planes = inference.planes
    n_cells, n_defined = sum(p.n_cells for p in planes), sum(defined(p) for p in planes)
    seconds = max(p.n_frames / p.frame_rate_hz for p in planes)
    median, low, high = spread(all_levels(planes))
    spikes = sum(p.expected_spikes for p in planes)
    entries = (
        ("neurons", f"{n_cells:,}", "all with values" if n_defined == n_cells else f"{n_defined:,} with values"),
        ("recording", duration(seconds), f"at {planes[0].frame_rate_hz:.4g} Hz"),
        (f"median noise ν ({SQRT_HZ})", number(median), f"{number(low, 2)} to {number(high, 2)}"),
        ("mean spike rate", f"{number(mean_rate(inference))} Hz", "per neuron"),
        ("spikes expected", f"{spikes:,.0f}", "in all"),
    )
    cells = [f"<div><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>" for name, value, more in entries]
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def facts(inference: Inference) -> str:
    """Two tables: what was read, and what was done with it."""
    tables = (_recording(inference), _done(inference))
    return f'<div class="pair">{"".join(f"""<div class="card">{table}</div>""" for table in tables)}</div>'


def _recording(inference: Inference) -> str:
    planes = inference.planes
    rows = [("source", f"{_path(inference.source)}<br>{escape(inference.title)} ({escape(inference.format)})")]
    if len(planes) > 1:
        rows.append(("planes", escape(f"{len(planes)}: {', '.join(plane.name for plane in planes)}")))
    rows.append(("neurons", _unlike([_neurons(p.n_cells, p.n_rois) for p in planes], [p.name for p in planes])))
    times = [f"{p.n_frames:,} at {p.frame_rate_hz:.4g} Hz: {duration(p.n_frames / p.frame_rate_hz)}" for p in planes]
    rows.append(("frames", _unlike(times, [p.name for p in planes])))
    rows.append(("ΔF/F", _unlike([p.dff_description for p in planes], [p.name for p in planes])))
    named = inference.indicator
    rows.append(("indicator", escape(named) if named else "not named (--indicator)"))
    told = list(dict.fromkeys(fact for plane in planes for fact in plane.facts))
    if told:
        rows.append(("noted", _list(told)))
    speed = f"{number(inference.neuron_frames_per_s)} neuron-frames/s, {duration(inference.seconds)} in all"
    rows.append(("speed", f"{speed}, on {escape(inference.device)} with {count(inference.threads, 'thread')}"))
    rows.append(("versions", escape(", ".join(f"{name} {text}" for name, text in inference.versions.items()))))
    return _table("Recording", rows)


def _neurons(n_cells: int, n_rois: int) -> str:
    return count(n_rois, "neuron") if n_cells == n_rois else f"{n_cells:,} of {n_rois:,} rows processed"


def _done(inference: Inference) -> str:
    spec, options, planes = inference.spec, inference.options, inference.planes
    kernel = "causal" if spec.causal_kernel else "symmetric"
    delay_ms = 1000 * inference.lookahead_frames / spec.frame_rate_hz
    ahead = f"{count(inference.lookahead_frames, 'frame')} ({delay_ms:.0f} ms)"
    low, high = spec.noise_range
    data = training_data(spec.training_datasets)
    alignment = _ALIGNMENTS[options.alignment].format(count(spec.cascade_shift, "frame"))
    rows = [
        ("model", f"<strong>{escape(spec.name)}</strong>"),
        ("smoothing", f"{1000 * spec.smoothing_s:g} ms, {kernel} kernel"),
        ("look-ahead", ahead),
        ("alignment", f"{options.alignment}: {alignment}"),
        ("trained for", f"{spec.frame_rate_hz:g} Hz, ν {low:g} to {high:g} {SQRT_HZ}, {data.cells} neurons"),
        ("trained on", escape(f"{data.brief} ({count(len(spec.training_datasets), 'dataset')})")),
    ]
    if inference.recommendation is None:
        rows.append(("why", "named by the user (--model)"))
    else:
        rows.append(("why", _list(inference.recommendation.offline_reasons)))
    rate = resampled_to(inference)
    if rate is not None:
        rows.append(("resampled", f"to {rate:g} Hz; the result is at the recording's rate"))
    if any(plane.n_discrete is not None for plane in planes):
        rows.append(("single spikes", f"{sum(plane.n_discrete or 0 for plane in planes):,}"))
    return _table("Inference", rows)


def accuracy(inference: Inference) -> str:
    """What the model's card lets expect."""
    found = expected_accuracy(inference)
    card = f"<code>cascade-rt models {escape(inference.spec.name)}</code>"
    title = "<h3>How accurate is it?</h3>"
    if found is None:
        named = inference.indicator
        why = (
            f"The card of this model has no figures for {escape(named)} with a look-ahead of "
            f"{count(inference.lookahead_frames, 'frame')}."
            if named
            else "That depends on the indicator, which was not named (--indicator)."
        )
        return f"{title}<p>{why} What is known of the model: {card} prints its card.</p>"
    noise = f"a noise level ν near {found.rows[0].level:g}" if found.rows else "such noise"
    parts = [
        title,
        f"<p>With {escape(found.indicator.name)} at {noise}, inferred and true spike rates of this model correlate "
        f"with <strong>{found.correlation:.2f}</strong> (look-ahead {inference.lookahead_frames}; both smoothed with "
        f"its kernel of {1000 * inference.spec.smoothing_s:g} ms).</p>",
    ]
    if found.rows:
        names = list(found.rows[0].values)
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("dataset", "ν", "neurons", *names))
        body = "".join(
            f'<tr><th scope="row">{escape(row.dataset)}</th><td>{row.level:g}</td><td>{escape(row.neurons)}</td>'
            + "".join(f"<td>{escape(row.values[name].replace('-', '−'))}</td>" for name in names)
            + "</tr>"
            for row in found.rows
        )
        parts.append(
            f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    about = f"{escape(found.about)}; medians over neurons. " if found.about else ""
    parts.append(
        f'<p class="hint">From the model\'s card: {about}Error and bias are relative to the number of true spikes '
        f"(bias +0.2: 20 % too many); single neurons differ. {card} prints the whole card.</p>"
    )
    return "".join(parts)


def reading(inference: Inference) -> str:
    """How to read the numbers."""
    spec = inference.spec
    rate = inference.planes[0].frame_rate_hz
    undefined = f"{(spec.windowsize - 1) / spec.frame_rate_hz:.2g} s"
    before = "A value may stand before its spike, as the kernel is symmetric." if not spec.causal_kernel else ""
    items = (
        "A <strong>spike probability</strong> is the number of spikes to be expected in a frame. It may exceed 1: in a "
        "burst, several spikes fall into one frame.",
        "Its <strong>sum</strong> over frames is the number of spikes to be expected. <strong>Times the frame "
        f"rate</strong> ({rate:.4g} Hz) it is a spike rate in Hz.",
        f"A single spike gives a bump as wide as the model's smoothing ({1000 * spec.smoothing_s:g} ms) that sums up "
        f"to 1, not one sharp frame. {before}",
        f"<strong>NaN</strong>: undefined. So are the frames at both ends of the recording (together {undefined}, the "
        "model's window), frames near missing values, and neurons without usable ΔF/F. Take "
        "<code>np.nanmean</code> and <code>np.nansum</code>.",
        "Rates are comparable between neurons and sessions as far as noise levels and indicator expression are; "
        "a neuron's absolute rate may be off by the error given here.",
    )
    return f"<h3>How to read it</h3><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def paper(inference: Inference) -> str:
    """Paragraph for the methods section, and the papers that it cites."""
    told = methods(inference)
    papers = "".join(
        f'<li>{escape(item.full)}. <a href="https://doi.org/{escape(item.doi)}">doi:{escape(item.doi)}</a></li>'
        for item in told.papers
    )
    rest = ""
    if told.not_known:
        rest = (
            f'<p class="hint">The model also learnt from {escape(series(told.not_known))}: the CASCADE database names '
            "the papers to cite.</p>"
        )
    if verdict(inference).level == "error":
        rest += '<p class="hint">For your records only: as it is, this recording gives no results to publish.</p>'
    return (
        '<h3>For the methods section <span class="hint">(one click selects it all)</span></h3>'
        f'<p class="methods">{escape(told.text)}</p><h3>It cites</h3><ol class="papers">{papers}</ol>{rest}'
    )


def files(inference: Inference) -> str:
    """What was written, and how to go on."""
    listed = "".join(f"<li>{_path(path)}</li>" for path in inference.outputs)
    planes = inference.planes
    plane = f"[{planes[0].name!r}]" if len(planes) > 1 else ""
    code = (
        "import cascade_rt as crt\n"
        f"result = crt.open_result({str(inference.result)!r}){plane}\n"
        "rate_hz = result.spike_prob[:] * result.frame_rate_hz  # (n_neurons, n_frames); result.times in s"
    )
    return f"<h3>Files written</h3><ul>{listed}</ul><h3>Go on in Python</h3><pre><code>{escape(code)}</code></pre>"


# ---------------------------------------------------------------------------------------------------------- helpers


def _path(path: Path) -> str:
    return f"<code>{escape(str(path))}</code>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _unlike(texts: list[str], names: list[str]) -> str:
    """One text if all planes have the same, else one for each."""
    if len(set(texts)) == 1:
        return escape(texts[0]) + (" (each plane)" if len(texts) > 1 else "")
    return _list(f"{name}: {text}" for name, text in zip(names, texts, strict=True))


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<h3>{title}</h3><table class="facts">{body}</table>'

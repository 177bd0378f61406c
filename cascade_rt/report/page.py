"""The report as a whole: words and pictures put on a page, and the page into a file."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING
from uuid import uuid4

from . import figures, sections
from .style import STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.session import Inference, PlaneSummary

    from .figures import Picture

__all__ = ["render_report", "write_report"]


def write_report(inference: Inference, path: Path) -> Path:
    """Write the report on an inference: one HTML file without scripts, which needs nothing but itself.

    It appears under its name only when it is complete, and replaces an earlier one.

    Parameters
    ----------
    inference : Inference
    path : Path
        ``.html``; its folder exists.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    OSError
        The folder cannot be written to; an earlier report is left as it was.
    """
    page = render_report(inference).encode("utf-8")
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(page)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render_report(inference: Inference) -> str:
    """Text of the report, HTML.

    Parameters
    ----------
    inference : Inference
    """
    name = escape(_name(inference.source))
    version = escape(inference.versions.get("cascade_rt", ""))
    several = len(inference.planes) > 1
    pictures = "".join(_plane(plane, inference.spec, several=several) for plane in inference.planes)
    scales = " Scales of the pictures differ between planes." if several else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: spike inference</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{name}</h1>
<p>Spike inference from calcium imaging · {escape(inference.title)} · model {escape(inference.spec.name)}</p>
</header>
{sections.headline(inference)}
{sections.findings(inference)}
{sections.tiles(inference)}
<h2>What was read, what was done</h2>
{sections.facts(inference)}
{pictures}
<section>
<h2>What it means</h2>
<div class="pair">
<div class="card">{sections.accuracy(inference)}</div>
<div class="card">{sections.reading(inference)}</div>
</div>
</section>
<section>
<h2>To use it</h2>
<div class="card">{sections.paper(inference)}</div>
<div class="card">{sections.files(inference)}</div>
</section>
<footer>Written by cascade_rt {version}.{scales}</footer>
</main>
</body>
</html>
"""


def _name(source: Path) -> str:
    """Name of a recording; that of the folder above says more where a pipeline gives all its folders the same."""
    name = source.name or str(source)
    above = source.parent.name
    return f"{above}/{name}" if above and name.lower() in ("suite2p", "minian") else name


def _plane(plane: PlaneSummary, spec: ModelSpec, *, several: bool) -> str:
    title = escape(f"Plane {plane.name}") if several else "The recording at a glance"
    examples = figures.traces(plane)
    raster = figures.population(plane)
    levels = figures.noise_histogram(plane, spec.noise_range)
    rates = figures.rate_histogram(plane)
    shown = [
        _figure(examples, "wide") if examples else "",
        _figure(raster) if raster else "",
        f'<div class="stack">{_figure(levels)}{_figure(rates)}</div>' if levels or rates else "",
    ]
    missing = [] if examples and raster else ["no neuron has a spike probability"]
    missing += [] if levels else ["no neuron has a noise level"]
    note = f'<p class="empty">Nothing to draw here: {" and ".join(missing)}.</p>' if missing else ""
    return f'<section class="plane"><h2>{title}</h2>{note}<div class="pictures">{"".join(shown)}</div></section>'


def _figure(picture: Picture | None, kind: str = "") -> str:
    if picture is None:
        return ""
    data = base64.b64encode(picture.svg.encode("utf-8")).decode("ascii")
    return (
        f'<figure class="{kind}"><div class="scroll"><img alt="{escape(picture.alt)}" '
        f'src="data:image/svg+xml;base64,{data}"></div><figcaption>{escape(picture.caption)}</figcaption></figure>'
    )

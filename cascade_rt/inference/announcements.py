"""What is said of a source while it is worked on: sentences for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cascade_rt.formats import Source
    from cascade_rt.session import InferOptions

    from .choice import Choice
    from .planes import Plane

__all__ = ["decided", "facts", "found"]


def found(source: Source, planes: Sequence[Plane]) -> Iterator[str]:
    """Say what the source is."""
    several = f", {len(planes)} planes" if len(planes) > 1 else ""
    yield f"{source.path.name}: {source.title}{several}"
    for plane in planes:
        recording = plane.recording
        minutes, seconds = divmod(round(plane.n_frames / plane.frame_rate_hz), 60)
        cells = f"{plane.rows.size} of {recording.n_neurons} ROIs are cells" if plane.is_cell is not None else ""
        neurons = cells or f"{recording.n_neurons} neurons"
        name = f"{recording.name}: " if recording.name else ""
        rate = f"{plane.n_frames} frames at {plane.frame_rate_hz:g} Hz ({minutes} min {seconds} s)"
        yield f"{name}{neurons}, {rate}"
    told = planes[0].dff_description
    yield told if told.startswith("ΔF/F") else f"ΔF/F: {told}"


def decided(
    planes: Sequence[Plane],
    levels: Sequence[NDArray[np.float64]],
    choice: Choice,
    options: InferOptions,
    indicator: str | None,
) -> Iterator[str]:
    """Say which model was chosen, and why."""
    nu = np.concatenate([one[plane.rows] for one, plane in zip(levels, planes, strict=True)])
    known = nu[np.isfinite(nu)]
    low, high = choice.spec.noise_range
    if known.size:
        outside = int(((known < low) | (known > high)).sum())
        spread = np.percentile(known, (5, 50, 95))
        yield (
            f"noise level ν: median {spread[1]:.2g} % Hz^-1/2 (5 to 95 %: {spread[0]:.2g} to {spread[2]:.2g}); the "
            f"model was trained for {low:g} to {high:g}, {outside} of {known.size} neurons lie outside"
        )
    lookahead = choice.spec.lookaheads[-1] if options.lookahead_frames is None else options.lookahead_frames
    told = f", indicator {indicator}" if indicator and options.indicator is None else ""
    yield f"model {choice.spec.name}, look-ahead {lookahead} frames{told}"
    for reason in choice.recommendation.offline_reasons if choice.recommendation else ("named by the user",):
        yield f"  because: {reason}"


def facts(plane: Plane, options: InferOptions, resampled_to: float | None) -> tuple[str, ...]:
    """What was found and decided about one plane."""
    told = list(plane.recording.facts)
    if plane.is_cell is not None:
        kept = "all are processed" if options.all_rois else "the others stay NaN"
        told.append(f"{int(plane.is_cell.sum())} of {plane.recording.n_neurons} ROIs are cells; {kept}")
    if plane.timeline.n_missing:
        told.append(f"{plane.timeline.n_missing} frames are missing; they are NaN")
    if options.fill_gaps:
        told.append(f"gaps of up to {options.fill_gaps} frames were filled with the last value")
    if resampled_to is not None:
        told.append(f"resampled to {resampled_to:g} Hz for the model; the result is at {plane.frame_rate_hz:g} Hz")
    return tuple(told)

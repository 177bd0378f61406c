"""The steps of :func:`infer`: open, scan, choose, predict, write, report."""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt import __version__
from cascade_rt.checks import check_noise_levels
from cascade_rt.discretization import discretize
from cascade_rt.engine import load_model
from cascade_rt.errors import InputError
from cascade_rt.formats import open_source
from cascade_rt.formats.timeline import frame_rate
from cascade_rt.noise import noise_levels
from cascade_rt.offline import BlockPredictor
from cascade_rt.quality import Finding, check_fluorescence, check_recording
from cascade_rt.report import write_report
from cascade_rt.resample import rebin
from cascade_rt.results import ResultWriter, open_result, write_beside
from cascade_rt.session import Inference, InferOptions, PlaneSummary

from . import announcements
from .choice import choose_model, model_rate
from .collect import Collector
from .outputs import plan_outputs
from .planes import Plane, at_rate

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.engine import Device, Model
    from cascade_rt.formats import Recording, Source

    from .choice import Choice

    Progress = Callable[[str, float], None]

__all__ = ["infer", "open_described"]

NON_POSITIVE = "without ΔF/F: the baseline is zero or negative somewhere"


def infer(
    path: str | os.PathLike[str],
    options: InferOptions | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: bool = True,
    beside: bool = True,
    device: Device = "cpu",
    threads: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    **changes: Any,
) -> Inference:
    """Infer spikes from what an analysis pipeline left, and write them where it would look for them.

    Reads any format that :func:`cascade_rt.open_source` knows, checks what it finds, computes ΔF/F where needed,
    measures noise levels, chooses a model, and writes a portable result, the same in the source's own convention, and a
    report. Recordings larger than the memory are worked through in blocks of neurons.

    Parameters
    ----------
    path : path
    options : InferOptions, optional
    out : path, optional
        Folder for the results; by default they go where the source is.
    overwrite : bool
        Replace results of an earlier time.
    report, beside : bool
        Whether to write a report, and results in the source's own convention.
    device : "cpu", "cuda" or "auto"
    threads : int, optional
        CPU threads; all cores by default.
    metadata : mapping, optional
        Kept in the portable result.
    progress : callable, optional
        Called with the stage and its finished fraction, 0 to 1.
    announce : callable, optional
        Called with a sentence for each thing found or decided, as soon as it is.
    **changes
        Fields of :class:`~cascade_rt.session.InferOptions`, such as ``indicator="GCaMP8s"``; they count before
        ``options``.

    Returns
    -------
    Inference

    Raises
    ------
    FileFormatError, InputError
        The source is not usable, or is clearly not what it should be; nothing is left behind.
    OutputExistsError
        Results are there already.
    """
    started = time.perf_counter()
    options = InferOptions.from_dict((options or InferOptions()).to_dict() | changes)
    tell: Progress = progress or (lambda stage, fraction: None)
    say = announce or (lambda sentence: None)
    with ExitStack() as stack:
        source = stack.enter_context(open_described(Path(path), options))
        recordings = _chosen(source, options)
        outputs = plan_outputs(
            source, out=None if out is None else Path(out), report=report, beside=beside, overwrite=overwrite
        )
        scratch = outputs.result.parent
        planes = [
            stack.enter_context(Plane(recording, options, frame_rate(recording, options.frame_rate_hz), scratch))
            for recording in recordings
        ]
        for sentence in announcements.found(source, planes):
            say(sentence)
        resampled_to = model_rate(options, _common_rate(planes))
        scans = [_scan(plane, resampled_to, tell) for plane in planes]
        indicator = options.indicator or next((r.native.get("indicator") for r in recordings), None)
        choice = choose_model(
            options,
            frame_rate_hz=resampled_to or planes[0].frame_rate_hz,
            indicator=indicator,
            nu=np.concatenate([nu[plane.rows] for nu, plane in zip(scans, planes, strict=True)]),
        )
        findings = [_check(plane, nu, choice, indicator) for plane, nu in zip(planes, scans, strict=True)]
        for sentence in announcements.decided(planes, scans, choice, options, indicator):
            say(sentence)
        for finding in sorted({f.text: f for found in findings for f in found}.values(), key=lambda f: f.order):
            say(f"{finding.severity}: {finding.text}")
        _refuse(findings, source, force=options.force)
        model = load_model(choice.name, device=device, threads=threads)
        versions = _versions()
        described = _describe(source, options, choice, model, versions) | dict(metadata or {})
        summaries = []
        with ResultWriter(outputs.result, described, overwrite=overwrite) as writer:
            for plane, nu, found in zip(planes, scans, findings, strict=True):
                summaries.append(_predict(plane, nu, found, model, options, resampled_to, writer, tell))
            # The result takes its place last of all: where it is, everything else is there as well.
            whole = writer.path = outputs.whole
            writer.finish({"warnings": [f.text for found in findings for f in found]})
        written = [outputs.result]
        if outputs.beside:
            tell("writing beside the source", 0.0)
            with open_result(whole) as result:
                written += write_beside(source, result, folder=outputs.folder, overwrite=overwrite)
    seconds = time.perf_counter() - started
    inference = Inference(
        source=Path(path),
        format=source.format,
        title=source.title,
        options=options,
        spec=choice.spec,
        recommendation=choice.recommendation,
        indicator=indicator,
        lookahead_frames=described["lookahead_frames"],
        planes=tuple(summaries),
        result=outputs.result,
        outputs=(*written, *([outputs.report] if outputs.report else [])),
        report=outputs.report,
        seconds=seconds,
        neuron_frames_per_s=sum(p.n_frames * plane.rows.size for p, plane in zip(summaries, planes, strict=True))
        / seconds,
        device=model.device,
        threads=model.threads,
        versions=versions,
    )
    if outputs.report is not None:
        write_report(inference, outputs.report)
    whole.replace(outputs.result)
    return inference


def open_described(path: Path, options: InferOptions) -> Source:
    """Open a source as the options describe it."""
    kind: Any = options.kind
    return open_source(
        path,
        format=options.format,
        key=options.key,
        kind=kind,
        neuropil_key=options.neuropil_key,
        transposed=options.transposed,
    )


def _chosen(source: Source, options: InferOptions) -> list[Recording]:
    if not options.planes:
        return list(source.recordings)
    by_name = {recording.name: recording for recording in source.recordings}
    unknown = [name for name in options.planes if name not in by_name]
    if unknown:
        raise InputError(
            f"{source.path} has no plane {unknown[0]!r}; it has {', '.join(by_name) or 'one, without name'}"
        )
    return [by_name[name] for name in options.planes]


def _common_rate(planes: list[Plane]) -> float:
    rates = {plane.frame_rate_hz for plane in planes}
    if max(rates) > 1.01 * min(rates):
        listed = ", ".join(f"{plane.recording.name} {plane.frame_rate_hz:g} Hz" for plane in planes)
        raise InputError(f"the planes have different frame rates ({listed}): process them one by one (--plane NAME)")
    return planes[0].frame_rate_hz


def _scan(plane: Plane, resampled_to: float | None, tell: Progress) -> NDArray[np.float64]:
    """Noise level of every row; NaN for those that are not processed."""
    nu = np.full(plane.recording.n_neurons, np.nan)
    stage = f"reading {plane.recording.name}".strip()
    for block in plane.blocks(lambda fraction: tell(stage, fraction)):
        dff, rate = at_rate(block.dff, plane.frame_rate_hz, resampled_to)
        nu[block.rows] = check_noise_levels(noise_levels(dff, frame_rate_hz=rate), block.rows.size)
    return nu


def _check(plane: Plane, nu: NDArray[np.float64], choice: Choice, indicator: str | None) -> list[Finding]:
    """What is wrong with the plane."""
    recording = plane.recording
    common: dict[str, Any] = {
        "frame_rate_hz": plane.frame_rate_hz,
        "timestamps": recording.timestamps,
        "bad_frames": recording.bad_frames,
    }
    found = check_recording(
        plane.view(), nu[plane.rows], noise_range=choice.spec.noise_range, indicator=indicator, **common
    )
    if recording.kind == "fluorescence":
        found += check_fluorescence(recording.traces, **common)
    found += [Finding(code="source", severity="warning", text=text) for text in recording.problems]
    if choice.recommendation is not None:
        found += [Finding(code="model", severity="note", text=text) for text in choice.recommendation.offline_warnings]
    unique = {finding.text: finding for finding in sorted(found, key=lambda finding: finding.order)}
    return list(unique.values())


def _refuse(findings: list[list[Finding]], source: Source, *, force: bool) -> None:
    errors = list(dict.fromkeys(f.text for found in findings for f in found if f.severity == "error"))
    if errors and not force:
        raise InputError(f"{source.path}: {'; '.join(errors)}. (--force goes on all the same)")


def _predict(
    plane: Plane,
    nu: NDArray[np.float64],
    findings: list[Finding],
    model: Model,
    options: InferOptions,
    resampled_to: float | None,
    writer: ResultWriter,
    tell: Progress,
) -> PlaneSummary:
    recording = plane.recording
    place = BlockPredictor(
        model,
        lookahead_frames=options.lookahead_frames,
        threshold=options.threshold,
        alignment=options.alignment,
    )
    collector = Collector(recording.n_neurons, plane.rows, plane.n_frames, plane.frame_rate_hz)
    target = writer.begin(
        recording.name,
        recording.n_neurons,
        plane.n_frames,
        frame_rate_hz=plane.frame_rate_hz,
        first_frame=plane.timeline.first_frame,
        timestamps=recording.timestamps if not plane.timeline.n_missing else None,
        neuron_ids=recording.neuron_ids,
        is_cell=plane.is_cell,
        noise_levels=nu,
        dff=options.keep_dff,
        metadata={"dff": plane.dff_description, "kind": recording.kind, "key": recording.key},
    )
    f0 = np.full(recording.n_neurons, np.nan)
    spikes = np.zeros(recording.n_neurons, np.int64) if options.discrete else None
    stage = f"predicting {recording.name}".strip()
    for block in plane.blocks(lambda fraction: tell(stage, fraction)):
        prob, reasons = _predict_block(block.dff, nu[block.rows], place, plane, resampled_to)
        if block.non_positive.any():
            reasons = {NON_POSITIVE: block.non_positive} | {w: m & ~block.non_positive for w, m in reasons.items()}
        found = None
        if spikes is not None:
            found = discretize(prob, model, frame_rate_hz=plane.frame_rate_hz)
            spikes[block.rows] = [one.size for one in found]
        target.write(block.rows, prob, dff=block.dff if options.keep_dff else None, spikes=found)
        if block.f0 is not None:
            f0[block.rows] = block.f0
        collector.add(block.rows, block.dff, prob, reasons)
    skipped = np.setdiff1d(np.arange(recording.n_neurons), plane.rows)
    collector.why_undefined[skipped] = "not accepted as a cell"
    target.set(why_undefined=list(collector.why_undefined), f0=f0 if recording.kind == "fluorescence" else None)
    return PlaneSummary(
        name=recording.name,
        n_rois=recording.n_neurons,
        n_cells=plane.rows.size,
        n_frames=plane.n_frames,
        frame_rate_hz=plane.frame_rate_hz,
        kind=recording.kind,
        dff_description=plane.dff_description,
        facts=announcements.facts(plane, options, resampled_to),
        findings=tuple(_with_losses(findings, collector.why_undefined, plane)),
        noise_levels=nu,
        why_undefined=tuple(collector.why_undefined),
        expected_spikes=collector.expected_spikes,
        mean_rate_hz=collector.mean_rate_hz,
        rates_hz=collector.rates_hz,
        raster=collector.raster,
        raster_neurons=tuple(int(row) for row in collector.raster_rows),
        bin_s=collector.bin_s,
        examples=collector.examples(),
        n_discrete=None if spikes is None else int(spikes.sum()),
    )


def _predict_block(
    dff: NDArray[Any], nu: NDArray[np.float64], place: BlockPredictor, plane: Plane, resampled_to: float | None
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.bool_]]]:
    values, rate = at_rate(dff, plane.frame_rate_hz, resampled_to)
    if values.shape[1] < place.window:
        return np.full(dff.shape, np.nan, np.float32), {"shorter than the model's window": np.ones(len(dff), bool)}
    prob, reasons = place.predict(values, nu)
    if resampled_to is not None:
        prob = rebin(prob, frame_rate_hz=rate, new_rate_hz=plane.frame_rate_hz, n_frames=dff.shape[1])
    return prob, reasons


def _with_losses(findings: list[Finding], why: NDArray[Any], plane: Plane) -> list[Finding]:
    """Add the neurons that have no value at all, by the reason; it replaces what was said of those looked at."""
    findings = [finding for finding in findings if finding.code not in ("undefined", "constant")]
    lost = [reason for reason in dict.fromkeys(why[plane.rows]) if reason]
    added = []
    for reason in lost:
        rows = plane.rows[why[plane.rows] == reason]
        advice = ""
        if reason == NON_POSITIVE and plane.coefficient:
            advice = (
                f". F - {plane.coefficient:g} × neuropil is not positive there: a smaller coefficient helps "
                "(--neuropil-coefficient), CASCADE's own script for Suite2p takes 0.15"
            )
        listed = ", ".join(map(str, rows[:10])) + (" …" if rows.size > 10 else "")
        severity: Any = "warning" if 10 * rows.size >= plane.rows.size or advice else "note"
        text = f"{rows.size} of {plane.rows.size} neurons are NaN throughout, {reason} (rows {listed}){advice}"
        added.append(Finding(code="undefined", severity=severity, text=text, neurons=tuple(map(int, rows))))
    return sorted([*findings, *added], key=lambda finding: finding.order)


def _describe(
    source: Source, options: InferOptions, choice: Choice, model: Model, versions: Mapping[str, str]
) -> dict[str, Any]:
    spec: ModelSpec = choice.spec
    lookahead = spec.lookaheads[-1] if options.lookahead_frames is None else options.lookahead_frames
    return {
        "model": spec.name,
        "source_sha256": spec.source_sha256,
        "alignment": options.alignment,
        "threshold": options.threshold,
        "lookahead_frames": spec.check_lookahead(lookahead),
        "smoothing_s": spec.smoothing_s,
        "causal_kernel": spec.causal_kernel,
        "trained_noise_levels": list(spec.noise_range),
        "source": source.path.name,
        "source_format": source.format,
        "options": options.to_dict(),
        "device": model.device,
        "version": __version__,
        "versions": dict(versions),
    }


def _versions() -> dict[str, str]:
    packages = ("onnxruntime", "numpy")
    return {
        "cascade_rt": __version__,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
    }

"""Results of inferences for tests of the report: good ones, bad ones, and those with next to nothing in them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

import cascade_rt as crt
from cascade_rt.bundle import find_bundle, read_spec
from cascade_rt.errors import CascadeWarning
from cascade_rt.quality import Finding
from cascade_rt.recommendation import recommend
from cascade_rt.session import Examples, Inference, InferOptions, PlaneSummary
from cascade_rt.simulation import simulate

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"
VERSIONS = {"cascade_rt": "0.1.0", "onnxruntime": "1.32.0", "numpy": "2.4.6", "python": "3.11.2"}
BASELINE = (
    "F0: percentile 8 of traces averaged over 1 s in a centered moving window of 60 s, after subtracting 0.7 × neuropil"
)


def plane_of(
    dff,
    prob,
    noise_levels,
    *,
    frame_rate_hz=30.0,
    name="",
    findings=(),
    why_undefined=None,
    n_rois=None,
    kind="fluorescence",
    dff_description=BASELINE,
    facts=(),
    n_examples=6,
    example_s=60.0,
    n_bins=1000,
    n_discrete=None,
):
    """Summary of a plane, as the pipeline makes it, from whole arrays."""
    n, n_frames = prob.shape
    known = np.isfinite(prob)
    sums = np.where(known, prob, 0.0).sum(axis=1)
    rates = np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1) * frame_rate_hz, np.nan)
    step = -(-n_frames // n_bins)
    starts = np.arange(0, n_frames, step)
    counts = np.add.reduceat(known, starts, axis=1, dtype=np.int64)
    binned = np.add.reduceat(np.where(known, prob, 0.0), starts, axis=1)
    rows = np.unique(np.linspace(0, n - 1, min(300, n)).astype(int)) if n else np.empty(0, int)
    raster = np.where(counts > 0, frame_rate_hz * binned / np.maximum(counts, 1), np.nan)[rows].astype(np.float32)
    shown = min(n_frames, round(example_s * frame_rate_hz))
    first = (n_frames - shown) // 2
    defined = np.flatnonzero(known.any(axis=1))
    ranked = defined[np.argsort(-sums[defined], kind="stable")]
    chosen = ranked[np.unique(np.linspace(0, ranked.size // 2, min(n_examples, ranked.size)).astype(int))]
    seconds = known.sum() / frame_rate_hz
    return PlaneSummary(
        name=name,
        n_rois=n if n_rois is None else n_rois,
        n_cells=n,
        n_frames=n_frames,
        frame_rate_hz=frame_rate_hz,
        kind=kind,
        dff_description=dff_description,
        facts=tuple(facts),
        findings=tuple(findings),
        noise_levels=np.asarray(noise_levels, float),
        why_undefined=tuple(why_undefined or [""] * n),
        expected_spikes=float(sums.sum()),
        mean_rate_hz=float(sums.sum() / seconds) if seconds else float("nan"),
        rates_hz=rates,
        raster=raster,
        raster_neurons=tuple(map(int, rows)),
        bin_s=step / frame_rate_hz,
        examples=Examples(
            neurons=tuple(map(int, chosen)),
            first_frame=first,
            dff=np.asarray(dff[chosen, first : first + shown], np.float32),
            spike_prob=np.asarray(prob[chosen, first : first + shown], np.float32),
        ),
        n_discrete=n_discrete,
    )


def inference_of(*planes, options=None, model=MODEL, source="mouse1/suite2p", format="suite2p", title="Suite2p folder"):
    """An inference with these planes."""
    options = options or InferOptions(indicator="GCaMP8m")
    spec = read_spec(find_bundle(model))
    source = Path(source)
    result = source / "cascade.h5"
    report = source / "cascade_report.html"
    rate = planes[0].frame_rate_hz
    levels = np.concatenate([plane.noise_levels for plane in planes])
    why = None if options.model else recommend(
        frame_rate_hz=rate, indicator=options.indicator, noise_levels=levels if levels.size else None
    )  # fmt: skip
    return Inference(
        source=source,
        format=format,
        title=title,
        options=options,
        spec=spec,
        recommendation=why,
        indicator=options.indicator,
        lookahead_frames=spec.lookaheads[-1] if options.lookahead_frames is None else options.lookahead_frames,
        planes=planes,
        result=result,
        outputs=(result, *(source / (plane.name or "plane0") / "cascade_spike_prob.npy" for plane in planes), report),
        report=report,
        seconds=12.4,
        neuron_frames_per_s=1_240_000.0,
        device="cpu",
        threads=2,
        versions=VERSIONS,
    )


def simulated(n_neurons=120, duration_s=300.0, *, seed=3, **settings):
    """ΔF/F, spike probabilities and noise levels of a simulated recording."""
    made = simulate(n_neurons, duration_s, 30.0, indicator="GCaMP8m", seed=seed, **settings)
    return made.dff, predicted(made.dff), crt.noise_levels(made.dff, frame_rate_hz=30.0)


def predicted(dff):
    """Spike probabilities; what is odd in the recording is said by the findings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        return crt.predict(dff, crt.load_model(MODEL), frame_rate_hz=30.0)


def good(**changes):
    """A recording without anything to complain about."""
    dff, prob, nu = simulated()
    plane = plane_of(dff, prob, nu, n_rois=163, facts=("120 of 163 ROIs are cells; the others stay NaN",))
    return inference_of(replace(plane, **changes))


def bad():
    """A recording in which much is wrong, processed all the same (--force)."""
    dff, _, _ = simulated(80, 240.0, seed=5, noise_levels=np.geomspace(3, 40, 80))
    dff = np.array(dff)
    dff[:, 3000:3060] += 1.5
    dff[:, 5000:5200] = np.nan
    dff[[7, 20, 33]] = np.nan
    nu = crt.noise_levels(dff, frame_rate_hz=30.0)
    prob = predicted(dff)
    why = ["no finite value" if np.isnan(row).all() else "" for row in dff]
    findings = (
        Finding(
            code="frame_rate",
            severity="error",
            text=(
                "The frame rate is given as 30 Hz, but the time stamps are 64.2 ms apart, that is 15.58 Hz. Noise "
                "levels, model and spike rates depend on it: give the rate of this plane (--frame-rate 15.58)"
            ),
        ),
        Finding(
            code="jump_frames",
            severity="warning",
            text=(
                "in 60 frames all neurons jump together (frames 3000-3059): motion, or a change of light? Models take "
                "such jumps for spikes: set these frames to NaN before"
            ),
            frames=((3000, 3060),),
        ),
        Finding(
            code="gaps",
            severity="warning",
            text="200 frames are NaN in all neurons: the longest gap has 200 frames, too many to fill",
            frames=((5000, 5200),),
        ),
        Finding(
            code="noise",
            severity="warning",
            text=(
                "43 of 77 neurons have more noise than the model was trained for (ν up to 38) and are treated as "
                "ν = 10: it will take noise for spikes; leave them out, or average more pixels or frames"
            ),
            neurons=tuple(range(37, 80)),
        ),
        Finding(
            code="undefined",
            severity="note",
            text="3 of 80 neurons have no values: their results are NaN",
            neurons=(7, 20, 33),
        ),
    )
    plane = plane_of(
        dff, prob, nu, findings=findings, why_undefined=why, kind="dff", dff_description="ΔF/F as the file has it"
    )
    options = InferOptions(force=True)
    return inference_of(
        plane,
        options=options,
        source="data/<session> & \"friends\" 'x'.mat",
        format="matlab",
        title="MATLAB file",
        model="Global_EXC_30Hz_smoothing50ms",
    )


def random_plane(n_neurons, n_frames, *, seed=0, **settings):
    """Noise in place of a recording, for sizes that would take long to infer."""
    rng = np.random.default_rng(seed)
    dff = rng.normal(0, 0.1, (n_neurons, n_frames)).astype(np.float32)
    prob = rng.gamma(0.05, 1.0, (n_neurons, n_frames)).astype(np.float32)
    if n_frames > 64:
        prob[:, :32] = np.nan
        prob[:, -31:] = np.nan
    return plane_of(dff, prob, rng.uniform(0.7, 6, n_neurons), **settings)


def undefined_plane(n_neurons=4, n_frames=50, *, reason="shorter than the model's window"):
    """A plane in which no neuron has a value."""
    nothing = np.full((n_neurons, n_frames), np.nan, np.float32)
    return plane_of(nothing, nothing, np.full(n_neurons, np.nan), why_undefined=[reason] * n_neurons)

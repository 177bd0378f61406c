"""What ``infer`` is asked, and what came of it: plain data that its pipeline, report and batches share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .baseline import BaselineOptions
from .chunks import Alignment, Threshold, check_choice
from .errors import InputError
from .quality import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .chunks import ModelSpec
    from .recommendation import Recommendation

__all__ = ["Examples", "InferOptions", "Inference", "PlaneSummary"]


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """How a recording is to be read and processed; the defaults are what is right for most.

    Parameters
    ----------
    model : str, optional
        Name or folder of a model; by default the one that :func:`cascade_rt.recommend` names.
    indicator, species : str, optional
        For choosing the model.
    frame_rate_hz : float, optional
        Frames per second, where the file does not tell it.
    format, key, kind, neuropil_key, transposed : optional
        See :func:`cascade_rt.open_source`.
    planes : tuple of str
        Names of the planes to process; empty: all.
    all_rois : bool
        Process rows too that are not accepted as cells.
    baseline : BaselineOptions
        How ΔF/F is computed from fluorescence.
    neuropil_coefficient : float, optional
        Factor of the neuropil that is subtracted; by default the one that the file tells, else 0.7.
    lookahead_frames : int, optional
        By default the model's longest.
    threshold : "zero", "noise_floor" or "none"
    alignment : "target" or "cascade"
    resample : bool
        If no model fits the frame rate: resample to the nearest model's, and bring the result back.
    allow_rate_mismatch : bool
        Use the model at another frame rate as it is.
    percent : bool
        ΔF/F in the file is in percent.
    force : bool
        Go on with a recording whose results would be meaningless.
    fill_gaps : int
        Longest run of missing (NaN) frames that is filled with the last value.
    discrete : bool
        Find single spikes too.
    keep_dff : bool
        Store ΔF/F in the result too.
    """

    model: str | None = None
    indicator: str | None = None
    species: str | None = None
    frame_rate_hz: float | None = None
    format: str | None = None
    key: str | None = None
    kind: str | None = None
    neuropil_key: str | None = None
    transposed: bool | None = None
    planes: tuple[str, ...] = ()
    all_rois: bool = False
    baseline: BaselineOptions = field(default_factory=BaselineOptions)
    neuropil_coefficient: float | None = None
    lookahead_frames: int | None = None
    threshold: Threshold = "zero"
    alignment: Alignment = "target"
    resample: bool = False
    allow_rate_mismatch: bool = False
    percent: bool = False
    force: bool = False
    fill_gaps: int = 0
    discrete: bool = False
    keep_dff: bool = False

    def __post_init__(self) -> None:
        check_choice("threshold", self.threshold, Threshold)
        check_choice("alignment", self.alignment, Alignment)
        if self.fill_gaps < 0:
            raise InputError(f"fill_gaps={self.fill_gaps}: expected 0 or more frames")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InferOptions:
        """Inverse of :meth:`to_dict`; unknown keys raise InputError."""
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise InputError(f"unknown options: {', '.join(sorted(unknown))}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        if isinstance(plain.get("baseline"), dict):
            plain["baseline"] = BaselineOptions(**plain["baseline"])
        return cls(**plain)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Some neurons of a plane, for the report.

    Parameters
    ----------
    neurons : tuple of int
        Their rows.
    first_frame : int
        First frame shown.
    dff, spike_prob : ndarray, (n_examples, n_shown), float32
    """

    neurons: tuple[int, ...]
    first_frame: int
    dff: NDArray[np.float32]
    spike_prob: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaneSummary:
    """What was found in one plane, and what was made of it.

    Parameters
    ----------
    name : str
        Empty if the source has one plane only.
    n_rois, n_cells, n_frames : int
        Rows of the source, those accepted as cells, frames.
    frame_rate_hz : float
    kind : "dff" or "fluorescence"
    dff_description : str
        How ΔF/F came about, in a sentence.
    facts : tuple of str
        What was found and decided, in sentences.
    findings : tuple of Finding
        What to look at, the worst first.
    noise_levels : ndarray, (n_rois,), float64
        ν, % · Hz^-½; NaN where unknown or not processed.
    why_undefined : tuple of str, (n_rois,)
        Why a neuron has no value at all; empty where it has.
    expected_spikes : float
        Sum of all spike probabilities.
    mean_rate_hz : float
        Mean spike rate of the neurons that have values; NaN if none has.
    rates_hz : ndarray, (n_rois,), float64
        Mean spike rate of each neuron.
    raster : ndarray, (n_shown, n_bins), float32
        Spike rate (Hz) of up to some hundred cells in bins of time; NaN where undefined.
    raster_neurons : tuple of int, (n_shown,)
        Rows of the source that the raster shows.
    bin_s : float
        Length of its bins (s).
    examples : Examples
    n_discrete : int or None
        Single spikes found; None if they were not looked for.
    """

    name: str
    n_rois: int
    n_cells: int
    n_frames: int
    frame_rate_hz: float
    kind: str
    dff_description: str
    facts: tuple[str, ...]
    findings: tuple[Finding, ...]
    noise_levels: NDArray[np.float64]
    why_undefined: tuple[str, ...]
    expected_spikes: float
    mean_rate_hz: float
    rates_hz: NDArray[np.float64]
    raster: NDArray[np.float32]
    raster_neurons: tuple[int, ...]
    bin_s: float
    examples: Examples
    n_discrete: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Inference:
    """What :func:`cascade_rt.inference.infer` did.

    Parameters
    ----------
    source : Path
    format, title : str
        Name of the format, and what it is called by people.
    options : InferOptions
    spec : ModelSpec
        The model that was used.
    recommendation : Recommendation or None
        Why; None if the model was named by the user.
    indicator : str or None
        As the user or the file tells it.
    lookahead_frames : int
    planes : tuple of PlaneSummary
    result : Path
        The portable result.
    outputs : tuple of Path
        All that was written, the portable result and the report included.
    report : Path or None
    seconds : float
        Duration of the whole.
    neuron_frames_per_s : float
        Speed of the whole.
    device, threads : str, int
    versions : mapping
        Of cascade_rt, onnxruntime, numpy and Python.
    """

    source: Path
    format: str
    title: str
    options: InferOptions
    spec: ModelSpec
    recommendation: Recommendation | None
    indicator: str | None
    lookahead_frames: int
    planes: tuple[PlaneSummary, ...]
    result: Path
    outputs: tuple[Path, ...]
    report: Path | None
    seconds: float
    neuron_frames_per_s: float
    device: str
    threads: int
    versions: Mapping[str, str]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of all planes, the worst first."""
        found = [finding for plane in self.planes for finding in plane.findings]
        return tuple(sorted(found, key=lambda finding: finding.order))

    def to_dict(self) -> dict[str, Any]:
        """A summary of plain values, for JSON."""
        return {
            "source": str(self.source),
            "format": self.format,
            "title": self.title,
            "model": self.spec.name,
            "indicator": self.indicator,
            "lookahead_frames": self.lookahead_frames,
            "alignment": self.options.alignment,
            "threshold": self.options.threshold,
            "result": str(self.result),
            "report": None if self.report is None else str(self.report),
            "outputs": [str(path) for path in self.outputs],
            "seconds": self.seconds,
            "neuron_frames_per_s": self.neuron_frames_per_s,
            "device": self.device,
            "threads": self.threads,
            "versions": dict(self.versions),
            "planes": [_plane_dict(plane) for plane in self.planes],
        }


def _plane_dict(plane: PlaneSummary) -> dict[str, Any]:
    return {
        "name": plane.name,
        "n_rois": plane.n_rois,
        "n_cells": plane.n_cells,
        "n_frames": plane.n_frames,
        "frame_rate_hz": plane.frame_rate_hz,
        "kind": plane.kind,
        "dff": plane.dff_description,
        "facts": list(plane.facts),
        "findings": [finding.to_dict() for finding in plane.findings],
        "noise_levels": plane.noise_levels.tolist(),
        "undefined_neurons": sum(map(bool, plane.why_undefined)),
        "expected_spikes": plane.expected_spikes,
        "mean_rate_hz": plane.mean_rate_hz,
        "discrete_spikes": plane.n_discrete,
    }

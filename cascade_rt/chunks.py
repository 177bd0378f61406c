"""What passes between the parts: pieces of recordings, what a model is, the options. Frozen, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .errors import InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Alignment", "FrameChunk", "GapPolicy", "ModelSpec", "SpikeChunk", "Threshold", "check_choice"]

Alignment = Literal["target", "cascade"]
Threshold = Literal["zero", "noise_floor", "none"]
GapPolicy = Literal["hold", "nan", "stop"]

#: Relative difference in frame rate that a model tolerates (design: 5 %).
RATE_TOLERANCE = 0.05
#: Look-ahead (frames) of a live run with a model that offers several.
LIVE_LOOKAHEAD = 2
#: Longest look-ahead (frames) of which a live run can make use: what needs more is for finished recordings.
LONGEST_LIVE_LOOKAHEAD = 10


def check_choice(name: str, value: str, kind: Any) -> None:
    """Raise InputError unless ``value`` is one of the strings of the Literal ``kind``."""
    allowed = get_args(kind)
    if value not in allowed:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameChunk:
    """Consecutive ΔF/F frames of all neurons.

    Parameters
    ----------
    frames : ndarray, (n_neurons, n_frames), float32
        ΔF/F as a fraction; NaN where unknown.
    first_frame : int
        Index, counted by the source, of the first column.
    t_source : float or None
        The source's own timestamp of the first column (s), carried through unchanged.
    t_recv : float or None
        Monotonic time at which the chunk was received (s).
    stream : str
        Name that the source gave the recording.
    frame_rate_hz : float or None
        As the source declared it.
    ids : tuple of int and str, or None
        Names of the rows, if the source tells them: rows may then come and go.
    """

    frames: NDArray[np.float32]
    first_frame: int
    t_source: float | None = None
    t_recv: float | None = None
    stream: str = ""
    frame_rate_hz: float | None = None
    ids: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 2 or self.frames.dtype != np.float32:
            raise InputError(
                f"frames are {self.frames.dtype} {self.frames.shape}: expected float32 (n_neurons, n_frames)"
            )
        if self.first_frame < 0:
            raise InputError(f"first_frame is {self.first_frame}: expected >= 0")
        if self.ids is not None and len(self.ids) != len(self.frames):
            raise InputError(f"{len(self.ids)} ids for {len(self.frames)} neurons: expected one for each")

    @property
    def n_neurons(self) -> int:
        return int(self.frames.shape[0])

    @property
    def n_frames(self) -> int:
        return int(self.frames.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class SpikeChunk:
    """Spike probabilities of consecutive frames, for one look-ahead.

    Parameters
    ----------
    spike_prob : ndarray, (n_neurons, n_frames), float32
        Expected spikes per frame; NaN where undefined.
    first_frame : int
        Index of the frame that the first column describes.
    valid : ndarray, (n_neurons, n_frames), bool
        False where the value is undefined (start and end of the recording, NaN in the window) or was touched by
        a gap.
    lookahead_frames : int
        Frames after the described one that the value made use of.
    provisional : bool
        True during the calibration of the noise levels, and, where ΔF/F is made in the run, until the window of the
        baseline is full.
    model, alignment : str
        What made the values.
    revisions : mapping of int to SpikeChunk
        For the longer look-aheads of the stream, the frames that now have that many frames after them.
    t_source, t_recv, t_emit : float or None
        Times (s) of the newest input frame: the source's, and monotonic when received and emitted.
    ids : tuple of int and str, or None
        Names of the first rows, told where rows can change: now and then, and after each change.
    """

    spike_prob: NDArray[np.float32]
    first_frame: int
    valid: NDArray[np.bool_]
    lookahead_frames: int
    provisional: bool = False
    model: str = ""
    alignment: Alignment = "target"
    revisions: Mapping[int, SpikeChunk] = field(default_factory=lambda: MappingProxyType({}))
    t_source: float | None = None
    t_recv: float | None = None
    t_emit: float | None = None
    ids: tuple[int | str, ...] | None = None

    @property
    def n_neurons(self) -> int:
        return int(self.spike_prob.shape[0])

    @property
    def n_frames(self) -> int:
        return int(self.spike_prob.shape[1])


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model is and what it expects; stored whole in each of its ONNX files.

    Parameters
    ----------
    name : str
    family : "binned" or "conditioned"
        Networks for separate noise levels, or one network that is told the noise level.
    frame_rate_hz : float
    windowsize : int
        Frames that the network sees.
    lookaheads : tuple of int
        Look-ahead (frames) of each output, ascending.
    smoothing_s : float
        Standard deviation of the kernel that smoothed the training spikes (s).
    causal_kernel : bool
        That kernel was an inverse Gaussian starting at the spike.
    noise_levels : tuple of float
        Binned: the trained levels. Conditioned: the lowest and the highest trained level. Unit % Hz^-1/2.
    ensemble_size : int
    before_frac : float or None
        Binned models: the fraction of the window before the described frame, as CASCADE states it.
    training_datasets : tuple of str
    source_sha256 : str
        Hash of the weights that the model was made from.
    """

    name: str
    family: Literal["binned", "conditioned"]
    frame_rate_hz: float
    windowsize: int
    lookaheads: tuple[int, ...]
    smoothing_s: float
    causal_kernel: bool
    noise_levels: tuple[float, ...]
    ensemble_size: int = 1
    before_frac: float | None = None
    training_datasets: tuple[str, ...] = ()
    source_sha256: str = ""

    def __post_init__(self) -> None:
        problems = []
        if self.family not in ("binned", "conditioned"):
            problems.append(f"family {self.family!r} is neither 'binned' nor 'conditioned'")
        if not (math.isfinite(self.frame_rate_hz) and self.frame_rate_hz > 0):
            problems.append(f"frame rate {self.frame_rate_hz} Hz")
        if not (math.isfinite(self.smoothing_s) and self.smoothing_s >= 0):
            problems.append(f"smoothing of {self.smoothing_s} s")
        if self.before_frac is not None and not 0 <= self.before_frac < 1:
            problems.append(f"before_frac {self.before_frac} is not between 0 and 1")
        if self.ensemble_size < 1:
            problems.append(f"ensemble of {self.ensemble_size}")
        if self.windowsize < 1:
            problems.append(f"window of {self.windowsize} frames")
        if not self.lookaheads or list(self.lookaheads) != sorted(set(self.lookaheads)):
            problems.append(f"look-aheads {self.lookaheads} are not ascending")
        elif self.lookaheads[0] < 0 or self.lookaheads[-1] >= self.windowsize:
            problems.append(f"look-aheads {self.lookaheads} outside the window of {self.windowsize} frames")
        levels = list(self.noise_levels)
        if not levels or not all(math.isfinite(x) and x > 0 for x in levels) or levels != sorted(levels):
            problems.append(f"noise levels {self.noise_levels} are not positive and ascending")
        if self.family == "conditioned" and len(self.noise_levels) != 2:
            problems.append(f"noise range {self.noise_levels}: expected (lowest, highest)")
        if self.family == "binned" and len(self.lookaheads) != 1:
            problems.append(f"a binned model has one look-ahead, not {self.lookaheads}")
        if problems:
            raise ModelError(f"model {self.name!r}: " + "; ".join(problems))

    @property
    def noise_range(self) -> tuple[float, float]:
        """Lowest and highest trained noise level, % Hz^-1/2."""
        return self.noise_levels[0], self.noise_levels[-1]

    @property
    def cascade_shift(self) -> int:
        """Frames by which CASCADE's published placement is earlier than the trained one, see docs/architecture.md."""
        if self.before_frac is None:
            return 1
        before = self.before_frac * self.windowsize
        return round(before) - int(before - 1)

    def integration_time_s(self, lookahead_frames: int) -> float:
        """Time from the start of the described frame to the end of the last frame used (s)."""
        return (lookahead_frames + 1) / self.frame_rate_hz

    def check_lookahead(self, lookahead_frames: int) -> int:
        """Return ``lookahead_frames`` if the model has it; raise InputError otherwise."""
        if lookahead_frames not in self.lookaheads:
            raise InputError(
                f"model {self.name!r} has no look-ahead of {lookahead_frames} frames; "
                f"it has {', '.join(map(str, self.lookaheads))}"
            )
        return int(lookahead_frames)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Inverse of :meth:`to_dict`; unknown or missing keys raise ModelError."""
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ModelError(f"model description has unknown entries: {', '.join(sorted(unknown))}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**plain)
        except TypeError as error:
            raise ModelError(f"model description is incomplete: {error}") from error

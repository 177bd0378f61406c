"""What is wrong with a recording, recognised and named.

The rules about single values are in :mod:`cascade_rt.noise`, those about frames, neurons and decay times in modules of
their own; here they become sentences that say what was seen, what was expected and what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .chunks import check_choice
from .decay import measure_half_decay, plausible_half_decay
from .errors import InputError
from .frame_faults import find_frame_faults, runs_of
from .neuron_faults import find_neuron_faults
from .noise import IMPOSSIBLE, check_orientation, look_at_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .frame_faults import FrameFaults, Runs
    from .neuron_faults import NeuronFaults

__all__ = ["Finding", "check_fluorescence", "check_recording"]

Severity = Literal["error", "warning", "note"]
Kind = Literal["dff", "fluorescence"]

#: Frames that the models look at: a frame without a value spoils that many results.
WINDOW = 64
#: Runs of lost frames up to this length may well be filled.
SHORT_GAP = 5
#: Disagreement of the frame rate with the time stamps that is worth a word, and from which results would be wrong.
RATE_OFF, RATE_WRONG = 0.02, 0.25
#: Steps between time stamps, in the usual step, from which a frame is missing; and their spread from which they are
#: irregular (a camera's clock: below 0.01; a computer's: up to 0.1).
DROPPED, IRREGULAR = 1.5, 0.2
#: Factors by which time stamps in another unit are off.
UNITS = {1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}
#: Transients needed to judge their decay; how far outside of what was seen with the indicator it must lie; and frames
#: that a decay may seem to last only because frames are no shorter. In the ground truth (all datasets, at 7.5 to 60 Hz,
#: whole or four neurons at a time) and in simulated recordings, the decay is at most 1.3 times outside. Of rates that
#: are wrong by a factor of 4, four in ten are noticed; of those by a factor of 2, next to none.
FEWEST_TRANSIENTS, DECAY_MARGIN, SHORTEST_DECAY_FRAMES = 30, 1.6, 2.0
#: Held frames that come every k frames: as many runs, and the part of their distances that must agree.
REGULAR_RUNS, REGULAR_PART = 5, 0.8
#: Runs listed in a sentence.
LISTED = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a recording that its user should know.

    Parameters
    ----------
    code : str
        What it is, in a word that programs can compare.
    severity : "error", "warning" or "note"
        Results would be meaningless; look at this; good to know.
    text : str
        What was seen, what was expected, what to do.
    neurons : tuple of int
        Rows concerned; empty: all, or not about neurons.
    frames : tuple of (int, int)
        Frames concerned, as (start, stop); empty: all, or not about frames.
    """

    code: str
    severity: Severity
    text: str
    neurons: tuple[int, ...] = ()
    frames: tuple[tuple[int, int], ...] = ()

    @property
    def order(self) -> int:
        """0 for the worst."""
        return ("error", "warning", "note").index(self.severity)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"code": self.code, "severity": self.severity, "text": self.text}


def check_recording(
    dff: Any,
    noise_levels: Any,
    *,
    frame_rate_hz: float,
    noise_range: tuple[float, float] | None = None,
    indicator: str | None = None,
    timestamps: Any = None,
    bad_frames: Any = None,
    kind: Kind = "dff",
) -> list[Finding]:
    """Look for the usual mistakes in a recording; only parts of a large one are read.

    Parameters
    ----------
    dff : Matrix, (n_neurons, n_frames)
        ΔF/F as a fraction; an array, or what is sliced like one. Not modified.
    noise_levels : array_like, (n_neurons,)
        ν, % · Hz^-½; NaN where unknown.
    frame_rate_hz : float
        Frames per second.
    noise_range : (float, float), optional
        Lowest and highest ν that the model was trained for.
    indicator : str, optional
        Its name or family, such as ``GCaMP6s``: then the decay of transients tells whether the frame rate can be right.
    timestamps : array_like, (n_frames,), optional
        Time of each frame (s).
    bad_frames : array_like, (n_frames,), bool, optional
        Frames that an earlier program marked as unusable.
    kind : "dff" or "fluorescence"
        ``"fluorescence"``: as :func:`check_fluorescence`.

    Returns
    -------
    list of Finding
        The worst first; empty if nothing was found.

    Raises
    ------
    InputError
        If an argument does not fit the recording.
    """
    check_choice("kind", kind, Kind)
    if kind == "fluorescence":
        return check_fluorescence(dff, frame_rate_hz=frame_rate_hz, timestamps=timestamps, bad_frames=bad_frames)
    _check_arguments(dff, frame_rate_hz)
    if min(dff.shape) < 1:
        return []
    nu = np.asarray(noise_levels, np.float64)
    if nu.shape != (dff.shape[0],):
        raise InputError(f"noise_levels has shape {nu.shape}: expected one for each of the {dff.shape[0]} neurons")
    found = _about_time(dff.shape[1], frame_rate_hz, timestamps, bad_frames)
    remarks = look_at_values(dff, nu, frame_rate_hz=frame_rate_hz, noise_range=noise_range)
    codes = {remark.code for remark in remarks}
    for remark in remarks:
        # Nothing is left of the noise that the models must know, so that what they say about it means nothing.
        severity: Severity = "error" if remark.code in (*IMPOSSIBLE, "transposed", "denoised") else "warning"
        found.append(Finding(code=remark.code, severity=severity, text=remark.text, neurons=remark.neurons))
    if "transposed" in codes:
        return _sorted(found)
    faults = find_neuron_faults(dff)
    found += _about_neurons(faults, dff.shape[0], nu)
    found += _about_frames(dff, frame_rate_hz, faults, made_up=not codes & {"denoised"})
    if indicator is not None and not codes & {"denoised", "smoothed"}:
        found += _about_decay(dff, frame_rate_hz, indicator)
    return _sorted(found)


def check_fluorescence(
    fluorescence: Any, *, frame_rate_hz: float, timestamps: Any = None, bad_frames: Any = None
) -> list[Finding]:
    """Look for what must be known before ΔF/F is computed; only parts of a large recording are read.

    Parameters
    ----------
    fluorescence : Matrix, (n_neurons, n_frames)
        In any unit. Not modified.
    frame_rate_hz, timestamps, bad_frames
        As in :func:`check_recording`.

    Returns
    -------
    list of Finding
        The worst first; empty if nothing was found.

    Raises
    ------
    InputError
        If an argument does not fit the recording.
    """
    _check_arguments(fluorescence, frame_rate_hz)
    if min(fluorescence.shape) < 1:
        return []
    n_neurons, n_frames = fluorescence.shape
    found = _about_time(n_frames, frame_rate_hz, timestamps, bad_frames)
    remark = check_orientation(fluorescence, "the fluorescence")
    if remark is not None:
        found.append(Finding(code=remark.code, severity="error", text=remark.text))
        return _sorted(found)
    faults = find_neuron_faults(fluorescence)
    found += _about_neurons(faults, n_neurons, None)
    if faults.not_positive:
        found.append(
            Finding(
                code="not_positive",
                severity="warning",
                text=f"{_of(len(faults.not_positive), faults.n_looked_at)} have fluorescence that is often 0 or "
                "negative, where it should be positive: ΔF/F divides by it. Subtract less neuropil or background, or "
                "leave these neurons out; if the values are ΔF/F already, say so",
                neurons=faults.not_positive,
            )
        )
    found += _about_frames(fluorescence, frame_rate_hz, faults, made_up=True)
    return _sorted(found)


def _check_arguments(traces: Any, frame_rate_hz: float) -> None:
    if len(traces.shape) != 2:
        raise InputError(f"traces have shape {tuple(traces.shape)}: expected (n_neurons, n_frames)")
    if not (math.isfinite(frame_rate_hz) and frame_rate_hz > 0):
        raise InputError(f"frame_rate_hz={frame_rate_hz!r}: expected a positive number of frames per second")


def _sorted(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: finding.order)


def _of(n: int, n_all: int) -> str:
    return f"{n} of {n_all} neurons"


def _listed(runs: Runs) -> str:
    """Such as ``100-102, 250 and 8 more places``; the last frame is included."""
    shown = ", ".join(f"{a}" if b - a == 1 else f"{a}-{b - 1}" for a, b in runs[:LISTED])
    return f"frames {shown}" + (f" and {len(runs) - LISTED} more places" if len(runs) > LISTED else "")


# ── time ──


def _about_time(n_frames: int, frame_rate_hz: float, timestamps: Any, bad_frames: Any) -> list[Finding]:
    found: list[Finding] = []
    if bad_frames is not None:
        bad = np.asarray(bad_frames, bool)
        if bad.shape != (n_frames,):
            raise InputError(f"bad_frames has shape {bad.shape}: expected ({n_frames},)")
        if bad.any():
            runs = runs_of(bad)
            text = (
                f"{int(bad.sum())} frames are marked as bad, usually for motion ({_listed(runs)}): their values are "
                "used as they are, and what is inferred around them may be wrong; set them to NaN to leave them out"
            )
            found.append(Finding(code="marked_frames", severity="warning", text=text, frames=runs))
    if timestamps is not None and n_frames > 2:
        found += _about_timestamps(np.asarray(timestamps, np.float64), n_frames, frame_rate_hz)
    return found


def _about_timestamps(times: NDArray[np.float64], n_frames: int, frame_rate_hz: float) -> list[Finding]:
    if times.shape != (n_frames,):
        raise InputError(f"timestamps has shape {times.shape}: expected ({n_frames},)")
    steps = np.diff(times)
    if not np.isfinite(steps).all() or (steps <= 0).any():
        where = np.flatnonzero(~(steps > 0))
        text = (
            f"the time stamps do not increase at {where.size} places, first at frame {int(where[0]) + 1}: they cannot "
            "confirm the frame rate. Look at whether several recordings were joined, and process these one by one"
        )
        runs = tuple((int(k) + 1, int(k) + 2) for k in where)
        return [Finding(code="timestamps", severity="warning", text=text, frames=runs)]
    found: list[Finding] = []
    usual = float(np.median(steps))
    # Time stamps in whole milliseconds have a median that is off, but not a mean.
    single = steps[steps < DROPPED * usual]
    rate = 1.0 / float(single.mean())
    ratio = frame_rate_hz / rate
    unit = next(((factor, name) for factor, name in UNITS.items() if abs(ratio / factor - 1) < 0.1), None)
    if unit is not None:
        text = (
            f"the time stamps look like {unit[1]}, expected seconds: divided by {unit[0]:.0f} they would fit "
            f"{frame_rate_hz:g} Hz. They are not used; correct them if they are to be kept with the results"
        )
        found.append(Finding(code="timestamps", severity="warning", text=text))
    elif abs(ratio - 1) > RATE_OFF:
        text = (
            f"the frame rate is given as {frame_rate_hz:.4g} Hz, but the time stamps are {1000 / rate:.4g} ms apart, "
            f"that is {rate:.4g} Hz. Noise levels, model and spike rates depend on it: give the rate of this plane "
            "(--frame-rate), or correct the time stamps"
        )
        severity: Severity = "error" if max(ratio, 1 / ratio) > 1 + RATE_WRONG else "warning"
        found.append(Finding(code="frame_rate", severity=severity, text=text))
    long = np.flatnonzero(steps >= DROPPED * usual)
    if long.size:
        dropped = int(np.rint(steps[long] / usual - 1).sum())
        runs = tuple((int(k) + 1, int(k) + 2) for k in long)
        text = (
            f"by the time stamps, {dropped} frames are missing at {long.size} places (before {_listed(runs)}). The "
            "traces are taken as if nothing were: what is inferred there is wrong, and later frames are early. Put NaN "
            "where frames are missing"
        )
        found.append(Finding(code="dropped_frames", severity="warning", text=text, frames=runs))
    spread = float(single.std()) / usual
    if spread > IRREGULAR:
        text = (
            f"the time stamps are irregular: the time between frames varies by {100 * spread:.0f} % (standard "
            "deviation), where a microscope's varies by less than 1 %. If these are times of arrival, frames may be "
            "regular all the same; else resample the traces to regular times"
        )
        found.append(Finding(code="irregular_frames", severity="warning", text=text))
    return found


def _about_decay(dff: Any, frame_rate_hz: float, indicator: str) -> list[Finding]:
    plausible = plausible_half_decay(indicator)
    if plausible is None or min(dff.shape) < 1:
        return []
    measured = measure_half_decay(dff, frame_rate_hz=frame_rate_hz)
    if measured.n_transients < FEWEST_TRANSIENTS:
        return []
    low, high = plausible
    most = max(DECAY_MARGIN * high, SHORTEST_DECAY_FRAMES / frame_rate_hz)
    if low / DECAY_MARGIN <= measured.seconds <= most:
        return []
    faster = measured.seconds < low
    text = (
        f"transients fall to half of their height in {measured.seconds:.2g} s (median of {measured.n_transients}), "
        f"where {low:g} to {high:g} s are usual with {indicator}: the frame rate of {frame_rate_hz:g} Hz may be too "
        f"{'high' if faster else 'low'} (that of all planes instead of one's, or before averaging?), or the indicator "
        "another one"
    )
    return [Finding(code="decay", severity="warning", text=text)]


# ── neurons ──


def _about_neurons(faults: NeuronFaults, n_neurons: int, nu: NDArray[np.float64] | None) -> list[Finding]:
    constant = np.array(faults.constant, np.intp)
    if nu is None:
        undefined = np.array(faults.undefined, np.intp)
        n_judged = faults.n_looked_at
    else:
        undefined, n_judged = np.flatnonzero(np.isnan(nu)), n_neurons
        constant = constant[nu[constant] == 0]
    found: list[Finding] = []

    def note(code: str, text: str, neurons: Any, severity: Severity = "note") -> None:
        found.append(Finding(code=code, severity=severity, text=text, neurons=tuple(int(n) for n in neurons)))

    if undefined.size:
        note("undefined", f"{_of(undefined.size, n_judged)} have no values: their results are NaN", undefined)
    if constant.size:
        text = "have a constant value, no fluorescence: their results are NaN; leave them out"
        note("constant", f"{_of(constant.size, faults.n_looked_at)} {text}", constant)
    if faults.copies:
        row, earlier = faults.copies[0]
        text = (
            f"{_of(len(faults.copies), faults.n_looked_at)} are copies of others (row {row} of row {earlier}): if the "
            "same ROI is there twice, count it once"
        )
        note("copies", text, [copy for copy, _ in faults.copies])
    if faults.padded:
        n_frames = sum(b - a for a, b in faults.padded_frames)
        text = (
            f"{_of(len(faults.padded), faults.n_looked_at)} have the same value {faults.padding_value:.3g} in up to "
            f"{n_frames} frames at an end ({_listed(faults.padded_frames)}): they were padded there, such as shorter "
            "planes with zeros in Suite2p's 'combined' folder, and a fluorescence of 0 is a ΔF/F of -1. Read the "
            "planes one by one, or cut these frames off"
        )
        found.append(
            Finding(code="padding", severity="warning", text=text, neurons=faults.padded, frames=faults.padded_frames)
        )
    return found


# ── frames ──


def _about_frames(traces: Any, frame_rate_hz: float, faults: NeuronFaults, *, made_up: bool) -> list[Finding]:
    seen = find_frame_faults(traces, frame_rate_hz=frame_rate_hz)
    if seen is None:
        return []
    found = _about_lost(seen)
    padded = np.zeros(traces.shape[1], bool)
    for start, stop in faults.padded_frames:
        padded[max(0, start - 1) : stop + 1] = True
    if made_up:
        found += _about_held(runs_of(seen.held & ~padded), traces.shape[1])
        linear = runs_of(seen.linear & ~padded)
        if linear:
            n = sum(b - a for a, b in linear)
            text = (
                f"{n} frames ({_percent(n, traces.shape[1])}) lie on a straight line between their neighbours in all "
                f"neurons ({_listed(linear)}): they were interpolated, as is done after photostimulation or for lost "
                "frames. There is nothing to infer from them: set them to NaN, or ignore the results there"
            )
            found.append(Finding(code="interpolated_frames", severity="warning", text=text, frames=linear))
    told = (
        ("dark", "dark_frames", "all neurons are far below their rest", "the shutter was closed or the detector off"),
        (
            "flash",
            "flash_frames",
            "all neurons rise together far beyond their noise and come back faster than an indicator decays",
            "light of a photostimulation or another artefact",
        ),
        ("moved", "moved_frames", "nearly all neurons jump together, some up and some down", "the tissue moved"),
    )
    for name, code, what, cause in told:
        runs = runs_of(getattr(seen, name) & ~padded)
        if runs:
            n = sum(b - a for a, b in runs)
            text = (
                f"in {n} frames {what} ({_listed(runs)}): {cause}? Models take such jumps for spikes: set these frames "
                "to NaN, or ignore the results around them"
            )
            found.append(Finding(code=code, severity="warning", text=text, frames=runs))
    return found


def _about_lost(seen: FrameFaults) -> list[Finding]:
    found: list[Finding] = []
    runs = runs_of(seen.lost)
    n_frames = seen.lost.size
    if runs:
        n, spoilt = int(seen.lost.sum()), _spoilt(runs, n_frames)
        longest = max(b - a for a, b in runs)
        if longest <= SHORT_GAP:
            advice = f"the gaps are short: --fill-gaps {longest} holds the last value over them"
        else:
            short = sum(b - a <= SHORT_GAP for a, b in runs)
            some = f"; --fill-gaps {SHORT_GAP} fills the {short} short ones with the last value" if short else ""
            advice = f"the longest gap has {longest} frames, too many to fill{some}"
        text = (
            f"{n} frames ({_percent(n, n_frames)}) have no value in (nearly) all neurons ({_listed(runs)}). A model "
            f"looks at {WINDOW} frames, so results are undefined in {spoilt} frames ({_percent(spoilt, n_frames)}); "
            f"{advice}"
        )
        found.append(Finding(code="lost_frames", severity="warning", text=text, frames=runs))
    if seen.partly_lost:
        text = (
            f"{len(seen.partly_lost)} of the {seen.rows.size} neurons looked at lack values in some frames, where "
            f"others have them: their results are undefined in {WINDOW} frames around each"
        )
        found.append(Finding(code="missing_values", severity="note", text=text, neurons=seen.partly_lost))
    if seen.infinite:
        text = (
            f"{len(seen.infinite)} of the neurons looked at have infinite values, usually from a division by a "
            "baseline of 0: their results are undefined there; look at how the baseline F0 was found"
        )
        found.append(Finding(code="infinite", severity="warning", text=text, neurons=seen.infinite))
    return found


def _about_held(runs: Runs, n_frames: int) -> list[Finding]:
    if not runs:
        return []
    n = sum(b - a for a, b in runs)
    starts = np.array([start for start, _ in runs])
    distances = np.diff(starts)
    regular = ""
    if len(runs) >= REGULAR_RUNS:
        usual = int(np.median(distances))
        if (np.abs(distances - usual) <= 1).mean() >= REGULAR_PART:
            regular = f", about one in {usual}: the frames were written at a higher rate than they were taken"
    text = (
        f"{n} frames ({_percent(n, n_frames)}) repeat the one before in all neurons ({_listed(runs)}){regular}. Lost "
        "frames were filled with the last one, or an acquisition repeats them. There is nothing new in them: if they "
        "are regular, remove them and give the lower frame rate; else set them to NaN or ignore the results there"
    )
    return [Finding(code="repeated_frames", severity="warning", text=text, frames=runs)]


def _spoilt(runs: Runs, n_frames: int) -> int:
    """Frames of which the window contains one of ``runs``, wherever in the window the described frame lies."""
    until, total = 0, 0
    for start, stop in runs:
        begin = max(until, start)
        end = min(n_frames, stop + WINDOW - 1)
        total += max(0, end - begin)
        until = max(until, end)
    return total


def _percent(n: int, n_all: int) -> str:
    part = 100 * n / max(1, n_all)
    return f"{part:.2g} %"

"""Recordings with known spikes: a simulator of calcium imaging, for demonstrations and tests.

It makes data that look like recordings; models are trained and judged on real ground truth only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _kernels
from .errors import InputError
from .noise import noise_levels as measure_noise_levels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["INDICATORS", "Indicator", "Recording", "simulate"]

#: Time step (s) at which fluorescence is computed before it is averaged over a frame.
STEP_S = 0.005
#: Standard deviation, in natural logarithms, of what differs between neurons.
RATE_SPREAD, AMPLITUDE_SPREAD, NOISE_SPREAD = 0.8, 0.3, 0.35
#: Activity comes and goes with this time constant (s) and spread (natural logarithms).
STATE_S, STATE_SPREAD = 2.0, 1.0
#: Probability that a spike of a burst is followed by another, after a pause of at least and on average (s).
BURST, REFRACTORY_S, BURST_PAUSE_S = 0.3, 0.003, 0.012
#: The baseline wanders with this time constant (s).
DRIFT_S = 20.0
#: Median of abs(a - b) for two independent standard normal numbers.
MEDIAN_DIFFERENCE = 0.9538725524


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """How an indicator answers to spikes.

    Parameters
    ----------
    amplitude : float
        Peak ΔF/F (fraction) of a single spike.
    rise_s, decay_s : float
        Time constants of a single spike (s).
    slow_decay_s, slow_fraction : float
        Time constant (s) of a slower part of the decay, and that part.
    hill : float
        Exponent: 1 for spikes that add up, more where they boost each other.
    maximum : float
        ΔF/F (fraction) at saturation.
    """

    amplitude: float
    rise_s: float
    decay_s: float
    slow_decay_s: float
    slow_fraction: float
    hill: float
    maximum: float


#: Fitted by eye to averages of the CASCADE ground truth around isolated spikes and groups of 2 to 5 within 0.1 s: DS30,
#: DS31, DS32 (GCaMP8), DS09 and DS10 (GCaMP6f), DS13 and DS14 (GCaMP6s). They saturate near the largest ΔF/F seen.
INDICATORS: Mapping[str, Indicator] = MappingProxyType(
    {
        "GCaMP8f": Indicator(
            amplitude=0.53, rise_s=0.003, decay_s=0.05, slow_decay_s=0.4, slow_fraction=0.12, hill=1.15, maximum=20.0
        ),
        "GCaMP8m": Indicator(
            amplitude=0.7, rise_s=0.003, decay_s=0.08, slow_decay_s=0.5, slow_fraction=0.12, hill=1.1, maximum=12.0
        ),
        "GCaMP8s": Indicator(
            amplitude=0.68, rise_s=0.009, decay_s=0.22, slow_decay_s=0.6, slow_fraction=0.15, hill=1.1, maximum=16.0
        ),
        "GCaMP6f": Indicator(
            amplitude=0.09, rise_s=0.025, decay_s=0.19, slow_decay_s=0.5, slow_fraction=0.1, hill=1.6, maximum=11.0
        ),
        "GCaMP6s": Indicator(
            amplitude=0.2, rise_s=0.06, decay_s=0.55, slow_decay_s=1.2, slow_fraction=0.15, hill=1.5, maximum=28.0
        ),
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A simulated recording and what happened in it.

    Parameters
    ----------
    dff : ndarray, (n_neurons, n_frames), float32
        ΔF/F as a fraction.
    spike_times : tuple of ndarray, (n_spikes,), float64
        For each neuron the times of its spikes (s), ascending.
    spike_counts : ndarray, (n_neurons, n_frames), int16
        Spikes in each frame.
    frame_rate_hz : float
    noise_levels : ndarray, (n_neurons,), float64
        ν of ``dff``, % · Hz^-½.
    indicator : str
    """

    dff: NDArray[np.float32]
    spike_times: tuple[NDArray[np.float64], ...]
    spike_counts: NDArray[np.int16]
    frame_rate_hz: float
    noise_levels: NDArray[np.float64]
    indicator: str


def simulate(
    n_neurons: int,
    duration_s: float,
    frame_rate_hz: float,
    *,
    indicator: str = "GCaMP8m",
    noise_levels: Any = None,
    spike_rate_hz: float = 0.5,
    drift: float = 0.02,
    seed: int = 0,
) -> Recording:
    """Simulate a recording with known spikes.

    Parameters
    ----------
    n_neurons : int
    duration_s : float
        Length of the recording (s).
    frame_rate_hz : float
        Frames per second.
    indicator : str
        One of :data:`INDICATORS`.
    noise_levels : float or array_like, (n_neurons,), optional
        ν of the neurons, % · Hz^-½. Default: drawn around 2.
    spike_rate_hz : float
        Median over neurons of the mean spike rate.
    drift : float
        Standard deviation of the slow wandering of the baseline (ΔF/F, fraction).
    seed : int
        The same seed gives the same recording. A neuron does not depend on how many others there are.

    Returns
    -------
    Recording

    Raises
    ------
    InputError
        If an argument is out of range, or the indicator is not known.

    Notes
    -----
    Frame ``t`` is exposed from ``t / frame_rate_hz`` to ``(t + 1) / frame_rate_hz``; a spike belongs to the frame in
    whose exposure it happened, and fluorescence, averaged over the exposure, shows it from that frame on.

    Spikes come in short bursts at a rate that differs between neurons and comes and goes within seconds. Their
    calcium adds up, each rising and decaying with two exponentials; fluorescence is a saturating power (Hill) function
    of it. Noise is Gaussian with a variance proportional to the fluorescence, as of photons, and scaled until ν of the
    recording is as asked for; where the signal alone changes more from frame to frame, ν is larger.
    """
    kind = _check(n_neurons, duration_s, frame_rate_hz, indicator, spike_rate_hz, drift)
    n_frames = max(1, round(duration_s * frame_rate_hz))
    seeds = np.random.SeedSequence(seed).spawn(int(n_neurons))
    streams = [np.random.default_rng(s) for s in seeds]
    times = tuple(_spikes(rng, n_frames / frame_rate_hz, spike_rate_hz) for rng in streams)
    gains = np.array([rng.lognormal(0.0, AMPLITUDE_SPREAD) for rng in streams])
    drawn = np.array([2.0 * rng.lognormal(0.0, NOISE_SPREAD) for rng in streams])
    target = drawn if noise_levels is None else _check_noise(noise_levels, n_neurons)
    dff = _fluorescence(times, kind, gains, n_frames, frame_rate_hz)
    _add_noise(dff, streams, target, frame_rate_hz)
    for row, rng in zip(dff, streams, strict=True):
        row += _drift(rng, n_frames, frame_rate_hz, drift)
    counts = np.zeros(dff.shape, np.int16)
    for row, spikes in zip(counts, times, strict=True):
        np.add.at(row, np.minimum((spikes * frame_rate_hz).astype(np.int64), n_frames - 1), 1)
    values = dff.astype(np.float32)
    return Recording(
        dff=values,
        spike_times=times,
        spike_counts=counts,
        frame_rate_hz=float(frame_rate_hz),
        noise_levels=measure_noise_levels(values, frame_rate_hz=frame_rate_hz),
        indicator=indicator,
    )


def _check(
    n_neurons: int, duration_s: float, frame_rate_hz: float, indicator: str, spike_rate_hz: float, drift: float
) -> Indicator:
    if int(n_neurons) != n_neurons:
        raise InputError(f"n_neurons={n_neurons!r}: expected a whole number")
    if indicator not in INDICATORS:
        raise InputError(f"indicator={indicator!r}: expected one of {', '.join(map(repr, INDICATORS))}")
    positive = {"n_neurons": n_neurons, "duration_s": duration_s, "frame_rate_hz": frame_rate_hz}
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}={value!r}: expected a positive number")
    for name, value in {"spike_rate_hz": spike_rate_hz, "drift": drift}.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name}={value!r}: expected 0 or more")
    return INDICATORS[indicator]


def _check_noise(noise_levels: Any, n_neurons: int) -> NDArray[np.float64]:
    nu = np.array(noise_levels, np.float64)
    if nu.ndim == 0:
        nu = np.full(n_neurons, float(nu))
    if nu.shape != (n_neurons,) or not (np.isfinite(nu) & (nu >= 0)).all():
        raise InputError(
            f"noise_levels has shape {nu.shape}: expected one number or ({n_neurons},), each 0 or more, in % Hz^-1/2"
        )
    return nu


def _wander(rng: np.random.Generator, n: int, steps: float) -> NDArray[np.float64]:
    """Gaussian process of variance 1 that forgets within ``steps`` steps, at ``n`` steps."""
    keep = math.exp(-1.0 / steps)
    kicks = rng.standard_normal(n) * math.sqrt(1.0 - keep**2)
    kicks[0] = rng.standard_normal()
    out = np.empty(n)
    value = 0.0
    for t, kick in enumerate(kicks):
        value = keep * value + kick
        out[t] = value
    return out


def _spikes(rng: np.random.Generator, duration_s: float, median_rate_hz: float) -> NDArray[np.float64]:
    """Times of one neuron's spikes (s)."""
    rate = median_rate_hz * rng.lognormal(0.0, RATE_SPREAD) * (1.0 - BURST)
    bin_s = STATE_S / 10.0
    n_bins = math.ceil(duration_s / bin_s)
    state = np.exp(STATE_SPREAD * _wander(rng, n_bins, STATE_S / bin_s) - 0.5 * STATE_SPREAD**2)
    bursts = rng.poisson(rate * state * bin_s)
    first = (np.repeat(np.arange(n_bins), bursts) + rng.random(bursts.sum())) * bin_s
    spikes = [first]
    going = first
    while going.size:
        going = going[rng.random(going.size) < BURST]
        going = going + REFRACTORY_S + rng.exponential(BURST_PAUSE_S - REFRACTORY_S, going.size)
        spikes.append(going)
    times = np.sort(np.concatenate(spikes))
    times = times[times < duration_s]
    # Bursts that overlap would put spikes closer together than a neuron can.
    return times[np.diff(times, prepend=-1.0) >= REFRACTORY_S]


def _fluorescence(
    times: tuple[NDArray[np.float64], ...],
    kind: Indicator,
    gains: NDArray[np.float64],
    n_frames: int,
    frame_rate_hz: float,
) -> NDArray[np.float64]:
    weights = (1.0 - kind.slow_fraction, kind.slow_fraction)
    decays = (kind.decay_s, kind.slow_decay_s)
    t = np.linspace(0.0, 5.0 * (kind.rise_s + kind.decay_s), 10_001)
    single = (1.0 - np.exp(-t / kind.rise_s)) * sum(w * np.exp(-t / d) for w, d in zip(weights, decays, strict=True))
    peak = float(single.max())
    stops = np.cumsum([spikes.size for spikes in times]).astype(np.int64)
    starts = np.concatenate([[0], stops[:-1]]).astype(np.int64)
    out = np.zeros((len(times), n_frames))
    _kernels.over_rows(
        _kernels.fluorescence_rows,
        (out, starts, stops, kind.maximum * gains),
        (
            np.concatenate(times),
            1.0 / frame_rate_hz,
            math.ceil(1.0 / (frame_rate_hz * STEP_S)),
            kind.rise_s,
            decays,
            (weights[0] / peak, weights[1] / peak),
            kind.hill,
            kind.maximum / kind.amplitude - 1.0,
        ),
    )
    return out


def _add_noise(
    dff: NDArray[np.float64], streams: list[np.random.Generator], target: NDArray[np.float64], frame_rate_hz: float
) -> None:
    """Add noise to ``dff`` until its ν is ``target``."""
    noise = np.stack([rng.standard_normal(dff.shape[1]) for rng in streams])
    noise *= np.sqrt(1.0 + dff)
    unit = 100.0 / math.sqrt(frame_rate_hz) * MEDIAN_DIFFERENCE
    amplitude = target / unit
    for _ in range(4):
        reached = measure_noise_levels(dff + amplitude[:, None] * noise, frame_rate_hz=frame_rate_hz)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.nan_to_num(target / reached, nan=1.0, posinf=1.0)
        amplitude *= np.clip(ratio, 0.5, 2.0)
    dff += amplitude[:, None] * noise


def _drift(rng: np.random.Generator, n_frames: int, frame_rate_hz: float, size: float) -> NDArray[np.float64]:
    """Slow wandering of the baseline, smooth enough to leave ν as it is."""
    n_knots = max(2, math.ceil(n_frames / frame_rate_hz / DRIFT_S) + 1)
    knots = size * rng.standard_normal(n_knots)
    x = np.linspace(0.0, n_knots - 1.0, n_frames)
    left = np.minimum(x.astype(np.int64), n_knots - 2)
    # Half a cosine from knot to knot.
    part = 0.5 - 0.5 * np.cos(np.pi * (x - left))
    return np.asarray(knots[left] * (1.0 - part) + knots[left + 1] * part)

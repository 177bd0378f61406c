"""Noise that brings a trace up to a given noise level, with the shape of shot noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cascade_rt.noise import noise_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NoiseTable", "add_noise", "noise_shape"]

#: Frames of a trace on which its noise is measured.
_FRAMES = 8192


def noise_shape(dff: NDArray[np.float32]) -> NDArray[np.float32]:
    """Relative standard deviation of the noise in each frame: the square root of the fluorescence, median 1.

    Photon noise has a variance in proportion to the light, and fluorescence over F0 is 1 + ΔF/F
    (Rupprecht et al. 2021 add noise of this shape).

    Parameters
    ----------
    dff : ndarray, (n_frames,)
        ΔF/F as a fraction.
    """
    level = np.sqrt(np.abs(np.asarray(dff, np.float32) + np.float32(1)))
    return np.asarray(level / np.float32(max(float(np.median(level)), 1e-6)), np.float32)


class NoiseTable:
    """How much noise must be added to a trace for it to have a given noise level.

    Parameters
    ----------
    dff : ndarray, (n_frames,)
    frame_rate_hz : float
    """

    def __init__(self, dff: NDArray[np.float32], frame_rate_hz: float) -> None:
        part = np.asarray(dff, np.float32)[:_FRAMES]
        unit = noise_shape(dff)[:_FRAMES] * np.random.default_rng(0).standard_normal(part.size, dtype=np.float32)
        # For a still trace, ν of noise with standard deviation sd is sd · 0.6745 · √2 · 100 / √rate.
        per_nu = np.sqrt(frame_rate_hz) / (100.0 * 0.6745 * np.sqrt(2.0))
        self._sd = np.concatenate([[0.0], np.geomspace(0.05, 40.0, 48)]) * per_nu
        noised = part[None] + self._sd[:, None].astype(np.float32) * unit[None]
        self._nu = np.maximum.accumulate(np.asarray(noise_levels(noised, frame_rate_hz=frame_rate_hz), float))

    @property
    def own(self) -> float:
        """ν of the trace itself, % Hz^-1/2."""
        return float(self._nu[0])

    def noise_sd(self, nu: float) -> float:
        """Return the standard deviation (ΔF/F) of noise that lifts the trace to ``nu``; 0 if it is there already."""
        return float(np.interp(nu, self._nu, self._sd)) if nu > self._nu[0] else 0.0


def add_noise(
    dff: NDArray[np.float32], table: NoiseTable, nu: float, rng: np.random.Generator
) -> NDArray[np.float32] | None:
    """Return the trace with noise added so that its noise level is ``nu``.

    Parameters
    ----------
    dff : ndarray, (n_frames,)
        Not written to.
    table : NoiseTable
        Of this trace.
    nu : float
        % Hz^-1/2.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, (n_frames,), float32, or None
        None if the trace has more noise than that already.
    """
    if table.own > nu:
        return None
    noise = noise_shape(dff) * rng.standard_normal(dff.size, dtype=np.float32)
    return np.asarray(dff + np.float32(table.noise_sd(nu)) * noise, np.float32)

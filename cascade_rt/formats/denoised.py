"""Whether traces are a model of the fluorescence rather than the fluorescence: without noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.noise import DENOISED_NU, noise_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NoiseLeft", "noise_left"]

#: Components and frames looked at.
LOOK_ROWS, LOOK_FRAMES = 40, 3000
#: Part of the noise that must be left; and, where the noise is not known, of the typical change of the model.
LEAST_LEFT, LEAST_DEVIATION = 0.2, 0.02
#: Frame rate (Hz) for ν where it is unknown.
USUAL_RATE_HZ = 30.0


class NoiseLeft(NamedTuple):
    """The answer, and the median ν of the traces looked at (% · Hz^-½)."""

    denoised: bool
    nu: float


def noise_left(traces: Any, model: Any, residuals: Any, frame_rate_hz: float | None) -> NoiseLeft:
    """Tell whether traces are only a scaled copy of a denoised model.

    Parameters
    ----------
    traces : Matrix, (n_neurons, n_frames)
        In question.
    model : Matrix or None
        The denoised traces of the same neurons.
    residuals : Matrix or None
        What the model left unexplained, in the units of the model.
    frame_rate_hz : float or None

    Notes
    -----
    The denoised ΔF/F of CaImAn has ν of about 0.08, as have very good recordings; so ν alone does not tell. A copy
    changes from frame to frame as the model does, whatever slow baseline was taken off.
    """
    rows = np.unique(np.linspace(0, traces.shape[0] - 1, min(LOOK_ROWS, traces.shape[0])).astype(int))
    n_frames = min(LOOK_FRAMES, *(int(array.shape[1]) for array in (traces, model, residuals) if array is not None))
    seen = _part(traces, rows, n_frames)
    nu = noise_levels(seen, frame_rate_hz=frame_rate_hz or USUAL_RATE_HZ)
    median_nu = float(np.nanmedian(nu)) if np.isfinite(nu).any() else 0.0
    if model is None or model.shape[0] != traces.shape[0]:
        return NoiseLeft(median_nu < DENOISED_NU, median_nu)
    changes, expected = np.diff(seen, axis=1), np.diff(_part(model, rows, n_frames), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.nansum(changes * expected, axis=1) / np.nansum(expected**2, axis=1)
    factor = np.where(np.isfinite(factor), factor, 0.0)
    unexplained = _typical(changes - factor[:, None] * expected)
    if residuals is not None and residuals.shape[0] == traces.shape[0]:
        noise, least = np.abs(factor) * _typical(np.diff(_part(residuals, rows, n_frames), axis=1)), LEAST_LEFT
    else:
        noise, least = np.abs(factor) * np.sqrt(np.nanmean(expected**2, axis=1)), LEAST_DEVIATION
    told = noise > 0
    if not told.any():
        # Nothing to compare with: silent components, or residuals that are all 0.
        return NoiseLeft(not (unexplained > 0).any(), median_nu)
    return NoiseLeft(bool(np.median(unexplained[told] / noise[told]) < least), median_nu)


def _part(matrix: Any, rows: NDArray[np.intp], n_frames: int) -> NDArray[np.float64]:
    return np.stack([np.asarray(matrix[int(row), :n_frames], np.float64) for row in rows])


def _typical(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.nanmedian(np.abs(changes), axis=1))

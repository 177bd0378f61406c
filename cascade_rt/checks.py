"""What every entry point asks of its arguments before it computes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .catalogue import fits_frame_rate, installed_models, rate_distance
from .errors import InputError
from .lazy import as_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .chunks import ModelSpec

__all__ = ["check_frame_rate", "check_matrix", "check_noise_levels"]


def check_matrix(values: Any, what: str) -> Any:
    """Return ``values`` as an (n_neurons, n_frames) array of numbers, not copied, read or converted.

    Raises
    ------
    InputError
        If it has another number of dimensions, is empty or does not hold numbers.
    """
    try:
        array = as_matrix(values)
    except ValueError as error:
        raise InputError(f"{what} cannot be read as an array, (n_neurons, n_frames): {error}") from error
    if array.ndim != 2:
        raise InputError(f"{what} has shape {array.shape}: expected two dimensions, (n_neurons, n_frames)")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} holds {array.dtype}: expected real numbers (ΔF/F as a fraction)")
    if 0 in array.shape:
        raise InputError(f"{what} has shape {array.shape}: expected at least one neuron and one frame")
    return array


def check_frame_rate(frame_rate_hz: float, spec: ModelSpec, *, allow_mismatch: bool) -> float:
    """Return the frame rate (Hz) if the model was made for it, within 5 %.

    Raises
    ------
    InputError
        Naming the nearest installed model.
    """
    rate = float(frame_rate_hz)
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"frame_rate_hz={frame_rate_hz}: expected a positive number of frames per second")
    if fits_frame_rate(spec.frame_rate_hz, rate) or allow_mismatch:
        return rate
    raise InputError(
        f"the recording has {rate:g} Hz, model {spec.name!r} was trained for {spec.frame_rate_hz:g} Hz. "
        f"{_nearest_model(rate, spec)}; or resample the recording (predict --resample); or pass "
        "allow_rate_mismatch=True to go on knowingly"
    )


def _nearest_model(rate: float, chosen: ModelSpec) -> str:
    installed, _ = installed_models()  # a damaged model is not what this error is about
    specs = [chosen, *(model.spec for model in installed)]
    best = min(specs, key=lambda spec: rate_distance(spec.frame_rate_hz, rate))
    if best is chosen:
        return (
            f"No installed model is nearer than {chosen.name!r}; CASCADE publishes models for many frame rates "
            "(cascade-rt import --download NAME)"
        )
    return f"The nearest installed model is {best.name!r} ({best.frame_rate_hz:g} Hz): choose that"


def check_noise_levels(noise_levels: Any, n_neurons: int) -> NDArray[np.float64]:
    """Return noise levels as (n_neurons,) float64; NaN and levels that are not positive stay or become NaN."""
    try:
        nu = np.array(noise_levels, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"noise_levels are not numbers ({error}): expected one ν for each neuron") from error
    if nu.ndim == 0:
        nu = np.full(n_neurons, float(nu))
    if nu.shape != (n_neurons,):
        raise InputError(f"noise_levels has shape {nu.shape}: expected ({n_neurons},), one ν for each neuron")
    nu[~(np.isfinite(nu) & (nu > 0))] = np.nan
    return nu

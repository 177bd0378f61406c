"""Which model a source gets, and at which frame rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cascade_rt.bundle import find_bundle, read_spec
from cascade_rt.catalogue import fits_frame_rate, installed_models, rate_distance
from cascade_rt.errors import InputError
from cascade_rt.recommendation import recommend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.recommendation import Recommendation
    from cascade_rt.session import InferOptions

__all__ = ["Choice", "choose_model", "model_rate"]


class Choice(NamedTuple):
    """The model to use.

    Parameters
    ----------
    name : str
        Name or folder.
    spec : ModelSpec
    recommendation : Recommendation or None
        Why; None if the user named it.
    """

    name: str
    spec: ModelSpec
    recommendation: Recommendation | None


def model_rate(options: InferOptions, frame_rate_hz: float) -> float | None:
    """Frame rate (Hz) to which the recording is resampled; None: not at all.

    Parameters
    ----------
    options : InferOptions
    frame_rate_hz : float
        Of the recording.

    Raises
    ------
    InputError
        No model is for this frame rate, and resampling was not asked for.
    """
    if options.model is not None:
        own = read_spec(find_bundle(options.model)).frame_rate_hz
        if fits_frame_rate(own, frame_rate_hz) or options.allow_rate_mismatch:
            return None
        if options.resample:
            return own
        raise InputError(
            f"the recording has {frame_rate_hz:g} Hz, model {options.model!r} was trained for {own:g} Hz. Leave out "
            "--model to have one chosen, or resample with --resample (the result comes back at the recording's rate)"
        )
    rates = {model.spec.frame_rate_hz for model in installed_models()[0]}
    if any(fits_frame_rate(rate, frame_rate_hz) for rate in rates):
        return None
    nearest = min(rates, key=lambda rate: rate_distance(rate, frame_rate_hz), default=None)
    if options.resample and nearest is not None:
        return nearest
    raise InputError(
        f"no installed model was made for {frame_rate_hz:g} Hz, give or take 5 %; there are models for "
        f"{', '.join(f'{rate:g}' for rate in sorted(rates)) or 'no frame rate'} Hz. Resample with --resample (the "
        "result comes back at the recording's rate), or import a published model (cascade-rt models --for RECORDING "
        "names one)"
    )


def choose_model(
    options: InferOptions, *, frame_rate_hz: float, indicator: str | None, nu: NDArray[np.float64]
) -> Choice:
    """Take the model that the user named, or the one recommended.

    Parameters
    ----------
    options : InferOptions
    frame_rate_hz : float
        At which the model will run.
    indicator : str or None
        As the user or the file tells it.
    nu : ndarray, (n_neurons,)
        Noise levels, % · Hz^-½.

    Raises
    ------
    InputError
        Nothing fits; says what to do.
    """
    if options.model is not None:
        return Choice(options.model, read_spec(find_bundle(options.model)), None)
    species: Any = options.species
    answer = recommend(frame_rate_hz=frame_rate_hz, indicator=indicator, species=species, noise_levels=nu)
    if answer.model is None:
        told = "; ".join(f"{advice.text}: {advice.command}" for advice in answer.advice)
        raise InputError(f"no model fits: {answer.reasons[0]}. {told}")
    return Choice(answer.model, read_spec(find_bundle(answer.model)), answer)

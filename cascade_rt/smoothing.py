"""The kernels that turn spikes into expected spikes per frame, as the training targets were made.

One place for both: training smooths its targets with them, discretisation explains spike probabilities by them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _kernels
from .errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["noise_floor", "smooth_spikes", "spike_kernel"]

#: Standard deviations at which the Gaussian is cut (as scipy.ndimage does).
GAUSSIAN_REACH = 4.0
#: CASCADE samples its causal kernel on 199 frames, of which the density fills the last 98.
CAUSAL_FRAMES = 98
#: What is smaller than this part of the kernel's maximum is left out.
NEGLIGIBLE = 1e-6


def spike_kernel(smoothing_s: float, frame_rate_hz: float, causal: bool = False) -> tuple[NDArray[np.float64], int]:
    """What one spike adds to the expected spikes of the frames around it.

    Parameters
    ----------
    smoothing_s : float
        Gaussian: its standard deviation (s). Causal: half the mean of the inverse Gaussian.
    frame_rate_hz : float
        Frames per second.
    causal : bool
        Use the kernel of CASCADE's causal models instead of the Gaussian.

    Returns
    -------
    kernel : ndarray, (n_taps,), float64
        Non-negative, sum 1.
    origin : int
        Index in ``kernel`` of the spike's own frame: a spike in frame ``s`` adds ``kernel[j]`` to frame
        ``s + j - origin``. ``0 <= origin < n_taps``.

    Raises
    ------
    InputError
        If the smoothing or the frame rate is not a positive number.

    Notes
    -----
    The Gaussian is sampled at whole frames and cut at 4 standard deviations.

    The causal kernel is the density of the inverse Gaussian of mean ``2 · smoothing_s`` and shape 1 (s), sampled at
    whole frames ``d = 0, 1, …, 97`` and then moved earlier by ``floor((d_max + 2) / 1.5) - 2`` frames, where ``d_max``
    is its largest sample: the rise starts at the spike, up to the rounding of the move. Parameters as in CASCADE's
    training (Rupprecht et al., Nature Neuroscience 2021).
    """
    _check_positive(smoothing_s=smoothing_s, frame_rate_hz=frame_rate_hz)
    log_density, first = (_causal if causal else _gaussian)(float(smoothing_s), float(frame_rate_hz))
    kernel = np.exp(log_density - log_density.max())
    kept = np.flatnonzero(kernel > NEGLIGIBLE)
    kernel, first = kernel[kept[0] : kept[-1] + 1], first + int(kept[0])
    # The spike's own frame is always part of the kernel, even where nothing falls on it.
    kernel = np.pad(kernel, (max(first, 0), max(1 - first - kernel.size, 0)))
    return kernel / kernel.sum(), max(-first, 0)


def _gaussian(smoothing_s: float, frame_rate_hz: float) -> tuple[NDArray[np.float64], int]:
    sigma = smoothing_s * frame_rate_hz
    reach = int(GAUSSIAN_REACH * sigma + 0.5)
    lag = np.arange(-reach, reach + 1)
    return -0.5 * (lag / sigma) ** 2, -reach


def _causal(smoothing_s: float, frame_rate_hz: float) -> tuple[NDArray[np.float64], int]:
    mean = 2.0 * smoothing_s
    x = np.arange(1, CAUSAL_FRAMES) / frame_rate_hz
    log_density = -1.5 * np.log(x) - (x - mean) ** 2 / (2.0 * mean**2 * x)
    d_max = int(log_density.argmax()) + 1
    return log_density, 1 - (int((d_max + 2) / 1.5) - 2)


def noise_floor(smoothing_s: float, frame_rate_hz: float) -> float:
    """Height (spikes per frame) below which CASCADE calls a value noise: 1/e of one spike's maximum.

    CASCADE takes the Gaussian for this, also for causal models.
    """
    kernel, _ = spike_kernel(smoothing_s, frame_rate_hz)
    return float(kernel.max()) / math.e


def smooth_spikes(
    counts: Any, *, smoothing_s: float, frame_rate_hz: float, causal_kernel: bool = False
) -> NDArray[np.float32]:
    """Turn spike counts into expected spikes per frame.

    Parameters
    ----------
    counts : array_like, (n_neurons, n_frames) or (n_frames,)
        Spikes in each frame. NaN makes every frame NaN that a spike there would reach.
    smoothing_s, frame_rate_hz, causal_kernel
        As in :func:`spike_kernel`.

    Returns
    -------
    ndarray, shape of ``counts``, float32
        What would fall outside the recording is lost.

    Raises
    ------
    InputError
        If ``counts`` has another number of dimensions, or an option is unusable.
    """
    kernel, origin = spike_kernel(smoothing_s, frame_rate_hz, causal_kernel)
    array = np.asarray(counts)
    if array.ndim not in (1, 2):
        raise InputError(f"counts has shape {array.shape}: expected (n_neurons, n_frames) or (n_frames,)")
    rows = np.ascontiguousarray(np.atleast_2d(array), np.float64)
    out = np.zeros(rows.shape)
    _kernels.over_rows(_kernels.smooth_rows, (rows, out), (kernel, origin))
    return out.reshape(array.shape).astype(np.float32)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}={value!r}: expected a positive number")

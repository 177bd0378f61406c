"""What is remembered of a plane while its neurons pass by: totals, a raster, some examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.session import Examples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Collector"]

#: Neurons and bins of time in the raster; neurons and time (s) shown as examples.
RASTER_NEURONS, RASTER_BINS = 300, 1000
EXAMPLES, EXAMPLE_S = 6, 60.0
#: Examples are taken at these quantiles of activity: busy neurons show more than silent ones.
ACTIVITY = (1.0, 0.95, 0.85, 0.7, 0.5, 0.3)


class Collector:
    """Sums over blocks of neurons.

    Parameters
    ----------
    n_rois : int
        Rows of the source.
    rows : ndarray, (n_processed,), int
        Rows that are processed.
    n_frames : int
    frame_rate_hz : float
    """

    def __init__(self, n_rois: int, rows: NDArray[np.intp], n_frames: int, frame_rate_hz: float) -> None:
        self._rate = frame_rate_hz
        self.why_undefined = np.full(n_rois, "", object)
        self.rates_hz = np.full(n_rois, np.nan)
        self._spikes = 0.0
        self._seconds = 0.0
        chosen = np.unique(np.linspace(0, rows.size - 1, min(RASTER_NEURONS, rows.size)).astype(int))
        self.raster_rows = rows[chosen]
        self._bin = -(-n_frames // RASTER_BINS)
        self._n_bins = -(-n_frames // self._bin)
        self.raster = np.full((self.raster_rows.size, self._n_bins), np.nan, np.float32)
        shown = min(n_frames, round(EXAMPLE_S * frame_rate_hz))
        self._first = (n_frames - shown) // 2
        self._shown = slice(self._first, self._first + shown)
        self._dff = np.full((self.raster_rows.size, shown), np.nan, np.float32)
        self._prob = np.full((self.raster_rows.size, shown), np.nan, np.float32)

    @property
    def bin_s(self) -> float:
        """Length of a bin of the raster (s)."""
        return self._bin / self._rate

    @property
    def expected_spikes(self) -> float:
        return self._spikes

    @property
    def mean_rate_hz(self) -> float:
        """Mean spike rate (Hz) over all that is defined; NaN if nothing is."""
        return self._spikes / self._seconds if self._seconds else float("nan")

    def add(
        self,
        rows: NDArray[np.intp],
        dff: NDArray[Any],
        prob: NDArray[np.float32],
        reasons: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Take in a block.

        Parameters
        ----------
        rows : ndarray, (k,), int
            Rows of the source.
        dff, prob : ndarray, (k, n_frames)
        reasons : mapping of str to ndarray, (k,), bool
            Why which of them have no value.
        """
        for why, which in reasons.items():
            self.why_undefined[rows[which]] = why
        known = np.isfinite(prob).sum(axis=1)
        spikes = np.nansum(prob, axis=1, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.rates_hz[rows] = np.where(known, spikes / known * self._rate, np.nan)
        self._spikes += float(spikes.sum())
        self._seconds += float(known.sum()) / self._rate
        there = np.isin(rows, self.raster_rows)
        places = np.searchsorted(self.raster_rows, rows[there])
        self.raster[places] = self._binned(prob[there])
        self._dff[places] = dff[there][:, self._shown]
        self._prob[places] = prob[there][:, self._shown]

    def examples(self) -> Examples:
        """Neurons from busy to quiet, by what they do in the time shown."""
        defined = np.flatnonzero(np.isfinite(self._prob).any(axis=1))
        order = defined[np.argsort(np.nansum(self._prob[defined], axis=1), kind="stable")]
        places = np.unique(np.rint(np.array(ACTIVITY[:EXAMPLES]) * (order.size - 1)).astype(int))[::-1]
        chosen = order[places] if order.size else np.empty(0, np.intp)
        return Examples(
            neurons=tuple(int(row) for row in self.raster_rows[chosen]),
            first_frame=self._first,
            dff=self._dff[chosen],
            spike_prob=self._prob[chosen],
        )

    def _binned(self, prob: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean rate (Hz) in each bin, of what is defined in it."""
        starts = np.arange(0, prob.shape[1], self._bin)
        known = np.add.reduceat(np.isfinite(prob), starts, axis=1, dtype=np.int64)
        sums = np.add.reduceat(np.nan_to_num(prob), starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(known, self._rate * sums / known, np.nan).astype(np.float32)

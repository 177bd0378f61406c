"""Traces to score on: lifted to noise levels, with the same noise for every model that is scored on them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from .noising import NoiseTable, add_noise

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from .ground_truth import Trace

__all__ = ["NOISE_LEVELS", "NoisedTraces"]

#: Levels that models are scored at unless others are asked for, % Hz^-1/2.
NOISE_LEVELS = (2.0, 4.0, 8.0)


class NoisedTraces:
    """Traces with known spikes, and how much noise lifts each of them to each level.

    Parameters
    ----------
    traces : iterable of Trace
    noise_levels : sequence of float
        % Hz^-1/2.
    seed : int
        Noise is seeded by this and the recording, so every model meets the same.
    """

    def __init__(self, traces: Iterable[Trace], *, noise_levels: Sequence[float] = NOISE_LEVELS, seed: int = 0) -> None:
        self.noise_levels = tuple(sorted({float(level) for level in noise_levels}))
        self.seed = seed
        self._neurons: dict[tuple[str, str], list[Trace]] = {}
        for trace in traces:
            self._neurons.setdefault((trace.dataset, trace.neuron), []).append(trace)
        # Finding how much noise is needed takes longer than drawing it; found when first asked for.
        self._tables: dict[tuple[str, str], list[NoiseTable]] = {}

    def __len__(self) -> int:
        return len(self._neurons)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, sorted."""
        return sorted({dataset for dataset, _ in self._neurons})

    def neurons(self) -> Iterator[tuple[tuple[str, str], list[Trace]]]:
        """Each (dataset, neuron) with its traces, in order."""
        yield from sorted(self._neurons.items(), key=lambda item: item[0])

    def of(self, neurons: Collection[tuple[str, str]]) -> NoisedTraces:
        """Only these (dataset, neuron); what was found out about their noise is shared."""
        part = NoisedTraces([], noise_levels=self.noise_levels, seed=self.seed)
        part._neurons = {key: traces for key, traces in self._neurons.items() if key in neurons}
        part._tables = self._tables
        return part

    def lifted(self, neuron: tuple[str, str], noise_level: float) -> list[NDArray[np.float32] | None]:
        """Traces of one neuron, ΔF/F (n_frames,), at a noise level; None for one that has more noise by itself."""
        traces = self._neurons[neuron]
        if neuron not in self._tables:
            self._tables[neuron] = [NoiseTable(t.dff, t.frame_rate_hz) for t in traces]
        return [
            add_noise(trace.dff, table, noise_level, self._rng(trace))
            for trace, table in zip(traces, self._tables[neuron], strict=True)
        ]

    def _rng(self, trace: Trace) -> np.random.Generator:
        key = zlib.crc32(f"{trace.dataset}/{trace.neuron}/{trace.number}/{trace.n_frames}".encode())
        return np.random.default_rng([self.seed, key])

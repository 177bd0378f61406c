"""Recordings for tests, and the two ways of running a model on them: whole, and as a stream in pieces."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.errors import CascadeWarning
from cascade_rt.offline import predict
from cascade_rt.stream import SpikeStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cascade_rt.chunks import SpikeChunk
    from cascade_rt.engine import Model


def recording(rng: np.random.Generator, n_neurons: int, n_frames: int) -> np.ndarray:
    """ΔF/F (n_neurons, n_frames), float32: transients and white noise, ν from about 1 to 10 at 30 Hz."""
    spikes = rng.poisson(0.03, (n_neurons, n_frames)).astype(np.float64)
    decay = np.exp(-np.arange(60) / 12)
    clean = np.stack([np.convolve(s, decay)[:n_frames] for s in spikes])
    noise = np.geomspace(0.05, 0.5, n_neurons)[:, None] * rng.normal(size=clean.shape)
    return (0.5 * clean + noise).astype(np.float32)


def ramp(n_neurons: int, n_frames: int) -> np.ndarray:
    """Frame index and neuron in each value: frame / 100 + 100 * neuron, exact enough in float32 to tell them apart."""
    return (np.arange(n_frames) / 100 + 100 * np.arange(n_neurons)[:, None]).astype(np.float32)


def offline(dff: Any, model: Model, **options: Any) -> np.ndarray:
    """:func:`cascade_rt.predict` at the model's frame rate, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CascadeWarning)
        return predict(dff, model, **({"frame_rate_hz": model.spec.frame_rate_hz} | options))


def open_stream(model: Model, nu: Any, **options: Any) -> SpikeStream:
    """A stream at the model's frame rate, with a neuron for each noise level unless told otherwise."""
    values = {"frame_rate_hz": model.spec.frame_rate_hz, "noise_levels": nu, "n_neurons": np.size(nu)}
    return SpikeStream(model, **(values | options))


class Described(NamedTuple):
    """All that a stream said for one look-ahead."""

    prob: np.ndarray
    valid: np.ndarray
    provisional: np.ndarray


def drive(
    stream: SpikeStream,
    dff: np.ndarray,
    sizes: Iterable[int],
    *,
    touched: np.ndarray | None = None,
    prepare: Callable[[], bool] | None = None,
    flush: bool = True,
) -> dict[int, Described]:
    """Push a recording in pieces of ``sizes`` (again and again) and join what comes out, by look-ahead.

    Checks that frames are described once, in order, and as early as the stream promises. Frames that fill gaps
    are ``touched`` (n_frames,); pieces are cut where that changes.
    """
    n_frames = dff.shape[1]
    touched = np.zeros(n_frames, bool) if touched is None else touched
    parts: dict[int, list[SpikeChunk]] = {lookahead: [] for lookahead in stream.lookahead_frames}
    start = stream.frame
    following = dict.fromkeys(parts, start)

    def take(chunk: SpikeChunk) -> None:
        assert chunk.lookahead_frames == stream.lookahead_frames[0]
        assert set(chunk.revisions) == set(stream.lookahead_frames[1:])
        for lookahead, part in {chunk.lookahead_frames: chunk, **chunk.revisions}.items():
            assert (part.lookahead_frames, part.first_frame) == (lookahead, following[lookahead])
            assert (part.model, part.alignment) == (stream.spec.name, stream.alignment)
            assert (part.spike_prob.dtype, part.valid.dtype) == (np.float32, np.bool_)
            assert part.spike_prob.shape == part.valid.shape == (stream.n_neurons, part.n_frames)
            following[lookahead] += part.n_frames
            parts[lookahead].append(part)

    position = 0
    for size in itertools.cycle(sizes):
        if position == n_frames:
            break
        stop = min(position + size, n_frames)
        changes = np.flatnonzero(touched[position:stop] != touched[position])
        stop = position + int(changes[0]) if changes.size else stop
        if prepare is not None and prepare():
            stream.prepare()
        take(stream.push(dff[:, position:stop], touched=bool(touched[position])))
        position = stop
        assert stream.frame == start + position
        for lookahead, count in following.items():
            assert count == max(start, stream.frame - lookahead - stream.delay_frames)
    if flush:
        take(stream.flush())
        assert set(following.values()) == {stream.frame}
    return {
        lookahead: Described(
            prob=np.concatenate([c.spike_prob for c in chunks], axis=1),
            valid=np.concatenate([c.valid for c in chunks], axis=1),
            provisional=np.concatenate([np.full(c.n_frames, c.provisional) for c in chunks]),
        )
        for lookahead, chunks in parts.items()
    }

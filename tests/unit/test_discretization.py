"""Single spikes: known ones found again, chunks of any size, and CASCADE's stored run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from cascade_rt._kernels import compiling
from cascade_rt.discretization import DiscretizeStream, discretize
from cascade_rt.errors import InputError, StreamError
from cascade_rt.smoothing import smooth_spikes

if TYPE_CHECKING:
    from pathlib import Path

GAUSSIAN = {"smoothing_s": 0.05, "frame_rate_hz": 30.0, "causal_kernel": False}
CAUSAL = {"smoothing_s": 0.05, "frame_rate_hz": 30.0, "causal_kernel": True}
CONDITIONS = [GAUSSIAN, CAUSAL, {"smoothing_s": 0.2, "frame_rate_hz": 7.5, "causal_kernel": True}]
needs_compiler = pytest.mark.skipif(compiling._INTERPRETED, reason="takes minutes without the compiler")


def counted(spikes: list[np.ndarray], n_frames: int) -> np.ndarray:
    return np.array([np.bincount(frames, minlength=n_frames) for frames in spikes])


def busy_prob(n_neurons: int = 4, n_frames: int = 160, seed: int = 0) -> np.ndarray:
    """Stretches of rest and of activity longer than an event may get, with unknown frames; read-only."""
    rng = np.random.default_rng(seed)
    rate = np.repeat(rng.choice([0.0, 0.02, 0.3], (n_neurons, 4)), n_frames // 4, axis=1)
    rate[0] = 0.25
    prob = gaussian_filter1d(rng.poisson(rate).astype(float), 1.7, axis=1) + rng.normal(0, 0.01, rate.shape)
    prob[:, :5] = np.nan
    prob[1 % n_neurons, 70:73] = np.nan
    prob[2 % n_neurons, 30:60] = np.nan
    prob[3 % n_neurons, 100] = np.inf
    prob = prob.astype(np.float32)
    prob.flags.writeable = False
    return prob


@pytest.mark.parametrize("condition", CONDITIONS)
def test_smoothed_spikes_are_found_again(condition: dict[str, Any]) -> None:
    counts = np.zeros((3, 130))
    counts[0, [30, 60, 64, 100]] = 1
    counts[1, [40, 41]] = 2, 1
    spikes = discretize(smooth_spikes(counts, **condition), **condition)
    np.testing.assert_array_equal(counted(spikes, 130), counts)
    assert [frames.dtype for frames in spikes] == [np.int64] * 3
    assert spikes[1].tolist() == [40, 40, 41]


def test_model_or_its_description_tells_the_kernel() -> None:
    prob = smooth_spikes(np.eye(3, 60, 30), **CAUSAL)
    spec = SimpleNamespace(**CAUSAL)
    for model in (spec, SimpleNamespace(spec=spec)):
        assert [frames.tolist() for frames in discretize(prob, model)] == [[30], [31], [32]]
    gaussian = discretize(prob, spec, causal_kernel=False, count_weight=0.9)
    assert [frames.tolist() for frames in gaussian] != [[30], [31], [32]]


def test_nothing_where_nothing_is_known_or_expected() -> None:
    prob = busy_prob()
    for row, frames in zip(prob, discretize(prob, **GAUSSIAN), strict=True):
        assert np.isfinite(row[frames]).all()
    assert [frames.size for frames in discretize(np.full((2, 50), np.nan), **GAUSSIAN)] == [0, 0]
    assert [frames.size for frames in discretize(np.zeros((2, 50)), **GAUSSIAN)] == [0, 0]
    assert [frames.size for frames in discretize(np.zeros((2, 0)), **GAUSSIAN)] == [0, 0]
    assert discretize(np.zeros((0, 9)), **GAUSSIAN) == []


def test_more_weight_on_the_number_brings_it_closer() -> None:
    prob = np.abs(busy_prob(seed=3))
    errors = [
        sum(abs(frames.size - np.nansum(np.where(np.isfinite(row), row, 0))) for row, frames in zip(
            prob, discretize(prob, count_weight=weight, **GAUSSIAN), strict=True))
        for weight in (0.0, 0.9)
    ]  # fmt: skip
    assert errors[1] < errors[0]


def test_no_spike_where_its_kernel_is_not_seen() -> None:
    bump = smooth_spikes(np.eye(1, 60, 30), **GAUSSIAN)
    bump[0, 30] = np.nan
    (frames,) = discretize(bump, **GAUSSIAN)
    assert frames.size == 1
    assert abs(frames[0] - 30) == 1
    # A spike in the last frame would explain nothing, but bring the number of spikes closer to what is expected.
    thin = np.zeros((1, 60))
    thin[0, -20:] = 0.03
    assert discretize(thin, count_weight=0.9, **CAUSAL)[0].size == 0


def test_long_activity_is_explained_across_the_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    prob = smooth_spikes(rng.poisson(0.12, (3, 400)), **GAUSSIAN) * rng.uniform(0.8, 1.2, (3, 400)).astype(np.float32)
    in_pieces = errors(prob, counted(discretize(prob, **GAUSSIAN), 400), GAUSSIAN)
    monkeypatch.setattr("cascade_rt.discretization.LONGEST", 50)
    in_one = errors(prob, counted(discretize(prob, **GAUSSIAN), 400), GAUSSIAN)
    assert in_pieces[0] == pytest.approx(in_one[0], rel=0.03)
    assert in_pieces[1] <= in_one[1] + 2


def test_a_seed_changes_nothing() -> None:
    prob = busy_prob()
    for one, other in zip(discretize(prob, **GAUSSIAN), discretize(prob, seed=7, **GAUSSIAN), strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------------------------- incremental


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("condition", CONDITIONS)
def test_stream_is_the_batch_whatever_the_chunks(condition: dict[str, Any], seed: int) -> None:
    prob = busy_prob(seed=seed)
    batch = discretize(prob, **condition)
    rng = np.random.default_rng(seed)
    stream = DiscretizeStream(len(prob), **condition)
    for _ in range(2):  # the second time after the reset that flush does
        given = decided = 0
        frames, neurons = [], []
        while given < prob.shape[1]:
            k = int(rng.choice([0, 1, 5, 90]))
            events = stream.push(prob[:, given : given + k])
            given = min(given + k, prob.shape[1])
            assert stream.frame == given
            # What was called decided stays so, and what is given out has been seen.
            assert (events.frames >= decided).all()
            assert (events.frames < given).all()
            assert (np.diff(events.frames) >= 0).all()
            assert given - events.decided_frames <= stream.max_delay_frames
            assert events.decided_frames >= decided
            decided = events.decided_frames
            frames.append(events.frames)
            neurons.append(events.neurons)
        events = stream.flush()
        assert events.decided_frames == prob.shape[1]
        frames, neurons = np.concatenate([*frames, events.frames]), np.concatenate([*neurons, events.neurons])
        for i, expected in enumerate(batch):
            np.testing.assert_array_equal(np.sort(frames[neurons == i]), expected)


def test_a_spike_is_given_out_when_its_event_is_over() -> None:
    prob = smooth_spikes(np.eye(1, 80, 20), **GAUSSIAN)
    stream = DiscretizeStream(1, **GAUSSIAN)
    given = [t for t in range(80) if stream.push(prob[:, t : t + 1]).frames.size]
    assert len(given) == 1
    # Above the floor until 3 frames after the spike; then the 11 taps of the kernel, the first in that frame.
    assert given[0] == 20 + 3 + 11 - 1
    assert stream.push(np.zeros((1, 5))).decided_frames >= 60


def test_reset_is_a_new_stream() -> None:
    prob = busy_prob()
    used, new = DiscretizeStream(len(prob), **GAUSSIAN), DiscretizeStream(len(prob), **GAUSSIAN)
    used.push(prob[:, :77])
    used.reset()
    for one, other in zip((used.push(prob), used.flush()), (new.push(prob), new.flush()), strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.neurons, other.neurons)
        assert one.decided_frames == other.decided_frames


# ----------------------------------------------------------------------------------------------- CASCADE


def errors(prob: np.ndarray, counts: np.ndarray, condition: dict[str, Any]) -> tuple[float, float]:
    """Summed absolute difference, and the error of the number of spikes summed over neurons."""
    fit = np.nansum(np.abs(prob - smooth_spikes(counts, **condition)), dtype=np.float64)
    return float(fit), float(np.abs(counts.sum(axis=1) - np.nansum(prob, axis=1, dtype=np.float64)).sum())


@needs_compiler
@pytest.mark.parametrize("threshold", ["threshold_0", "threshold_1"])
def test_no_worse_than_the_stored_run_of_cascade(shared: Path, threshold: str) -> None:
    (file,) = (shared / "golden").glob("allen_*.npz")
    golden = np.load(file)
    prob = golden[f"spike_prob_{threshold}"]
    theirs = np.zeros(prob.shape)
    # Its frames are one too early: their kernels add up to the stored approximation one frame later.
    np.add.at(theirs, (golden["discrete_spikes_neuron"], golden["discrete_spikes_frame"] + 1), 1)
    approximation = np.nan_to_num(golden["discrete_approximation"])
    np.testing.assert_allclose(smooth_spikes(theirs, **GAUSSIAN), approximation, atol=2e-3)
    fit, number = errors(prob, counted(discretize(prob, **GAUSSIAN), prob.shape[1]), GAUSSIAN)
    their_fit, their_number = errors(prob, theirs, GAUSSIAN)
    assert fit <= their_fit
    assert number <= their_number
    # CASCADE explains by Gaussians also what a causal model says. With the kernel that the model was trained with, its
    # spikes fit best two frames earlier.
    fit, number = errors(prob, counted(discretize(prob, **CAUSAL), prob.shape[1]), CAUSAL)
    their_fit, their_number = errors(prob, np.roll(theirs, -2, axis=1), CAUSAL)
    assert fit <= their_fit
    assert number <= their_number


# ----------------------------------------------------------------------------------------------- wrong use


def test_wrong_use() -> None:
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        discretize(np.zeros(5), **GAUSSIAN)
    with pytest.raises(InputError, match="expected numbers"):
        discretize(np.zeros((2, 5), complex), **GAUSSIAN)
    with pytest.raises(InputError, match=r"frame_rate_hz is not known.*pass the model"):
        discretize(np.zeros((1, 5)), smoothing_s=0.05)
    with pytest.raises(InputError, match="count_weight"):
        discretize(np.zeros((1, 5)), count_weight=1.0, **GAUSSIAN)
    with pytest.raises(InputError, match="n_neurons"):
        DiscretizeStream(0, **GAUSSIAN)
    with pytest.raises(StreamError, match=r"expected \(2, k\)"):
        DiscretizeStream(2, **GAUSSIAN).push(np.zeros((3, 4)))

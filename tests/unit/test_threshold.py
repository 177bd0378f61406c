"""Thresholds: CASCADE's stored outputs, scipy's dilation, and chunks of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from cascade_rt.errors import InputError, StreamError
from cascade_rt.smoothing import noise_floor
from cascade_rt.threshold import ThresholdStream, apply_threshold

if TYPE_CHECKING:
    from pathlib import Path

MODES = ("zero", "noise_floor", "none")
SLOW = {"smoothing_s": 0.2, "frame_rate_hz": 30.0}
FAST = {"smoothing_s": 0.025, "frame_rate_hz": 30.0}


def some_prob(seed: int = 0, shape: tuple[int, int] = (5, 150)) -> np.ndarray:
    """Sparse events on noise around 0, with unknown stretches; read-only."""
    rng = np.random.default_rng(seed)
    prob = rng.normal(0, 0.01, shape) + (rng.random(shape) < 0.05) * rng.random(shape)
    prob[:, :4] = np.nan
    prob[1, 60:70] = np.nan
    prob = prob.astype(np.float32)
    prob.flags.writeable = False
    return prob


def expected(prob: np.ndarray, mode: str, smoothing_s: float, frame_rate_hz: float, alignment: str) -> np.ndarray:
    """The rule, from its description and scipy's dilation."""
    out = prob.copy()
    if mode == "none":
        return out
    if mode == "noise_floor":
        reach = int(smoothing_s * frame_rate_hz)
        for row, values in zip(out, prob, strict=True):
            above = values > np.float64(noise_floor(smoothing_s, frame_rate_hz))
            # For scipy, 0 iterations mean as many as change something, which CASCADE runs into.
            kept = binary_dilation(above, iterations=reach) if reach or alignment == "cascade" else above
            row[~kept & ~(np.isnan(values) & (alignment == "target"))] = 0
    out[out < 0] = 0
    return out


@pytest.mark.parametrize("alignment", ["target", "cascade"])
@pytest.mark.parametrize("condition", [SLOW, FAST, {"smoothing_s": 0.05, "frame_rate_hz": 30.0}])
@pytest.mark.parametrize("mode", MODES)
def test_batch_follows_the_rule(mode: Any, condition: dict[str, float], alignment: Any) -> None:
    prob = some_prob()
    done = apply_threshold(prob, mode, alignment=alignment, **condition)
    assert done.dtype == np.float32
    assert not np.shares_memory(done, prob)
    np.testing.assert_array_equal(done, expected(prob, mode, alignment=alignment, **condition))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("alignment", ["target", "cascade"])
@pytest.mark.parametrize("mode", MODES)
def test_chunks_do_not_matter(mode: Any, alignment: Any, seed: int) -> None:
    prob = some_prob(seed)
    rng = np.random.default_rng(seed)
    stream = ThresholdStream(len(prob), mode, alignment=alignment, **SLOW)
    for _ in range(2):  # the second time after the reset that flush does
        pieces, given, taken = [], 0, 0
        while given < prob.shape[1]:
            k = int(rng.integers(0, 40))
            pieces.append(stream.push(prob[:, given : given + k]))
            given = min(given + k, prob.shape[1])
            taken += pieces[-1].shape[1]
            assert taken == max(0, given - stream.delay_frames)
        pieces.append(stream.flush())
        np.testing.assert_array_equal(np.hstack(pieces), apply_threshold(prob, mode, alignment=alignment, **SLOW))


def test_delay_is_the_reach_of_the_dilation() -> None:
    assert ThresholdStream(1, "noise_floor", **SLOW).delay_frames == 6
    assert ThresholdStream(1, "noise_floor", **FAST).delay_frames == 0
    assert ThresholdStream(1, "zero", **SLOW).delay_frames == 0


def test_reset_is_a_new_stream() -> None:
    prob = some_prob()
    used = ThresholdStream(len(prob), "noise_floor", **SLOW)
    used.push(prob[:, 20:50])
    used.reset()
    new = ThresholdStream(len(prob), "noise_floor", **SLOW)
    np.testing.assert_array_equal(used.push(prob), new.push(prob))
    np.testing.assert_array_equal(used.flush(), new.flush())


def test_endless_dilation_of_cascade() -> None:
    prob = np.full((2, 50), 0.05, np.float32)
    prob[0, 25] = 1
    done = apply_threshold(prob, "noise_floor", alignment="cascade", **FAST)
    np.testing.assert_array_equal(done[0], prob[0])
    assert not done[1].any()
    with pytest.raises(InputError, match="whole recording"):
        ThresholdStream(2, "noise_floor", alignment="cascade", **FAST)


@pytest.mark.parametrize("name", ["allen_30Hz", "ogb_7.5Hz"])
def test_golden(shared: Path, name: str) -> None:
    (file,) = (shared / "golden").glob(f"{name}*.npz")
    golden = np.load(file)
    condition = (
        {"smoothing_s": 0.05, "frame_rate_hz": 30.0}
        if name == "allen_30Hz"
        else {"smoothing_s": 0.2, "frame_rate_hz": 7.5}
    )
    raw = golden["spike_prob_unthresholded"]
    # CASCADE blanks both ends after the threshold, so a value there may have kept its neighbour.
    inside = slice(33, raw.shape[1] - 33)
    for mode, key in (("zero", "threshold_0"), ("noise_floor", "threshold_1"), ("none", "unthresholded")):
        done = apply_threshold(raw, mode, alignment="cascade", **condition)
        np.testing.assert_array_equal(done[:, inside], golden[f"spike_prob_{key}"][:, inside])


def test_wrong_use() -> None:
    with pytest.raises(InputError, match="'zero', 'noise_floor', 'none'"):
        apply_threshold(np.zeros((1, 5)), "floor", **SLOW)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alignment"):
        apply_threshold(np.zeros((1, 5)), "zero", alignment="mine", **SLOW)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        apply_threshold(np.zeros(5), "zero", **SLOW)
    with pytest.raises(StreamError, match=r"expected \(2, k\)"):
        ThresholdStream(2, "zero", **SLOW).push(np.zeros((3, 5)))

"""ΔF/F: kernels against slow twins and scipy, running against batch, and what must not be divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import percentile_filter

from cascade_rt import _kernels, baseline
from cascade_rt._kernels import compiling
from cascade_rt.baseline import BaselineOptions, RunningBaseline, delta_f_over_f
from cascade_rt.errors import InputError, StreamError

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 10.0
#: Fewer repetitions where the kernels run as plain Python.
FEW = compiling._INTERPRETED


def ranks(width: int, percentile: float) -> np.ndarray:
    return np.array([min(int(n * percentile / 100), max(n - 1, 0)) for n in range(width + 1)])


def slow_rank(values: np.ndarray, before: int, after: int, percentile: float) -> np.ndarray:
    """The definition, window by window."""
    out = np.full(values.shape, np.nan, np.float32)
    for i, row in enumerate(values):
        for t in range(row.size):
            window = row[max(0, t - before) : t + after + 1]
            window = np.sort(window[~np.isnan(window)])
            if window.size:
                out[i, t] = window[ranks(window.size, percentile)[-1]]
    return out


def slow_mean(values: np.ndarray, m: int, after: int) -> np.ndarray:
    """Mean of the finite values of the m frames of which ``after`` come later; NaN where the frame is."""
    out = np.full(values.shape, np.nan)
    for i, row in enumerate(values):
        for t in np.flatnonzero(~np.isnan(row)):
            window = row[max(0, t - (m - 1 - after)) : t + after + 1].astype(float)
            out[i, t] = window[~np.isnan(window)].mean()
    return out.astype(np.float32)


def slow_dff(fluorescence: np.ndarray, options: BaselineOptions) -> np.ndarray:
    values = np.where(np.isfinite(fluorescence), fluorescence, np.nan).astype(np.float32)
    w, m = (max(1, round(s * RATE)) for s in (options.window_s, options.smoothing_s))
    centered = options.position == "centered"
    w_after, m_after = ((n - 1) // 2 if centered else 0 for n in (w, m))
    f0 = slow_rank(slow_mean(values, m, m_after), w - 1 - w_after, w_after, options.percentile).astype(float)
    dff = (values - f0) / np.where(f0 > 0, f0, np.nan)
    dff[(f0 <= 0).any(axis=1)] = np.nan
    return dff.astype(np.float32)


def some_fluorescence(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise and transients on a drifting level; NaN, infinities, an unknown and a constant neuron; read-only."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(50, 500, (shape[0], 1)) * np.linspace(1, 0.6, shape[1])
    events = rng.random(shape) < 0.02
    dff = np.stack([np.convolve(row, np.exp(-np.arange(30) / 8))[: shape[1]] for row in events])
    out = level * (1 + dff + rng.normal(0, 0.1, shape))
    out[0, ::7] = np.nan
    out[0, 20:45] = np.nan
    out[1, 5:8] = (np.inf, -np.inf, np.inf)
    out[2] = np.nan
    out[3] = 120.0
    out = out.astype(np.float32)
    out.flags.writeable = False
    return out


# ------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("seed", range(8 if FEW else 150))
def test_moving_rank_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_frames = int(rng.integers(1, 90 if FEW else 300))
    before, after = (int(n) for n in rng.integers(0, 60, 2))
    percentile = float(rng.choice([0, 8, 10, 33.3, 50, 99, 100]))
    values = rng.normal(0, 1, (3, n_frames)).astype(np.float32)
    if seed % 3 == 0:  # ties, and zeros of both signs
        values = np.round(2 * values)
    if seed % 2:
        values[rng.random(values.shape) < rng.choice([0.1, 0.5, 0.95])] = np.nan
    values[2, n_frames // 2 :] = np.nan
    out = np.full_like(values, 7)
    _kernels.over_rows(_kernels.moving_rank_rows, (values, out), (before, after, ranks(before + after + 1, percentile)))
    np.testing.assert_array_equal(out, slow_rank(values, before, after, percentile))


def test_moving_rank_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows longer than what is put in order at a time; the seams must not show."""
    n_frames = 3 * _kernels.baseline.SHORTEST + 17
    if FEW:
        n_frames = _kernels.baseline.SHORTEST + 17
    values = np.random.default_rng(0).normal(0, 1, (1, n_frames)).astype(np.float32)
    values[0, 100:300] = np.nan
    values[0, 4090:4100] = np.nan
    out = np.empty_like(values)
    _kernels.over_rows(_kernels.moving_rank_rows, (values, out), (20, 10, ranks(31, 8)))
    np.testing.assert_array_equal(out, slow_rank(values, 20, 10, 8))


@pytest.mark.parametrize("width", [1, 2, 9, 30])
@pytest.mark.parametrize("percentile", [0.0, 8.0, 50.0, 100.0])
def test_interior_is_scipys(width: int, percentile: float) -> None:
    values = np.random.default_rng(width).normal(0, 1, (2, 80)).astype(np.float32)
    out = np.empty_like(values)
    before = width // 2
    after = width - 1 - before
    _kernels.over_rows(_kernels.moving_rank_rows, (values, out), (before, after, ranks(width, percentile)))
    inside = slice(before, 80 - after)
    theirs = percentile_filter(values, percentile, size=(1, width))
    np.testing.assert_array_equal(out[:, inside], theirs[:, inside])
    assert width == 1 or not np.array_equal(out[:, 40:60], theirs[:, 41:61])


def test_a_huge_value_is_forgotten_with_its_frame() -> None:
    """Sums that are added to and subtracted from would keep its rounding error for ever."""
    values = np.full((1, 60), 3.0, np.float32)
    values[0, 7] = 1e30
    options = BaselineOptions(window_s=0.6, smoothing_s=0.3, percentile=100, position="trailing")
    dff = delta_f_over_f(values, frame_rate_hz=RATE, options=options).dff
    np.testing.assert_array_equal(dff[0, 20:], 0)


# ------------------------------------------------------------------------------------------------ batch


@pytest.mark.parametrize("position", ["centered", "trailing"])
@pytest.mark.parametrize(("window_s", "smoothing_s"), [(5, 0), (5, 0.5), (4.9, 0.4), (100, 1), (0.1, 0), (0.2, 0.1)])
@pytest.mark.parametrize("n_frames", [1, 2, 49, 130])
def test_batch_follows_the_definition(position: Any, window_s: float, smoothing_s: float, n_frames: int) -> None:
    fluorescence = some_fluorescence((6, 130))[:, :n_frames]
    options = BaselineOptions(window_s=window_s, smoothing_s=smoothing_s, position=position)
    result = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options)
    assert result.dff.dtype == np.float32
    np.testing.assert_allclose(result.dff, slow_dff(fluorescence, options), rtol=1e-5, atol=1e-6)
    # NaN exactly where the fluorescence has no value, or the baseline none.
    np.testing.assert_array_equal(np.isnan(result.dff), ~np.isfinite(fluorescence))


@pytest.mark.parametrize("position", ["centered", "trailing"])
def test_a_window_shifted_by_one_frame_would_be_seen(position: Any) -> None:
    """Fluorescence that rises with every frame: the lowest value of the window tells where it begins."""
    fluorescence = 1000.0 + np.arange(200)[None]
    options = BaselineOptions(window_s=5, smoothing_s=0, percentile=0, position=position)
    dff = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options).dff[0]
    begins = np.arange(200) - (25 if position == "centered" else 49)
    f0 = 1000.0 + np.maximum(begins, 0)
    np.testing.assert_allclose(dff, (fluorescence[0] - f0) / f0, rtol=1e-6)


def test_levels_tell_of_the_baseline() -> None:
    fluorescence = np.stack([np.full(300, 50.0), np.linspace(100, 70, 300), np.full(300, np.nan)])
    options = BaselineOptions(window_s=5, smoothing_s=0, percentile=50)
    result = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options)
    np.testing.assert_allclose(result.f0, [50, 85, np.nan], rtol=2e-3)
    np.testing.assert_allclose(result.f0_lowest, [50, 71, np.nan], rtol=0.01)
    np.testing.assert_allclose(result.f0_highest, [50, 99, np.nan], rtol=0.01)
    np.testing.assert_array_equal(result.unknown, [False, False, True])
    assert result.f0.dtype == np.float64
    assert not result.non_positive.any()
    np.testing.assert_array_equal(result.dff[0], 0)
    assert np.isnan(result.dff[2]).all()


def test_non_positive_baselines_are_reported_not_divided_by() -> None:
    rng = np.random.default_rng(0)
    fluorescence = 100 + rng.normal(0, 1, (4, 400))
    fluorescence[1] -= 150
    fluorescence[2, 150:250] = 0.0
    fluorescence[3, 150:152] = -5.0  # too short for the percentile to get there
    result = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=BaselineOptions(window_s=8, smoothing_s=0))
    np.testing.assert_array_equal(result.non_positive, [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(result.dff).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(result.dff).any(axis=1), [False, True, True, False])
    np.testing.assert_allclose(result.f0, [98.6, -51.4, 98.5, 98.6], atol=0.5)
    assert result.f0_lowest[2] == 0


def test_neuropil_is_subtracted() -> None:
    rng = np.random.default_rng(0)
    fluorescence, neuropil = rng.uniform(400, 500, (3, 200)), rng.uniform(100, 200, (3, 200))
    neuropil[2] *= 10
    neuropil[0, 7] = np.nan
    options = BaselineOptions(window_s=5, neuropil_coefficient=0.7)
    result = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options, neuropil=neuropil)
    same = delta_f_over_f(fluorescence - 0.7 * neuropil, frame_rate_hz=RATE, options=BaselineOptions(window_s=5))
    np.testing.assert_array_equal(result.dff, same.dff)
    np.testing.assert_array_equal(result.non_positive, [False, False, True])
    assert np.isnan(result.dff[0, 7])
    without = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options)
    plain = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=BaselineOptions(window_s=5))
    np.testing.assert_array_equal(without.dff, plain.dff)


def test_bleaching_is_removed_and_transients_stay() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(3000) / RATE
    dff = np.zeros(3000)
    for start in range(200, 3000, 400):
        dff[start : start + 60] += np.exp(-np.arange(60) / 10)
    bleach = 900 * (0.6 + 0.4 * np.exp(-seconds / 100))
    fluorescence = (bleach * (1 + dff + rng.normal(0, 0.1, 3000)))[None]
    result = delta_f_over_f(fluorescence, frame_rate_hz=RATE)
    assert result.f0_highest[0] / result.f0_lowest[0] > 1.4
    rest = dff < 0.01
    for part in (slice(0, 1000), slice(1000, 2000), slice(2000, 3000)):
        assert abs(np.median(result.dff[0, part][rest[part]])) < 0.1
    assert 0.85 < np.mean([result.dff[0, start] for start in range(200, 3000, 400)]) < 1.15


def test_noise_does_not_pull_the_baseline_down() -> None:
    """Without the average, 8 % of white noise lies 1.4 standard deviations below; that is why it is there."""
    fluorescence = 100 + np.random.default_rng(0).normal(0, 40, (4, 2000))
    plain = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=BaselineOptions(smoothing_s=0))
    np.testing.assert_allclose(plain.f0, 44, atol=4)
    assert (delta_f_over_f(fluorescence, frame_rate_hz=RATE).f0 > 75).all()


@pytest.mark.parametrize(
    "same",
    [np.asfortranarray, lambda f: f.tolist(), lambda f: f.astype(np.float64), lambda f: f[:, ::-1][:, ::-1]],
    ids=["fortran", "list", "double", "strided"],
)
def test_blocks_layouts_and_types_do_not_matter(
    same: Callable[[np.ndarray], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fluorescence = some_fluorescence((9, 150))
    expected = delta_f_over_f(fluorescence, frame_rate_hz=RATE)
    monkeypatch.setattr(baseline, "BLOCK", 400)
    result = delta_f_over_f(same(fluorescence), frame_rate_hz=RATE)
    np.testing.assert_array_equal(result.dff, expected.dff)
    np.testing.assert_array_equal(result.f0, expected.f0)


def test_integers_and_callers_arrays() -> None:
    counts = np.random.default_rng(0).integers(100, 200, (3, 90)).astype(np.uint16)
    around = np.full((3, 90), 60000, np.uint16)
    for array in (counts, around):
        array.flags.writeable = False
    before = counts.copy()
    result = delta_f_over_f(counts, frame_rate_hz=RATE, neuropil=around, options=BaselineOptions())
    np.testing.assert_array_equal(result.dff, delta_f_over_f(counts.astype(float), frame_rate_hz=RATE).dff)
    np.testing.assert_array_equal(counts, before)
    options = BaselineOptions(neuropil_coefficient=1)
    assert delta_f_over_f(counts, frame_rate_hz=RATE, neuropil=around, options=options).non_positive.all()
    running = RunningBaseline(3, RATE)
    running.push(counts, around)
    np.testing.assert_array_equal(counts, before)


def test_result_does_not_share_memory_with_what_was_given() -> None:
    fluorescence = np.full((2, 30), 10, np.float32)
    result = delta_f_over_f(fluorescence, frame_rate_hz=RATE)
    result.dff[:] = 5
    assert (fluorescence == 10).all()


def test_values_beyond_single_precision_do_not_count() -> None:
    fluorescence = np.full((1, 50), 10.0)
    fluorescence[0, 20] = 1e300
    dff = delta_f_over_f(fluorescence, frame_rate_hz=RATE).dff
    assert np.isnan(dff[0, 20])
    assert np.nansum(np.abs(dff)) == 0


def test_nothing_to_do() -> None:
    for shape in ((0, 50), (3, 0), (0, 0)):
        result = delta_f_over_f(np.zeros(shape), frame_rate_hz=RATE)
        assert result.dff.shape == shape
        assert result.f0.shape == (shape[0],)
        assert result.unknown.all()
        assert not result.non_positive.any()


# ------------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize("lowest", [1, 5, 64])
@pytest.mark.parametrize("seed", range(3 if FEW else 30))
def test_running_is_the_batch_whatever_the_chunks(seed: int, lowest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if few of the lowest values are kept, which therefore run short."""
    monkeypatch.setattr(baseline, "LOWEST", lowest)
    rng = np.random.default_rng(seed)
    n_frames = int(rng.integers(1, 200))
    fluorescence = some_fluorescence((6, 200), seed)[:, :n_frames].copy()
    if seed % 2:  # ties
        fluorescence = np.round(fluorescence / 20) * 20 + 1
    fluorescence[4][rng.random(n_frames) < 0.6] = np.nan
    fluorescence.flags.writeable = False
    window_s = float(rng.choice([0.1, 0.2, 3, 4.9, 40]))
    options = BaselineOptions(
        window_s=window_s,
        smoothing_s=float(rng.choice([0, 0.3, 1.1] if window_s > 2 else [0, 0.09])),
        percentile=float(rng.choice([0, 8, 50, 100])),
        position="trailing",
    )
    whole = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options)
    assert not whole.non_positive.any()
    running = RunningBaseline(6, RATE, options)
    given = 0
    while given < n_frames:
        k = int(rng.choice([0, 1, 1, 1, 2, 7, 60]))
        out = running.push(fluorescence[:, given : given + k])
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, whole.dff[:, given : given + k])
        given = min(given + k, n_frames)
        assert running.n_frames == given
        assert running.full == (given >= running.window_frames)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
def test_running_keeps_up_with_a_drift(slope: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rising, the lowest values leave one after the other; falling, every new value is among them."""
    monkeypatch.setattr(baseline, "LOWEST", 1)
    fluorescence = 2000 + slope * np.arange(500) + np.random.default_rng(0).normal(0, 3, (3, 500))
    options = BaselineOptions(window_s=10, smoothing_s=0, position="trailing")
    whole = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options)
    running = RunningBaseline(3, RATE, options)
    parts = [running.push(fluorescence[:, t : t + 1]) for t in range(500)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole.dff)


def test_running_with_neuropil() -> None:
    rng = np.random.default_rng(1)
    fluorescence, neuropil = rng.uniform(400, 500, (3, 120)), rng.uniform(100, 200, (3, 120))
    options = BaselineOptions(window_s=4, neuropil_coefficient=0.15, position="trailing")
    whole = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=options, neuropil=neuropil)
    running = RunningBaseline(3, RATE, options)
    parts = [running.push(fluorescence[:, t : t + 9], neuropil[:, t : t + 9]) for t in range(0, 120, 9)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole.dff)


def test_live_and_offline_agree_once_the_window_is_full() -> None:
    """A trailing window is a centered one of an earlier frame: on a still neuron the results differ by noise alone."""
    fluorescence = 200 + np.random.default_rng(0).normal(0, 10, (3, 1500))
    centered = delta_f_over_f(fluorescence, frame_rate_hz=RATE, options=BaselineOptions(window_s=60)).dff
    trailing = RunningBaseline(3, RATE, BaselineOptions(window_s=60, position="trailing")).push(fluorescence)
    assert np.abs(centered - trailing)[:, 600:].max() < 0.03
    # The same frames, in the same window: the last frame's trailing window is that of a frame 30 s earlier.
    last = (1 + trailing[:, -1]) / fluorescence[:, -1]
    earlier = (1 + centered[:, 1500 - 300]) / fluorescence[:, 1500 - 300]
    np.testing.assert_allclose(last, earlier, rtol=0.01)


@pytest.mark.parametrize("seed", range(2))
def test_reset_is_a_new_object(seed: int) -> None:
    options = BaselineOptions(window_s=3, smoothing_s=0.4, position="trailing")
    used, new = RunningBaseline(6, RATE, options), RunningBaseline(6, RATE, options)
    used.push(-some_fluorescence((6, 47), 5 + seed))
    assert used.non_positive.any()
    used.reset()
    assert used.n_frames == 0
    assert not used.full
    assert not used.non_positive.any()
    fluorescence = some_fluorescence((6, 100), seed)
    np.testing.assert_array_equal(used.push(fluorescence), new.push(fluorescence))


def test_running_reports_non_positive_baselines_and_recovers() -> None:
    """Dark frames at the start must not cost the neuron for the rest of the experiment."""
    fluorescence = np.full((2, 300), 80.0)
    fluorescence[1, :10] = 0.0
    running = RunningBaseline(2, RATE, BaselineOptions(window_s=5, smoothing_s=0, position="trailing"))
    dff = running.push(fluorescence[:, :150])
    np.testing.assert_array_equal(running.non_positive, [False, True])
    assert np.isnan(dff[1, :10]).all()
    dff = running.push(fluorescence[:, 150:])
    np.testing.assert_array_equal(dff, 0)
    np.testing.assert_array_equal(running.non_positive, [False, True])
    running.non_positive[:] = False
    np.testing.assert_array_equal(running.non_positive, [False, True])


def test_frames_without_values() -> None:
    running = RunningBaseline(2, RATE, BaselineOptions(window_s=1, smoothing_s=0.2, position="trailing"))
    assert np.isnan(running.push(np.full((2, 30), np.nan))).all()
    np.testing.assert_array_equal(running.push(np.full((2, 1), 5.0)), 0)
    assert np.isnan(running.push(np.full((2, 30), np.inf))).all()
    np.testing.assert_array_equal(running.push(np.full((2, 1), 7.0)), 0)


# ------------------------------------------------------------------------------------------------ wrong use


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_s": 0}, "window_s=0"),
        ({"window_s": -1.0}, "window_s=-1.0"),
        ({"window_s": float("nan")}, "window_s=nan"),
        ({"window_s": float("inf")}, "window_s=inf"),
        ({"percentile": 101}, "from 0 to 100"),
        ({"percentile": -1}, "from 0 to 100"),
        ({"percentile": "8"}, "percentile='8'"),
        ({"smoothing_s": -0.5}, "smoothing_s=-0.5"),
        ({"smoothing_s": 60.0}, "far shorter"),
        ({"neuropil_coefficient": -0.7}, "neuropil_coefficient=-0.7"),
        ({"neuropil_coefficient": True}, "neuropil_coefficient=True"),
        ({"position": "centred"}, '"centered" or "trailing"'),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BaselineOptions(**options)


def test_wrong_arrays() -> None:
    good = np.ones((2, 5))
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        delta_f_over_f(np.zeros(5), frame_rate_hz=RATE)
    with pytest.raises(InputError, match="real numbers"):
        delta_f_over_f(good.astype(complex), frame_rate_hz=RATE)
    with pytest.raises(InputError, match="neuropil has shape"):
        delta_f_over_f(good, frame_rate_hz=RATE, neuropil=good[:, 1:])
    for rate in (0.0, -30.0, np.nan, np.inf):
        with pytest.raises(InputError, match="frame_rate_hz"):
            delta_f_over_f(good, frame_rate_hz=rate)
        with pytest.raises(InputError, match="frame_rate_hz"):
            RunningBaseline(2, rate)
    with pytest.raises(InputError, match="trailing"):
        RunningBaseline(2, RATE, BaselineOptions())
    for number in (0, 2.0, True):
        with pytest.raises(InputError, match="n_neurons"):
            RunningBaseline(number, RATE)
    running = RunningBaseline(2, RATE)
    with pytest.raises(StreamError, match=r"expected \(2, k\)"):
        running.push(np.ones((3, 1)))
    with pytest.raises(InputError, match="neuropil has shape"):
        running.push(good, good[:, 1:])
    with pytest.raises(InputError, match="n_neurons, n_frames"):
        running.push(np.ones(2))
    assert running.n_frames == 0

"""Live inference: the same values as the offline call, whatever the pieces; ν, gaps, revisions, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Stage, loaded, on_a_gpu, picking_layers, random_network, write_conditioned, write_published
from recordings import drive, offline, open_stream, recording

import cascade_rt as crt
from cascade_rt.bundle import import_cascade
from cascade_rt.engine import load_model
from cascade_rt.errors import InputError, StreamError

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.chunks import ModelSpec
    from cascade_rt.engine import Model

NAMES = ("binned", "online", "conditioned")
#: Inside and far outside of the trained range, on the edges between bins, unknown.
LEVELS = (0.01, 0.9, 1.0, 1.49, 1.51, 2.2, 3.7, 5.9, 6.1, 8.0, 40.0, float("nan"))
TOLERANCE = 1e-5


def _shift(spec: ModelSpec, alignment: str) -> int:
    """Frames by which an alignment describes earlier than the training did, see docs/architecture.md."""
    if alignment == "target":
        return 0
    if spec.before_frac is None:
        return 1
    before = spec.before_frac * spec.windowsize
    return round(before) - int(before - 1)


def _usable(spec: ModelSpec, bad: np.ndarray, lookahead: int, alignment: str) -> np.ndarray:
    """Where the window of a frame lies in the recording and holds nothing ``bad`` (n, frames); the same shape."""
    n_frames, window = bad.shape[1], spec.windowsize
    out = np.zeros(bad.shape, bool)
    for t in range(n_frames):
        newest = t + lookahead + _shift(spec, alignment)
        oldest = newest - window + 1
        # CASCADE does not use the first window.
        first = int(alignment == "cascade" and spec.family == "binned")
        if oldest >= first and newest < n_frames:
            out[:, t] = ~bad[:, oldest : newest + 1].any(axis=1)
    return out


# ------------------------------------------------------------------------------------------------ live = offline


@dataclass(frozen=True)
class Case:
    name: str
    seed: int
    n_neurons: int
    n_frames: int
    sizes: tuple[int, ...]
    alignment: str
    threshold: str
    missing: tuple[tuple[int, int, int], ...]
    gaps: tuple[tuple[int, int], ...]
    gpu: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_neurons, n_frames = draw(st.integers(1, 7)), draw(st.integers(1, 400))
    frame, length = st.integers(0, n_frames - 1), st.integers(1, 40)
    return Case(
        name=draw(st.sampled_from(NAMES)),
        seed=draw(st.integers(0, 1000)),
        n_neurons=n_neurons,
        n_frames=n_frames,
        sizes=tuple(draw(st.lists(st.integers(1, 500) | st.integers(1, 9), min_size=1, max_size=6))),
        alignment=draw(st.sampled_from(("target", "cascade"))),
        threshold=draw(st.sampled_from(("zero", "noise_floor", "none"))),
        missing=tuple(draw(st.lists(st.tuples(st.integers(0, n_neurons - 1), frame, length), max_size=3))),
        gaps=tuple(draw(st.lists(st.tuples(frame, length), max_size=2))),
        gpu=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(case=cases())
def test_live_equals_offline(case: Case, models: dict[str, Model]) -> None:
    model = models[case.name]
    spec = model.spec
    rng = np.random.default_rng(case.seed)
    dff = recording(rng, case.n_neurons, case.n_frames)
    for neuron, frame, length in case.missing:
        dff[neuron, frame : frame + length] = np.nan
    touched = np.zeros(case.n_frames, bool)
    for frame, length in case.gaps:
        touched[frame : frame + length] = True
    nu = rng.choice(LEVELS, case.n_neurons)
    lookaheads = tuple(sorted(rng.permutation(spec.lookaheads)[: rng.integers(1, len(spec.lookaheads) + 1)]))
    dff.flags.writeable = nu.flags.writeable = False
    options: Any = {"alignment": case.alignment, "threshold": case.threshold}
    stream = open_stream(on_a_gpu(model) if case.gpu else model, nu, lookahead_frames=lookaheads, **options)
    assert stream.lookahead_frames == lookaheads

    seen = drive(stream, dff, case.sizes, touched=touched, prepare=lambda: bool(rng.integers(0, 2)))

    bad = ~np.isfinite(dff) | np.isnan(nu)[:, None]
    for lookahead, described in seen.items():
        expected = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead, **options)
        # assert_allclose compares the NaN patterns too.
        np.testing.assert_allclose(described.prob, expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_array_equal(
            described.valid, _usable(spec, bad | touched, lookahead, case.alignment), strict=True
        )
        if case.threshold != "noise_floor" or case.alignment == "target":
            np.testing.assert_array_equal(np.isfinite(expected), _usable(spec, bad, lookahead, case.alignment))
        assert not described.provisional.any()


@pytest.mark.parametrize("alignment", ["target", "cascade"])
@pytest.mark.parametrize("threshold", ["zero", "noise_floor", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_live_equals_offline_with_everything_at_once(
    name: str, threshold: Any, alignment: Any, models: dict[str, Model]
) -> None:
    """All look-aheads, all ν, pieces of 1 to 500 frames."""
    model = models[name]
    rng = np.random.default_rng(1)
    dff = recording(rng, len(LEVELS), 700)
    dff[3, 200:210] = np.nan
    dff[5, 320] = np.nan
    stream = open_stream(
        model, LEVELS, lookahead_frames=model.spec.lookaheads, threshold=threshold, alignment=alignment
    )
    seen = drive(stream, dff, [1, 2, 1, 64, 63, 65, 7, 500, 3])
    for lookahead, described in seen.items():
        expected = offline(
            dff, model, noise_levels=LEVELS, lookahead_frames=lookahead, threshold=threshold, alignment=alignment
        )
        np.testing.assert_allclose(described.prob, expected, rtol=0, atol=TOLERANCE)
        assert np.nanmax(expected) > 0.1, "the comparison would be empty"
    if threshold == "noise_floor":
        assert (expected == 0).any()
        assert stream.delay_frames > _shift(model.spec, alignment)


def test_the_first_window_counts_the_same_for_the_noise_floor(tmp_path: Path) -> None:
    """CASCADE does not report its first window; whether that keeps its neighbours must not depend on the way."""
    write_published(
        tmp_path / "picks", make=lambda _: picking_layers(20, 10), levels=(2,), members=1, windowsize=20,
        sampling_rate=15, smoothing=0.2,
    )  # fmt: skip
    model = load_model(import_cascade(tmp_path / "picks", tmp_path / "bundle"), threads=1)
    dff = np.full((1, 60), 0.001, np.float32)
    # What the first window describes, far above the noise floor; the dilation reaches 3 frames.
    dff[0, 10] = 1.0
    options: Any = {"threshold": "noise_floor", "alignment": "cascade"}
    expected = offline(dff, model, noise_levels=[2.0], **options)
    for sizes in ([1], [60], [7]):
        seen = drive(open_stream(model, [2.0], **options), dff, sizes)[9]
        np.testing.assert_allclose(seen.prob, expected, rtol=0, atol=TOLERANCE)


def test_more_neurons_than_are_prepared_together(conditioned: Model, binned: Model) -> None:
    rng = np.random.default_rng(3)
    dff = recording(rng, 600, 90)
    nu = rng.choice(np.array(LEVELS), 600)
    for model in (conditioned, binned):
        seen = drive(open_stream(model, nu), dff, [1, 30])
        for lookahead, described in seen.items():
            expected = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead)
            np.testing.assert_allclose(described.prob, expected, rtol=0, atol=TOLERANCE)


def test_two_streams_of_one_model_do_not_meet(conditioned: Model) -> None:
    rng = np.random.default_rng(4)
    one, two = recording(rng, 3, 120), recording(rng, 3, 120)
    streams = [open_stream(conditioned, [1.0, 2.0, 5.0], lookahead_frames=1) for _ in range(3)]
    alone = drive(streams[0], one, [1])[1].prob
    parts = []
    for t in range(120):
        parts.append(streams[1].push(one[:, t : t + 1]).spike_prob)
        streams[2].push(two[:, t : t + 1])
        if t == 60:
            offline(two, conditioned)
    np.testing.assert_array_equal(np.concatenate([*parts, streams[1].flush().spike_prob], axis=1), alone)


@pytest.mark.parametrize("make", [np.asfortranarray, lambda x: x.astype(">f4"), lambda x: x.astype(np.float64)])
def test_any_layout_of_frames_is_taken(make: Any, binned: Model) -> None:
    dff = recording(np.random.default_rng(5), 3, 100)
    expected = drive(open_stream(binned, [1.0, 2.0, 5.0]), dff, [7])[31].prob
    np.testing.assert_array_equal(drive(open_stream(binned, [1.0, 2.0, 5.0]), make(dff), [7])[31].prob, expected)
    reversed_twice = np.ascontiguousarray(dff[::-1, ::-1])[::-1, ::-1]
    np.testing.assert_array_equal(drive(open_stream(binned, [1.0, 2.0, 5.0]), reversed_twice, [7])[31].prob, expected)


def test_infinities_are_missing_values_live(conditioned: Model) -> None:
    """A stream cannot know that a later value is infinite; each leaves its neuron out for one window."""
    dff = recording(np.random.default_rng(6), 3, 200)
    dff[1, 90], dff[2, 100] = np.inf, -np.inf
    missing = np.where(np.isfinite(dff), dff, np.nan)
    nu = [1.0, 2.0, 5.0]
    seen, expected = (drive(open_stream(conditioned, nu, lookahead_frames=2), x, [1, 9])[2] for x in (dff, missing))
    np.testing.assert_array_equal(seen.prob, expected.prob)
    np.testing.assert_array_equal(seen.valid, expected.valid)
    assert np.isfinite(seen.prob[1, 150:-3]).all()
    assert np.isfinite(seen.prob[0, 100:-3]).all()


def test_values_too_large_for_single_precision_are_missing(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(6), 2, 120).astype(np.float64)
    dff[1, 50] = 1e300
    seen = drive(open_stream(conditioned, [1.0, 2.0], lookahead_frames=2), dff, [1])[2]
    window = conditioned.spec.windowsize
    assert np.isnan(seen.prob[1, 48 : 48 + window]).all()
    assert np.isfinite(seen.prob[:, 48 + window : -2]).all()
    assert np.isfinite(seen.prob[0, window:-2]).all()


# ------------------------------------------------------------------------------------------------------- gaps


def test_a_filled_gap_keeps_its_values_but_says_so(binned: Model) -> None:
    dff = recording(np.random.default_rng(7), 2, 300)
    touched = np.zeros(300, bool)
    touched[150:153] = True
    nu = [1.0, 3.0]
    seen = drive(open_stream(binned, nu), dff, [10], touched=touched)[31]
    np.testing.assert_allclose(seen.prob, offline(dff, binned, noise_levels=nu), rtol=0, atol=TOLERANCE)
    # Frame t sees t - 32 to t + 31.
    assert not seen.valid[:, 150 - 31 : 153 + 32].any()
    assert seen.valid[:, 32 : 150 - 31].all()
    assert seen.valid[:, 153 + 32 : 300 - 31].all()


@pytest.mark.parametrize("alignment", ["target", "cascade"])
@pytest.mark.parametrize("threshold", ["zero", "noise_floor"])
@pytest.mark.parametrize("name", NAMES)
def test_after_a_long_gap_a_stream_starts_afresh(
    name: str, threshold: Any, alignment: Any, models: dict[str, Model]
) -> None:
    model = models[name]
    rng = np.random.default_rng(8)
    before, after = recording(rng, 4, 131), recording(rng, 4, 170)
    before[1, -1] = np.nan
    nu = rng.choice(LEVELS[:-1], 4)
    options: Any = {"threshold": threshold, "alignment": alignment}
    stream = open_stream(model, nu, lookahead_frames=model.spec.lookaheads, **options)
    first = drive(stream, before, [7], flush=False)
    tail = stream.skip(1000)
    assert stream.frame == 1131
    second = drive(stream, after, [11, 1])
    for lookahead in model.spec.lookaheads:
        chunk = tail if lookahead == tail.lookahead_frames else tail.revisions[lookahead]
        assert chunk.first_frame + chunk.n_frames == 131
        seen = np.concatenate([first[lookahead].prob, chunk.spike_prob], axis=1)
        for prob, part in ((seen, before), (second[lookahead].prob, after)):
            expected = offline(part, model, noise_levels=nu, lookahead_frames=lookahead, **options)
            np.testing.assert_allclose(prob, expected, rtol=0, atol=TOLERANCE)
        bad = ~np.isfinite(after)
        np.testing.assert_array_equal(second[lookahead].valid, _usable(model.spec, bad, lookahead, alignment))


def test_a_gap_of_no_frames_still_forgets(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(9), 2, 100)
    stream = open_stream(conditioned, [1.0, 2.0], lookahead_frames=0)
    drive(stream, dff, [9], flush=False)
    stream.skip(0)
    seen = drive(stream, dff, [9])[0]
    np.testing.assert_allclose(
        seen.prob, offline(dff, conditioned, noise_levels=[1.0, 2.0], lookahead_frames=0), atol=TOLERANCE
    )
    with pytest.raises(InputError, match="n_frames=-1"):
        stream.skip(-1)


# ------------------------------------------------------------------------------------------------------- reset


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_reset_is_a_new_stream(name: str, calibrate: bool, models: dict[str, Model]) -> None:
    model = models[name]
    rng = np.random.default_rng(10)
    dff = recording(rng, 4, 260)
    nu = None if calibrate else [1.0, 2.2, 6.0, 30.0]
    options: Any = {"n_neurons": 4, "threshold": "noise_floor", "calibration_s": 150 / model.spec.frame_rate_hz}
    options["lookahead_frames"] = model.spec.lookaheads
    fresh = drive(open_stream(model, nu, **options), dff, [13])
    for frames in (1, 40, 141, 260):
        used = open_stream(model, nu, **options)
        spoiled = 50 * dff[:, :frames] + 1
        spoiled[2, -1] = np.nan
        drive(used, spoiled, [17], flush=frames % 2 == 0)
        used.push(spoiled[:, :3], touched=True)
        if frames == 141:
            used.skip(77)
            used.push(spoiled[:, :3])
        if frames == 260:
            used.set_noise_levels([8.0, 1.0, np.nan, 2.0])
            used.prepare()
        used.reset()
        assert (used.frame, used.calibrating) == (0, calibrate)
        again = drive(used, dff, [13])
        for lookahead in model.spec.lookaheads:
            for one, other in zip(again[lookahead], fresh[lookahead], strict=True):
                np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------------------ options


def test_the_live_look_ahead_is_2_or_the_nearest_below(conditioned: Model, binned: Model, tmp_path: Path) -> None:
    assert open_stream(conditioned, [1.0]).lookahead_frames == (2,)
    assert open_stream(binned, [1.0]).lookahead_frames == (31,)
    for lookaheads, expected in (((0, 1, 5), 1), ((3, 7), 3), ((0, 9), 0)):
        folder = write_conditioned(tmp_path / str(expected), lookaheads=lookaheads)
        assert open_stream(load_model(folder, threads=1), [1.0]).lookahead_frames == (expected,)


@pytest.mark.parametrize(("wanted", "got"), [(7, (7,)), ((15, 2), (2, 15)), ([3, 3, 0], (0, 3)), (np.int64(1), (1,))])
def test_look_aheads_are_sorted(wanted: Any, got: tuple[int, ...], conditioned: Model) -> None:
    stream = open_stream(conditioned, [1.0], lookahead_frames=wanted)
    assert stream.lookahead_frames == got
    chunk = stream.push(np.zeros((1, 1)))
    assert (chunk.lookahead_frames, tuple(chunk.revisions)) == (got[0], got[1:])


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"lookahead_frames": 4}, "no look-ahead of 4.*0, 1, 2, 3, 7, 15"),
        ({"lookahead_frames": (2, 5)}, "no look-ahead of 5"),
        ({"lookahead_frames": ()}, "lookahead_frames is empty"),
        ({"threshold": "Zero"}, "threshold='Zero': expected one of 'zero', 'noise_floor', 'none'"),
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": False}, "threshold=False"),
        ({"alignment": "CASCADE"}, "alignment='CASCADE': expected one of 'target', 'cascade'"),
        ({"n_neurons": 0}, "n_neurons=0"),
        ({"n_neurons": 3}, r"noise_levels has shape \(2,\): expected \(3,\)"),
        ({"frame_rate_hz": 15.0}, "15 Hz.*30 Hz.*allow_rate_mismatch=True"),
        ({"frame_rate_hz": 0.0, "allow_rate_mismatch": True}, "frame_rate_hz=0"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], seen: str, conditioned: Model) -> None:
    with pytest.raises(InputError, match=seen):
        open_stream(conditioned, [1.0, 2.0], **options)


def test_misspelt_options_are_refused(conditioned: Model) -> None:
    with pytest.raises(TypeError, match="lookahead"):
        open_stream(conditioned, [1.0], lookahead=2)
    with pytest.raises(TypeError, match="gap"):
        open_stream(conditioned, [1.0]).push(np.zeros((1, 1)), gap=True)  # type: ignore[call-arg]


def test_another_frame_rate_is_taken_knowingly(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(19), 2, 300)
    stream = open_stream(
        conditioned, None, n_neurons=2, frame_rate_hz=15.0, allow_rate_mismatch=True, calibration_s=10.0
    )
    drive(stream, dff, [50])
    # ν belongs to the recording's rate, not to the model's.
    np.testing.assert_allclose(stream.noise_levels, crt.noise_levels(dff[:, :150], frame_rate_hz=15.0), rtol=1e-6)


def test_cascades_endless_noise_floor_is_refused_live() -> None:
    model = loaded(random_network(np.random.default_rng(0), noise_range=(1.0, 8.0)), (0,), smoothing_s=0.025)
    with pytest.raises(InputError, match=r"noise_floor.*cascade.*whole recording"):
        open_stream(model, [1.0], threshold="noise_floor", alignment="cascade")
    drive(open_stream(model, [1.0], threshold="noise_floor"), recording(np.random.default_rng(0), 1, 90), [7])


# -------------------------------------------------------------------------------------------------- wrong frames


@pytest.mark.parametrize("frames", [np.zeros((2, 5)), np.zeros((4, 5)), np.zeros((5, 3))])
def test_another_number_of_neurons_breaks_the_declaration(frames: np.ndarray, conditioned: Model) -> None:
    with pytest.raises(StreamError, match=f"{len(frames)} neurons.*declared with 3.*new SpikeStream"):
        open_stream(conditioned, [1.0, 2.0, 3.0]).push(frames)


@pytest.mark.parametrize(
    "frames", [np.zeros(3), np.zeros((3, 0)), np.zeros((3, 1, 1)), np.zeros((3, 1), complex), [["a"], ["b"], ["c"]]]
)
def test_what_is_no_matrix_of_numbers_is_refused(frames: Any, conditioned: Model) -> None:
    with pytest.raises(InputError, match="frames"):
        open_stream(conditioned, [1.0, 2.0, 3.0]).push(frames)


def test_a_refused_push_leaves_the_stream_as_it_was(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(20), 3, 100)
    clean = drive(open_stream(conditioned, [1.0, 2.0, 3.0]), dff, [10])[2].prob
    stream = open_stream(conditioned, [1.0, 2.0, 3.0])
    parts = []
    for t in range(0, 100, 10):
        parts.append(stream.push(dff[:, t : t + 10]).spike_prob)
        with pytest.raises(StreamError):
            stream.push(dff[:2, t : t + 10])
        with pytest.raises(InputError):
            stream.push(dff[0])
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush().spike_prob], axis=1), clean)


def test_results_are_not_overwritten_by_later_ones(conditioned: Model) -> None:
    dff = recording(np.random.default_rng(21), 3, 120)
    stream = open_stream(conditioned, [1.0, 2.0, 3.0], lookahead_frames=(0, 3))
    chunks = [stream.push(dff[:, t : t + 1]) for t in range(120)]
    kept = [c.spike_prob.copy() for c in chunks]
    stream.reset()
    stream.push(100 * dff)
    for chunk, copy in zip(chunks, kept, strict=True):
        np.testing.assert_array_equal(chunk.spike_prob, copy)
    # And writing into a result does not reach the stream.
    other = open_stream(conditioned, [1.0, 2.0, 3.0], lookahead_frames=(0, 3))
    for t, chunk in enumerate(chunks):
        again = other.push(dff[:, t : t + 1])
        np.testing.assert_array_equal(again.spike_prob, chunk.spike_prob)
        again.spike_prob[:] = 1e6
        again.valid[:] = True


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_shorter_than_the_window_is_nan(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    for n_frames in (1, 5, model.spec.windowsize - 1):
        for alignment in ("target", "cascade"):
            stream = open_stream(
                model, [1.0, 2.0], alignment=alignment, threshold="noise_floor", lookahead_frames=model.spec.lookaheads
            )
            for described in drive(stream, np.ones((2, n_frames), np.float32), [2]).values():
                assert described.prob.shape == (2, n_frames)
                assert np.isnan(described.prob).all()
                assert not described.valid.any()


def test_the_longest_look_ahead_a_window_allows(tmp_path: Path) -> None:
    network = random_network(
        np.random.default_rng(0), outputs=2, stages=(Stage(6, 4),), last=Stage(5, 0), noise_range=(1.0, 8.0)
    )
    assert network.receptive_field == 10
    model = load_model(write_conditioned(tmp_path / "m", network=network, lookaheads=(0, 9)), threads=1)
    dff = recording(np.random.default_rng(0), 2, 60)
    for alignment in ("target", "cascade"):
        seen = drive(open_stream(model, [1.0, 3.0], lookahead_frames=(0, 9), alignment=alignment), dff, [4])
        for lookahead, described in seen.items():
            expected = offline(dff, model, noise_levels=[1.0, 3.0], lookahead_frames=lookahead, alignment=alignment)
            np.testing.assert_allclose(described.prob, expected, rtol=0, atol=TOLERANCE)

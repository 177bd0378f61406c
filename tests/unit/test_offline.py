"""Whole recordings: which frame each value describes, bounded pieces, any array, what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from networks import Shape, cascade_layers, loaded, picking_layers, picking_network, windowed, write_published
from recordings import drive, offline, ramp, recording

import cascade_rt as crt
from cascade_rt import offline as module
from cascade_rt.bundle import import_cascade
from cascade_rt.engine import load_model
from cascade_rt.errors import CascadeWarning, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.engine import Model

NAMES = ("binned", "online", "conditioned")

# ---------------------------------------------------------------------------------------------------- alignment


def _live(dff: np.ndarray, model: Model, nu: np.ndarray, **options: Any) -> dict[int, np.ndarray]:
    rate = model.spec.frame_rate_hz
    stream = crt.SpikeStream(model, n_neurons=len(dff), frame_rate_hz=rate, noise_levels=nu, **options)
    return {lookahead: described.prob for lookahead, described in drive(stream, dff, [1, 3, 40]).items()}


def _shifted(dff: np.ndarray, first: int, last: int, shift: int = 0) -> np.ndarray:
    """``dff[t + shift]`` for frames first ... last, NaN elsewhere."""
    out = np.full_like(dff, np.nan)
    out[:, first : last + 1] = dff[:, first + shift : last + 1 + shift]
    return out


@pytest.mark.parametrize(
    ("before_frac", "window"),
    [(0.5, 64), (0.5, 32), (0.5, 63), (0.25, 64), (0.8, 64), (0.95, 64), (0.98, 64), (0.5, 128), (0.7, 33), (0.3, 32)],
)
def test_values_describe_the_frame_of_the_training_target(before_frac: float, window: int, tmp_path: Path) -> None:
    """Training pairs the window from frame i with frame i + round(before); a network that picks just that frame
    must give the recording itself, in its place. CASCADE stores it at frame i + int(before - 1)."""
    before = before_frac * window
    target, cascade = round(before), int(before - 1)
    write_published(
        tmp_path / "picks", make=lambda _: picking_layers(window, target), levels=(2, 5), members=2,
        windowsize=window, before_frac=before_frac,
    )  # fmt: skip
    model = load_model(import_cascade(tmp_path / "picks", tmp_path / "bundle"), threads=1)
    assert model.spec.lookaheads == (window - 1 - target,)
    dff, nu, n = ramp(3, window + 50), np.array([1.0, 4.9, 7.0]), window + 50
    expected = {
        "target": _shifted(dff, target, n - window + target),
        # Without the first window, which CASCADE leaves out.
        "cascade": _shifted(dff, cascade + 1, n - window + cascade, target - cascade),
    }
    for alignment, placed in expected.items():
        options: Any = {"noise_levels": nu, "alignment": alignment}
        np.testing.assert_array_equal(offline(dff, model, **options), placed)
        (seen,) = _live(dff, model, nu, alignment=alignment).values()
        np.testing.assert_array_equal(seen, placed)


def test_pooling_does_not_shift(tmp_path: Path) -> None:
    """Two poolings of a rising ramp give the last of four frames: a network of CASCADE's layers that picks it."""
    shape = Shape(window=64, filter_numbers=(2, 2, 2), dense_expansion=2)

    def make(rng: np.random.Generator) -> list[Any]:
        layers = cascade_layers(rng, shape)
        for i, (taps, tap) in {1: (31, 30), 2: (19, 0), 4: (5, 2)}.items():
            kernel, bias = (np.zeros_like(w) for w in layers[i].weights)
            assert len(kernel) == taps
            kernel[tap, 0, 0] = 1
            layers[i] = layers[i]._replace(weights=(kernel, bias))
        kernel, bias = (np.zeros_like(w) for w in layers[6].weights)
        kernel[0, 0] = 1
        layers[6] = layers[6]._replace(weights=(kernel, bias))
        kernel, bias = (np.zeros_like(w) for w in layers[8].weights)
        kernel[0] = 1
        layers[8] = layers[8]._replace(weights=(kernel, bias))
        return layers

    # Position 0 after the second pooling holds the convolutions' columns 0 to 3 + 2 * 2: the newest is frame 37.
    window = np.arange(64, dtype=float)[None]
    picked = int(windowed(make(np.random.default_rng(0)), window)[0])
    assert picked == 30 + 3 + 2 * 2
    before_frac = picked / 64
    write_published(tmp_path / "picks", make=make, levels=(2,), members=1, before_frac=before_frac, shape=shape)
    model = load_model(import_cascade(tmp_path / "picks", tmp_path / "bundle"), threads=1)
    dff, nu = ramp(2, 120), np.array([1.0, 3.0])
    expected = _shifted(dff, picked, 120 - 64 + picked)
    np.testing.assert_allclose(offline(dff, model, noise_levels=nu), expected, rtol=1e-6)
    (seen,) = _live(dff, model, nu).values()
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


@pytest.mark.parametrize(("window", "lookaheads"), [(64, (0, 1, 2, 3, 5, 7, 15, 31)), (12, (0, 4, 10)), (33, (2,))])
def test_every_look_ahead_describes_its_own_frame(window: int, lookaheads: tuple[int, ...]) -> None:
    model = loaded(picking_network(window, lookaheads), lookaheads)
    n = window + 50
    dff, nu = ramp(3, n), np.array([0.5, 4.0, 40.0])
    for alignment, shift in (("target", 0), ("cascade", 1)):
        live = _live(dff, model, nu, alignment=alignment, lookahead_frames=lookaheads)
        for lookahead in lookaheads:
            expected = _shifted(dff, window - 1 - lookahead - shift, n - 1 - lookahead - shift, shift)
            seen = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead, alignment=alignment)
            np.testing.assert_array_equal(seen, expected)
            np.testing.assert_array_equal(live[lookahead], expected)


def test_the_longest_look_ahead_is_the_default() -> None:
    model = loaded(picking_network(12, (0, 4, 10)), (0, 4, 10))
    dff, nu = ramp(1, 40), np.array([2.0])
    np.testing.assert_array_equal(
        offline(dff, model, noise_levels=nu), offline(dff, model, noise_levels=nu, lookahead_frames=10)
    )


def test_all_frames_that_a_window_can_describe() -> None:
    """A look-ahead of the whole window: the value describes the window's oldest frame."""
    model = loaded(picking_network(10, (0, 9)), (0, 9))
    dff, nu = ramp(2, 30), np.array([2.0, 3.0])
    for lookahead, shift in ((0, 0), (0, 1), (9, 0), (9, 1)):
        alignment: Any = ("target", "cascade")[shift]
        first = max(9 - lookahead - shift, 0)
        expected = _shifted(dff, first, 29 - lookahead - shift, shift)
        seen = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead, alignment=alignment)
        np.testing.assert_array_equal(seen, expected)


# ----------------------------------------------------------------------------------------------- bounded pieces


@pytest.fixture
def dff() -> np.ndarray:
    x = recording(np.random.default_rng(0), 9, 400)
    x[3, 150:160] = np.nan
    x[7, 10] = np.nan
    x.flags.writeable = False
    return x


NU = np.array([0.5, 1.0, 1.4, 1.6, 2.5, 3.5, np.nan, 7.0, 30.0])


@pytest.mark.parametrize("threshold", ["zero", "noise_floor", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_small_pieces_give_the_same(
    name: str, threshold: Any, dff: np.ndarray, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[name]
    whole = offline(dff, model, noise_levels=NU, threshold=threshold)
    for row, tile, block in ((1, 1, 1), (7, 50, 900), (64, 64, 3601), (337, 1000, 10**9), (10**6, 1, 400)):
        monkeypatch.setattr(module, "ROW_FRAMES", row)
        monkeypatch.setattr(module, "TILE_FRAMES", tile)
        monkeypatch.setattr(module, "BLOCK_FRAMES", block)
        seen = offline(dff, model, noise_levels=NU, threshold=threshold)
        np.testing.assert_allclose(seen, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_frames", [64, 65, 127, 128, 1023, 1024 + 63, 1024 + 64, 2 * 1024 + 64])
def test_every_length_of_recording(n_frames: int, binned: Model) -> None:
    x = recording(np.random.default_rng(1), 2, n_frames)
    windows = np.lib.stride_tricks.sliding_window_view(x, 64, axis=1)
    expected = np.stack([binned.run_dense(1.0, np.ascontiguousarray(w), np.ones(len(w)))[:, 0, 0] for w in windows])
    seen = offline(x, binned, noise_levels=[1.0, 1.0], threshold="none")
    np.testing.assert_allclose(seen[:, 32 : 32 + n_frames - 63], expected, atol=2e-6)
    assert np.isnan(seen).sum() == 2 * 63


def test_memory_is_bounded_by_the_pieces(binned: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks see tiles, and the recording is read some neurons at a time."""
    tiles, reads = [], []
    run = type(binned).run_dense

    def noted(self: Model, key: Any, frames: np.ndarray, nu: np.ndarray) -> np.ndarray:
        tiles.append(frames.shape)
        return run(self, key, frames, nu)

    class Recording(np.ndarray):
        def __getitem__(self, index: Any) -> Any:
            part = super().__getitem__(index)
            reads.append(np.size(part))
            return part

    monkeypatch.setattr(type(binned), "run_dense", noted)
    # It looks at 256 × 2048 values at most, which is all of this recording.
    monkeypatch.setattr(module, "check_dff", lambda *_, **__: [])
    monkeypatch.setattr(module, "ROW_FRAMES", 100)
    monkeypatch.setattr(module, "TILE_FRAMES", 600)
    monkeypatch.setattr(module, "BLOCK_FRAMES", 3000)
    x = recording(np.random.default_rng(2), 20, 1000)
    seen = offline(x.view(Recording), binned, noise_levels=np.full(20, 3.0))
    assert max(rows * (frames - 63) for rows, frames in tiles) <= 600
    assert max(reads) <= 3000
    np.testing.assert_allclose(seen, offline(x, binned, noise_levels=np.full(20, 3.0)), atol=1e-6)


def test_memory_mapped_files_in_and_out(dff: np.ndarray, conditioned: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "dff.npy", dff)
    source = np.load(tmp_path / "dff.npy", mmap_mode="r")
    target = np.lib.format.open_memmap(tmp_path / "prob.npy", "w+", np.float32, dff.shape)
    seen = offline(source, conditioned, out=target)
    assert seen is target
    target.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "prob.npy"), offline(dff, conditioned))


def test_the_result_goes_where_it_is_told(dff: np.ndarray, conditioned: Model) -> None:
    out = np.full((2 * len(dff), dff.shape[1]), 7, np.float32)
    seen = offline(dff, conditioned, noise_levels=NU, out=out[::2])
    assert np.shares_memory(seen, out)
    np.testing.assert_array_equal(out[::2], offline(dff, conditioned, noise_levels=NU))
    assert (out[1::2] == 7).all()


@pytest.mark.parametrize("out", [np.zeros((9, 399), np.float32), np.zeros((400, 9), np.float32), np.zeros((9, 400))])
def test_an_output_of_another_kind_is_refused(out: np.ndarray, dff: np.ndarray, conditioned: Model) -> None:
    with pytest.raises(InputError, match=r"out is .*: expected float32 \(9, 400\)"):
        offline(dff, conditioned, out=out)


def test_progress_rises_to_1(dff: np.ndarray, conditioned: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_FRAMES", 800)
    told: list[float] = []
    offline(dff, conditioned, progress=told.append)
    assert told == sorted(told)
    assert len(told) == 5
    assert told[-1] == 1
    assert all(0 < x <= 1 for x in told)


# ----------------------------------------------------------------------------------------------------- any array


@pytest.mark.parametrize("name", NAMES)
def test_the_input_is_not_modified(name: str, dff: np.ndarray, models: dict[str, Model]) -> None:
    before = dff.copy()
    nu = NU.copy()
    nu.flags.writeable = False
    for threshold in ("zero", "noise_floor", "none"):
        offline(dff, models[name], noise_levels=nu, threshold=threshold)
    offline(dff, models[name])
    np.testing.assert_array_equal(dff, before)


@pytest.mark.parametrize(
    "make",
    [
        np.asfortranarray,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: np.ascontiguousarray(x.T).T,
        lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
        lambda x: x.tolist(),
    ],
    ids=["Fortran", "float64", "big-endian", "transposed", "reversed", "strided", "lists"],
)
def test_any_layout_gives_the_same(make: Any, dff: np.ndarray, conditioned: Model) -> None:
    np.testing.assert_array_equal(offline(make(dff), conditioned), offline(dff, conditioned))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64])
def test_integers_are_numbers(dtype: Any, conditioned: Model) -> None:
    x = np.random.default_rng(3).poisson(0.5, (3, 100)).astype(dtype)
    np.testing.assert_array_equal(
        offline(x, conditioned, noise_levels=np.ones(3)), offline(x.astype(float), conditioned, noise_levels=np.ones(3))
    )


def test_one_neuron_repeated_without_memory(conditioned: Model) -> None:
    row = recording(np.random.default_rng(4), 1, 100)
    many = np.broadcast_to(row, (5, 100))
    seen = offline(many, conditioned)
    np.testing.assert_allclose(seen, np.repeat(offline(row, conditioned), 5, 0), atol=1e-6)


# ---------------------------------------------------------------------------------------------------- noise levels


@pytest.mark.parametrize("name", NAMES)
def test_noise_levels_are_measured_if_not_given(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    x = recording(np.random.default_rng(5), 6, 200)
    nu = crt.noise_levels(x, frame_rate_hz=model.spec.frame_rate_hz)
    np.testing.assert_array_equal(offline(x, model), offline(x, model, noise_levels=nu))
    other = offline(x, model, noise_levels=nu[::-1])
    if name != "online":
        assert not np.allclose(other, offline(x, model), equal_nan=True)


@pytest.mark.parametrize("shape", [(8,), (10,), (9, 1), (9, 400)])
def test_another_number_of_noise_levels_is_refused(shape: tuple[int, ...], dff: np.ndarray, conditioned: Model) -> None:
    with pytest.raises(InputError, match="noise_levels has shape"):
        offline(dff, conditioned, noise_levels=np.ones(shape))


# --------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"threshold": "noise-floor"}, "threshold='noise-floor': expected one of 'zero', 'noise_floor', 'none'"),
        ({"threshold": 1}, "threshold=1"),
        ({"threshold": False}, "threshold=False"),
        ({"alignment": "targets"}, "alignment='targets': expected one of 'target', 'cascade'"),
        ({"lookahead_frames": 4}, "no look-ahead of 4 frames; it has 0, 1, 2, 3, 7, 15"),
        ({"frame_rate_hz": 7.5}, "7.5 Hz.*30 Hz"),
        ({"frame_rate_hz": -1.0}, "frame_rate_hz=-1"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], seen: str, dff: np.ndarray, conditioned: Model) -> None:
    out = np.full(dff.shape, 7, np.float32)
    with pytest.raises(InputError, match=seen):
        offline(dff, conditioned, out=out, **options)
    assert (out == 7).all(), "nothing is written"


def test_misspelt_options_are_refused(dff: np.ndarray, conditioned: Model) -> None:
    with pytest.raises(TypeError, match="lookahead"):
        offline(dff, conditioned, lookahead=2)
    with pytest.raises(TypeError, match="frame_rate_hz"):
        crt.predict(dff, conditioned)  # type: ignore[call-arg]


@pytest.mark.parametrize("threshold", ["zero", "noise_floor"])
@pytest.mark.parametrize("name", NAMES)
def test_thresholds_act_on_the_raw_values(name: str, threshold: Any, dff: np.ndarray, models: dict[str, Model]) -> None:
    model = models[name]
    raw = offline(dff, model, noise_levels=NU, threshold="none")
    seen = offline(dff, model, noise_levels=NU, threshold=threshold)
    assert (raw[np.isfinite(raw)] < 0).any()
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(raw))
    assert (seen[np.isfinite(seen)] >= 0).all()
    if threshold == "zero":
        np.testing.assert_array_equal(seen, np.maximum(raw, 0))
    else:
        kept = seen > 0
        np.testing.assert_array_equal(seen[kept], raw[kept])
        sigma = model.spec.smoothing_s * model.spec.frame_rate_hz
        floor = 1 / (sigma * np.sqrt(2 * np.pi)) / np.e
        assert kept[raw > 1.05 * floor].all()
        assert (kept.sum() < (raw > 0).sum()).all()


# --------------------------------------------------------------------------------------------------- missing values


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_value_blanks_just_the_windows_that_hold_it(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    window, nu = model.spec.windowsize, np.full(3, 2.0)
    x = recording(np.random.default_rng(6), 3, 300)
    clean = offline(x, model, noise_levels=nu, threshold="none")
    lookahead = model.spec.lookaheads[-1]
    for frame in (0, 5, 140, 298, 299):
        broken = x.copy()
        broken[1, frame] = np.nan
        seen = offline(broken, model, noise_levels=nu, threshold="none")
        expected = clean.copy()
        # Frame t sees t + lookahead - window + 1 to t + lookahead.
        expected[1, max(frame - lookahead, 0) : max(frame - lookahead + window, 0)] = np.nan
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


def test_a_warning_points_at_the_caller(conditioned: Model) -> None:
    with pytest.warns(CascadeWarning, match="every value is NaN") as caught:
        crt.predict(np.zeros((2, 5)), conditioned, frame_rate_hz=30.0)
    assert caught[0].filename == __file__


def test_memory_mapped_files_keep_what_is_theirs(binned: Model, tmp_path: Path) -> None:
    """Pages are let go while predicting; neither the file nor changes that exist in memory alone may suffer."""
    x = recording(np.random.default_rng(3), 4, 300)
    np.save(tmp_path / "x.npy", x)
    expected = offline(x, binned)
    seen = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, x.shape)
    offline(np.load(tmp_path / "x.npy", mmap_mode="r"), binned, out=seen)
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[0] = x[1]
    offline(changed, binned)
    np.testing.assert_array_equal(changed[0], x[1])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)

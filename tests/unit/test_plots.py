"""Pictures: what is chosen to be shown, and that a file is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cascade_rt
from cascade_rt.errors import InputError
from cascade_rt.plots import Curve, busiest_window, informative_neurons, plot_traces, round_down

RATE = 30.0


def recording(n_neurons: int = 12, n_frames: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Noise; the even neurons have events, neuron 2 k has k + 1 of them."""
    random = np.random.default_rng(0)
    dff = (0.1 * random.standard_normal((n_neurons, n_frames))).astype(np.float32)
    prob = (0.002 * random.random((n_neurons, n_frames))).astype(np.float32)
    for neuron in range(0, n_neurons, 2):
        for event in random.integers(100, n_frames - 100, neuron // 2 + 1):
            dff[neuron, event : event + 30] += np.exp(-np.arange(30) / 10)
            prob[neuron, event - 1 : event + 2] = 0.5
    prob[:, :32] = np.nan
    dff.flags.writeable = prob.flags.writeable = False
    return dff, prob


def test_active_neurons_are_chosen() -> None:
    dff, prob = recording()
    np.testing.assert_array_equal(informative_neurons(dff, prob, 6), [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(informative_neurons(dff, prob, 1), [10])


def test_undefined_and_constant_neurons_are_never_chosen() -> None:
    dff, prob = (array.copy() for array in recording())
    prob[10] = np.nan
    dff[8] = 0.0
    dff[6] = np.nan
    assert not set(informative_neurons(dff, prob, 12)) & {6, 8, 10}
    assert informative_neurons(dff, np.full_like(prob, np.nan)).size == 0


def test_large_recordings_are_sampled() -> None:
    dff, prob = recording(n_neurons=40)
    chosen = informative_neurons(dff, prob, 3, n_tried=14)
    assert len(chosen) == 3
    assert set(chosen) <= set(np.linspace(0, 39, 14).astype(int))


def test_busiest_window() -> None:
    prob = np.zeros((3, 500), np.float32)
    prob[0, 300:310] = 1
    prob[1, 305:315] = 0.01
    prob[2] = np.nan
    assert busiest_window(prob, 20) == slice(295, 315)
    assert busiest_window(prob, 600) == slice(0, 500)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_picture_is_written_and_the_arrays_are_left_alone(tmp_path: Path, suffix: str) -> None:
    dff, prob = recording()
    before = dff.copy(), prob.copy()
    path = plot_traces(
        tmp_path / f"traces{suffix}",
        dff,
        [Curve(spike_prob=prob), Curve(spike_prob=prob, label="immediate", filled=False)],
        frame_rate_hz=RATE,
        noise_levels=np.full(len(dff), 1.8),
        true_spikes=[np.array([40.0, 41.0])] * len(dff),
        title="Δ and ν",
    )
    assert path.stat().st_size > 5_000
    np.testing.assert_array_equal(dff, before[0])
    np.testing.assert_array_equal(prob, before[1])


def test_picture_has_ink_and_no_empty_rows(tmp_path: Path) -> None:
    from matplotlib.image import imread

    dff, prob = recording()
    plot_traces(tmp_path / "a.png", dff, [Curve(spike_prob=prob)], frame_rate_hz=RATE, neurons=[4, 10])
    pixels = imread(tmp_path / "a.png")[..., :3]
    assert pixels.shape[1] == 1650
    inked = (pixels < 0.9).any(axis=(1, 2))
    assert inked.mean() > 0.4
    # One orange peak for each event that is shown, of the colour of the spike probability.
    orange = (np.abs(pixels - [0.87, 0.52, 0.25]).max(axis=2) < 0.08).sum()
    assert orange > 100


def test_short_recordings_and_gaps(tmp_path: Path) -> None:
    dff, prob = (array.copy() for array in recording(n_frames=300))
    dff[4, 50:80] = np.nan
    dff[2] = np.nan
    path = plot_traces(tmp_path / "a.png", dff, [Curve(spike_prob=prob)], frame_rate_hz=RATE, neurons=[2, 4])
    assert path.is_file()


def test_nothing_to_draw_and_other_endings(tmp_path: Path) -> None:
    dff, prob = recording()
    with pytest.raises(InputError, match="nothing to draw"):
        plot_traces(tmp_path / "a.png", dff, [Curve(spike_prob=np.full_like(prob, np.nan))], frame_rate_hz=RATE)
    with pytest.raises(InputError, match=r"\.png, \.pdf, \.svg"):
        plot_traces(tmp_path / "a.jpg", dff, [Curve(spike_prob=prob)], frame_rate_hz=RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "rounded"), [(1.0, 1.0), (1.99, 1.0), (2.0, 2.0), (0.07, 0.05), (720.0, 500.0)])
def test_scale_bars_are_round_numbers(value: float, rounded: float) -> None:
    assert round_down(value) == pytest.approx(rounded)


def test_no_window_is_opened() -> None:
    source = (Path(cascade_rt.__file__).parent / "plots.py").read_text(encoding="utf-8")
    assert "import pyplot" not in source
    assert "matplotlib.pyplot" not in source
    done = subprocess.run(
        [sys.executable, "-c", "import sys, cascade_rt.plots; print('matplotlib' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cascade_rt.__file__).parents[1],
    )
    assert done.stdout.strip() == "False"

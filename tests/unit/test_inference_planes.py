"""The ΔF/F of one plane, block by block, and parts of it: the same values, whichever way they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cascade_rt import lazy
from cascade_rt.baseline import BaselineOptions, delta_f_over_f
from cascade_rt.errors import InputError
from cascade_rt.formats import Recording
from cascade_rt.inference.planes import Plane, fill_short_gaps
from cascade_rt.lazy import LazyMatrix
from cascade_rt.session import InferOptions

RATE = 30.0
SHORT = BaselineOptions(window_s=10.0)


def fluorescence(n_neurons: int = 9, n_frames: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    neuropil = 50 + 5 * rng.normal(size=(1, n_frames)) + np.zeros((n_neurons, 1))
    trace = 100 * (1 + np.arange(n_neurons))[:, None] + 5 * rng.normal(size=(n_neurons, n_frames)) + 0.7 * neuropil
    return trace.astype(np.float32), neuropil.astype(np.float32)


def plane_of(tmp_path: Path, options: InferOptions | None = None, **fields: Any) -> Plane:
    return Plane(Recording(path=tmp_path / "x", **fields), options or InferOptions(baseline=SHORT), RATE, tmp_path)


def whole(plane: Plane) -> np.ndarray:
    out = np.full((plane.recording.n_neurons, plane.n_frames), np.nan, np.float32)
    with plane:
        for block in plane.blocks():
            assert block.rows.size == len(block.dff) == len(block.non_positive)
            out[block.rows] = block.dff
    return out


def test_blocks_of_fluorescence_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "BLOCK_VALUES", 2000)
    trace, neuropil = fluorescence()
    trace.flags.writeable = neuropil.flags.writeable = False
    options = InferOptions(baseline=SHORT, neuropil_coefficient=0.5)
    found = whole(plane_of(tmp_path, options, traces=trace, neuropil=neuropil, kind="fluorescence"))
    expected = delta_f_over_f(
        trace,
        frame_rate_hz=RATE,
        options=BaselineOptions(window_s=10.0, neuropil_coefficient=0.5),
        neuropil=neuropil,
    )
    np.testing.assert_array_equal(found, expected.dff)
    assert not np.allclose(found, delta_f_over_f(trace, frame_rate_hz=RATE, options=SHORT).dff, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "stored", "expected"), [(None, None, 0.7), (None, 0.3, 0.3), (0.15, 0.3, 0.15), (0.0, 0.3, 0.0)]
)
def test_the_neuropil_coefficient(tmp_path: Path, given: float | None, stored: float | None, expected: float) -> None:
    trace, neuropil = fluorescence(2)
    plane = plane_of(
        tmp_path,
        InferOptions(neuropil_coefficient=given),
        traces=trace, neuropil=neuropil, kind="fluorescence", neuropil_coefficient=stored,
    )  # fmt: skip
    assert plane.coefficient == expected
    assert (f"{expected:g}" if expected else "no neuropil") in plane.dff_description


def test_no_neuropil_is_subtracted_from_dff(tmp_path: Path) -> None:
    trace, neuropil = fluorescence(2)
    plane = plane_of(tmp_path, traces=trace, neuropil=neuropil, kind="dff")
    assert plane.coefficient == 0
    np.testing.assert_array_equal(whole(plane), trace)


def test_a_negative_coefficient_is_refused(tmp_path: Path) -> None:
    trace, neuropil = fluorescence(2)
    with pytest.raises(InputError, match="neuropil_coefficient=-1"):
        plane_of(tmp_path, InferOptions(neuropil_coefficient=-1), traces=trace, neuropil=neuropil, kind="fluorescence")


def test_only_cells_are_processed(tmp_path: Path) -> None:
    trace, _ = fluorescence()
    is_cell = np.array([0, 1, 1, 0, 0, 0, 0, 0, 1], bool)
    found = whole(plane_of(tmp_path, traces=trace, is_cell=is_cell))
    np.testing.assert_array_equal(found[is_cell], trace[is_cell])
    assert np.isnan(found[~is_cell]).all()
    everything = whole(plane_of(tmp_path, InferOptions(all_rois=True), traces=trace, is_cell=is_cell))
    np.testing.assert_array_equal(everything, trace)


def test_a_baseline_that_is_not_positive_is_reported_not_divided_by(tmp_path: Path) -> None:
    trace, neuropil = fluorescence(3)
    trace[1] -= 260
    with plane_of(tmp_path, traces=trace, neuropil=neuropil, kind="fluorescence") as plane:
        blocks = list(plane.blocks())
    lost = np.concatenate([block.non_positive for block in blocks])
    np.testing.assert_array_equal(lost, [False, True, False])
    assert np.isnan(np.concatenate([block.dff for block in blocks])[1]).all()


@pytest.mark.parametrize("kind", ["dff", "fluorescence"])
def test_a_part_is_what_the_blocks_have(tmp_path: Path, kind: str) -> None:
    trace, neuropil = fluorescence()
    trace[4, 700] = np.nan
    fields: dict[str, Any] = {"traces": trace, "kind": kind, "is_cell": np.arange(9) != 2}
    if kind == "fluorescence":
        fields["neuropil"] = neuropil
    plane = plane_of(tmp_path, **fields)
    expected = whole(plane)[plane.rows]
    with plane:
        view = plane.view()
        assert view.shape == (8, 1200)
        for rows, columns in [(slice(2, 5), slice(690, 720)), (slice(None), slice(0, 50)), (slice(0, 8), slice(None))]:
            np.testing.assert_array_equal(view[rows, columns], expected[rows, columns])
        np.testing.assert_array_equal(view[3], expected[3])
        np.testing.assert_array_equal(view[np.array([0, 7]), 1190:], expected[[0, 7], 1190:])
        assert view[0:0].shape == (0, 1200)


def test_missing_frames_are_nan_and_keep_their_place(tmp_path: Path) -> None:
    trace = np.arange(12, dtype=np.float32).reshape(2, 6)
    frames = np.array([5, 6, 7, 9, 10, 13])
    plane = plane_of(tmp_path, traces=trace, frames=frames)
    assert plane.timeline.first_frame == 5
    found = whole(plane)
    np.testing.assert_array_equal(found[0], [0, 1, 2, np.nan, 3, 4, np.nan, np.nan, 5])
    filled = whole(plane_of(tmp_path, InferOptions(fill_gaps=1), traces=trace, frames=frames))
    np.testing.assert_array_equal(filled[0], [0, 1, 2, 2, 3, 4, np.nan, np.nan, 5])
    with plane:
        np.testing.assert_array_equal(plane.view()[:, 2:5], found[:, 2:5])


def test_percent_is_divided_by_100(tmp_path: Path) -> None:
    trace, _ = fluorescence(2)
    plane = plane_of(tmp_path, InferOptions(percent=True), traces=trace)
    np.testing.assert_array_equal(whole(plane), trace / np.float32(100))
    assert "divided by 100" in plane.dff_description


def test_a_file_in_the_order_of_time_is_turned_round_and_the_scratch_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "SLAB_VALUES", 4000)
    monkeypatch.setattr(lazy, "BLOCK_VALUES", 1200)
    trace, _ = fluorescence()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("dff", data=trace.T, chunks=(7, 9))
        plane = plane_of(tmp_path, traces=LazyMatrix(stored, transposed=True))
        with plane:
            assert any(item.is_dir() for item in tmp_path.iterdir()) == (lazy.block_rows(plane.recording.traces) < 3)
            np.testing.assert_array_equal(np.concatenate([block.dff for block in plane.blocks()]), trace)
    assert [item.name for item in tmp_path.iterdir()] == ["x.h5"]


def test_short_gaps_are_held() -> None:
    nan = np.nan
    dff = np.array([[nan, 1, nan, 2, nan, nan, 3, nan, nan, nan, 4, nan]], np.float32)
    dff.flags.writeable = False
    np.testing.assert_array_equal(fill_short_gaps(dff, 2), [[nan, 1, 1, 2, 2, 2, 3, nan, nan, nan, 4, 4]])
    assert fill_short_gaps(dff, 0) is dff

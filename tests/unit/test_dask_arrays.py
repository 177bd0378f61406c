"""`predict` on arrays that are not in memory: dask plans, h5py and zarr are read in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import offline, recording

from cascade_rt import lazy
from cascade_rt import offline as offline_module
from cascade_rt.engine import Model
from cascade_rt.errors import InputError
from cascade_rt.offline import predict

da = pytest.importorskip("dask.array", reason="dask is not installed")

DFF = recording(np.random.default_rng(0), 7, 400)
NU = np.geomspace(1, 9, 7)


@pytest.mark.parametrize("chunks", [(7, 400), (3, 400), (1, 57), (7, 50), (2, 399)])
@pytest.mark.parametrize("given", [True, False])
def test_a_dask_array_gives_a_dask_array_with_the_same_values(
    conditioned: Model, chunks: tuple[int, int], given: bool
) -> None:
    options: dict[str, Any] = {"noise_levels": NU} if given else {}
    expected = offline(DFF, conditioned, **options)
    planned = predict(da.from_array(DFF, chunks=chunks), conditioned, frame_rate_hz=30.0, **options)
    assert isinstance(planned, da.Array)
    assert (planned.shape, planned.dtype) == (DFF.shape, np.float32)
    np.testing.assert_allclose(planned.compute(scheduler="threads"), expected, atol=1e-6)


def test_nothing_is_computed_before_it_is_asked_for(conditioned: Model) -> None:
    def never(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    dff = da.from_array(DFF, chunks=(3, 400)).map_blocks(never, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    planned = predict(dff, conditioned, frame_rate_hz=30.0, noise_levels=NU)
    with pytest.raises(AssertionError, match="computed"):
        planned.compute(scheduler="sync")


def test_wrong_arguments_are_told_at_once(conditioned: Model) -> None:
    dff = da.from_array(DFF)
    with pytest.raises(InputError, match="the recording has 12 Hz"):
        predict(dff, conditioned, frame_rate_hz=12.0)
    with pytest.raises(InputError, match="shape"):
        predict(dff[0], conditioned, frame_rate_hz=30.0)
    with pytest.raises(InputError, match="noise_levels"):
        predict(dff, conditioned, frame_rate_hz=30.0, noise_levels=NU[:3])
    with pytest.raises(InputError, match="out is for arrays"):
        predict(dff, conditioned, frame_rate_hz=30.0, out=np.empty(DFF.shape, np.float32))


@pytest.mark.parametrize("kind", ["h5py", "zarr"])
def test_datasets_are_read_and_written_in_pieces(
    conditioned: Model, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_module, "BLOCK_FRAMES", 2 * DFF.shape[1])
    monkeypatch.setattr(lazy, "MOST_BLOCK_VALUES", 2 * DFF.shape[1])
    expected = offline(DFF, conditioned)
    sizes: list[int] = []
    read = lazy.LazyMatrix.__getitem__

    def spy(self: lazy.LazyMatrix, key: Any) -> np.ndarray:
        values = read(self, key)
        sizes.append(values.size)
        return values

    monkeypatch.setattr(lazy.LazyMatrix, "__getitem__", spy)
    # What looks for the usual mistakes reads a part of this size.
    monkeypatch.setattr("cascade_rt.noise.LOOK", (7, 100))
    monkeypatch.setattr("cascade_rt.noise.BLOCK", 2 * DFF.shape[1])
    if kind == "h5py":
        with h5py.File(tmp_path / "x.h5", "w") as file:
            source = file.create_dataset("dff", data=DFF, chunks=(1, 100))
            out = file.create_dataset("prob", DFF.shape, np.float32)
            assert offline(source, conditioned, out=out) is out
            np.testing.assert_array_equal(out[:], expected)
    else:
        zarr = pytest.importorskip("zarr", reason="zarr is not installed")
        source = zarr.create_array(str(tmp_path / "x.zarr"), shape=DFF.shape, chunks=(2, 100), dtype="f4")
        source[:] = DFF
        np.testing.assert_array_equal(offline(source, conditioned), expected)
    assert sizes
    assert max(sizes) <= 2 * DFF.shape[1]

"""Matrices in files: slices against NumPy, and files in the wrong order turned round exactly."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import zarr

from cascade_rt import lazy
from cascade_rt.errors import InputError
from cascade_rt.lazy import LazyMatrix, as_matrix, block_rows, by_neuron, let_go

VALUES = np.random.default_rng(0).normal(size=(7, 23)).astype(np.float32)
SLICES = [
    slice(None), slice(2, 5), slice(5, 2), slice(-3, None), slice(0, 100), slice(1, 6, 2), slice(None, None, -1),
    slice(5, 1, -2), slice(3, 3),
]  # fmt: skip


@pytest.fixture(params=["numpy", "h5py", "h5py-chunked", "zarr"])
def stored(request, tmp_path):
    """Makes a stored array of each kind from values."""
    opened = []

    def make(values, name="x"):
        if request.param == "numpy":
            return values
        if request.param == "zarr":
            return zarr.array(values, chunks=(3, 4))
        file = h5py.File(tmp_path / f"{name}.h5", "w")
        opened.append(file)
        chunks = (3, 4) if request.param == "h5py-chunked" else None
        return file.create_dataset(name, data=values, chunks=chunks)

    yield make
    for file in opened:
        file.close()


@pytest.mark.parametrize("transposed", [False, True])
def test_slices_are_those_of_numpy(stored, transposed):
    matrix = LazyMatrix(stored(VALUES.T.copy() if transposed else VALUES), transposed=transposed)
    assert (matrix.shape, matrix.dtype, matrix.ndim, matrix.size, len(matrix)) == ((7, 23), np.float32, 2, 161, 7)
    for rows in [*SLICES, 0, 6, -1, -7, [0, 2, 3], np.array([1, 5])]:
        for columns in SLICES:
            np.testing.assert_array_equal(matrix[rows, columns], VALUES[rows, columns], err_msg=f"{rows}, {columns}")
        np.testing.assert_array_equal(matrix[rows], VALUES[rows])
    np.testing.assert_array_equal(np.asarray(matrix), VALUES)
    for outside in (7, -8):
        with pytest.raises(IndexError):
            matrix[outside]


@pytest.mark.parametrize("transposed", [False, True])
def test_several_arrays_are_added_and_frames_left_out(stored, transposed):
    first, second = (VALUES.T.copy(), 2 * VALUES.T) if transposed else (VALUES, 2 * VALUES)
    matrix = LazyMatrix(stored(first, "a"), stored(second, "b"), transposed=transposed, n_frames=9)
    assert matrix.shape == (7, 9)
    np.testing.assert_array_equal(matrix[:], (VALUES + 2 * VALUES)[:, :9])
    np.testing.assert_array_equal(matrix[2, -4:], (VALUES + 2 * VALUES)[2, 5:9])
    assert LazyMatrix(first, transposed=transposed, n_frames=1000).shape == (7, 23)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(InputError, match="two dimensions"):
        LazyMatrix(np.ones(3))
    with pytest.raises(InputError, match="all alike"):
        LazyMatrix(np.ones((3, 4)), np.ones((3, 5)))


def test_arrays_in_files_stay_there(stored):
    array = stored(VALUES)
    matrix = as_matrix(array)
    assert matrix is array if isinstance(array, np.ndarray) else isinstance(matrix, LazyMatrix)
    assert as_matrix(matrix) is matrix
    assert isinstance(as_matrix([[1, 2], [3, 4]]), np.ndarray)


def test_blocks_are_whole_pieces_of_the_file():
    frames = 1000
    assert block_rows(np.zeros((50, frames)), 10_000) == 10
    assert block_rows(LazyMatrix(zarr.zeros((50, frames), chunks=(7, 100))), 10_000) == 7
    assert block_rows(LazyMatrix(zarr.zeros((50, frames), chunks=(20, 100))), 10_000) == 20
    assert block_rows(LazyMatrix(zarr.zeros((frames, 50), chunks=(100, 7)), transposed=True), 10_000) == 7
    assert block_rows(np.zeros((3, 10)), 10_000) == 3
    assert block_rows(np.zeros((3, 10)), 1) == 1
    # Inside of another view too: a .mat file 7.3 has its dimensions in reverse order.
    inner = LazyMatrix(zarr.zeros((frames, 50), chunks=(100, 7)), transposed=True)
    assert block_rows(LazyMatrix(inner), 10_000) == 7


def time_major(kind, tmp_path, values):
    """Values stored frame after frame, and what has to be closed."""
    if kind == "memmap":
        path = tmp_path / "x.npy"
        np.save(path, np.asfortranarray(values))
        return np.load(path, mmap_mode="r"), None
    if kind == "h5py":
        file = h5py.File(tmp_path / "x.h5", "w")
        return LazyMatrix(file.create_dataset("x", data=values.T), transposed=True), file
    if kind == "h5py-nested":
        file = h5py.File(tmp_path / "x.h5", "w")
        return LazyMatrix(LazyMatrix(file.create_dataset("x", data=values.T), transposed=True)), file
    if kind == "h5py-chunked":
        file = h5py.File(tmp_path / "x.h5", "w")
        return LazyMatrix(file.create_dataset("x", data=values.T, chunks=(5, values.shape[0])), transposed=True), file
    array = zarr.array(values.T, chunks=(6, values.shape[0]))
    return LazyMatrix(array, transposed=True), None


@pytest.mark.parametrize("dtype", [np.float32, np.int16, ">f8"])
@pytest.mark.parametrize("kind", ["memmap", "h5py", "h5py-nested", "h5py-chunked", "zarr"])
@pytest.mark.parametrize("slab", [1, 100, 10_000])
def test_files_in_order_of_time_are_turned_round_exactly(tmp_path, monkeypatch, kind, slab, dtype):
    monkeypatch.setattr(lazy, "SLAB_VALUES", slab)
    values = np.arange(29 * 41).reshape(29, 41).astype(dtype)
    matrix, file = time_major(kind, tmp_path, values)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    seen = []
    with by_neuron(matrix, 2, folder=scratch, progress=seen.append) as turned:
        assert turned is not matrix, "read 15 times over otherwise"
        assert turned.flags["C_CONTIGUOUS"]
        assert len(list(scratch.rglob("*.raw"))) == 1
        np.testing.assert_array_equal(turned[:], values)
        np.testing.assert_array_equal(turned[3:5, 7:], values[3:5, 7:])
        assert np.dtype(turned.dtype) == np.dtype(dtype).newbyteorder("=")
        del turned
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert list(scratch.iterdir()) == []
    if file is not None:
        file.close()


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((29, 41)),
        np.asfortranarray(np.zeros((29, 41))),
        LazyMatrix(zarr.zeros((29, 41), chunks=(6, 10))),
        LazyMatrix(zarr.zeros((29, 41), chunks=(1, 41))),
    ],
)
def test_what_is_cheap_to_read_is_left_as_it_is(matrix, tmp_path):
    with by_neuron(matrix, 2, folder=tmp_path) as given:
        assert given is matrix
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["reading", "body"])
def test_nothing_is_left_after_an_error(tmp_path, monkeypatch, where):
    monkeypatch.setattr(lazy, "SLAB_VALUES", 50)
    values = np.arange(29 * 41.0).reshape(29, 41)
    reads = []

    class Breaking:
        shape, dtype, chunks = (41, 29), np.dtype(float), (1, 29)

        def __getitem__(self, key):
            reads.append(key)
            if where == "reading" and len(reads) == 3:
                raise OSError("disk gone")
            return values.T[key]

    def turn():
        with by_neuron(LazyMatrix(Breaking(), transposed=True), 2, folder=tmp_path):
            assert where == "body"
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        turn()
    assert list(tmp_path.iterdir()) == []
    assert len(reads) == (3 if where == "reading" else 41)


def test_pages_may_be_given_back_and_read_again(tmp_path):
    np.save(tmp_path / "x.npy", VALUES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for array in (mapped, LazyMatrix(mapped), LazyMatrix(LazyMatrix(mapped)), VALUES):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            let_go(array)
        np.testing.assert_array_equal(array[:], VALUES)

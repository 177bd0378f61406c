"""Object arrays are read without running what they say."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest

from cascade_rt.errors import FileFormatError
from cascade_rt.formats.restricted import read_objects


def saved(tmp_path, value, *, protocol=None):
    """A .npy file of one object, as np.save writes it: with today's protocol, or with that of an older NumPy."""
    path = tmp_path / "objects.npy"
    array = np.empty((), object)
    array[()] = value
    if protocol is None:
        np.save(path, array, allow_pickle=True)
    else:
        write(path, pickle.dumps(array, protocol=protocol))
    return path


def write(path, pickled, shape=()):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": shape})
    path.write_bytes(buffer.getvalue() + pickled)
    return path


class Calls:
    """Pickled as a call of any function with any arguments."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [None, 2, 3])
def test_everything_that_settings_consist_of_comes_back(tmp_path, protocol):
    zone = datetime.timezone(datetime.timedelta(hours=2), "CEST")
    value = {
        "nested": {"extraction": {"neuropil_coefficient": 0.7, "flag": True}},
        "list": [1, 2.5, None, "text", b"\x00\xff", (3, 4), {5, 6}, frozenset({7}), 1j],
        "date": datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=zone),
        "scalar": [np.float32(0.25), np.int64(-3), np.bool_(True), np.str_("name")],
        "dtype": np.dtype(">f4"),
        "ordered": collections.OrderedDict(a=1),
        12: "a number as key",
    }
    read = read_objects(saved(tmp_path, value, protocol=protocol))
    assert read == value
    assert [type(item) for item in read["scalar"]] == [np.float32, np.int64, np.bool_, np.str_]


@pytest.mark.parametrize("protocol", [None, 2, 3])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(4, dtype=">i2"),
        np.array([True, False]),
        np.array(["plane", "µm"]),
        np.array([b"ab", b"c"]),
        np.array(1.5),
        np.zeros((0, 3)),
        np.array([1 + 2j]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_come_back_with_shape_dtype_and_values(tmp_path, array, protocol):
    read = read_objects(saved(tmp_path, {"a": array}, protocol=protocol))["a"]
    np.testing.assert_array_equal(read, array)
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    read[...] = read  # in memory of its own


def test_an_array_of_dicts_as_in_stat_npy(tmp_path):
    path = tmp_path / "stat.npy"
    rois = np.array([{"ypix": np.arange(3), "med": [1, 2]}, {"ypix": np.arange(5), "med": [3, 4]}], dtype=object)
    np.save(path, rois, allow_pickle=True)
    read = read_objects(path)
    assert read.shape == (2,)
    assert [roi["med"] for roi in read] == [[1, 2], [3, 4]]
    np.testing.assert_array_equal(read[1]["ypix"], np.arange(5))


def test_the_same_array_in_two_places_is_read_once(tmp_path):
    shared = np.arange(3)
    read = read_objects(saved(tmp_path, {"a": shared, "b": [shared]}))
    assert read["a"] is read["b"][0]


def test_paths_of_any_system_become_strings(tmp_path):
    here = read_objects(saved(tmp_path, {"path": pathlib.Path("data") / "session"}))
    assert here == {"path": str(pathlib.Path("data") / "session")}
    for module, name, expected in [
        ("pathlib", "WindowsPath", r"C:\data\session"),
        ("pathlib._local", "WindowsPath", r"C:\data\session"),
        ("pathlib", "PosixPath", "C:/data/session"),
    ]:
        # Written by hand: no system can make the other one's path.
        start = "C:\\\\\n" if name == "WindowsPath" else "C:\n"
        parts = f"(V{start}Vdata\nVsession\nt"
        call = f"c{module}\n{name}\n{parts}R."
        path = write(tmp_path / "path.npy", zero_dimensional(call))
        assert read_objects(path) == expected


def zero_dimensional(item):
    """The pickle (protocol 0) of an array without dimensions around an item that is itself pickled."""
    make = "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    dtype = "cnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI63\ntb"
    return f"{make}(I1\n(t{dtype}I00\n(l{item[:-1]}atb.".encode()


def test_the_handwritten_pickle_is_a_good_one(tmp_path):
    assert read_objects(write(tmp_path / "a.npy", zero_dimensional("I5\n."))) == 5


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("echo harm",), r"(posix|nt)\.system"),
        (eval, ("1",), r"builtins\.eval"),
        (getattr, ("", "join"), r"builtins\.getattr"),
        (np.load, ("x.npy",), r"numpy.*\.load"),
        (collections.Counter, ((),), r"collections\.Counter"),
        (sys.exit, (3,), r"sys\.exit"),
    ],
)
def test_any_other_function_is_refused_by_name_and_not_called(tmp_path, function, arguments, named):
    path = saved(tmp_path, {"fs": 30.0, "x": Calls(function, *arguments)})
    with pytest.raises(FileFormatError, match=rf"objects\.npy: holds a {named}: expected plain values"):
        read_objects(path)


def test_a_malicious_file_does_nothing(tmp_path):
    harmed = tmp_path / "harmed"
    path = saved(tmp_path, {"x": Calls(os.mkdir, str(harmed))})
    with pytest.raises(FileFormatError, match=r"\.mkdir"):
        read_objects(path)
    assert not harmed.exists()


def test_objects_of_a_class_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"test_restricted\.Thing: expected plain values"):
        read_objects(saved(tmp_path, [Thing()]))


class Thing:
    pass


def test_names_of_the_allowed_modules_are_no_way_to_others(tmp_path):
    # Protocol 4 lets a name have dots: datetime.sys would be a way to everything.
    pickled = b"\x80\x04\x8c\x08datetime\x8c\x0bsys.modules\x93."
    with pytest.raises(FileFormatError, match=r"datetime\.sys\.modules"):
        read_objects(write(tmp_path / "a.npy", pickled))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        # A dtype that claims to hold no references although it does: NumPy would take these bytes for addresses.
        (
            "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
            "(I1\n(I1\ntcnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntbI00\nVAAAAAAAA\ntb.",
            "array of object made of str",
        ),
        ("cnumpy\ndtype\n(VV16\nI00\nI01\ntR.", "dtype 'V16'"),
        ("cnumpy\ndtype\n(Vf8\nI00\nI01\ntR(I3\nV<\nN(Va\ntNI8\nI8\nI0\ntb.", "records"),
        ("cnumpy\nndarray\n((I1000000000\nttR.", "unusual way"),
        ("cnumpy\nndarray\n.", "a function or a class"),
        ("cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR.", "made of NoneType"),
        ("cbuiltins\nset\n(N(dV_make\nNstb.", "sets attributes of a function"),
        ("c_codecs\nencode\n(Vx\nVrot13\ntR.", "rot13"),
    ],
)
def test_what_could_harm_numpy_itself_is_refused(tmp_path, item, message):
    path = write(tmp_path / "a.npy", zero_dimensional(item))
    with pytest.raises(FileFormatError, match=message):
        read_objects(path)


def test_what_contains_itself_is_refused(tmp_path):
    loop: list = []
    loop.append(loop)
    with pytest.raises(FileFormatError, match="contains itself"):
        read_objects(saved(tmp_path, loop))


def test_plain_arrays_need_no_pickle(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(read_objects(tmp_path / "a.npy"), np.arange(6).reshape(2, 3))
    np.save(tmp_path / "b.npy", np.array(2.5))
    assert read_objects(tmp_path / "b.npy") == 2.5


@pytest.mark.parametrize("keep", [0, 5, 60, 140, -1])
def test_a_file_that_breaks_off_is_named(tmp_path, keep):
    path = saved(tmp_path, {"a": list(range(50))})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileFormatError, match=r"objects\.npy: .*not a readable .npy file of objects"):
        read_objects(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.npy: cannot be read"):
        read_objects(tmp_path / "none.npy")


def test_contents_that_are_not_the_array_announced(tmp_path):
    with pytest.raises(FileFormatError, match=r"not the \(3,\) array announced"):
        read_objects(write(tmp_path / "a.npy", pickle.dumps([1, 2, 3], protocol=4), shape=(3,)))


def test_an_array_of_another_shape_than_announced(tmp_path):
    pickled = pickle.dumps(np.array([1, None], object), protocol=4)
    assert read_objects(write(tmp_path / "a.npy", pickled, shape=(2,))).tolist() == [1, None]
    with pytest.raises(FileFormatError, match=r"not the \(3,\) array announced"):
        read_objects(write(tmp_path / "a.npy", pickled, shape=(3,)))

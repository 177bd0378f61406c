"""``.npy`` files that hold Python objects, read without running anything that they say.

NumPy stores objects as a pickle, and a pickle is a program: it names functions, which are called while it is read. Here
every name that it may use stands for a function of this file, which makes plain values from plain values; any other
name ends the reading. NumPy's own functions are no exception: a prepared description of a dtype makes NumPy read
memory at any address.
"""

from __future__ import annotations

import datetime
import pickle
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_objects"]

#: Deeper nesting than any settings have; a container that contains itself reaches it too.
DEEPEST = 50
#: Numbers, strings and objects; no records, no dates.
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,9}|O8?")


def read_objects(path: Path) -> Any:
    """Read a ``.npy`` file that may hold Python objects.

    Parameters
    ----------
    path : Path

    Returns
    -------
    object
        What a file of one object holds, usually a dict; otherwise the array. Consists of dicts, lists, tuples, sets,
        strings, bytes, numbers, dates, None, and NumPy's arrays, scalars and dtypes. Paths are strings.

    Raises
    ------
    FileFormatError
        It is no such file, it is damaged, or it asks for anything else: names what.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if not dtype.hasobject:
                file.seek(0)
                values: Any = np.load(file, allow_pickle=False)
            else:
                values = _plain(_Reader(file).load(), {}, 0)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error}") from error
    except Exception as error:
        size = path.stat().st_size
        raise FileFormatError(f"{path}: not a readable .npy file of objects ({size} bytes): {error}") from error
    if not isinstance(values, np.ndarray) or values.shape != shape:
        raise FileFormatError(f"{path}: not a .npy file of objects: its contents are not the {shape} array announced")
    return values.item() if values.shape == () else values


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        make = _KNOWN.get((_SAME.get(module, module), name))
        if make is None:
            raise FileFormatError(
                f"holds a {module}.{name}: expected plain values and arrays only. It was not read, because it could do "
                "anything; if the file is from a source you trust, save it again without that object"
            )
        return _Name(make)

    def persistent_load(self, pid: Any) -> Any:
        raise FileFormatError(f"refers to an object outside of the file ({pid!r}): expected plain values and arrays")


class _Name:
    """A function that a pickle may call, in a wrapping that the pickle cannot alter."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise FileFormatError("sets attributes of a function: expected plain values and arrays")


class _Dtype:
    """Stands for a dtype until everything is read."""

    __slots__ = ("dtype",)

    def __init__(self, text: Any, align: Any = False, copy: Any = True) -> None:
        del align, copy
        if not isinstance(text, str) or _DTYPE.fullmatch(text) is None:
            raise FileFormatError(f"holds an array of dtype {text!r}: expected numbers, strings or objects")
        self.dtype = np.dtype("O" if text.startswith("O") else text)

    def __setstate__(self, state: Any) -> None:
        order, base, names = state[1:4]
        if base is not None or names is not None or order not in ("<", ">", "|", "="):
            raise FileFormatError(f"holds an array of records (dtype {names!r}): expected numbers, strings or objects")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an array until everything is read: what it holds may not be whole before."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __init__(self, kind: Any = None, shape: Any = (0,), typecode: Any = b"b") -> None:
        del kind, shape, typecode
        self.dtype: np.dtype[Any] = np.dtype("b")
        self.raw: Any = None

    def __setstate__(self, state: Any) -> None:
        self.shape, stand_in, self.fortran, self.raw = state[-4:]
        self.dtype = stand_in.dtype

    def array(self, memo: dict[int, tuple[Any, Any]], depth: int) -> NDArray[Any]:
        expected = list if self.dtype.hasobject else bytes
        if not isinstance(self.raw, expected):
            raise FileFormatError(f"holds an array of {self.dtype} made of {type(self.raw).__name__}")
        if self.dtype.hasobject:
            values: NDArray[Any] = np.empty(len(self.raw), object)
            for place, item in enumerate(self.raw):
                values[place] = _plain(item, memo, depth + 1)
        else:
            values = np.frombuffer(bytearray(self.raw), self.dtype)
        shaped: NDArray[Any] = values.reshape(self.shape, order="F" if self.fortran else "C")
        return shaped


def _scalar(stand_in: Any, raw: Any) -> Any:
    dtype: np.dtype[Any] = stand_in.dtype
    return raw if dtype.hasobject else np.frombuffer(raw, dtype, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    # How bytes are written for readers of Python 2, as NumPy did until 1.16.
    if encoding != "latin1":
        raise FileFormatError(f"holds bytes encoded as {encoding!r}: expected latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _refuse(*args: Any) -> Any:
    raise FileFormatError(f"makes an array in an unusual way, of {len(args)} arguments")


def _posix(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _windows(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


#: Older and newer names of the modules below.
_SAME = {
    "numpy.core.multiarray": "numpy._core.multiarray",
    "__builtin__": "builtins",
    "pathlib._local": "pathlib",
}
#: Every name that a file may use, and what is called in its place.
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _refuse,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("builtins", "bytes"): _no_bytes,
    ("builtins", "complex"): complex,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
    ("datetime", "date"): datetime.date,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("pathlib", "PosixPath"): _posix,
    ("pathlib", "PurePosixPath"): _posix,
    ("pathlib", "WindowsPath"): _windows,
    ("pathlib", "PureWindowsPath"): _windows,
}


def _plain(value: Any, memo: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """Put arrays and dtypes in the place of what stood for them."""
    if depth > DEEPEST:
        raise FileFormatError(f"is nested more than {DEEPEST} levels deep, or contains itself")
    if id(value) in memo:
        return memo[id(value)][1]
    made: Any
    if isinstance(value, _Array):
        made = value.array(memo, depth)
    elif isinstance(value, _Dtype):
        made = value.dtype
    elif isinstance(value, _Name):
        raise FileFormatError("holds a function or a class: expected plain values and arrays")
    elif isinstance(value, dict):
        made = {_plain(key, memo, depth + 1): _plain(item, memo, depth + 1) for key, item in value.items()}
    elif isinstance(value, (list, tuple, set, frozenset)):
        made = type(value)(_plain(item, memo, depth + 1) for item in value)
    else:
        return value
    # With the value itself: its id is its own only as long as it exists.
    memo[id(value)] = (value, made)
    return made

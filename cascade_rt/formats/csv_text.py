"""Tables as text: separator, header and numbers, in one pass, with the place of the first value that is none."""

from __future__ import annotations

import csv
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cascade_rt.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack

    from numpy.typing import NDArray

__all__ = ["Parsed", "parse"]

#: Separators, in the order in which they are believed.
SEPARATORS = ("\t", ";", ",")
#: Characters that are parsed at a time, and bytes of a file from which its numbers go to a scratch file.
BLOCK_CHARACTERS, SCRATCH_BYTES = 8_000_000, 200_000_000
#: Lines looked at to tell separator and header.
LOOK_LINES = 20
#: What stands for a value that is missing.
MISSING = ("", "na", "n/a", "nan", "null", "none", "-")


class Parsed(NamedTuple):
    """The numbers of a table.

    Parameters
    ----------
    names : list of str
        Of all columns; empty without a header.
    values : ndarray, (n_rows, n_columns), float64
        Without the columns that were put aside; perhaps memory-mapped.
    aside : dict of int to ndarray, (n_rows,)
        Columns put aside.
    row_names : list of str
        Text in front of each row; empty where there is none.
    separator : str
    """

    names: list[str]
    values: NDArray[np.float64]
    aside: dict[int, NDArray[np.float64]]
    row_names: list[str]
    separator: str


class _Layout(NamedTuple):
    path: Path
    separator: str
    names: list[str]
    n_fields: int
    decimal_comma: bool
    text_first: bool


def parse(
    path: Path, put_aside: Callable[[Sequence[str]], list[int]], stack: ExitStack, *, first_is_text: bool = False
) -> Parsed:
    """Parse a table of numbers.

    Parameters
    ----------
    path : Path
    put_aside : callable
        Given the names of the columns, the numbers of those to keep apart.
    stack : ExitStack
        Removes the scratch file.
    first_is_text : bool
        The first column may hold names.

    Raises
    ------
    FileFormatError
        Names line and column of the first thing that is not as expected.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            return _parse(path, file, put_aside, stack, first_is_text)
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path}: not a text file in UTF-8 (byte {error.start} of a part of it); save it as CSV, UTF-8"
        ) from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error}") from error


def _parse(
    path: Path, file: Any, put_aside: Callable[[Sequence[str]], list[int]], stack: ExitStack, first_is_text: bool
) -> Parsed:
    lines = _numbered(file)
    head = list(itertools.islice(lines, LOOK_LINES))
    if not head:
        raise FileFormatError(f"{path}: is empty: expected a table")
    separator = _separator(path, [line for _, line in head])
    rows = list(csv.reader((line for _, line in head), delimiter=separator))
    comma = separator == ";" and any("," in field for row in rows[1:] for field in row)
    has_header = _is_header(rows, comma, first_is_text)
    names = [name.strip() for name in rows[0]] if has_header else []
    body = head[1:] if has_header else head
    text_first = first_is_text and len(rows) > 1 and not _is_number(rows[-1][0], comma)
    layout = _Layout(path, separator, names, len(rows[0]), comma, text_first)
    aside = [] if text_first else put_aside(names)
    kept = [column for column in range(layout.n_fields) if column not in aside and not (text_first and column == 0)]
    if not kept:
        raise FileFormatError(f"{path}: has no columns of neurons, only {', '.join(names)}")

    labels: list[NDArray[np.float64]] = []
    row_names: list[str] = []
    parts: list[NDArray[np.float64]] = []
    scratch = _scratch(path, stack) if path.stat().st_size > SCRATCH_BYTES else None
    n_rows = 0
    for block in _blocks(itertools.chain(body, lines)):
        numbers = _numbers(layout, block, row_names)
        n_rows += len(numbers)
        labels.append(numbers[:, aside])
        values = numbers if len(kept) == layout.n_fields else numbers[:, kept]
        if scratch is None:
            parts.append(values)
        else:
            with scratch.open("ab") as out:
                out.write(np.ascontiguousarray(values).tobytes())
    if not n_rows:
        raise FileFormatError(f"{path}: has a header and no rows")
    together: NDArray[np.float64]
    if scratch is None:
        together = np.concatenate(parts)
    else:
        together = np.memmap(scratch, np.float64, "r", shape=(n_rows, len(kept)))
    apart = np.concatenate(labels)
    return Parsed(names, together, dict(zip(aside, apart.T, strict=True)), row_names, separator)


def _numbered(file: Any) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without empty ones and without remarks."""
    for number, line in enumerate(file, 1):
        stripped = line.strip("\r\n")
        if stripped.strip() and not stripped.lstrip().startswith("#"):
            yield number, stripped


def _blocks(lines: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    block, characters = [], 0
    for line in lines:
        block.append(line)
        characters += len(line[1])
        if characters > BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _separator(path: Path, lines: list[str]) -> str:
    if any("\0" in line for line in lines):
        raise FileFormatError(f"{path}: is no text: expected a table as CSV, UTF-8")
    for separator in SEPARATORS:
        counts = {len(row) for row in csv.reader(lines[1:] or lines, delimiter=separator)}
        if min(counts) > 1:
            return separator
    return ","


def _is_header(rows: list[list[str]], comma: bool, first_is_text: bool) -> bool:
    fields = [field.strip() for field in rows[0]]
    looked = fields[1:] if first_is_text and len(fields) > 1 else fields
    if any(not _is_number(field, comma) for field in looked):
        return True
    # pandas numbers columns that have no name: 0, 1, 2, …
    if fields and not fields[0] and len(fields) > 1:
        fields = fields[1:]
    counted = [str(number) for number in range(len(fields))]
    return fields == counted and (len(fields) > 2 or any("." in field for row in rows[1:2] for field in row))


def _is_number(field: str, comma: bool) -> bool:
    try:
        _value(field, comma)
    except ValueError:
        return False
    return True


def _value(field: str, comma: bool) -> float:
    plain = field.strip()
    if plain.lower() in MISSING:
        return float("nan")
    if "_" in plain:
        raise ValueError(plain)
    return float(plain.replace(",", ".") if comma else plain)


def _numbers(layout: _Layout, block: list[tuple[int, str]], row_names: list[str]) -> NDArray[np.float64]:
    texts = [line.replace(",", ".") if layout.decimal_comma else line for _, line in block]
    if not layout.text_first:
        try:
            found = np.loadtxt(texts, np.float64, delimiter=layout.separator, comments=None, ndmin=2)
        except ValueError:
            found = np.empty((0, 0))
        if found.shape == (len(block), layout.n_fields):
            return found
    # Value by value: for what is missing or quoted, and to say where something is wrong.
    out = np.empty((len(block), layout.n_fields))
    rows = csv.reader((line for _, line in block), delimiter=layout.separator)
    for place, ((number, _), row) in enumerate(zip(block, rows, strict=False)):
        if len(row) != layout.n_fields:
            raise FileFormatError(
                f"{layout.path}: line {number} has {len(row)} values: expected {layout.n_fields}, as in the first line"
            )
        if layout.text_first:
            row_names.append(row[0].strip())
            out[place, 0] = np.nan
        for column in range(int(layout.text_first), layout.n_fields):
            try:
                out[place, column] = _value(row[column], layout.decimal_comma)
            except ValueError:
                name = f" ({layout.names[column]!r})" if layout.names else ""
                raise FileFormatError(
                    f"{layout.path}: line {number}, column {column + 1}{name}: {row[column]!r} is not a number"
                ) from None
    return out


def _scratch(path: Path, stack: ExitStack) -> Path:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-rt-", ignore_cleanup_errors=True))
    return Path(folder) / f"{path.stem}.raw"

"""Packages that only some formats need: imported when they are, and named when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["require"]


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a package that an optional feature needs.

    Parameters
    ----------
    module : str
        To import, such as ``pyarrow.parquet``.
    extra : str
        Extra of this package that brings it.
    what : str
        What needs it, as the beginning of a sentence: ``"reading Parquet files"``.

    Raises
    ------
    InputError
        It is not installed, or is damaged; says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f'{what} needs the package {package}, which cannot be imported ({error}): pip install "cascade-rt[{extra}]"'
        ) from error

"""What is tested is what users get: the installed package, complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cascade_rt

ROOT = Path(__file__).parents[2]
PACKAGE = Path(cascade_rt.__file__).resolve().parent


@pytest.mark.skipif("CASCADE_RT_TEST_INSTALLED" not in os.environ, reason="the checkout is tested, not an installation")
def test_the_installed_package_is_tested() -> None:
    assert PACKAGE.parent != ROOT
    assert "site-packages" in PACKAGE.parts


def test_everything_shipped_is_there() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "data" / "demo.npz").stat().st_size < 1_500_000
    sources = {path.relative_to(ROOT / "cascade_rt") for path in (ROOT / "cascade_rt").rglob("*.py")}
    here = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert sources <= here


def test_shipped_models_are_there() -> None:
    assert {path.name for path in (ROOT / "exported_models").iterdir()} <= set(cascade_rt.list_models())

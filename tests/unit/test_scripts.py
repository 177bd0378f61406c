"""The test script: a run that silently leaves out tests has failed, and the right package is tested."""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "scripts" / "test"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("scripts_test", str(SCRIPT))
    spec = spec_from_loader("scripts_test", loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def report(path: Path, skipped: int, expected_failures: int = 0) -> Path:
    cases = ["<testcase name='passed'/>"]
    cases += ["<testcase><skipped type='pytest.skip' message='no reference data'/></testcase>"] * skipped
    cases += ["<testcase><skipped type='pytest.xfail' message='known'/></testcase>"] * expected_failures
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>", encoding="utf-8")
    return path


def test_a_few_skips_are_fine(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.too_many_skips(report(tmp_path / "a.xml", script.MOST_SKIPS, expected_failures=20)) == 0
    assert capsys.readouterr().err == ""


def test_many_skips_fail_and_are_named(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.too_many_skips(report(tmp_path / "a.xml", script.MOST_SKIPS + 1)) == 1
    assert f"{script.MOST_SKIPS + 1} x no reference data" in capsys.readouterr().err


def test_the_checkout_is_not_taken_for_an_installation(script: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(script.ROOT)}
    assert "--checkout" in script.wrong_package(str(tmp_path), environment, checkout=False)
    assert script.wrong_package(str(tmp_path), environment, checkout=True) == ""

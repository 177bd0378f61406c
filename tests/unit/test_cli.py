"""The command line's frame: exit codes, messages, help."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cascade_rt
from cascade_rt import cli
from cascade_rt.commands import models
from cascade_rt.errors import CascadeWarning, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = {"bench", "demo", "discretize", "doctor", "import", "models", "predict", "replay", "run"}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    for action in cli.build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no subcommands")


def replace_models(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> None:
    monkeypatch.setattr(models, "run", run)


def test_all_commands_are_found() -> None:
    assert set(subcommands()) >= COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command_explains_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    parser = subcommands()[name]
    assert parser.description
    assert "--debug" in shown
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert not unexplained
    json_option = [action for action in parser._actions if "--json" in action.option_strings]
    assert len(json_option) == 1, "a program may want to read the answer"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "first steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["nothing"], ["models", "--nothing"], ["predict"], ["import"], ["import", "a", "--download", "b"]]
)
def test_wrong_use_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "usage: cascade-rt" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cascade-rt {cascade_rt.__version__}\n"


def test_failure_is_one_line_and_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ModelNotFoundError("no model 'x':\n   installed: none")

    replace_models(monkeypatch, run)
    assert cli.main(["models"]) == 1
    assert capsys.readouterr().err == "cascade-rt: error: no model 'x': installed: none\n"
    for argv in (["--debug", "models"], ["models", "--debug"]):
        with pytest.raises(ModelNotFoundError):
            cli.main(argv)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "traces.npy"), "No such file or directory: 'traces.npy'"),
        (MemoryError(), "not enough memory"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_failures_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, line: str
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    replace_models(monkeypatch, run)
    assert cli.main(["models"]) == 1
    shown = capsys.readouterr().err
    assert line in shown
    assert len(shown.splitlines()) == 1


def test_mistakes_in_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    replace_models(monkeypatch, run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["models"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], ["loud"]), (["-v"], ["loud", "quiet"]), (["--debug"], ["loud", "quiet", "faint"])],
)
def test_logging_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], expected: list[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        log = logging.getLogger("cascade_rt.somewhere")
        log.warning("loud")
        log.info("quiet")
        log.debug("faint")
        return 0

    replace_models(monkeypatch, run)
    assert cli.main(["models", *options]) == 0
    shown = capsys.readouterr()
    assert [line.split()[-1] for line in shown.err.splitlines()] == expected
    assert shown.out == ""
    assert logging.getLogger("cascade_rt").handlers == []


def test_our_warnings_are_one_line_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        for _ in range(2):
            warnings.warn("ν of 3 neurons is\n outside", CascadeWarning, stacklevel=2)
        return 0

    replace_models(monkeypatch, run)
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().err == 2 * "cascade-rt: warning: ν of 3 neurons is outside\n"


def in_child(*argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    source = Path(cascade_rt.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "cascade_rt", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(source), **environment},
        capture_output=True,
        check=False,
    )


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done = in_child("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, [b"cascade-rt", cascade_rt.__version__.encode()])


def test_a_console_without_greek_letters_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = in_child("predict", "--help", cwd=tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0, done.stderr.decode()

"""The command line ``cascade-rt``: reads the arguments, configures logging, turns errors into exit codes.

Every file in ``cascade_rt/commands/`` that is not private is one subcommand. It defines
``add_parser(subparsers)``, which adds exactly one parser, and ``run(args)``, which returns the exit code and
does its heavy imports itself, so that ``cascade-rt --help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import sys
import warnings
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import __version__, commands
from .errors import CascadeError, CascadeWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    StreamHandler = logging.StreamHandler[TextIO]
else:
    StreamHandler = logging.StreamHandler  # not subscriptable in Python 3.10

__all__ = ["build_parser", "main"]

#: Exit codes.
DONE, FAILED, WRONG_USE = 0, 1, 2

_DESCRIPTION = """\
Turns calcium traces (dF/F) into calibrated spike probabilities: the expected number of spikes
of each neuron in each imaging frame. Works on finished recordings (infer) and live, while the
experiment runs (run)."""

_EXAMPLES = """\
first steps:
  cascade-rt demo                                   see it work: a simulated recording, live, with a check
  cascade-rt infer suite2p/ --indicator GCaMP8m     spikes of a finished recording, whatever pipeline it comes from
  cascade-rt models                                 which models there are
  cascade-rt models --for traces.mat --frame-rate 30 --indicator GCaMP8s   which one to take, and why
  cascade-rt predict traces.mat --model GCaMP8_EXC_30Hz_smoothing25ms --frame-rate 30 --plot traces.png
  cascade-rt run --model GCaMP8_EXC_30Hz_smoothing25ms --source tcp://127.0.0.1:5555 \\
                 --sink tcp://127.0.0.1:5556 --frame-rate 30

exit codes: 0 done, 1 failed, 2 wrong use. `cascade-rt COMMAND --help` explains a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0 done, 1 failed (the reason is one line on stderr), 2 wrong use.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without ν must not end the run
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return stop.code if isinstance(stop.code, int) else WRONG_USE
    if getattr(args, "_run", None) is None:
        parser.print_help()
        return WRONG_USE
    debug = bool(args.debug)
    with _logging(debug=debug, verbose=bool(args.verbose)), _plain_warnings():
        try:
            return int(args._run(args))
        except SystemExit as stop:  # a command called parser.error
            return stop.code if isinstance(stop.code, int) else WRONG_USE
        except KeyboardInterrupt:
            if debug:
                raise
            print("cascade-rt: interrupted", file=sys.stderr)
        except BrokenPipeError:  # the reader of a pipe, for example `head`, has left
            _silence_stdout()
        except (CascadeError, OSError, MemoryError) as error:
            if debug:
                raise
            print(f"cascade-rt: error: {_one_line(error)}", file=sys.stderr)
    return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all the subcommands found in ``cascade_rt/commands/``."""
    parser = argparse.ArgumentParser(
        prog="cascade-rt",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cascade-rt {__version__}")
    _add_general(parser, default=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for found in sorted(pkgutil.iter_modules(commands.__path__), key=lambda module: module.name):
        if found.name.startswith("_"):
            continue
        module = import_module(f"{commands.__name__}.{found.name}")
        known = set(subparsers.choices)
        module.add_parser(subparsers)
        for name in set(subparsers.choices) - known:
            command = subparsers.choices[name]
            _add_general(command, default=argparse.SUPPRESS)
            command.set_defaults(_run=module.run, parser=command)
    return parser


def _add_general(parser: argparse.ArgumentParser, default: Any) -> None:
    """Options that are understood before and after the command's name."""
    group = parser.add_argument_group("messages")
    group.add_argument("-v", "--verbose", action="store_true", default=default, help="say more on stderr")
    group.add_argument(
        "--debug", action="store_true", default=default, help="log everything and show the traceback of an error"
    )


class _StderrHandler(StreamHandler):
    """Writes to what sys.stderr is now: a live view that redirects it keeps the terminal in order."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def _logging(*, debug: bool, verbose: bool) -> Iterator[None]:
    logger = logging.getLogger("cascade_rt")
    handler = _StderrHandler()
    handler.setFormatter(
        logging.Formatter("%(relativeCreated)8d ms %(name)s %(levelname)s: %(message)s" if debug else "%(message)s")
    )
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as one line without file name and source code."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, CascadeWarning):
                print(f"cascade-rt: warning: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                shown(message, category, *rest, **options)

        warnings.filterwarnings("always", category=CascadeWarning)
        warnings.showwarning = show
        yield


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' + text if text else ''}"
    return text or type(error).__name__


def _silence_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes the closed pipe at exit."""
    with suppress(OSError, ValueError):  # raised where stdout is not a real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

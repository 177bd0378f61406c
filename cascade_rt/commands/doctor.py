"""``cascade-rt doctor``: look at this installation."""

from __future__ import annotations

import argparse
from typing import Any

from ._common import add_json, print_json

_DESCRIPTION = """\
Looks at what a run needs: packages, processor, models, GPU, timer, sockets; and runs a model on a recording
with known spikes, live and offline. Says what to do where something is off. Exit code 1 if a check failed."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this installation, and say what to do about what is wrong",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the checks and print them."""
    from dataclasses import asdict

    from cascade_rt import __version__
    from cascade_rt.health import CHECKS

    checks = []
    if not args.json:
        print(f"cascade-rt {__version__}")
    for look in CHECKS:
        check = look()
        checks.append(check)
        if not args.json:
            print(f"  {check.status:<6}  {check.name}: {check.seen}", flush=True)
            if check.advice:
                print(f"          -> {check.advice}", flush=True)
    failed = [check.name for check in checks if check.status == "failed"]
    if args.json:
        print_json({"version": __version__, "ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        print(f"failed: {', '.join(failed)}" if failed else "all right")
    return 1 if failed else 0

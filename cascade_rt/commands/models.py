"""``cascade-rt models``: which models there are, and the card of one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ._common import add_json, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.chunks import ModelSpec

_DESCRIPTION = """\
Lists the models that are ready to use: those that came with cascade_rt and those that you imported.
Choose one made for your indicator and for a frame rate within 5 % of yours. With NAME: prints the card
of that model, that is its training data, its accuracy and its limits."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``models``."""
    parser = subparsers.add_parser(
        "models",
        help="list the models that are ready to use, or show the card of one",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or the folder of a bundle")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """List the models or show one."""
    from cascade_rt.bundle import find_bundle, list_models, read_card, read_spec

    if args.name is not None:
        folder = find_bundle(args.name)
        if args.json:
            print_json({**_described(folder, read_spec(folder)), "card": read_card(folder)})
        else:
            print(read_card(folder).rstrip())
        return 0
    found = [(folder, read_spec(folder)) for folder in map(find_bundle, list_models())]
    if args.json:
        print_json([_described(folder, spec) for folder, spec in found])
    elif found:
        _print_table(found)
    else:
        print("no model is installed; `cascade-rt import --download NAME` fetches a published one")
    return 0


def _described(folder: Path, spec: ModelSpec) -> dict[str, Any]:
    return {
        **spec.to_dict(),
        "integration_time_s": {str(lag): spec.integration_time_s(lag) for lag in spec.lookaheads},
        "size_bytes": _size(folder),
        "folder": str(folder),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _print_table(found: list[tuple[Path, ModelSpec]]) -> None:
    rows = [("model", "rate", "smoothing", "kernel", "look-ahead", "noise ν", "networks", "size")]
    for folder, spec in found:
        members = "" if spec.ensemble_size == 1 else f" × {spec.ensemble_size}"
        rows.append(
            (
                spec.name if spec.name == folder.name else f"{folder.name} ({spec.name})",
                f"{spec.frame_rate_hz:g} Hz",
                f"{1000 * spec.smoothing_s:g} ms",
                "causal" if spec.causal_kernel else "symmetric",
                ",".join(map(str, spec.lookaheads)),
                f"{spec.noise_range[0]:g}-{spec.noise_range[1]:g}",
                "1, any ν" if spec.family == "conditioned" else f"{len(spec.noise_levels)} ν{members}",
                f"{_size(folder) / 1e6:.1f} MB",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print("\nlook-ahead: frames that must follow a frame before it is described; noise ν in % Hz^-1/2")
    print("the card of a model (training data, accuracy, limits): cascade-rt models NAME")

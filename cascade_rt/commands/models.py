"""``cascade-rt models``: which models there are, the card of one, and which one to take for a recording."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, positive_float, print_json
from ._recording import noise_histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.catalogue import InstalledModel
    from cascade_rt.recommendation import Recommendation

_DESCRIPTION = """\
Lists the models that are ready to use: those that came with cascade_rt and those that you imported. With NAME:
prints the card of that model, that is its training data, its accuracy and its limits.

With --for or --frame-rate: recommends one of them, says why and what to look at. A model fits if it was made for
your indicator, or one near it, and for a frame rate within 5 % of yours; the noise of each neuron in RECORDING
is compared with what the model was trained for. RECORDING is what `cascade-rt predict` reads."""

_EXAMPLES = """\
examples:
  cascade-rt models
  cascade-rt models GCaMP8_EXC_30Hz_smoothing25ms
  cascade-rt models --for session.mat --frame-rate 30 --indicator GCaMP8s
  cascade-rt models --frame-rate 15 --indicator GCaMP6f --max-delay-ms 200

exit code 1: no installed model fits."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``models``."""
    parser = subparsers.add_parser(
        "models",
        help="list the models that are ready to use, show the card of one, or recommend one for a recording",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or the folder of a bundle")
    group = parser.add_argument_group("which one to take")
    group.add_argument(
        "--for", type=Path, dest="recording", metavar="RECORDING", help="file with the dF/F traces, as for `predict`"
    )
    group.add_argument("--key", metavar="NAME", help="name of the array in a .npz or .mat file")
    group.add_argument(
        "--frame-rate",
        type=positive_float,
        metavar="HZ",
        help="imaging frames per second; may be left out if the file tells it",
    )
    group.add_argument("--indicator", metavar="NAME", help="such as GCaMP8s, GCaMP6f, jRGECO1a, OGB-1, Cal-520")
    group.add_argument("--species", choices=("mouse", "zebrafish"), help="the animal")
    group.add_argument(
        "--max-delay-ms",
        type=positive_float,
        metavar="MS",
        help="longest time from a frame's start to its result in a live run (default: a look-ahead of 2 frames)",
    )
    group.add_argument(
        "--smoothing-ms", type=positive_float, metavar="MS", help="smoothing wanted (default: the usual one)"
    )
    group.add_argument("--causal", action="store_true", help="prefer a causal kernel: nothing before the spike")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """List the models, show one, or recommend one."""
    wishes = [args.key, args.indicator, args.species, args.max_delay_ms, args.smoothing_ms, args.causal or None]
    asked = args.recording is not None or args.frame_rate is not None
    if args.name is not None and (asked or any(wish is not None for wish in wishes)):
        args.parser.error("NAME shows a card: leave it out to have a model recommended")
    if not asked and any(wish is not None for wish in wishes):
        args.parser.error("give --for RECORDING or --frame-rate HZ as well")
    if asked:
        return _recommend(args)
    return _list(args) if args.name is None else _show(args)


def _show(args: argparse.Namespace) -> int:
    from cascade_rt.bundle import find_bundle, read_card, read_spec
    from cascade_rt.catalogue import InstalledModel, training_data

    folder = find_bundle(args.name)
    if args.json:
        spec = read_spec(folder)
        model = InstalledModel(name=args.name, folder=folder, spec=spec, training=training_data(spec.training_datasets))
        print_json({**_described(model), "card": read_card(folder)})
    else:
        print(read_card(folder).rstrip())
    return 0


def _list(args: argparse.Namespace) -> int:
    from cascade_rt.catalogue import installed_models

    found, problems = installed_models()
    for problem in problems:
        print(f"cascade-rt: warning: {problem}", file=sys.stderr)
    if args.json:
        print_json([_described(model) for model in found])
    elif found:
        _print_table(found)
    else:
        print("no model is installed; `cascade-rt import --download NAME` fetches a published one")
    return 0


def _described(model: InstalledModel) -> dict[str, Any]:
    spec = model.spec
    return {
        **spec.to_dict(),
        "trained_on": model.training.brief,
        "integration_time_s": {str(lag): spec.integration_time_s(lag) for lag in spec.lookaheads},
        "size_bytes": sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file()),
        "folder": str(model.folder),
    }


def _print_table(found: list[InstalledModel]) -> None:
    rows: list[tuple[str, ...]] = [("Hz", "trained on", "smoothing", "look-ahead", "noise ν", "model")]
    by_condition = sorted(
        found, key=lambda m: (m.spec.frame_rate_hz, m.training.brief, m.spec.causal_kernel, m.spec.smoothing_s, m.name)
    )
    for model in by_condition:
        spec = model.spec
        rows.append(
            (
                f"{spec.frame_rate_hz:g}",
                model.training.brief,
                f"{1000 * spec.smoothing_s:g} ms{' causal' if spec.causal_kernel else ''}",
                _lookaheads(spec.lookaheads),
                f"{spec.noise_range[0]:g}-{spec.noise_range[1]:g}",
                model.name if model.name == spec.name else f"{model.name} ({spec.name})",
            )
        )
    _print_columns(rows)
    print("\nlook-ahead: frames that must follow a frame before it is described, from the shortest to the longest")
    print("noise ν in % Hz^-1/2; smoothing: of the spikes that it was trained on")
    print("which one to take: cascade-rt models --for RECORDING --frame-rate HZ --indicator NAME")
    print("the card of a model (training data, accuracy, limits): cascade-rt models NAME")


def _lookaheads(frames: tuple[int, ...]) -> str:
    return str(frames[0]) if len(frames) == 1 else f"{frames[0]} to {frames[-1]}"


def _print_columns(rows: list[tuple[str, ...]]) -> None:
    """Print rows below their headings; the last column may be of any width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


# --------------------------------------------------------------------------------------------------- recommending


def _recommend(args: argparse.Namespace) -> int:
    from cascade_rt.recommendation import recommend

    dff = nu = None
    rate, about = args.frame_rate, dict[str, Any]()
    if args.recording is not None:
        dff, nu, rate, about = _read(args)
    answer = recommend(
        dff,
        frame_rate_hz=rate,
        indicator=args.indicator,
        species=args.species,
        noise_levels=nu,
        max_delay_ms=args.max_delay_ms,
        smoothing_ms=args.smoothing_ms,
        causal=args.causal,
    )
    if args.json:
        print_json({**answer.to_dict(), "options": _options(answer), "frame_rate_hz": rate, **about})
    else:
        _print_answer(answer, nu, rate, args)
    return 0 if answer.model is not None else 1


def _read(args: argparse.Namespace) -> tuple[NDArray[Any], NDArray[np.float64], float, dict[str, Any]]:
    """Traces, noise levels, frame rate, and what to tell of the recording."""
    from cascade_rt.formats import read_recording
    from cascade_rt.formats.timeline import frame_rate, whole_timeline
    from cascade_rt.noise import noise_levels

    recording = read_recording(args.recording, args.key)
    rate = frame_rate(recording, args.frame_rate)
    dff, _ = whole_timeline(recording)
    about = {
        "recording": str(args.recording),
        "key": recording.key,
        "n_neurons": recording.n_neurons,
        "n_frames": recording.n_frames,
    }
    return dff, noise_levels(dff, frame_rate_hz=rate), rate, about


def _options(answer: Recommendation) -> list[str]:
    """The options with which `run` uses what was recommended."""
    if answer.model is None:
        return []
    return ["--model", answer.model, "--lookahead", str(answer.lookahead_frames)]


def _print_answer(
    answer: Recommendation, nu: NDArray[np.float64] | None, rate: float, args: argparse.Namespace
) -> None:
    if answer.model is None:
        print(f"nothing fits: {answer.reasons[0]}")
        print("\nwhat to do")
        for text, command in answer.advice:
            print(f"  - {text}:\n      {command}")
    else:
        print(" ".join(_options(answer)))
        _print_list("why", answer.reasons)
    _print_list("look at", answer.warnings)
    if nu is not None and answer.noise_levels is not None:
        _print_noise(answer, nu)
    if answer.alternatives:
        print("\nalternatives")
        _print_indented(answer.alternatives)
    if answer.model is not None:
        recording = "RECORDING" if args.recording is None else str(args.recording)
        recording = f'"{recording}"' if " " in recording else recording
        key = f" --key {args.key}" if args.key else ""
        common = f"--model {answer.model} --frame-rate {rate:g}"
        print("\nuse it")
        print(f"  finished  cascade-rt predict {recording}{key} {common}")
        print(f"  live      cascade-rt run {common} --lookahead {answer.lookahead_frames} --source … --sink …")


def _print_list(title: str, sentences: tuple[str, ...]) -> None:
    import textwrap

    if sentences:
        print(f"\n{title}")
        for sentence in sentences:
            print(textwrap.fill(sentence, 100, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False))


def _print_indented(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, reason in rows:
        print(f"  {name.ljust(width)}  {reason}")


def _print_noise(answer: Recommendation, nu: NDArray[np.float64]) -> None:
    summary = answer.noise_levels
    assert summary is not None
    trained = summary.trained_range
    told = "" if trained is None else f"; the model was trained for {trained[0]:g} to {trained[1]:g}"
    print(f"\nnoise levels ν, % Hz^-1/2: median {summary.median:.2g} of {summary.n_neurons} neurons{told}")
    for line in noise_histogram(nu, width=30):
        print(f"  {line}")
    if summary.n_unknown:
        print(f"  {summary.n_unknown} neurons without values")

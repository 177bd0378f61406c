"""What `run --record` keeps beside the data, so that `rerun` can do it again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cascade_rt.engine import Model
    from cascade_rt.ports import Sink, Source

__all__ = ["describe_recordings", "is_complete", "recording_sink"]

#: Options that say something about the person's machine or a secret, and nothing about the results.
_NOT_KEPT = ("_run", "parser", "debug", "verbose", "control_token", "monitor_token")


def recording_sink(
    args: argparse.Namespace, model: Model, source: Source, noise_levels: NDArray[np.float64] | None
) -> Sink:
    """Make the sink for ``--record``: writes in a thread of its own, and never holds up a live source."""
    from cascade_rt.endpoints.attachments import attach_model, attach_rules
    from cascade_rt.endpoints.buffered import BufferedSink
    from cascade_rt.endpoints.recording_folder import RecordingFolder

    rules: Path | None = getattr(args, "rules", None)
    model_values = {
        "name": model.spec.name,
        "folder": str(model.folder.absolute()),
        "source_sha256": model.spec.source_sha256,
        "device": model.device,
        "threads": model.threads,
    }

    def attach(folder: Path) -> Mapping[str, Any]:
        attached: dict[str, Any] = {"model": {**model_values, **attach_model(model.folder, folder)}}
        if rules is not None:
            armed = True if args.arm else False if args.disarmed else None
            attached["rules"] = {**attach_rules(rules, folder), "armed": armed, "patient": source.finite}
        return attached

    folder = RecordingFolder(
        args.record,
        overwrite=args.overwrite,
        configuration=_configuration(args, model_values, given=noise_levels is not None),
        noise_levels=noise_levels,
        attach=attach,
    )
    return BufferedSink(folder, wait=source.finite)


def _configuration(args: argparse.Namespace, model: Mapping[str, Any], *, given: bool) -> dict[str, Any]:
    from cascade_rt.benchmarks import machine

    options = {name: _plain(value) for name, value in vars(args).items() if name not in _NOT_KEPT}
    return {
        "command": ["cascade-rt", *sys.argv[1:]],
        "options": options,
        "model": dict(model),
        "rules": None,
        "stream": {
            "threshold": args.threshold,
            "alignment": args.alignment,
            "allow_rate_mismatch": args.allow_rate_mismatch,
            "calibration_s": args.calibration_s,
        },
        "noise_levels": "given" if given else "calibrated",
        "gap": args.gap,
        "machine": machine(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def is_complete(recordings: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether everything was recorded that was to be."""
    return all(account["complete"] for account in recordings)


def describe_recordings(recordings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Put what could not be recorded into words; nothing where all is well."""
    lines = []
    for account in recordings:
        missing = account["missing"]
        if account["complete"]:
            continue
        lines.append(
            f"RECORDING INCOMPLETE: {account['name']}" + (f": {account['failure']}" if account["failure"] else "")
        )
        if missing:
            results = ", ".join(f"{n} of look-ahead {k}" for k, n in missing["results"].items())
            lines.append(
                f"  not recorded: {missing['frames']} frames"
                + (f" (within {missing['first_frame']} to {missing['stop_frame'] - 1})" if missing["pieces"] else "")
                + f", results: {results or 'none'}, {missing['events']} events, {missing['controls']} control messages"
            )
    return lines

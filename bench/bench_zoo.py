"""Speed of every shipped model on finished recordings, beside a 5-member ensemble of the published size.

The ensemble has random weights, which are as fast as trained ones. It is timed again after each model, and the fastest
time counts.

Bound: each shipped model runs at least 4 times as many neuron-frames/s as the ensemble.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from _common import Checks, parse, random_ensemble

import cascade_rt
from cascade_rt.benchmarks import offline_rate, synthetic_dff
from cascade_rt.bundle import find_bundle, list_models
from cascade_rt.engine import load_model

PACKAGE = Path(cascade_rt.__file__).parent


def shipped() -> list[Path]:
    """Folders of the models that come with the package; models that the user installed are left out."""
    own = {PACKAGE / "exported_models", PACKAGE.parent / "exported_models"}
    return [folder for folder in map(find_bundle, list_models()) if folder.parent in own]


def main() -> None:
    args = parse(__doc__)
    checks = Checks(args)
    folders = shipped()
    n_neurons, n_frames, repeats = (4, 400, 1) if args.smoke else (74, 6000, 4)
    nu = np.linspace(2.0, 8.0, n_neurons)
    with tempfile.TemporaryDirectory() as temporary:
        ensemble = load_model(random_ensemble(Path(temporary) / "ensemble"), threads=args.threads)
        models, members = [], []
        for folder in folders:
            model = load_model(folder, threads=args.threads)
            for one, answers in ((model, models), (ensemble, members)):
                rate = one.spec.frame_rate_hz
                dff = synthetic_dff(n_neurons, n_frames, frame_rate_hz=rate, noise_levels=nu)
                answers.append({"model": one.spec.name, **offline_rate(one, dff, frame_rate_hz=rate, repeats=repeats)})
    fastest = max(members, key=lambda answer: answer["neuron_frames_per_s"])
    for answer in models:
        ratio = answer["neuron_frames_per_s"] / fastest["neuron_frames_per_s"]
        answer["times_ensemble"] = round(ratio, 2)
        checks.at_least(f"times the ensemble's neuron-frames/s, {answer['model']}", answer["times_ensemble"], 4)
    slowest = min(answer["times_ensemble"] for answer in models)
    checks.finish("zoo", threads=ensemble.threads, slowest_times_ensemble=slowest, ensemble=fastest, models=models)


if __name__ == "__main__":
    main()

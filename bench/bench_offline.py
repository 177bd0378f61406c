"""Speed of finished recordings: the published 5-member ensemble, a single network, and windowed Keras beside them.

Bound: the ensemble's neuron-frames/s, times its arithmetic, is at least 0.6 of sgemm's rate in the same run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from _common import PUBLISHED, Checks, conditioned_bundle, parse, published_ensemble, read_mat

from cascade_rt.benchmarks import offline_rate, sgemm_flops, synthetic_dff
from cascade_rt.engine import load_model

if TYPE_CHECKING:
    from pathlib import Path


def keras_rate(folder: Path, dff: np.ndarray) -> dict[str, Any] | None:
    """Neuron-frames/s of the ensemble as CASCADE runs it: a window for each frame, one member after another.

    Returns None where TensorFlow or the published weights are not there.
    """
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import h5py
        import keras
    except ImportError:
        return None
    if not folder.is_dir():
        return None
    members = []
    for number in range(5):
        stored: list[np.ndarray] = []
        with h5py.File(folder / f"Model_NoiseLevel_2_Ensemble_{number}.h5") as file:
            group = file["model_weights"]
            for name in group.attrs["layer_names"]:
                stored += [np.asarray(group[name][weight]) for weight in group[name].attrs["weight_names"]]
        (taps0, _, n0), (taps1, _, n1), (taps2, _, n2) = (stored[k].shape for k in (0, 2, 4))
        network = keras.Sequential(
            [
                keras.layers.Input((64, 1)),
                keras.layers.Conv1D(n0, taps0, activation="relu"),
                keras.layers.Conv1D(n1, taps1, activation="relu"),
                keras.layers.MaxPooling1D(2),
                keras.layers.Conv1D(n2, taps2, activation="relu"),
                keras.layers.MaxPooling1D(2),
                keras.layers.Dense(stored[6].shape[-1], activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        network.set_weights(stored)
        members.append(network)
    windows = np.lib.stride_tricks.sliding_window_view(dff, 64, axis=1).reshape(-1, 64, 1)
    members[0].predict(windows[:4096], batch_size=4096, verbose=0)
    started = time.perf_counter()
    for network in members:
        network.predict(windows, batch_size=4096, verbose=0)
    took = time.perf_counter() - started
    return {"neuron_frames_per_s": round(len(windows) / took), "neuron_frames": len(windows)}


def main() -> None:
    args = parse(__doc__)
    checks = Checks(args)
    recording = args.shared / "recordings" / "allen_visual_coding_30Hz.mat"
    dff = (
        read_mat(recording)
        if recording.is_file()
        else synthetic_dff(74, 6001, frame_rate_hz=30.0, noise_levels=np.linspace(2, 8, 74))
    )
    if args.smoke:
        dff = dff[:4, :400]
    repeats = 1 if args.smoke else 5
    with published_ensemble(args) as folder:
        model = load_model(folder, threads=args.threads)
        before = sgemm_flops(model.threads, repeats=2 if args.smoke else 8)
        ensemble = offline_rate(model, dff, frame_rate_hz=30.0, repeats=repeats)
        single_model = load_model(conditioned_bundle(), threads=args.threads)
        single = offline_rate(single_model, dff, frame_rate_hz=30.0, repeats=repeats)
        after = sgemm_flops(model.threads, repeats=2 if args.smoke else 8)
    sgemm = max(before, after)
    for answer in (ensemble, single):
        answer["share_of_sgemm"] = round(answer["neuron_frames_per_s"] * answer["flop_per_neuron_frame"] / sgemm, 4)
    windowed = keras_rate(args.shared / "cascade_models" / PUBLISHED, dff[:2] if args.smoke else dff[:20])
    if windowed is not None:
        ensemble["times_windowed_keras"] = round(ensemble["neuron_frames_per_s"] / windowed["neuron_frames_per_s"], 2)
    checks.at_least("share of sgemm, 5-member ensemble", ensemble["share_of_sgemm"], 0.6)
    checks.finish(
        "offline",
        threads=model.threads,
        sgemm_gflops=[round(before / 1e9, 1), round(after / 1e9, 1)],
        ensemble=ensemble,
        single={"model": single_model.spec.name, **single},
        windowed_keras=windowed,
    )


if __name__ == "__main__":
    main()

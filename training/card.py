"""The model card and the ``config.yaml`` of a bundle."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cascade_rt

from .tables import to_markdown
from .timing import AFTER_S, APART_FRAMES, BEFORE_S, FEWEST_EVENTS, QUIET_S, SEARCH_FRAMES, SEARCH_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import TrainingConfig
    from .ground_truth import Recording
    from .summary import Table

__all__ = ["bundle_config", "card", "software_versions"]


def card(
    config: TrainingConfig,
    tables: Sequence[Table],
    recordings: Sequence[Recording],
    record: Mapping[str, Any],
) -> str:
    """Text of CARD.md: training data, accuracy, caveats, provenance, what to cite.

    Parameters
    ----------
    config : TrainingConfig
    tables : sequence of Table
        Scores; may be empty.
    recordings : sequence of Recording
        That the model was trained on.
    record : mapping
        What the fit wrote about itself (:func:`training.fit.read_record`).
    """
    network = config.network
    kernel = "causal inverse-Gaussian kernel" if config.causal_kernel else "Gaussian"
    low, high = network.noise_range
    accuracy = to_markdown(tables) if tables else "Not measured.\n"
    lookaheads = ", ".join(map(str, network.lookahead_frames))
    delays = ", ".join(f"{1000 * (k + 1) / config.frame_rate_hz:.0f}" for k in network.lookahead_frames)
    return f"""# {config.name}

Maps ΔF/F (a fraction: 0.1 is 10 %) at {config.frame_rate_hz:g} Hz to the expected number of spikes per frame, for
every noise level and every delay with one network. Trained by this project after CASCADE.

- frame rate {config.frame_rate_hz:g} Hz; window {network.receptive_field} frames
- look-ahead {lookaheads} frames (integration time {delays} ms)
- noise level ν from {low:g} to {high:g} % Hz^-1/2, told to the network (clipped to that range)
- trained on spikes smoothed with a {kernel} of {1000 * config.smoothing_s:g} ms
- an output describes the frame that its training target described (`alignment="target"`)
{_paragraphs(config.notes)}
## Training data

{_data_table(recordings)}
Recordings were brought to {config.frame_rate_hz:g} Hz by {" and by ".join(_METHODS[m] for m in config.fit.methods)};
noise with the shape of shot noise was added afresh to every segment, to a ν drawn log-uniformly between the
recording's own and {high:g}. Datasets and neurons were drawn in proportion to the square root of their duration
(power {config.fit.balance:g}). {_augmented(config)}{_fitted(config, record)}
## Accuracy

Correlation, error and bias as Rupprecht et al. 2021 define them, per neuron over all its recordings, then the median
over neurons, with an interval found by drawing neurons with replacement. Noise was added to bring each recording to ν;
recordings noisier than that by themselves are left out of that level. Negative outputs count as 0. Every output, of
published models too, is placed on the frame that its training target described: for a window that starts at frame i,
frame i + round(before_frac * windowsize).

Timing is that of isolated spikes: spikes of one frame, or of two neighbouring frames, with no other within
{BEFORE_S:g} s before and {AFTER_S:g} s after (at least {APART_FRAMES} frames). The timing error is the distance between
the maximum of the spike probability and that of the smoothed true spikes, at most {SEARCH_S:g} s (at least
{SEARCH_FRAMES} frames) away; the signed one is positive where the estimate is late; both are medians over the spikes
detected. Detected are those whose maximum is above 1/e of what a single spike gives; maxima of that height more than
{QUIET_S:g} s from every spike are false events, per minute without spikes. Neurons with fewer than {FEWEST_EVENTS}
isolated spikes are left out of it, those with fewer detected ones out of the timing errors.

{accuracy}
## Caveats

- Excitatory neurons only; interneurons and other cell types fire differently and are calibrated wrongly.
- The error and the bias say how far the *number* of spikes can be trusted for a single neuron: single neurons differ
  in how much fluorescence a spike gives, and no model can know that from the fluorescence alone.
- Spike probabilities are smoothed by the kernel above: a single spike gives a bump, not one sharp frame.
- ΔF/F must not be denoised or smoothed in time beforehand; such a recording has a ν far below the trained levels.

## Provenance

- configuration sha256 `{config.digest()}`; `config.yaml` has every setting
- made with {_software()}

## Citation

Rupprecht et al., Nature Neuroscience 24, 1324-1337 (2021), doi:10.1038/s41593-021-00895-5; for GCaMP8, Rupprecht et
al., bioRxiv 2025.03.03.641129. The ground truth was recorded by many laboratories and published with the CASCADE
database: please cite the papers of the datasets too, which the database lists.
"""


def _augmented(config: TrainingConfig) -> str:
    """What was learnt from besides the recordings as they are."""
    options, said = config.fit, []
    if options.amplitude_sd:
        said.append(
            f"Amplitudes were varied by a factor with a logarithm of standard deviation {options.amplitude_sd:g}."
        )
    if options.quicken_s:
        times = " and ".join(f"{1000 * t:g}" for t in options.quicken_s)
        said.append(f"Recordings were also used with a rise made faster by {times} ms.")
    if config.lags_s:
        lags = ", ".join(f"{name.split('-')[0]} {1000 * lag:g}" for name, lag in config.lags_s.items())
        said.append(
            f"Datasets with a later fluorescence than others with the same indicator were moved earlier (ms):\n{lags}."
        )
    return "".join(f"{sentence}\n" for sentence in said)


def _fitted(config: TrainingConfig, record: Mapping[str, Any]) -> str:
    """How much was learnt from, and from which start."""
    text = f"{record['frames'] / 1e6:.3g} million frames were learnt from, with repetition."
    if config.from_model:
        text += f"\nThe weights started from those of {Path(config.from_model).name}."
    if record["held_out"]:
        text += (
            f"\n{len(record['held_out'])} of the neurons were not learnt from: they decided when to stop, at step "
            f"{record['kept_step']} of {record['steps_planned']}."
        )
    return text + "\n"


def software_versions() -> dict[str, str]:
    """Versions of what trains and exports a model, those that are installed."""
    found = {"cascade-rt": cascade_rt.__version__}
    for name in _SOFTWARE:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _software() -> str:
    return ", ".join(f"{name} {version}" for name, version in software_versions().items())


_SOFTWARE = ("tensorflow", "keras", "tf2onnx", "onnx", "numpy", "scipy")
_METHODS = {"average": "averaging (interpolation to a higher rate)", "fourier": "Fourier resampling"}


def _paragraphs(notes: str) -> str:
    return f"\n{notes.strip()}\n" if notes.strip() else ""


def _data_table(recordings: Sequence[Recording]) -> str:
    lines = ["| dataset | neurons | minutes | spikes |", "|---|---|---|---|"]
    for dataset in sorted({r.dataset for r in recordings}):
        own = [r for r in recordings if r.dataset == dataset]
        minutes = sum(r.dff.size / r.frame_rate_hz for r in own) / 60
        spikes = sum(
            int(((r.spike_times_s >= r.frame_times_s[0]) & (r.spike_times_s <= r.frame_times_s[-1])).sum()) for r in own
        )
        lines.append(f"| {dataset} | {len({r.neuron for r in own})} | {minutes:.0f} | {spikes} |")
    return "\n".join(lines) + "\n"


def bundle_config(config: TrainingConfig) -> dict[str, Any]:
    """``config.yaml`` of the bundle: CASCADE's keys, so that its users can read it, and every setting of ours."""
    network, options = config.network, config.fit
    window = network.receptive_field
    per_epoch = 5_000_000
    return {
        "model_name": config.name,
        "sampling_rate": config.frame_rate_hz,
        "training_datasets": list(config.datasets),
        "noise_levels": list(network.noise_range),
        "smoothing": config.smoothing_s,
        "causal_kernel": int(config.causal_kernel),
        "windowsize": window,
        "before_frac": (window - 1 - network.lookahead_frames[-1]) / window,
        "filter_sizes": list(network.filter_sizes),
        "filter_numbers": list(network.filter_numbers),
        "dense_expansion": network.dense_expansion,
        "loss_function": f"square error + {options.absolute_error:g} * absolute error",
        "optimizer": "Adam",
        "nr_of_epochs": round(options.target_frames / per_epoch, 2),
        "ensemble_size": 1,
        "batch_size": options.batch * (options.segment_frames - window + 1),
        "training_finished": "Yes",
        "cascade_rt": {
            "family": "conditioned",
            "lookahead_frames": list(network.lookahead_frames),
            "noise_range": list(network.noise_range),
            "noise_hidden": network.noise_hidden,
            "head_taps": network.head_taps,
            "dilation": network.dilation,
            "fit": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
            "lags_s": dict(config.lags_s),
            "from_model": Path(config.from_model).name,
            "configuration_sha256": config.digest(),
            "software": software_versions(),
        },
    }

"""The model card and the ``config.yaml`` of a bundle."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .tables import to_markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import TrainingConfig
    from .ground_truth import Recording
    from .tables import Table

__all__ = ["bundle_config", "card"]


def card(config: TrainingConfig, tables: Sequence[Table], recordings: Sequence[Recording]) -> str:
    """Text of CARD.md: training data, accuracy, caveats, what to cite.

    Parameters
    ----------
    config : TrainingConfig
    tables : sequence of Table
        Scores; may be empty.
    recordings : sequence of Recording
        That the model was trained on.
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
(power {config.fit.balance:g}). {config.fit.target_frames / 1e6:g} million frames were learnt from, with repetition;
`config.yaml` has every setting.

## Accuracy

Correlation, error and bias as Rupprecht et al. 2021 define them, per neuron over all its recordings, then the median
over neurons. Noise was added to bring each recording to ν; recordings noisier than that by themselves are left out
of that level. Negative outputs count as 0. Every output, of published models too, is placed on the frame that its
training target described: for a window that starts at frame i, frame i + round(before_frac * windowsize).

{accuracy}
## Caveats

- Excitatory neurons only; interneurons and other cell types fire differently and are calibrated wrongly.
- The error and the bias say how far the *number* of spikes can be trusted for a single neuron: single neurons differ
  in how much fluorescence a spike gives, and no model can know that from the fluorescence alone.
- Spike probabilities are smoothed by the kernel above: a single spike gives a bump, not one sharp frame.
- ΔF/F must not be denoised or smoothed in time beforehand; such a recording has a ν far below the trained levels.

## Citation

Rupprecht et al., Nature Neuroscience 24, 1324-1337 (2021), doi:10.1038/s41593-021-00895-5; for GCaMP8, Rupprecht et
al., bioRxiv 2025.03.03.641129. The ground truth was recorded by many laboratories and published with the CASCADE
database: please cite the papers of the datasets too, which the database lists.
"""


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
        "loss_function": "mean_squared_error",
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
            "fit": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
            "configuration_sha256": config.digest(),
        },
    }

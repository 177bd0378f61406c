"""Read the keys of CASCADE's ``config.yaml``, so that a published configuration can be trained as it stands.

Its settings are renamed to ours where both mean the same. What a conditioned network has no use for (an ensemble for
each noise level, epochs of windows) is told with what happens instead.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import TrainingError

from .architecture import ConditionedShape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import TrainingConfig

__all__ = ["CASCADE_KEYS", "translate", "what_is_used_instead"]

#: CASCADE's keys that mean the same as ours, in the section "network" where one is named.
_SAME = {
    "model_name": ("", "name"),
    "sampling_rate": ("", "frame_rate_hz"),
    "training_datasets": ("", "datasets"),
    "smoothing": ("", "smoothing_s"),
    "noise_levels": ("network", "noise_range"),
    "filter_sizes": ("network", "filter_sizes"),
    "filter_numbers": ("network", "filter_numbers"),
    "dense_expansion": ("network", "dense_expansion"),
}
#: CASCADE's keys that do not decide how this training goes.
_INSTEAD = (
    "windowsize",
    "before_frac",
    "loss_function",
    "optimizer",
    "nr_of_epochs",
    "ensemble_size",
    "batch_size",
    "verbose",
)
#: Not settings: the state of a training, lines that protect the format of the file, our own section of a bundle's file.
_NO_SETTINGS = re.compile(r"training_finished|placeholder_\w+|cascade_rt")
CASCADE_KEYS = frozenset({*_SAME, *_INSTEAD})


def translate(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rename CASCADE's keys to ours and take out those without a counterpart.

    Parameters
    ----------
    values : mapping
        Entries of a configuration, under either names; the ``config.yaml`` of a bundle of this project, which has
        CASCADE's keys and ours in a section ``cascade_rt``, is read whole.

    Returns
    -------
    dict
        Entries of :class:`training.config.TrainingConfig`, unknown ones unchanged.

    Raises
    ------
    TrainingError
        A setting is there under both names, or has a value that cannot be used here.
    """
    out = {k: v for k, v in values.items() if k not in CASCADE_KEYS and not _NO_SETTINGS.fullmatch(str(k))}
    for key, (section, name) in _SAME.items():
        if key not in values:
            continue
        place = out
        if section:
            place = out[section] = dict(out.get(section) or {})
        if name in place:
            ours = f"{section}.{name}" if section else name
            raise TrainingError(f"{key} and {ours} are two names of one setting: keep one of them")
        place[name] = _noise_range(values[key]) if key == "noise_levels" else values[key]
    if out.get("causal_kernel") in (0, 1):
        out["causal_kernel"] = bool(out["causal_kernel"])
    if "cascade_rt" in values:
        _own_section(out, values["cascade_rt"])
    return out


def what_is_used_instead(values: Mapping[str, Any], config: TrainingConfig) -> list[str]:
    """Tell what happens in place of CASCADE's settings that have no counterpart.

    Parameters
    ----------
    values : mapping
        Entries as they were in the file.
    config : TrainingConfig
        What was made of them.

    Returns
    -------
    list of str
        One line for each setting that is not followed to the letter.
    """
    if "cascade_rt" in values:
        return []
    network, fit = config.network, config.fit
    frames = ", ".join(map(str, network.lookahead_frames))
    instead = {
        "windowsize": f"the network sees {network.receptive_field} frames, which follows from its filters",
        "before_frac": f"one network has the look-aheads {frames} frames (network.lookahead_frames)",
        "loss_function": f"square error and {fit.absolute_error:g} times the absolute error (fit.absolute_error)",
        "optimizer": f"Adam, warmed up to a learning rate of {fit.learning_rate:g} (fit.learning_rate)",
        "nr_of_epochs": f"{fit.target_frames / 1e6:g} million frames are learnt from (fit.target_frames)",
        "ensemble_size": "one network",
        "batch_size": f"{fit.batch} segments of {fit.segment_frames} frames (fit.batch, fit.segment_frames)",
        "verbose": "-v on the command line",
    }
    if values.get("windowsize") == network.receptive_field:
        del instead["windowsize"]
    lines = [f"{key} {values[key]}: {what}" for key, what in instead.items() if key in values]
    levels = values.get("noise_levels") or ()
    if len(levels) > 2:
        low, high = network.noise_range
        lines.append(f"noise_levels {levels}: one network for every level from {low:g} to {high:g}")
    return lines


def _noise_range(levels: Any) -> list[float]:
    if not isinstance(levels, (list, tuple)) or not all(isinstance(x, (int, float)) for x in levels):
        raise TrainingError(f"noise_levels is {levels!r}: expected a list of numbers, % Hz^-1/2")
    if len(set(levels)) < 2:
        raise TrainingError(
            f"noise_levels is {list(levels)}: expected at least two, because one network is trained for the whole "
            "range from the lowest to the highest"
        )
    return [float(min(levels)), float(max(levels))]


def _own_section(out: dict[str, Any], section: Mapping[str, Any]) -> None:
    """Take the settings of a bundle's section ``cascade_rt``, which are exact, over those under CASCADE's names."""
    shape = {field.name for field in fields(ConditionedShape)}
    own = {key: value for key, value in section.items() if key in shape}
    out["network"] = {**(out.get("network") or {}), **own}
    for key in ("fit", "from_model", "lags_s"):
        if key in section:
            out[key] = section[key]

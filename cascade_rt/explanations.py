"""What a recommendation says about a model: why it was chosen, what to look at, and when another is the one to take."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

import numpy as np

from .catalogue import DYES
from .chunks import LONGEST_LIVE_LOOKAHEAD
from .suitability import (
    ALONE,
    AMONG,
    GENERAL,
    MANY_OUTSIDE,
    OTHER_SPECIES,
    RELATED,
    delay_accuracy,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .catalogue import Indicator, InstalledModel
    from .suitability import Question

__all__ = ["reasons", "unknown_indicator", "warnings", "why_else"]

#: Part of a model's best correlation with which a look-ahead is good enough.
GOOD_ENOUGH = 0.9
#: Delay (ms) from which on the global model at 30 Hz has that part: medians over the datasets of the ground truth at
#: ν = 2. Used where a model's card does not tell.
USUAL_DELAY_MS = {"GCaMP5": 130, "GCaMP6": 200, "R-CaMP": 260, "OGB-1": 260, "Cal-520": 130}
#: Relative difference in smoothing that is worth a word.
OTHER_SMOOTHING = 0.05

_KNOWN = ("GCaMP6f", "GCaMP6s", "GCaMP7f", "GCaMP8f", "GCaMP8m", "GCaMP8s", "XCaMPgf", "jRGECO1a", "OGB-1", "Cal-520")


def reasons(question: Question, best: InstalledModel, lookahead: int) -> list[str]:
    """Why a model was chosen, a sentence for each: indicator, frame rate, smoothing, delay, noise levels."""
    spec = best.spec
    near = math.isclose(spec.frame_rate_hz, question.rate, rel_tol=1e-3)
    told = [
        _trained(question, best),
        f"made for {spec.frame_rate_hz:g} Hz" + ("" if near else f", within 5 % of {question.rate:g} Hz"),
        _smoothed(question, best),
        f"live, a frame is known {question.delay_ms(lookahead):.0f} ms after its start: look-ahead {lookahead}, "
        + _chosen_lookahead(question, best),
    ]
    below, above = question.outside(best)
    if question.n_known:
        told.append(
            f"{question.n_known - below - above} of {question.n_known} neurons have a noise level that it was trained "
            f"for (ν {spec.noise_range[0]:g} to {spec.noise_range[1]:g} % Hz^-1/2)"
        )
    return told


def _trained(question: Question, best: InstalledModel) -> str:
    wanted, suits, brief = question.indicator, question.suits(best), best.training.brief
    if wanted is None:
        return f"trained on several kinds of indicators ({brief}): the safest choice while none is named"
    if suits in (ALONE, OTHER_SPECIES):
        return f"trained for {wanted.name}: on {brief} alone"
    if suits == AMONG:
        return f"trained on {wanted.name} among other indicators ({brief})"
    if suits == RELATED and wanted.family in best.training.families:
        return f"trained on the nearest relatives of {wanted.name} ({brief})"
    if suits == RELATED:
        return (
            f"trained on {brief}: with fast indicators that they never saw, such networks do better than global ones "
            "(correlation 0.84 against 0.80 on GCaMP7f, XCaMPgf and jRGECO1a at ν = 2)"
        )
    return f"trained on several kinds of indicators ({brief}); none is nearer to {wanted.name}"


def _smoothed(question: Question, best: InstalledModel) -> str:
    if question.smoothing_distance(best) > 0.3:
        why = "the nearest that there is"
    elif question.smoothing_ms is None:
        why = "usual for this frame rate and indicator"
    else:
        why = "as asked for"
    kernel = "causal" if best.spec.causal_kernel else "symmetric"
    return f"smoothing {1000 * best.spec.smoothing_s:g} ms, {why}; {kernel} kernel"


def _chosen_lookahead(question: Question, best: InstalledModel) -> str:
    if len(best.spec.lookaheads) == 1:
        return "the only one that it has"
    return "the default" if question.max_delay_ms is None else f"the longest within {question.max_delay_ms:g} ms"


# ------------------------------------------------------------------------------------------------------- warnings


def warnings(
    question: Question, best: InstalledModel, others: Sequence[InstalledModel], lookahead: int, *, noise: bool
) -> list[str]:
    """What to look at before the results of a model are trusted.

    Parameters
    ----------
    question : Question
    best : InstalledModel
        The model chosen.
    others : sequence of InstalledModel
        The others of that frame rate.
    lookahead : int
        Chosen for a live run.
    noise : bool
        Compare the noise levels with the trained ones; pointless if the recording has been found faulty already.
    """
    return [
        *_about_indicator(question, best, others),
        *_about_wishes(question, best),
        *_about_delay(question, best, lookahead),
        *(_about_noise(question, best) if noise else []),
    ]


def unknown_indicator(wanted: Indicator) -> str:
    """What to say of an indicator that no model was trained on and whose name is not a known one."""
    by_lower = {name.lower(): name for name in _KNOWN}
    near = difflib.get_close_matches(wanted.name.lower(), by_lower, n=1, cutoff=0.7)
    hint = f" (did you mean {by_lower[near[0]]}?)" if near else ""
    return f"the indicator {wanted.name!r} is not known here{hint}: how well any model does on it has not been measured"


def _about_indicator(question: Question, best: InstalledModel, others: Sequence[InstalledModel]) -> list[str]:
    wanted, suits, data = question.indicator, question.suits(best), best.training
    if wanted is None:
        special = dict.fromkeys(m.training.brief for m in others if len(m.training.families) == 1)
        hint = f"; at this frame rate there are models for {' and for '.join(special)}" if special else ""
        return [f"no indicator named (--indicator, indicator=): a model made for it does better{hint}"]
    told = []
    if not wanted.known and suits == GENERAL:
        told.append(unknown_indicator(wanted))
    elif suits == GENERAL and wanted.fast:
        told.append(
            f"no model for {wanted.family} fits: global models find two to three times too many spikes with GCaMP7 "
            "and GCaMP8"
        )
    elif suits in (RELATED, GENERAL):
        told.append(
            f"no model was trained on {wanted.name}, so spike counts are not calibrated for it: trust when spikes "
            "happen and which neurons are more active, not how many spikes there are"
        )
    if suits in (RELATED, GENERAL) and best.spec.family == "conditioned":
        told.append(
            f"a few neurons with known spikes calibrate it: python -m training fit CONFIG.yaml --from {best.name}"
        )
    animals = " and ".join(sorted(data.species))
    if suits == OTHER_SPECIES:
        told.append(f"trained on {animals} neurons only: how well it does in {question.species} has not been measured")
    elif question.species is None and data.families == (DYES,) and len(data.species) == 1:
        told.append(f"trained on {animals} neurons only: if yours are not, name the animal (--species, species=)")
    return told


def _about_wishes(question: Question, best: InstalledModel) -> list[str]:
    """What was asked for and is not had."""
    told = []
    if question.smoothing_ms is not None and question.smoothing_distance(best) > OTHER_SMOOTHING:
        told.append(
            f"no model that suits has a smoothing of {question.smoothing_ms:g} ms: this one has "
            f"{1000 * best.spec.smoothing_s:g} ms"
        )
    if question.causal != best.spec.causal_kernel:
        wanted, had = ("causal", "symmetric") if question.causal else ("symmetric", "causal")
        told.append(f"no model that suits has a {wanted} kernel: this one's is {had}")
    return told


def _about_delay(question: Question, best: InstalledModel, lookahead: int) -> list[str]:
    delay, wanted = question.delay_ms(lookahead), question.indicator
    if lookahead > LONGEST_LIVE_LOOKAHEAD:
        return [
            f"made for finished recordings: live, it describes each frame {delay:.0f} ms late, and `run` wants "
            "--allow-offline-model"
        ]
    if wanted is None:
        return []
    needed = USUAL_DELAY_MS.get(wanted.name, USUAL_DELAY_MS.get(wanted.family, 0))
    good = next((n for n in best.spec.lookaheads if question.delay_ms(n) >= needed), lookahead)
    known = "nine tenths of what can be known is known after"
    measured = delay_accuracy(best, wanted, question.nu)
    if lookahead in measured:
        most = max(measured.values())
        enough = [n for n, value in measured.items() if value >= GOOD_ENOUGH * most]
        # Of a card that tells of few look-aheads only: one between those may do, by what is usual.
        between = [] if good in measured or lookahead in enough else [n for n in (good,) if n > lookahead]
        good = min([*enough, *between])
        known = f"correlation {measured[lookahead]:.2f}, with the longest look-ahead {most:.2f}; most of that after"
    if good <= lookahead:
        return []
    return [
        f"live, {delay:.0f} ms is short for {wanted.name}: {known} {question.delay_ms(good):.0f} ms. Wait for that "
        f"(--lookahead {good}), or let it follow as a revision (--lookahead {lookahead},{good})"
    ]


def _about_noise(question: Question, best: InstalledModel) -> list[str]:
    if question.nu is None:
        return []
    if not question.n_known:
        return ["no neuron has a noise level: there are no two neighbouring values"]
    (low, high), (below, above) = best.spec.noise_range, question.outside(best)
    told = []
    if below > MANY_OUTSIDE * question.n_known:
        told.append(
            f"{below} of {question.n_known} neurons have less noise than the model was trained for and are treated as "
            f"ν = {low:g}: well for raw traces, but make sure that they were not smoothed or denoised, and that ΔF/F "
            "is a fraction (0.1 = 10 %)"
        )
    if above > MANY_OUTSIDE * question.n_known:
        told.append(
            f"{above} of {question.n_known} neurons have more noise than the model was trained for (ν up to "
            f"{np.nanmax(question.nu):.3g}) and are treated as ν = {high:g}: it will take noise for spikes; leave them "
            "out, or average more pixels or frames"
        )
    return told


# ----------------------------------------------------------------------------------------------------- other models


def why_else(question: Question, other: InstalledModel, best: InstalledModel | None) -> str:
    """When another model of the same frame rate would be the one to take; ``best`` is None if none fits."""
    spec, data = other.spec, other.training
    if data.cells != "excitatory":
        return f"for {data.cells}; trained on {data.brief}"
    if best is not None and question.lookahead(other) is None and question.suits(other) <= question.suits(best):
        return f"too late: {question.delay_ms(spec.lookaheads[0]):.0f} ms at the earliest; trained on {data.brief}"
    if best is None or question.suits(other) != question.suits(best):
        if len(data.families) > 1:
            return f"global: trained on {data.brief}"
        return f"trained on {data.brief}" + (" alone" if data.indicators else "")
    if spec.causal_kernel != best.spec.causal_kernel:
        return "causal kernel: puts nothing before the spike" if spec.causal_kernel else "symmetric kernel"
    if not math.isclose(spec.smoothing_s, best.spec.smoothing_s, rel_tol=OTHER_SMOOTHING):
        finer = spec.smoothing_s < best.spec.smoothing_s
        return f"smoothing {1000 * spec.smoothing_s:g} ms: {'finer' if finer else 'coarser'} in time"
    if spec.lookaheads[0] > LONGEST_LIVE_LOOKAHEAD:
        return f"finished recordings only: look-ahead {spec.lookaheads[0]}"
    return f"the same kind; trained for ν {spec.noise_range[0]:g} to {spec.noise_range[1]:g}"

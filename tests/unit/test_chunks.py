"""Chunks and model descriptions: what is accepted, what is refused, what survives storing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from cascade_rt.chunks import Alignment, FrameChunk, GapPolicy, ModelSpec, SpikeChunk, Threshold, check_choice
from cascade_rt.errors import InputError, ModelError


def _spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": "m",
        "family": "binned",
        "frame_rate_hz": 30.0,
        "windowsize": 64,
        "lookaheads": (31,),
        "smoothing_s": 0.05,
        "causal_kernel": False,
        "noise_levels": (2.0, 4.0),
        "before_frac": 0.5,
    }
    return ModelSpec(**(values | changes))


def _conditioned(**changes: Any) -> ModelSpec:
    values = {"family": "conditioned", "lookaheads": (0, 2, 31), "noise_levels": (1.0, 9.0), "before_frac": None}
    return _spec(**(values | changes))


# ------------------------------------------------------------------------------------------------------ chunks


def test_frame_chunk_says_its_size_and_cannot_be_changed() -> None:
    chunk = FrameChunk(frames=np.zeros((3, 5), np.float32), first_frame=7)
    assert (chunk.n_neurons, chunk.n_frames) == (3, 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        chunk.first_frame = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("frames", "first_frame", "seen"),
    [
        (np.zeros(5, np.float32), 0, r"\(5,\)"),
        (np.zeros((2, 3, 4), np.float32), 0, r"\(2, 3, 4\)"),
        (np.zeros((3, 5)), 0, "float64"),
        (np.zeros((3, 5), np.int16), 0, "int16"),
        (np.zeros((3, 5), np.float32), -1, "-1"),
    ],
)
def test_frame_chunk_refuses_other_arrays(frames: np.ndarray, first_frame: int, seen: str) -> None:
    with pytest.raises(InputError, match=f"{seen}.*expected"):
        FrameChunk(frames=frames, first_frame=first_frame)


def test_chunks_take_keywords_only_and_no_others() -> None:
    with pytest.raises(TypeError):
        FrameChunk(np.zeros((3, 5), np.float32), 0)  # type: ignore[misc]
    with pytest.raises(TypeError):
        FrameChunk(frames=np.zeros((3, 5), np.float32), first_frame=0, frame_rate=30.0)  # type: ignore[call-arg]


def test_spike_chunk_has_no_revisions_unless_given() -> None:
    prob = np.zeros((2, 4), np.float32)
    chunk = SpikeChunk(spike_prob=prob, first_frame=3, valid=np.ones((2, 4), bool), lookahead_frames=2)
    assert (chunk.n_neurons, chunk.n_frames, dict(chunk.revisions), chunk.provisional) == (2, 4, {}, False)
    with pytest.raises(TypeError):
        chunk.revisions[5] = chunk  # type: ignore[index]


# ----------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (Threshold, ("zero", "noise_floor", "none")),
        (Alignment, ("target", "cascade")),
        (GapPolicy, ("hold", "nan", "stop")),
    ],
)
def test_options_are_exactly_the_documented_strings(kind: Any, good: tuple[str, ...]) -> None:
    for value in good:
        check_choice("option", value, kind)
    # CASCADE's own spellings of a threshold mean different things for 0 and False.
    for value in ("Zero", "noise-floor", "", 0, 1, True, False, None):
        with pytest.raises(InputError, match=r"option=.*expected one of") as caught:
            check_choice("option", value, kind)  # type: ignore[arg-type]
        assert all(repr(choice) in str(caught.value) for choice in good)


# ------------------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"family": "other"}, "'other'"),
        ({"frame_rate_hz": 0.0}, "frame rate 0"),
        ({"frame_rate_hz": float("nan")}, "frame rate nan"),
        ({"windowsize": 0, "lookaheads": (0,)}, "window of 0"),
        ({"lookaheads": ()}, "look-aheads"),
        ({"lookaheads": (64,)}, "outside the window"),
        ({"lookaheads": (-1,)}, "outside the window"),
        ({"lookaheads": (1, 31)}, "one look-ahead"),
        ({"noise_levels": ()}, "noise levels"),
        ({"noise_levels": (0.0, 2.0)}, "not positive"),
        ({"noise_levels": (4.0, 2.0)}, "ascending"),
        ({"noise_levels": (float("nan"),)}, "noise levels"),
    ],
)
def test_impossible_descriptions_are_refused_by_name(changes: dict[str, Any], seen: str) -> None:
    with pytest.raises(ModelError, match=f"'m'.*{seen}"):
        _spec(**changes)


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"lookaheads": (2, 0, 31)}, "not ascending"),
        ({"lookaheads": (0, 2, 2)}, "not ascending"),
        ({"noise_levels": (1.0, 2.0, 3.0)}, "lowest, highest"),
    ],
)
def test_impossible_conditioned_descriptions_are_refused(changes: dict[str, Any], seen: str) -> None:
    with pytest.raises(ModelError, match=seen):
        _conditioned(**changes)


def test_every_problem_of_a_description_is_named_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        _spec(frame_rate_hz=-1.0, noise_levels=(), lookaheads=(99,))
    assert all(word in str(caught.value) for word in ("frame rate", "noise levels", "look-aheads"))


@pytest.mark.parametrize("spec", [_spec(), _conditioned(training_datasets=("DS30", "DS31"), source_sha256="ab")])
def test_descriptions_survive_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_unknown_and_missing_entries_are_named() -> None:
    values = _spec().to_dict()
    with pytest.raises(ModelError, match="unknown entries: sampling_rate"):
        ModelSpec.from_dict(values | {"sampling_rate": 30})
    del values["windowsize"]
    with pytest.raises(ModelError, match="windowsize"):
        ModelSpec.from_dict(values)


@pytest.mark.parametrize(
    ("before_frac", "windowsize", "shift"),
    [(0.5, 64, 1), (0.5, 32, 1), (0.8, 64, 1), (0.95, 64, 2), (0.25, 64, 1), (0.8, 33, 1), (0.5, 63, 2), (0.3, 32, 2)],
)
def test_cascade_places_outputs_earlier_than_it_trained_them(before_frac: float, windowsize: int, shift: int) -> None:
    before = before_frac * windowsize
    spec = _spec(before_frac=before_frac, windowsize=windowsize, lookaheads=(windowsize - 1 - round(before),))
    assert spec.cascade_shift == shift
    assert round(before) - spec.cascade_shift == int(before - 1)


def test_a_conditioned_model_is_placed_one_frame_earlier_for_cascade() -> None:
    assert _conditioned().cascade_shift == 1


def test_integration_time_of_a_published_online_model() -> None:
    assert _conditioned(lookaheads=(1,)).integration_time_s(1) == pytest.approx(0.0667, abs=1e-4)


def test_look_aheads_that_a_model_lacks_are_refused_naming_those_it_has() -> None:
    spec = _conditioned()
    assert [spec.check_lookahead(x) for x in (0, 2, 31)] == [0, 2, 31]
    for wrong in (1, 30, 32, -1):
        with pytest.raises(InputError, match=rf"'m'.*{wrong} frames.*0, 2, 31"):
            spec.check_lookahead(wrong)


def test_noise_range_spans_the_trained_levels() -> None:
    assert _spec(noise_levels=(2.0, 3.0, 9.0)).noise_range == (2.0, 9.0)

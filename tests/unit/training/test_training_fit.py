"""The fit: early stop on held-out neurons, what it leaves in its folder, what it says of itself."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_fit import small_config, small_traces, weights_hash

from cascade_rt.errors import TrainingError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("keras", reason="training needs Keras (the extra 'train')")


class _KilledError(Exception):
    pass


def _kill_at(step: int) -> Any:
    def progress(done: int, *_: Any) -> None:
        if done == step:
            raise _KilledError

    return progress


def _rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "loss.csv").read_text(encoding="utf-8").splitlines()))


def test_the_loss_falls_and_is_told(tmp_path: Path) -> None:
    from training.fit import fit, read_record

    told: list[float] = []
    config = small_config(target_frames=60 * 4 * 64, learning_rate=0.01)
    fit(small_traces(), config, tmp_path, progress=lambda *args: told.append(args[2]))
    losses = [float(row["training_loss"]) for row in _rows(tmp_path)]
    np.testing.assert_allclose(losses, told, rtol=1e-5)
    assert np.mean(losses[-4:]) < 0.9 * losses[0]
    assert {row["validation_loss"] for row in _rows(tmp_path)} == {""}
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    record = read_record(tmp_path)
    assert (record["steps"], record["steps_planned"], record["stopped_early"]) == (60, 60, False)
    assert record["frames"] == 60 * 4 * 64
    assert record["held_out"] == []
    assert record["configuration_sha256"] == config.digest()


def test_the_kept_weights_are_the_average_of_the_last_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 blocks the last 3: as long as few are averaged, each counts the same."""
    import training.fit

    seen: list[list[np.ndarray]] = []
    learn = training.fit._Fit._learn

    def noting(self: Any, block: Any) -> float:
        loss = learn(self, block)
        seen.append(self.model.get_weights())
        return loss

    monkeypatch.setattr(training.fit._Fit, "_learn", noting)
    config = small_config(target_frames=20 * 4 * 64, average_share=0.6)
    kept = training.fit.fit(small_traces(), config, tmp_path).get_weights()
    assert len(seen) == 5
    for position, weight in enumerate(kept):
        np.testing.assert_allclose(weight, np.mean([w[position] for w in seen[2:]], axis=0), atol=1e-6)


# ── early stop ──

#: Held-out neurons are scored after every block of 4 steps, of 100 blocks.
EARLY = {"target_frames": 400 * 4 * 64, "validation_share": 0.3, "validation_blocks": 1, "patience": 2}


def _scored(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[list[np.ndarray]]:
    """Let the held-out neurons have these losses; returns the weights that are scored."""
    import training.fit

    weights: list[list[np.ndarray]] = []

    def score(_model: Any, averaged: Any, _block: Any) -> float:
        weights.append([w.copy() for w in averaged])
        return losses[len(weights) - 1]

    monkeypatch.setattr(training.fit, "held_out_loss", score)
    return weights


def test_stops_after_patience_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.fit import fit, read_record

    weights = _scored(monkeypatch, [0.5, 0.4, 0.45, 0.3, 0.3, 0.35])
    kept = fit(small_traces(n=3), small_config(**EARLY), tmp_path).get_weights()
    assert len(weights) == 6
    for a, b in zip(kept, weights[3], strict=True):
        np.testing.assert_array_equal(a, b)
    record = read_record(tmp_path)
    assert record["stopped_early"]
    assert (record["steps"], record["kept_step"], record["validation_loss"]) == (24, 16, 0.3)
    assert len(record["held_out"]) == 1
    assert [row["validation_loss"] for row in _rows(tmp_path)] == ["0.5", "0.4", "0.45", "0.3", "0.3", "0.35"]
    # A fit that stopped early is finished: nothing is trained when it is asked for again.
    again = fit(small_traces(n=3), small_config(**EARLY), tmp_path, progress=_kill_at(28))
    for a, b in zip(again.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stop_at", [8, 16, 24])
def test_resumed_it_stops_at_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    from training.fit import fit

    losses = [0.5, 0.4, 0.45, 0.3, 0.35, 0.31]
    options = {**EARLY, "checkpoint_blocks": 2}
    _scored(monkeypatch, losses)
    whole = weights_hash(fit(small_traces(n=3), small_config(**options), tmp_path / "whole"))
    _scored(monkeypatch, losses)
    with pytest.raises(_KilledError):
        fit(small_traces(n=3), small_config(**options), tmp_path / "killed", progress=_kill_at(stop_at))
    _scored(monkeypatch, losses[stop_at // 4 :])
    assert weights_hash(fit(small_traces(n=3), small_config(**options), tmp_path / "killed")) == whole
    for name in ("loss.csv", "fit.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_held_out_neurons_are_not_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training.fit

    sources: list[set[str]] = []
    source = training.fit.segment_source

    def noting(traces: Any, *args: Any, **options: Any) -> Any:
        sources.append({trace.neuron for trace in traces})
        return source(traces, *args, **options)

    monkeypatch.setattr(training.fit, "segment_source", noting)
    config = small_config(validation_share=0.4)
    training.fit.fit(small_traces(n=5), config, tmp_path)
    held_out, learnt = sources
    assert len(held_out) == 2
    assert held_out | learnt == set("01234")
    assert not held_out & learnt
    assert {neuron for _, neuron in training.fit.read_record(tmp_path)["held_out"]} == held_out


def test_the_loss_on_held_out_neurons_leaves_the_network_as_it_is() -> None:
    from training.architecture import build_conditioned
    from training.fit import compile_model, segment_source
    from training.validation import held_out_loss

    config = small_config(absolute_error=0.0)
    model = build_conditioned(config.network, seed=3)
    compile_model(model, config.fit, 10)
    block = segment_source(small_traces(), config, augment=False).block(0, 2, 4)
    own, zeros = weights_hash(model), [np.zeros_like(w) for w in model.get_weights()]
    # A network of zeros says 0: the loss is that of the targets alone, summed over look-aheads.
    expected = (block.weight * (block.target.astype(float) ** 2).sum(axis=-1)).mean()
    assert held_out_loss(model, zeros, block) == pytest.approx(expected, rel=1e-5)
    assert weights_hash(model) == own


# ── what else may be found in the folder ──


def test_a_new_fit_after_deleting_the_checkpoint_says_only_what_it_did_itself(tmp_path: Path) -> None:
    from training.fit import CHECKPOINT, fit, read_record

    fit(small_traces(), small_config(), tmp_path)
    (tmp_path / CHECKPOINT).unlink()
    fit(small_traces(), small_config(target_frames=8 * 4 * 64), tmp_path)
    assert read_record(tmp_path)["steps"] == 8
    assert len(_rows(tmp_path)) == 2


def test_a_fit_that_was_killed_before_its_record_was_written_writes_it(tmp_path: Path) -> None:
    from training.fit import fit, read_record

    whole = fit(small_traces(), small_config(), tmp_path).get_weights()
    record = read_record(tmp_path)
    for name in ("fit.json", "loss.png"):
        (tmp_path / name).unlink()
    with pytest.raises(TrainingError, match="no finished fit"):
        read_record(tmp_path)
    again = fit(small_traces(), small_config(), tmp_path, progress=_kill_at(4)).get_weights()
    assert read_record(tmp_path) == record
    assert (tmp_path / "loss.png").exists()
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_divergence_is_an_error_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.fit
    from training.fit import CHECKPOINT, fit

    (bad,) = small_traces(n=1)
    with pytest.raises(_KilledError):
        fit([bad], small_config(), tmp_path, progress=_kill_at(4))
    kept = (tmp_path / CHECKPOINT).read_bytes()
    learn = training.fit._Fit._learn

    def nan_weights(self: Any, block: Any) -> float:
        self.model.set_weights([np.full_like(w, np.nan) for w in self.model.get_weights()])
        return learn(self, block)

    monkeypatch.setattr(training.fit._Fit, "_learn", nan_weights)
    with pytest.raises(TrainingError, match="training diverged after step 4"):
        fit([bad], small_config(), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept


def test_the_loss_is_square_error_and_a_share_of_absolute_error_of_the_rectified_output() -> None:
    from keras import ops

    from training.fit import loss_function

    target = np.array([[[0.0, 0.5], [1.0, 0.0]]], np.float32)
    output = np.array([[[0.2, 0.1], [0.7, -4.0]]], np.float32)
    square = [0.2**2 + 0.4**2, 0.3**2 + (0.02 * 4) ** 2]
    absolute = [0.2 + 0.4, 0.3 + 0.02 * 4]
    found = ops.convert_to_numpy(loss_function(0.1)(target, output))
    np.testing.assert_allclose(found, [np.add(square, np.multiply(0.1, absolute))], atol=5e-4)
    plain = ops.convert_to_numpy(loss_function(0.0)(target, output))
    np.testing.assert_allclose(plain, [[0.2**2 + 0.4**2, 0.3**2 + 16.0]], rtol=1e-5)

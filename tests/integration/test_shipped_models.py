"""Every shipped model: whole, described, as its configuration says, the same live as offline, on the right frame."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from recordings import drive, offline, open_stream

import cascade_rt as crt
import training
from cascade_rt import simulation
from cascade_rt.simulation import Indicator
from cascade_rt.smoothing import smooth_spikes
from training.config import load_config

if TYPE_CHECKING:
    from cascade_rt.engine import Model

PACKAGE = Path(crt.__file__).parent
#: In an installation the models lie in the package, in a checkout beside it.
SHIPPED = {
    path.parent.name: path.parent
    for folder in (PACKAGE, PACKAGE.parent)
    for path in sorted(folder.glob("exported_models/*/manifest.json"))
}
CONFIGS = Path(training.__file__).parent / "configs"
#: Fitted by eye to averages of DS04 (OGB-1, zebrafish) around isolated spikes.
DYE = Indicator(amplitude=0.13, rise_s=0.07, decay_s=0.7, slow_decay_s=1.5, slow_fraction=0.1, hill=1.0, maximum=3.0)
#: Keys of the configurations that CASCADE writes.
CASCADE_KEYS = {
    *("model_name", "sampling_rate", "training_datasets", "noise_levels", "smoothing", "causal_kernel"),
    *("windowsize", "before_frac", "filter_sizes", "filter_numbers", "dense_expansion", "loss_function"),
    *("optimizer", "nr_of_epochs", "ensemble_size", "batch_size", "training_finished"),
}
SHIFTS = range(-2, 3)


@pytest.fixture(scope="module", params=SHIPPED)
def model(request: pytest.FixtureRequest) -> Model:
    return crt.load_model(SHIPPED[request.param])


@pytest.fixture(params=SHIPPED)
def folder(request: pytest.FixtureRequest) -> Path:
    return SHIPPED[request.param]


@pytest.fixture(autouse=True)
def _dye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "INDICATORS", {**simulation.INDICATORS, "a dye": DYE})


def _indicators(model: Model) -> tuple[str, ...]:
    """What to simulate for a model.

    A model of many indicators places the spikes of a quick one a little early and those of a slow one late: these
    are such that the mean is less than half a frame.
    """
    family = model.spec.name.split("_")[0]
    if family == "Global":
        few = model.spec.frame_rate_hz < 20
        return ("GCaMP6f", "GCaMP6s", "GCaMP8s") if few else ("GCaMP8m", "GCaMP8s")
    return {"GCaMP8": ("GCaMP8f", "GCaMP8m", "GCaMP8s"), "OGB1": ("a dye",)}[family]


def _simulated(model: Model, indicator: str, n_neurons: int, seconds: float) -> Any:
    return crt.simulate(
        n_neurons,
        seconds,
        model.spec.frame_rate_hz,
        indicator=indicator,
        noise_levels=1.5,
        spike_rate_hz=0.3,
        seed=1,
    )


def _correlations(model: Model, recording: Any) -> list[float]:
    """Correlation with the smoothed true spikes, after moving the output of the longest look-ahead by SHIFTS."""
    spec = model.spec
    prob = offline(recording.dff, model, noise_levels=recording.noise_levels)
    truth = smooth_spikes(
        recording.spike_counts,
        smoothing_s=spec.smoothing_s,
        frame_rate_hz=spec.frame_rate_hz,
        causal_kernel=spec.causal_kernel,
    )
    out = []
    for shift in SHIFTS:
        moved = np.roll(prob, -shift, axis=1)
        known = np.isfinite(moved)
        out.append(float(np.corrcoef(moved[known], truth[known])[0, 1]))
    return out


def _read(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))


# ── what they compute ──


def test_live_equals_offline_at_every_look_ahead(model: Model) -> None:
    spec = model.spec
    dff = _simulated(model, _indicators(model)[0], 3, 2.5 * spec.windowsize / spec.frame_rate_hz).dff.copy()
    dff[1, spec.windowsize + 20] = np.nan
    nu = np.array([spec.noise_range[0], 3.0, spec.noise_range[1]])
    live = drive(open_stream(model, nu, lookahead_frames=spec.lookaheads), dff, [1, 4, 2, 17])
    assert tuple(live) == spec.lookaheads
    for lookahead, described in live.items():
        whole = offline(dff, model, noise_levels=nu, lookahead_frames=lookahead)
        assert np.isfinite(whole).sum() > dff.shape[1]
        # The NaNs are compared too.
        np.testing.assert_allclose(described.prob, whole, rtol=0, atol=1e-5)


def test_spikes_are_found_on_the_right_frame(model: Model) -> None:
    recordings = [_simulated(model, indicator, 8, 240) for indicator in _indicators(model)]
    found = np.mean([_correlations(model, recording) for recording in recordings], axis=0)
    assert SHIFTS[int(found.argmax())] == 0, found
    assert found.max() > 0.5


# ── what they say about themselves ──


def test_they_are_listed() -> None:
    assert SHIPPED
    assert set(SHIPPED) <= set(crt.list_models())


def test_one_for_each_configuration() -> None:
    assert set(SHIPPED) == {path.stem for path in CONFIGS.glob("*.yaml")}


def test_description(model: Model) -> None:
    spec = model.spec
    assert spec.name in SHIPPED
    assert f"{spec.frame_rate_hz:g}Hz_smoothing{1000 * spec.smoothing_s:g}ms" in spec.name
    assert spec.name.endswith("_causalkernel") == spec.causal_kernel
    assert (spec.family, spec.ensemble_size) == ("conditioned", 1)
    assert spec.lookaheads == (0, 1, 2, 3, 5, 7, 15, 31)
    assert re.fullmatch("[0-9a-f]{64}", spec.source_sha256)


def test_configuration(folder: Path) -> None:
    """Models and the configurations that they are made from stay together."""
    values, manifest = _read(folder), json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    spec, ours = manifest["spec"], values["cascade_rt"]
    assert set(values) >= CASCADE_KEYS
    assert values["model_name"] == folder.name == spec["name"]
    assert values["sampling_rate"] == spec["frame_rate_hz"]
    assert (values["smoothing"], bool(values["causal_kernel"])) == (spec["smoothing_s"], spec["causal_kernel"])
    assert values["windowsize"] == spec["windowsize"]
    assert values["training_datasets"] == list(spec["training_datasets"])
    assert ours["lookahead_frames"] == list(spec["lookaheads"])
    assert {"cascade-rt", "tensorflow", "tf2onnx"} <= set(ours["software"])
    assert ours["configuration_sha256"] == load_config(CONFIGS / f"{folder.name}.yaml").digest()


def test_card(folder: Path) -> None:
    text = (folder / "CARD.md").read_text(encoding="utf-8")
    title, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert title.startswith(f"# {folder.name}\n")
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert {"Training data", "Accuracy", "Caveats", "Provenance", "Citation"} <= set(by_name)
    values = _read(folder)
    for dataset in values["training_datasets"]:
        assert f"| {dataset} |" in by_name["Training data"]
    # A median and the interval in which it lies, for each noise level.
    interval = r"[-+]?[\d.]+ \[[-+]?[\d.]+, [-+]?[\d.]+\]"
    for measure in ("correlation", "error", "bias"):
        rows = re.findall(rf"^\| {measure} \| ([\d.]+) \|.*{interval}", by_name["Accuracy"], re.MULTILINE)
        assert {"2", "4", "8"} <= set(rows), measure
    assert "| timing error (ms) |" in by_name["Accuracy"]
    assert values["cascade_rt"]["configuration_sha256"] in by_name["Provenance"]
    assert "doi:10.1038/s41593-021-00895-5" in by_name["Citation"]


def test_the_wheel_stays_small() -> None:
    files = {path for folder in (PACKAGE, *SHIPPED.values()) for path in folder.rglob("*")}
    assert sum(path.stat().st_size for path in files if path.suffix != ".pyc") < 20e6

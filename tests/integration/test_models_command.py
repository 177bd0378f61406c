"""``cascade-rt models``: the list, a card, and a recommendation, as a user calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zoo import DYES, GCAMP8, ZOO, write_model, write_zoo

import cascade_rt
from cascade_rt import bundle
from cascade_rt.benchmarks import synthetic_dff
from cascade_rt.cli import main

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASCADE_RT_MODELS", str(tmp_path / "models"))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def installed(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zoo and nothing else; the folder for models of one's own."""
    folder = tmp_path / "models"
    monkeypatch.setattr(bundle, "_model_folders", lambda: [folder, zoo])
    return folder


def answer(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    assert main(["models", *argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def shown(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(["models", *argv]) == code
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- list and card


def test_the_shipped_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys)
    names = [entry["name"] for entry in listed]
    assert names == cascade_rt.list_models()
    entry = listed[names.index(MODEL)]
    assert entry["frame_rate_hz"] == 30.0
    assert entry["integration_time_s"]["2"] == pytest.approx(0.1)
    assert entry["size_bytes"] > 10_000
    assert entry["trained_on"] == "GCaMP8f/m/s"
    assert MODEL in shown(capsys)


def test_a_list_of_many_is_readable(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(installed / "X", name="Y", training_datasets=DYES, frame_rate_hz=131.0)
    lines = shown(capsys).splitlines()
    assert max(map(len, lines)) <= 120
    rows = lines[2 : 3 + len(ZOO)]
    rates = [float(row.split()[0]) for row in rows]
    assert rates == sorted(rates)
    assert "X (Y)" in rows[-1]
    causal = [row for row in rows if "ms causal" in row]
    assert len(causal) == 2
    assert sum("GCaMP5/6, R-CaMP, dyes" in row for row in rows) == 6
    assert sum("OGB-1, Cal-520, zebrafish" in row for row in rows) == 2
    assert all("0 to 31" in row for row in rows)


def test_a_damaged_model_does_not_hide_the_others(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_model(installed / "BAD") / "manifest.json").write_text("{", encoding="utf-8")
    assert main(["models"]) == 0
    told = capsys.readouterr()
    assert "GCaMP8_30Hz_25ms" in told.out
    assert "BAD" in told.err


def test_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bundle, "_model_folders", lambda: [tmp_path])
    assert "import --download" in shown(capsys)


def test_a_card_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    card = shown(capsys, MODEL)
    assert MODEL in card
    assert len(card) > 500
    described = answer(capsys, MODEL)
    assert described["card"].strip() == card.strip()
    assert described["trained_on"] == "GCaMP8f/m/s"
    assert main(["models", "GCaMP8_EXC_30Hz_smoothing25"]) == 1
    assert f"did you mean '{MODEL}'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ recommendation


@pytest.fixture
def recording(tmp_path: Path) -> np.ndarray:
    dff = synthetic_dff(12, 600, frame_rate_hz=30.0, noise_levels=np.linspace(1.5, 6, 12))
    np.savez(tmp_path / "my session.npz", dff=dff, other=dff[:, :10], frame_rate_hz=30.0)
    return dff


def test_a_model_for_a_recording(installed: Path, recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--for", "my session.npz", "--indicator", "jGCaMP8s")
    lines = text.splitlines()
    assert lines[0] == "--model GCaMP8_30Hz_25ms --lookahead 2"
    assert '  finished  cascade-rt predict "my session.npz" --model GCaMP8_30Hz_25ms --frame-rate 30' in lines
    bars = [line for line in lines if "#" in line]
    assert sum(int(line.split()[-1]) for line in bars) == len(recording)
    assert "trained for 0.8 to 10" in text
    assert max(map(len, lines)) <= 120


def test_a_program_reads_the_same(installed: Path, recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(
        capsys,
        *("--for", "my session.npz", "--key", "dff", "--indicator", "jGCaMP8s", "--max-delay-ms", "70", "--causal"),
    )
    assert told["options"] == ["--model", "GCaMP8_30Hz_50ms_causal", "--lookahead", "1"]
    assert (told["frame_rate_hz"], told["n_neurons"], told["n_frames"], told["key"]) == (30.0, 12, 600, "dff")
    expected = cascade_rt.recommend(recording, frame_rate_hz=30, indicator="GCaMP8s", max_delay_ms=70, causal=True)
    assert {name: told[name] for name in expected.to_dict()} == json.loads(json.dumps(expected.to_dict()))


def test_options_alone_are_enough(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--frame-rate", "7.5", "--indicator", "ogb1", "--species", "mouse")
    text = shown(capsys, *argv)
    assert text.startswith("--model Global_7.5Hz_200ms --lookahead 2\n")
    assert "cascade-rt predict RECORDING" in text
    assert "Zebrafish_7.5Hz_200ms" in text
    argv = ("--frame-rate", "30", "--indicator", "GCaMP8f", "--smoothing-ms", "50")
    assert answer(capsys, *argv)["model"] == "GCaMP8_30Hz_50ms"


def test_nothing_fits(installed: Path, recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("traces.npy", recording)
    argv = ("--for", "traces.npy", "--frame-rate", "20", "--indicator", "GCaMP8s")
    text = shown(capsys, *argv, code=1)
    assert text.startswith("nothing fits: ")
    assert "      cascade-rt predict RECORDING --frame-rate 20 --model GCaMP8_15Hz_100ms --resample" in text
    assert "#" in text, "noise levels are shown all the same"
    told = answer(capsys, *argv, code=1)
    assert told["model"] is None
    assert told["options"] == []


def test_what_is_wrong_with_a_recording(
    installed: Path, recording: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("percent.npy", 100 * recording)
    assert main(["models", "--for", "percent.npy", "--frame-rate", "30"]) == 1
    assert "divide by 100" in capsys.readouterr().err
    assert main(["models", "--for", "percent.npy"]) == 1
    assert "--frame-rate" in capsys.readouterr().err
    smooth = np.random.default_rng(0).normal(0, 0.05, (400, 30)).cumsum(axis=0).astype(np.float32)
    np.save("transposed.npy", smooth)
    assert "transposed" in shown(capsys, "--for", "transposed.npy", "--frame-rate", "30")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([MODEL, "--frame-rate", "30"], "leave it out"),
        ([MODEL, "--causal"], "leave it out"),
        (["--indicator", "GCaMP8s"], "--frame-rate"),
        (["--max-delay-ms", "100"], "--frame-rate"),
        (["--frame-rate", "-3"], "number above 0"),
        (["--frame-rate", "30", "--species", "newt"], "newt"),
    ],
)
def test_wrong_use(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "rate", "indicator", "median"),
    [("allen_visual_coding_30Hz.mat", 30, "GCaMP6f", 0.93), ("zebrafish_pDp_OGB1_7.5Hz.mat", 7.5, "OGB-1", 3.0)],
)
def test_real_recordings(
    shared: Path, zoo: Path, installed: Path, capsys: pytest.CaptureFixture[str],
    file: str, rate: float, indicator: str, median: float,
) -> None:  # fmt: skip
    argv = ("--for", str(shared / "recordings" / file), "--frame-rate", str(rate), "--indicator", indicator)
    told = answer(capsys, *argv)
    assert told["model"] == {"OGB-1": "Zebrafish_7.5Hz_200ms", "GCaMP6f": "Global_30Hz_50ms"}[indicator]
    assert told["noise_levels"]["median"] == pytest.approx(median, rel=0.05)
    assert told["noise_levels"]["n_unknown"] == (2 if indicator == "OGB-1" else 0)


def test_gcamp8_is_no_model_for_dyes(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(installed / "ONLY_GC8", training_datasets=GCAMP8, frame_rate_hz=131.0)
    text = shown(capsys, "--frame-rate", "131", "--indicator", "Cal-520", code=1)
    assert "Cal-520" in text.splitlines()[0]
    assert "ONLY_GC8" in text

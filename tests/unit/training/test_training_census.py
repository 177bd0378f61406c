"""What `python -m training ground-truth` tells and draws."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.io import savemat

from cascade_rt.noise import noise_levels
from training.census import Census, summary, take_census, to_table, total
from training.census_plot import choose_example, plot_census
from training.cli import main
from training.ground_truth import resample_recordings

if TYPE_CHECKING:
    from pathlib import Path


def _write(folder: Path, name: str, *structs: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(structs)), object)
    for i, struct in enumerate(structs):
        cells[0, i] = struct
    savemat(folder / name, {"CAttached": cells})


def _struct(seed: int, *, n: int = 900, rate: float = 30.0, sd: float = 0.1, spikes: Any = ()) -> dict[str, Any]:
    spike_times = np.asarray(spikes, float)
    times = np.arange(n) / rate
    fluorescence = sd * np.random.default_rng(seed).standard_normal(n)
    for spike in spike_times[np.isfinite(spike_times)]:
        fluorescence += np.where(times >= spike, np.exp(-np.maximum(times - spike, 0) / 0.5), 0)
    return {"fluo_time": times, "fluo_mean": fluorescence, "events_AP": spike_times * 1e4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three datasets: a plain one, an irregular one, and one of which nothing can be used."""
    folder = tmp_path / "ground truth"
    # 30 s each; the spike after the last frame and the NaN do not count.
    _write(folder / "DS97-a", "c1_mini.mat", _struct(1, spikes=[1, 2, 2.5, 99, np.nan]), _struct(2, spikes=[3]))
    _write(folder / "DS97-a", "c2_mini.mat", _struct(3, n=1800, rate=60.0, sd=0.2, spikes=[4, 5]))
    gap = _struct(4, n=900)
    gap["fluo_time"][300:310] = np.nan
    no_times = {"fluo_mean": np.zeros(900)}
    _write(folder / "DS98-b", "c1_mini.mat", gap, no_times, _struct(5, n=50))
    folder.joinpath("DS99-c").mkdir()
    (folder / "DS99-c" / "broken.mat").write_bytes(b"")
    return folder


def test_numbers_of_a_dataset(root: Path) -> None:
    done: list[float] = []
    plain, irregular, empty = take_census(root, progress=done.append)
    assert done == pytest.approx([0.25, 0.5, 0.75, 1.0])
    found = summary(plain)
    assert found["problems"] == []
    assert (found["neurons"], found["recordings"], found["spikes"]) == (2, 3, 6)
    assert found["minutes"] == pytest.approx(1.5, abs=0.01)
    assert found["spike_rate_hz"] == pytest.approx(6 / 90, abs=1e-3)
    assert found["frame_rates_hz"] == {"min": 30.0, "max": 60.0}
    native = [noise_levels(r.dff[None], frame_rate_hz=r.frame_rate_hz)[0] for r in plain.recordings]
    assert found["noise_level"]["median"] == pytest.approx(np.median(native), abs=1e-3)
    assert found["noise_level"]["max"] == pytest.approx(max(native), abs=1e-3)
    np.testing.assert_allclose(plain.spike_rates_hz, [4 / 60, 2 / 30], rtol=1e-3)

    assert summary(irregular)["recordings"] == 2
    assert summary(irregular)["minutes"] == pytest.approx((890 + 50) / 30 / 60, abs=0.01)
    assert [str(p).split(", ", 1)[1] for p in irregular.problems] == [
        "recording 0: 10 frames without a value or a time; trimmed",
        "recording 0: gaps: 2 pieces; split",
        "recording 1: no field fluo_time, events_AP; skipped",
        "recording 2: 1.7 s are fewer than 64 frames at 30 Hz; skipped",
    ]
    assert summary(empty)["neurons"] == 0
    assert summary(empty)["noise_level"] is None
    assert "broken.mat: not readable" in str(empty.problems[0])

    everything = summary(total([plain, irregular, empty]))
    assert (everything["neurons"], everything["recordings"], everything["spikes"]) == (3, 5, 6)
    assert len(everything["problems"]) == 5


def test_short_recordings_are_judged_at_the_rate_asked_for(root: Path) -> None:
    short = [p for row in take_census(root, frame_rate_hz=10.0) for p in row.problems if "fewer than 64" in p.what]
    assert [(p.dataset, p.recording) for p in short] == [("DS98-b", 2)]
    # At 2 Hz, half a minute is 60 frames.
    assert sum("fewer than 64" in p.what for row in take_census(root, frame_rate_hz=2.0) for p in row.problems) == 6


def test_the_command_lists(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ground-truth", "--ground-truth", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[1].split() == ["DS97-a", "2", "3", "2", "6", "0.07", "30.0–60.0", *lines[1].split()[7:9], "0"]
    assert re.fullmatch(r"DS99-c +0 +0 +0 +0 +– +– +– +1", lines[3])
    assert lines[5].split()[:5] == ["total", "3", "5", "2", "6"]
    assert "-v lists it" in lines[6]

    assert main(["ground-truth", "--ground-truth", str(root), "-v"]) == 0
    shown = capsys.readouterr()
    assert "    DS98-b/c1_mini.mat, recording 1: no field fluo_time, events_AP; skipped" in shown.out.splitlines()
    assert "-v lists" not in shown.out


def test_the_command_prints_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ground-truth", "--ground-truth", str(root), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [d["dataset"] for d in answer["datasets"]] == ["DS97-a", "DS98-b", "DS99-c"]
    assert answer["total"]["spikes"] == 6
    assert answer["datasets"][1]["problems"][2] == {
        "file": "DS98-b/c1_mini.mat",
        "recording": 1,
        "what": "no field fluo_time, events_AP",
        "action": "skipped",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.jpg"], "a.jpg: a picture is written as one of .png, .pdf, .svg"),
        (["--frame-rate", "0"], "--frame-rate 0: expected a positive number"),
        (["--datasets", "DS97"], "give it with --download"),
        (["--download", "--plot", "a.png"], "give it without --download"),
    ],
)
def test_options_that_cannot_be(
    root: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["ground-truth", "--ground-truth", str(root), *options]) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


# ── the picture ──


def test_the_example_is_an_active_piece_with_typical_noise(root: Path) -> None:
    # Of the recordings with many spikes, the one whose noise is the median; its spikes are late in it.
    late = 60 + np.arange(1, 11)
    structs = [
        _struct(1, n=3000, sd=0.1, spikes=late),
        _struct(2, n=3000, sd=0.2, spikes=late),
        _struct(3, n=3000, sd=0.4, spikes=late),
        _struct(4, n=3000, sd=0.2),
        _struct(5, n=6000, rate=60.0, sd=0.3, spikes=late[:9]),
    ]
    _write(root / "DS96-e", "c1_mini.mat", *structs)
    example = choose_example(take_census(root)[0])
    assert example is not None
    assert example.trace.number == 1
    assert example.spikes == 10
    assert example.frames.stop - example.frames.start == 900
    assert choose_example(take_census(root)[-1]) is None


def test_the_picture_has_a_trace_for_each_usable_dataset(root: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(plot_census(tmp_path / "census.png", take_census(root)))[..., :3]
    slate = np.abs(pixels - np.array([0x40, 0x56, 0x6B]) / 255).max(axis=2) < 0.1
    lines = np.flatnonzero(slate.sum(axis=1) > 100)
    # Two traces, apart from each other; nothing in the row of the dataset that is not usable.
    assert (np.diff(lines) > 15).sum() == 1


def test_the_command_draws(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ground-truth", "--ground-truth", str(root), "--plot", str(tmp_path / "a.png")]) == 0
    assert f"drawn: {tmp_path / 'a.png'}" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 20_000


# ── the reference data ──


@pytest.fixture(scope="module")
def database(shared: Path) -> list[Census]:
    return take_census(shared / "ground_truth")


def test_everything_in_the_database_is_counted(database: list[Census]) -> None:
    found = summary(total(database))
    assert len(database) == 23
    assert (found["neurons"], found["recordings"]) == (271, 862)
    assert found["frame_rates_hz"]["min"] == pytest.approx(7.5, abs=0.05)
    assert found["frame_rates_hz"]["max"] == pytest.approx(500.0, abs=0.05)
    for row in database:
        assert all(np.isfinite(r.dff).all() and np.isfinite(r.spike_times_s).all() for r in row.recordings)
        assert all((np.diff(r.frame_times_s) > 0).all() for r in row.recordings)
        assert 0.1 < np.median(row.noise_levels) < 2.5


def test_irregular_files_of_the_database(database: list[Census]) -> None:
    """Every kind that the description of the reference data names, by file and recording."""
    problems = [p for row in database for p in row.problems if "dark frames" not in p.what]
    places = [(p.dataset.split("-")[0], p.file.split("_")[-2], p.recording, p.action) for p in problems]
    assert places == [
        ("DS01", "5", None, "joined"),
        ("DS03", "cell5", 1, "skipped"),
        ("DS03", "cell5", 2, "skipped"),
        ("DS03", "cell5", 3, "skipped"),
        ("DS04", "cellA", 0, "trimmed"),
        ("DS05", "cell2", 0, "trimmed"),
        ("DS07", "cell1", 0, "trimmed"),
        ("DS19", "cell2", 1, "trimmed"),
    ]
    several_rates = {
        (r.dataset.split("-")[0], r.neuron)
        for row in database
        for r in row.recordings
        if abs(r.frame_rate_hz / next(o for o in row.recordings if o.neuron == r.neuron).frame_rate_hz - 1) > 0.05
    }
    assert {dataset for dataset, _ in several_rates} == {"DS30"}


def test_short_recordings_of_the_database(database: list[Census]) -> None:
    """All have a window of 64 frames at 30 Hz; at 7.5 Hz, those of 8 s and less do not."""
    fast = next(row for row in database if row.name.startswith("DS03"))
    assert resample_recordings(fast.recordings, 30.0, shortest_frames=64)[1] == []
    kept, dropped = resample_recordings(fast.recordings, 7.5, shortest_frames=64)
    assert (len(kept), len(dropped)) == (1, 160)


def test_no_two_datasets_share_a_neuron(database: list[Census]) -> None:
    """Neither fluorescence nor spikes; within one dataset, two files hold the same recording."""
    renamed = [r for row in database for r in row.recordings if r.cell != (r.dataset, r.neuron)]
    assert [(r.neuron[-6:], r.cell[1][-6:], r.dataset == r.cell[0]) for r in renamed] == [("cell_5", "cell_4", True)]


def test_the_table_of_the_database_is_aligned(database: list[Census]) -> None:
    assert len({len(line) for line in to_table(database)}) == 1

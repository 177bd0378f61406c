"""`run` and `replay` from the command line: options, refusals and exit codes; nothing written when refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zmq
from live import recording, same
from networks import write_conditioned, write_published

from cascade_rt.bundle import import_cascade
from cascade_rt.cli import main
from cascade_rt.engine import load_model
from cascade_rt.offline import predict

NU = np.array([1.5, 2.0, 2.5, 3.0, 4.0, 6.0])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_published(folder / "published", levels=(1, 2, 4, 8), members=1)
    return {
        "conditioned": write_conditioned(folder / "small", lookaheads=(0, 2, 7)),
        "offline": import_cascade(folder / "published", folder / "offline", name="offline"),
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with a recording and noise levels."""
    monkeypatch.chdir(tmp_path)
    np.save("rec.npy", recording(n_frames=150))
    np.save("nu.npy", NU)
    return tmp_path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def run(bundle, *more, source="rec.npy", rate=30):
    return main(
        ["run", "--model", str(bundle), "--source", str(source), "--view", "none", "--threads", "1",
         *(["--frame-rate", str(rate)] if rate else []), *map(str, more)]
    )  # fmt: skip


def test_a_file_goes_through_like_predict(bundles, place, capsys):
    options = ["--noise-levels", "nu.npy", "--lookahead", "7", "--sink", "out.npz", "--json"]
    assert run(bundles["conditioned"], *options) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["frames"]["processed"], summary["exit_reason"], summary["complete"]) == (150, "end", True)
    assert summary["latency"]["deadline_ms"] is None, "nobody waits for a file"
    model = load_model(bundles["conditioned"], threads=1)
    with np.load("out.npz") as stored:
        same(stored["spike_prob"], predict(np.load("rec.npy"), model, frame_rate_hz=30.0, noise_levels=NU))
        metadata = json.loads(str(stored["metadata"]))
    assert metadata["model"] == "small"
    assert (metadata["alignment"], metadata["threshold"], metadata["frame_rate_hz"]) == ("target", "zero", 30.0)
    assert metadata["lookahead_frames"] == [7]
    assert metadata["versions"]["cascade_rt"]


def test_the_summary_in_words(bundles, place, capsys):
    assert run(bundles["conditioned"], "--noise-levels", "nu.npy") == 0
    captured = capsys.readouterr()
    assert "frames: 150 processed, 0 lost" in captured.out
    assert "integration time: 3 frames = 100 ms (look-ahead 2, at 30 Hz)" in captured.err


def test_noise_levels_of_an_earlier_result_can_be_used(bundles, place):
    assert run(bundles["conditioned"], "--noise-levels", "nu.npy", "--sink", "a.npz") == 0
    assert run(bundles["conditioned"], "--noise-levels", "a.npz", "--sink", "b.npz") == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        np.testing.assert_array_equal(a["spike_prob"], b["spike_prob"])


@pytest.mark.parametrize(("delay", "lookahead"), [(34, 0), (100.1, 2), (250, 2), (1000, 7)])
def test_the_longest_look_ahead_that_fits_is_taken(bundles, place, capsys, delay, lookahead):
    assert run(bundles["conditioned"], "--noise-levels", "nu.npy", "--max-delay-ms", delay, "--json") == 0
    assert json.loads(capsys.readouterr().out)["lookahead_frames"] == [lookahead]


def refused(capsys, code, *message):
    err = capsys.readouterr().err
    for part in message:
        assert part in err
    return code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-delay-ms", 20], "known 33 ms after"),
        (["--lookahead", "5"], "no look-ahead of 5 frames; it has 0, 2, 7"),
        (["--noise-levels", "none.npy"], "none.npy"),
        (["--noise-levels", "rec.npy"], "one noise level for each neuron"),
        (["--calibration-s", "0.1"], "calibration_s"),
        (["--sink", "out.csv"], ".npy, .npz, .mat"),
        (["--sink", "none/out.npz"], "does not exist"),
        (["--sink", "nu.npy"], "--overwrite"),
        (["--sink", "tcp://0.0.0.0:5556"], "--insecure"),
        (["--record", "nu.npy"], "is a file"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(bundles, place, capsys, options, message):
    before = names_in(place)
    assert run(bundles["conditioned"], *options) == 1
    assert message in capsys.readouterr().err
    assert names_in(place) == before


def test_wrong_number_of_noise_levels(bundles, place, capsys):
    np.save("nu5.npy", NU[:5])
    assert run(bundles["conditioned"], "--noise-levels", "nu5.npy", "--sink", "out.npz") == 1
    assert "(6,)" in capsys.readouterr().err
    assert "out.npz" not in names_in(place)


def test_frame_rates_are_checked_at_the_start(bundles, place, capsys):
    assert run(bundles["conditioned"], rate=15) == 1
    assert "trained for 30 Hz" in capsys.readouterr().err
    assert run(bundles["conditioned"], "--noise-levels", "nu.npy", "--allow-rate-mismatch", rate=15) == 0
    assert run(bundles["conditioned"], "--noise-levels", "nu.npy", rate=None) == 1
    assert "--frame-rate" in capsys.readouterr().err


def test_percent_is_refused_and_leaves_no_result(bundles, place, capsys):
    np.save("percent.npy", 100 * recording(n_frames=400))
    assert run(bundles["conditioned"], "--sink", "out.npz", "--noise-levels", "nu.npy", source="percent.npy") == 1
    assert "percent" in capsys.readouterr().err
    assert names_in(place) == ["nu.npy", "percent.npy", "rec.npy"], "nothing was written"


def test_damaged_recordings_are_named(bundles, place, capsys):
    (place / "cut.npy").write_bytes((place / "rec.npy").read_bytes()[:-100])
    assert run(bundles["conditioned"], "--sink", "out.npz", source="cut.npy") == 1
    assert "truncated" in capsys.readouterr().err
    assert names_in(place) == ["cut.npy", "nu.npy", "rec.npy"]


def test_a_model_for_finished_recordings_is_refused_live(bundles, place, capsys):
    address = "tcp://127.0.0.1:5?type=pull"
    assert run(bundles["offline"], source=address) == 1
    err = capsys.readouterr().err
    for part in ("31 frames later", "1067 ms", "--allow-offline-model"):
        assert part in err
    assert run(bundles["offline"], "--noise-levels", "nu.npy", "--sink", "out.npz") == 0, "a file is no live source"


@pytest.mark.parametrize(
    "options",
    [
        ["--wire", "raw:0"],
        ["--wire", "xml"],
        ["--lookahead", "2,x"],
        ["--lookahead", "2,2"],
        ["--lookahead", "-1"],
        ["--lookahead", "2", "--max-delay-ms", "100"],
        ["--noise-levels", "a", "--calibration-s", "3"],
        ["--gap", "ignore"],
        ["--frame-rate", "0"],
        ["--nonsense"],
    ],
)
def test_wrong_use(bundles, place, options):
    assert run(bundles["conditioned"], *options) == 2


def test_model_and_source_are_needed(place):
    assert main(["run", "--source", "rec.npy"]) == 2
    assert main(["run", "--model", "x"]) == 2


def test_an_unknown_model_is_named(place, capsys):
    assert run("no-such-model") == 1
    assert "no-such-model" in capsys.readouterr().err


# --- replay ------------------------------------------------------------------------------------------------


def test_replay_tells_what_it_sent(place, capsys):
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.rcvhwm = 0
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        sink = f"tcp://127.0.0.1:{port}?type=push&bind=false"
        assert main(["replay", "rec.npy", "--frame-rate", "30", "--sink", sink, "--speed", "200", "--chunk", "4"]) == 0
        out = capsys.readouterr().out
        assert "sent: 150 frames of 6 neurons in 38 messages" in out
        assert "later than its schedule" in out
        options = ["--as-fast-as-possible", "--loop", "2", "--json"]
        assert main(["replay", "rec.npy", "--frame-rate", "30", "--sink", sink, *options]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["frames"], answer["next_frame"], answer["n_neurons"]) == (300, 300, 6)
        count = 0
        while pull.poll(1000):
            pull.recv_multipart()
            count += 1
        assert count == 38 + 1 + 300 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npy", "--sink", "tcp://127.0.0.1:5"], "no such file"),
        (["rec.npy", "--sink", "tcp://127.0.0.1:5"], "--frame-rate"),
        (["rec.npy", "--sink", "out.npy"], "expected an address"),
        (["rec.npy", "--frame-rate", "30", "--sink", "tcp://0.0.0.0:5"], "--insecure"),
        (["rec.npy", "--frame-rate", "30", "--sink", "tcp://127.0.0.1:5?type=pull"], "expected pub or push"),
    ],
)
def test_replay_refuses(place, capsys, arguments, message):
    assert main(["replay", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_replay_wrong_use(place):
    assert main(["replay", "rec.npy"]) == 2
    assert main(["replay", "rec.npy", "--sink", "tcp://127.0.0.1:5", "--speed", "2", "--as-fast-as-possible"]) == 2


def test_replay_of_the_built_in_recording(place, capsys):
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.rcvhwm = 0
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        sink = f"tcp://127.0.0.1:{port}?type=push&bind=false"
        assert main(["replay", "demo", "--sink", sink, "--as-fast-as-possible", "--chunk", "100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["frame_rate_hz"] == 30
    assert answer["frames"] > 100

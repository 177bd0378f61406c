"""`cascade-rt run` in a process of its own, between real sockets: nothing lost, live equal to offline."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zmq
from live import Bench, Command, recording, same
from networks import write_conditioned

from cascade_rt import codec
from cascade_rt.engine import load_model
from cascade_rt.formats import read_recording
from cascade_rt.noise import noise_levels
from cascade_rt.offline import predict

NU = np.array([1.5, 2.0, 2.5, 3.0, 4.0, 6.0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    np.save(folder / "nu.npy", NU)
    return write_conditioned(folder / "small", lookaheads=(0, 2, 7))


@pytest.fixture(scope="module")
def model(bundle):
    return load_model(bundle, threads=1)


def offline(dff, model, lookahead):
    return predict(dff, model, frame_rate_hz=30.0, noise_levels=NU, lookahead_frames=lookahead)


def run(bundle, bench, folder, *more):
    return Command(
        "run", "--model", bundle, *bench.endpoints, "--noise-levels", bundle.parent / "nu.npy", "--lookahead", "2,7",
        "--threads", 1, "--view", "none", "--json", *more, folder=folder,
    )  # fmt: skip


def accounted(summary, sent):
    """Every frame sent was processed or is reported as lost."""
    frames = summary["frames"]
    return frames["processed"] + frames["lost"] + frames["before_start"] == sent


def test_push_pull_loses_nothing_and_equals_offline(bundle, model, tmp_path):
    dff = recording(n_frames=400)
    with Bench() as bench, run(bundle, bench, tmp_path, "--sink", "out.npz", "--record", "kept") as command:
        sizes = np.random.default_rng(0).integers(1, 12, 400)
        bench.send_end(bench.send(dff, sizes))
        bench.receive()
        summary = command.summary()
    assert summary["exit_reason"] == "end"
    assert summary["complete"] is True
    assert summary["frames"]["lost"] == 0
    assert summary["frames"]["processed"] == 400
    assert accounted(summary, 400)
    assert bench.end.next_frame == 400
    assert "integration time: 3 frames = 100 ms" in command.stderr
    assert "revised at: 8 frames = 267 ms" in command.stderr
    for lookahead in (2, 7):
        frame, prob, valid = bench.values(lookahead)
        np.testing.assert_array_equal(frame, np.arange(400))
        same(prob, offline(dff, model, lookahead))
        np.testing.assert_array_equal(valid, ~np.isnan(prob))
    newest = [chunk for chunk in bench.results[2] if chunk.t_recv is not None][-1]
    assert (newest.model, newest.alignment, newest.provisional) == ("small", "target", False)
    assert newest.t_emit >= newest.t_recv
    with np.load(tmp_path / "out.npz") as stored:
        np.testing.assert_array_equal(stored["spike_prob"], bench.values(7)[1])
        np.testing.assert_array_equal(stored["spike_prob_lookahead2"], bench.values(2)[1])
        np.testing.assert_array_equal(stored["noise_levels"], NU)
        assert json.loads(str(stored["metadata"]))["run"]["frames"]["processed"] == 400
    kept = read_recording(tmp_path / "kept")
    np.testing.assert_array_equal(kept.dff, dff)
    np.testing.assert_array_equal(np.load(tmp_path / "kept" / "spike_prob_lookahead7.npy"), bench.values(7)[1])
    assert json.loads((tmp_path / "kept" / "run.json").read_text(encoding="utf-8"))["complete"] is True


def test_a_subscriber_that_joins_late_says_from_where(bundle, model, tmp_path):
    dff = recording(n_frames=200)
    with Bench(zmq.XPUB) as bench:
        bench.send(dff[:, :50])
        with run(bundle, bench, tmp_path) as command:
            assert {bench.source.recv(), bench.source.recv()} == {b"\1dff", b"\1end"}
            bench.send_end(bench.send(dff[:, 50:], first_frame=50, pause_s=0.001))
            bench.receive()
            summary = command.summary()
    assert summary["frames"]["before_start"] == 50
    assert summary["frames"]["lost"] == 0
    assert accounted(summary, 200)
    frame, prob, _ = bench.values(2)
    np.testing.assert_array_equal(frame, np.arange(50, 200))
    same(prob, offline(dff[:, 50:], model, 2))


def test_gaps_duplicates_and_malformed_messages(bundle, model, tmp_path):
    dff = recording(n_frames=300)
    with Bench() as bench, run(bundle, bench, tmp_path, "--gap", "nan") as command:
        bench.send(dff[:, :100])
        good = codec.encode_frames(codec.FrameChunk(frames=dff[:, 100:101], first_frame=100, stream="test"))
        for parts in (
            [b"dff"],
            [b"nonsense", *good[1:]],
            [good[0], b"\xff\x00", good[2]],
            [good[0], good[1], good[2][:-1]],
            [good[0], good[1].replace(b'"v":1', b'"v":9'), good[2]],
            [good[0], good[1].replace(b"[6,1]", b"[3,2]"), good[2]],
        ):
            bench.send_parts(parts)
        bench.send(dff[:, 90:120], [30], first_frame=90)
        bench.send(dff[:, 125:], [7] * 30, first_frame=125)
        bench.send(dff[:, 200:210], [10], first_frame=200)
        bench.send_end(303)
        bench.receive()
        summary = command.summary()
    frames = summary["frames"]
    assert summary["messages"]["rejected"] == {
        "header": 1, "neurons": 1, "parts": 1, "payload": 1, "topic": 1, "version": 1,
    }  # fmt: skip
    assert (frames["duplicate"], frames["filled"], frames["after_end"], frames["lost"]) == (20, 5, 3, 8)
    assert accounted(summary, 303)
    holed = dff.copy()
    holed[:, 120:125] = np.nan
    for lookahead in (2, 7):
        frame, prob, valid = bench.values(lookahead)
        np.testing.assert_array_equal(frame, np.arange(300))
        same(prob, offline(holed, model, lookahead))
        np.testing.assert_array_equal(valid, ~np.isnan(prob))


def test_ctrl_c_drains_and_leaves_readable_files(bundle, model, tmp_path):
    dff = recording(n_frames=120)
    with Bench() as bench, run(bundle, bench, tmp_path, "--sink", "out.npz", "--record", "kept") as command:
        bench.send(dff)
        bench.receive(until=(2, 117))
        command.interrupt()
        bench.receive()
        summary = command.summary()
    assert summary["exit_reason"] == "interrupted"
    assert summary["frames"]["processed"] == 120
    assert bench.end.next_frame == 120
    frame, prob, _ = bench.values(7)
    np.testing.assert_array_equal(frame, np.arange(120))
    same(prob, offline(dff, model, 7))
    with np.load(tmp_path / "out.npz") as stored:
        np.testing.assert_array_equal(stored["spike_prob"], prob)
        metadata = json.loads(str(stored["metadata"]))
    assert (metadata["complete"], metadata["exit_reason"]) == (True, "interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "out.npz"]
    np.testing.assert_array_equal(read_recording(tmp_path / "kept").dff, dff)


def test_a_crash_leaves_readable_files_marked_incomplete(bundle, tmp_path):
    dff = recording(n_frames=150)
    with Bench() as bench, run(bundle, bench, tmp_path, "--sink", "out.npz", "--record", "kept") as command:
        next_frame = bench.send(dff[:, :60])
        bench.receive(until=(2, 57))
        frames = tmp_path / "kept" / "dff_frame.npy"
        # Made readable once a second; a header of 128 bytes comes first.
        while not frames.is_file() or frames.stat().st_size < 128 + 8 * 60 or np.load(frames).size < 60:
            next_frame = bench.send(dff[:, :1], first_frame=next_frame, pause_s=0.05)
        command.kill()
    kept = read_recording(tmp_path / "kept")
    np.testing.assert_array_equal(kept.dff[:, :60], dff[:, :60])
    np.testing.assert_array_equal(kept.frames, np.arange(kept.n_frames))
    for folder in ("kept", "out.npz.incomplete"):
        described = json.loads((tmp_path / folder / "run.json").read_text(encoding="utf-8"))
        assert described["complete"] is False
        assert described["model"] == "small"
        assert np.load(tmp_path / folder / "spike_prob_lookahead2.npy").shape[0] == 6
    assert not (tmp_path / "out.npz").exists()


def test_a_source_that_dies_and_comes_back_leaves_a_gap(bundle, model, tmp_path):
    dff = recording(n_frames=200)
    with Bench() as bench, run(bundle, bench, tmp_path) as command:
        bench.send(dff[:, :80])
        bench.receive(until=(2, 77))
        bench.reopen_source()
        bench.send_end(bench.send(dff[:, 90:], first_frame=90))
        bench.receive()
        summary = command.summary()
    assert (summary["frames"]["lost"], summary["frames"]["gaps"]) == (10, 1)
    assert accounted(summary, 200)
    frame, prob, valid = bench.values(2)
    np.testing.assert_array_equal(frame, np.arange(200))
    held = dff.copy()
    held[:, 80:90] = dff[:, 79:80]
    same(prob, offline(held, model, 2))
    window = model.spec.windowsize
    touched = np.arange(78, min(90 + window - 1 - 2, 200))
    assert not valid[:, touched].any()
    assert valid[:, window:78].all()


def test_a_source_that_starts_anew_is_followed(bundle, model, tmp_path):
    dff = recording(n_frames=120)
    with Bench() as bench, run(bundle, bench, tmp_path) as command:
        bench.send(dff)
        bench.receive(until=(2, 117))
        bench.reopen_source()
        bench.send_end(bench.send(dff))
        bench.receive()
        summary = command.summary()
    assert summary["frames"]["restarts"] == 1
    assert summary["frames"]["processed"] == 240
    frame, prob, _ = bench.values(2)
    np.testing.assert_array_equal(frame, [*range(120), *range(120)])
    same(prob[:, 120:], offline(dff, model, 2))


def test_a_gap_that_is_not_allowed_ends_the_run(bundle, tmp_path):
    dff = recording(n_frames=100)
    with Bench() as bench, run(bundle, bench, tmp_path, "--gap", "stop", "--sink", "out.npz") as command:
        bench.send(dff[:, :60])
        bench.send(dff[:, 61:], first_frame=61)
        bench.receive()
        summary = command.summary(code=1)
    assert summary["exit_reason"] == "error"
    assert "frames 60 to 60 are missing" in summary["error"]
    assert "frames 60 to 60 are missing" in command.stderr
    assert summary["frames"]["processed"] == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.incomplete.npz"]
    with np.load(tmp_path / "out.incomplete.npz") as stored:
        assert stored["spike_prob"].shape == (6, 60)
        assert json.loads(str(stored["metadata"]))["complete"] is False


def test_plain_messages(bundle, model, tmp_path):
    dff = recording(n_frames=150)
    with Bench() as bench, run(bundle, bench, tmp_path, "--wire", "raw:6", "--frame-rate", 30) as command:
        for start in range(0, 150, 5):
            bench.send_parts(codec.encode_raw(dff[:, start : start + 5]))
        bench.send_parts([b"end"])
        bench.receive()
        summary = command.summary()
    assert accounted(summary, 150)
    same(bench.values(7)[1], offline(dff, model, 7))


def test_noise_levels_are_measured_when_none_are_given(bundle, tmp_path):
    dff = recording(n_frames=150)
    with Bench() as bench, Command(
        "run", "--model", bundle, *bench.endpoints, "--calibration-s", 3, "--record", "kept",
        "--view", "none", "--json", folder=tmp_path,
    ) as command:  # fmt: skip
        bench.send_end(bench.send(dff))
        bench.receive()
        summary = command.summary()
    measured = np.load(tmp_path / "kept" / "noise_levels.npy")
    np.testing.assert_allclose(measured, noise_levels(dff[:, :90], frame_rate_hz=30.0), rtol=1e-6)
    assert summary["calibration_finished"] is True
    provisional = [chunk.provisional for chunk in bench.results[2]]
    assert provisional[0]
    assert not provisional[-1]


def test_a_real_recording_through_replay_and_run(bundle, model, tmp_path):
    """Three processes, as in an experiment; the fake microscope sends as fast as it can."""
    dff = recording(n_neurons=6, n_frames=1500)
    np.save(tmp_path / "rec.npy", dff)
    with Bench() as bench:
        bench.source.close()
        with run(bundle, bench, tmp_path) as command, Command(
            "replay", "rec.npy", "--frame-rate", 30, "--sink", f"{bench.source_address}?type=push",
            "--as-fast-as-possible", "--json", folder=tmp_path,
        ) as replay:  # fmt: skip
            bench.receive()
            sent = replay.summary()
            summary = command.summary()
    assert sent["frames"] == sent["messages"] == 1500
    assert summary["frames"]["processed"] == 1500
    assert summary["stream"] == "rec"
    same(bench.values(7)[1], offline(dff, model, 7))


def test_ctrl_c_while_waiting_for_frames(bundle, tmp_path):
    with Bench() as bench, run(bundle, bench, tmp_path, "--sink", "out.npz") as command:
        assert bench.source.poll(60_000, zmq.POLLOUT), "the run did not connect"
        command.interrupt()
        bench.receive()
        summary = command.summary()
    assert (summary["exit_reason"], summary["frames"]["received"], summary["model"]) == ("interrupted", 0, None)
    assert list(tmp_path.iterdir()) == []


def test_a_real_recording_with_the_shipped_model(shared, tmp_path):
    """Mouse visual cortex, 74 neurons, imaged at 30 Hz."""
    model = load_model("GCaMP8_EXC_30Hz_smoothing25ms", threads=1)
    dff = np.ascontiguousarray(read_recording(shared / "recordings" / "allen_visual_coding_30Hz.mat").dff[:, :400])
    nu = noise_levels(dff, frame_rate_hz=30.0)
    np.save(tmp_path / "nu.npy", nu)
    with Bench() as bench, Command(
        "run", "--model", "GCaMP8_EXC_30Hz_smoothing25ms", *bench.endpoints, "--noise-levels", "nu.npy",
        "--lookahead", "2,15", "--threads", 1, "--view", "lines", "--json", folder=tmp_path,
    ) as command:  # fmt: skip
        bench.send_end(bench.send(dff))
        bench.receive()
        summary = command.summary()
    assert (summary["frames"]["lost"], summary["warnings"]) == (0, [])
    for lookahead in (2, 15):
        same(
            bench.values(lookahead)[1],
            predict(dff, model, frame_rate_hz=30.0, noise_levels=nu, lookahead_frames=lookahead),
        )


def test_replay_stops_at_ctrl_c_and_ends_the_stream(tmp_path):
    np.save(tmp_path / "rec.npy", recording(n_frames=300))
    pull = zmq.Context.instance().socket(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    try:
        with Command(
            "replay", "rec.npy", "--frame-rate", 30, "--sink", f"tcp://127.0.0.1:{port}?type=push&bind=false", "--json",
            "--loop", 100, folder=tmp_path,
        ) as replay:  # fmt: skip
            assert pull.poll(60_000)
            pull.recv_multipart()
            replay.interrupt()
            last = b""
            count = 1
            while last != b"end":
                assert pull.poll(20_000)
                parts = pull.recv_multipart()
                last = parts[0]
                count += last == b"dff"
            summary = replay.summary()
        assert summary["stopped"] is True
        assert summary["frames"] == count == codec.decode_end(parts).next_frame
    finally:
        pull.close(0)

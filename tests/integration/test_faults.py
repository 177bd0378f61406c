"""Faults around a run, with real processes: every frame is accounted for, and what follows a fault is undisturbed.

"Undisturbed" is what the same frames give without the fault, compared from where the model's window is clean again.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zmq
from live import Bench, Command, recording, same
from networks import write_conditioned

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk
from cascade_rt.engine import load_model
from cascade_rt.formats import read_recording
from cascade_rt.offline import predict

N_NEURONS = 6
NU = np.linspace(1.5, 6.0, N_NEURONS)
LOOKAHEAD = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    np.save(folder / "nu.npy", NU)
    return write_conditioned(folder / "small", lookaheads=(0, 2, 7))


@pytest.fixture(scope="module")
def model(bundle):
    return load_model(bundle, threads=1)


def undisturbed(dff, model, nu=NU):
    return predict(dff, model, frame_rate_hz=30.0, noise_levels=nu, lookahead_frames=LOOKAHEAD)


def run(bundle, endpoints, folder, *more):
    return Command(
        "run", "--model", bundle, *endpoints, "--noise-levels", bundle.parent / "nu.npy", "--lookahead", LOOKAHEAD,
        "--threads", 1, "--view", "none", "--json", *more, folder=folder,
    )  # fmt: skip


def accounted(summary, sent):
    """Every frame that the source counted was processed, or is reported as lost or as missed before the start."""
    frames = summary["frames"]
    assert frames["processed"] + frames["lost"] + frames["before_start"] == sent, frames
    assert frames["received"] == frames["processed"] + frames["duplicate"] + frames["late"] + frames["overrun"], frames


def by_frame(bench, n_frames):
    """Values and validity put in the place of the frame that they describe; each frame came once at most."""
    frame, prob, valid = bench.values(LOOKAHEAD)
    assert len(set(frame)) == len(frame)
    values = np.full((prob.shape[0], n_frames), np.nan, np.float32)
    values[:, frame] = prob
    sound = np.zeros(values.shape, bool)
    sound[:, frame] = valid
    return values, sound


def follows_undisturbed(bench, dff, model, clean_from, *, nu=NU):
    """Results from ``clean_from`` on are valid and equal those of a run without the fault."""
    values, valid = by_frame(bench, dff.shape[1])
    last = dff.shape[1] - LOOKAHEAD
    assert last - clean_from > 20
    assert valid[:, clean_from:last].all()
    same(values[:, clean_from:last], undisturbed(dff, model, nu)[:, clean_from:last])


def subscribed(bench):
    """Wait until a run has subscribed to a PUB socket."""
    if bench._kind == zmq.XPUB:
        assert {bench.source.recv(), bench.source.recv()} == {b"\1dff", b"\1end"}


def bind_again(socket, address):
    """Bind to an address whose old socket is still being closed in the background."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.bind(address)
            return
        except zmq.ZMQError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------- the source


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.XPUB], ids=["push", "pub"])
@pytest.mark.parametrize("missing", [1, 10, 500], ids=["one", "filled", "long"])
def test_a_source_that_dies_and_goes_on_counting(bundle, model, tmp_path, kind, missing):
    dff = recording(N_NEURONS, 200 + missing)
    with Bench(kind) as bench, run(bundle, bench.endpoints, tmp_path) as command:
        subscribed(bench)
        bench.send(dff[:, :80])
        bench.receive(until=(LOOKAHEAD, 77))
        bench.reopen_source()
        subscribed(bench)
        bench.send_end(bench.send(dff[:, 80 + missing :], first_frame=80 + missing))
        bench.receive()
        summary = command.summary()
    accounted(summary, 200 + missing)
    assert (summary["frames"]["lost"], summary["frames"]["gaps"]) == (missing, 1)
    follows_undisturbed(bench, dff, model, 80 + missing + model.spec.windowsize)


def test_a_source_that_dies_and_counts_anew(bundle, model, tmp_path):
    before, after = recording(N_NEURONS, 90, seed=1), recording(N_NEURONS, 150, seed=2)
    with Bench() as bench, run(bundle, bench.endpoints, tmp_path) as command:
        bench.send(before)
        bench.receive(until=(LOOKAHEAD, 87))
        bench.results.clear()
        bench.reopen_source()
        bench.send_end(bench.send(after))
        bench.receive()
        summary = command.summary()
    frames = summary["frames"]
    assert (frames["processed"], frames["restarts"], frames["lost"]) == (240, 1, 0)
    frame, prob, _ = bench.values(LOOKAHEAD)
    np.testing.assert_array_equal(frame, [88, 89, *range(150)])
    same(prob[:, 2:], undisturbed(after, model))


def test_messages_of_other_recordings_change_nothing(bundle, model, tmp_path):
    dff = recording(N_NEURONS, 160)
    others = {
        "neurons": FrameChunk(frames=np.ones((N_NEURONS + 1, 1), np.float32), first_frame=80, stream="test"),
        "stream": FrameChunk(frames=np.ones((N_NEURONS, 1), np.float32), first_frame=80, stream="another"),
        "rate": FrameChunk(
            frames=np.ones((N_NEURONS, 1), np.float32), first_frame=80, stream="test", frame_rate_hz=15.0
        ),
    }
    with Bench() as bench, run(bundle, bench.endpoints, tmp_path) as command:
        bench.send(dff[:, :80])
        for frame in range(80, 120):
            for chunk in others.values():
                bench.send_parts(codec.encode_frames(chunk))
            bench.send_parts(codec.encode_end("another", 5))
            bench.send(dff[:, frame : frame + 1], first_frame=frame)
        bench.send_end(bench.send(dff[:, 120:], first_frame=120))
        bench.receive()
        summary = command.summary()
    assert summary["messages"]["rejected"] == {"neurons": 40, "rate": 40, "stream": 80}
    accounted(summary, 160)
    assert summary["frames"]["lost"] == 0
    same(by_frame(bench, 160)[0], undisturbed(dff, model))


def test_a_source_that_floods(tmp_path, tmp_path_factory):
    """More than can be processed: dropped in few long gaps, each frame counted; afterwards all is as if nothing was."""
    n_neurons, flood, after = 400, 12_000, 250
    folder = tmp_path_factory.mktemp("flood")
    nu = np.full(n_neurons, 2.0)
    np.save(folder / "nu.npy", nu)
    bundle = write_conditioned(folder / "small", lookaheads=(0, 2, 7))
    model = load_model(bundle, threads=1)
    dff = np.tile(recording(n_neurons, 500), (1, -(-(flood + after) // 500)))[:, : flood + after]
    with Bench() as bench:
        endpoints = list(bench.endpoints)
        endpoints[1] += "&overrun=drop"
        with run(bundle, endpoints, tmp_path) as command:
            bench.send(dff[:, :1])
            bench.send(dff[:, 1:flood], [3] * 4000, first_frame=1)
            sent = flood
            while sent < flood + after:  # at the frame rate of a fast microscope
                bench.send(dff[:, sent : sent + 1], first_frame=sent, pause_s=0.005)
                sent += 1
            bench.send_end(sent)
            bench.receive()
            summary = command.summary()
    assert summary["frames"]["overrun"] > 0, "the flood was too small for this machine"
    accounted(summary, flood + after)
    frame, prob, valid = bench.values(LOOKAHEAD)
    clean = np.flatnonzero(frame >= flood + after - 100)
    good = valid[:, clean[:-LOOKAHEAD]]
    assert good.all()
    expected = undisturbed(dff[:, -400:], model, nu)[:, -100:-LOOKAHEAD]
    same(prob[:, clean[:-LOOKAHEAD]], expected)


def test_a_source_that_stalls(bundle, model, tmp_path):
    dff = recording(N_NEURONS, 150)
    with Bench() as bench, run(bundle, bench.endpoints, tmp_path) as command:
        bench.send(dff[:, :75])
        bench.receive(until=(LOOKAHEAD, 72))
        time.sleep(6)
        bench.send_end(bench.send(dff[:, 75:], first_frame=75, pause_s=0.002))
        bench.receive()
        summary = command.summary()
    assert "no frames from" in command.stderr
    assert "again" in command.stderr
    accounted(summary, 150)
    assert summary["frames"]["lost"] == 0
    same(by_frame(bench, 150)[0], undisturbed(dff, model))


# -------------------------------------------------------------------------------------------------- the consumer


def test_a_receiver_that_dies_and_returns(bundle, model, tmp_path):
    """PULL: results on the way are lost with it; the run loses nothing, and what comes later is right."""
    dff = recording(N_NEURONS, 300)
    with Bench() as bench, run(bundle, bench.endpoints, tmp_path, "--sink", "out.npz") as command:
        bench.send(dff[:, :100])
        bench.receive(until=(LOOKAHEAD, 97))
        bench.sink.close(0)
        bench.send(dff[:, 100:200], first_frame=100, pause_s=0.002)
        bench.sink = bench._socket(zmq.PULL)
        bind_again(bench.sink, bench.sink_address)
        bench.send_end(bench.send(dff[:, 200:], first_frame=200, pause_s=0.002))
        bench.receive()
        summary = command.summary()
    accounted(summary, 300)
    assert (summary["frames"]["processed"], summary["frames"]["lost"]) == (300, 0)
    expected = undisturbed(dff, model)
    frame, prob, _ = bench.values(LOOKAHEAD)
    assert set(range(200, 300)) <= set(frame)
    same(prob, expected[:, frame])
    with np.load(tmp_path / "out.npz") as stored:
        same(stored["spike_prob"], expected)


@pytest.mark.parametrize("overrun", ["wait", "drop"])
def test_a_receiver_that_stalls(tmp_path, tmp_path_factory, overrun):
    """It makes a run that must lose nothing wait; with ``overrun=drop`` results are dropped, and counted."""
    n_neurons, n_frames = 300, 8000  # more than the buffers of the system take
    folder = tmp_path_factory.mktemp("stall")
    nu = np.full(n_neurons, 2.0)
    np.save(folder / "nu.npy", nu)
    bundle = write_conditioned(folder / "small", lookaheads=(0, 2, 7))
    dff = np.tile(recording(n_neurons, 500), (1, n_frames // 500))
    with Bench() as bench, zmq.Context() as context, context.socket(zmq.PULL) as stalling:
        stalling.linger, stalling.rcvhwm, stalling.rcvbuf = 0, 1, 4096
        stalled = f"{bench._bind(stalling)}?type=push&bind=false&hwm=10&overrun={overrun}"
        with run(bundle, [*bench.endpoints, "--sink", stalled], tmp_path) as command:
            sender = threading.Thread(target=lambda: bench.send_end(bench.send(dff, [1] * n_frames)))
            sender.start()
            if overrun == "drop":
                bench.receive()  # the run goes on without its receiver
            late, ended = [], False
            while not ended and stalling.poll(2000 if overrun == "drop" else 60_000):
                parts = stalling.recv_multipart()
                ended = parts[0] == codec.TOPIC_END
                late += [] if ended else [codec.decode_spikes(parts)]
            if overrun == "wait":
                bench.receive()
            sender.join()
            summary = command.summary()
    accounted(summary, n_frames)
    assert summary["frames"]["lost"] == 0
    expected = undisturbed(dff, load_model(bundle, threads=1), nu)
    same(by_frame(bench, n_frames)[0], expected)
    for chunk in late:
        same(chunk.spike_prob, expected[:, chunk.first_frame : chunk.first_frame + chunk.n_frames])
    n_late = sum(chunk.n_frames for chunk in late)
    if overrun == "wait":
        assert (summary["sink_dropped"], n_late, ended) == (0, n_frames, True)
    else:
        n_messages = len(bench.results[LOOKAHEAD]) + 1  # and the end
        assert summary["sink_dropped"] > 0
        assert len(late) + ended + summary["sink_dropped"] == n_messages


_SUBSCRIBER = """
import sys, time, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.rcvhwm = 1
socket.subscribe(b"")
socket.connect(sys.argv[1])
socket.recv_multipart()
print("heard", flush=True)
time.sleep(600)
"""


def test_subscribers_that_stall_and_die_harm_nobody(bundle, model, tmp_path):
    dff = recording(N_NEURONS, 3000)
    with Bench() as bench:
        with zmq.Context() as context, context.socket(zmq.PULL) as probe:
            port = probe.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        with run(bundle, [*bench.endpoints, "--sink", f"{address}?hwm=10"], tmp_path) as command:
            sleeper = subprocess.Popen([sys.executable, "-c", _SUBSCRIBER, address], stdout=subprocess.PIPE)
            try:
                heard = threading.Event()
                threading.Thread(target=lambda: (sleeper.stdout.readline(), heard.set()), daemon=True).start()
                frame = 0
                while not heard.is_set():
                    bench.send(dff[:, frame : frame + 1], first_frame=frame, pause_s=0.01)
                    frame += 1
                    assert frame < 2000
                bench.send(dff[:, frame:2500], first_frame=frame)  # it sleeps
                bench.receive(until=(LOOKAHEAD, 2497))
            finally:
                sleeper.kill()
                sleeper.wait()
                sleeper.stdout.close()
            bench.send_end(bench.send(dff[:, 2500:], first_frame=2500))
            bench.receive()
            summary = command.summary()
    accounted(summary, 3000)
    assert summary["frames"]["lost"] == 0
    same(by_frame(bench, 3000)[0], undisturbed(dff, model))


# ------------------------------------------------------------------------------------------------------- the run


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_moment(bundle, model, tmp_path, seed):
    """The recording opens and holds what was received; a new run goes on with the stream."""
    dff = recording(N_NEURONS, 900)
    moment = float(np.random.default_rng(seed).uniform(0.05, 2.5))
    with Bench(zmq.XPUB) as bench:
        with run(bundle, bench.endpoints, tmp_path, "--record", "first") as command:
            subscribed(bench)
            frame, deadline = 0, time.monotonic() + moment
            while time.monotonic() < deadline:
                frame = bench.send(dff[:, frame : frame + 1], first_frame=frame, pause_s=0.004)
            command.kill()
        if (tmp_path / "first").exists() and (tmp_path / "first" / "dff.npy").exists():
            kept = read_recording(tmp_path / "first")
            n_kept = kept.n_frames
            np.testing.assert_array_equal(kept.dff, dff[:, :n_kept])
        while bench.sink.poll(200):
            bench.sink.recv_multipart()
        with run(bundle, bench.endpoints, tmp_path, "--record", "second") as command:
            while bench.source.recv() != b"\1end":  # what the first one unsubscribed comes before
                continue
            begin = frame
            bench.send_end(bench.send(dff[:, frame:], first_frame=frame, pause_s=0.001))
            bench.receive()
            summary = command.summary()
    accounted(summary, 900)
    assert summary["frames"]["lost"] == 0
    assert summary["frames"]["before_start"] == begin
    follows_undisturbed(bench, dff, model, begin + model.spec.windowsize)
    np.testing.assert_array_equal(read_recording(tmp_path / "second").dff, dff[:, begin:])


# ------------------------------------------------------------------------------------------------------- neurons


def with_ids(dff, first_frame, ids):
    return FrameChunk(frames=dff, first_frame=first_frame, stream="test", frame_rate_hz=30.0, ids=tuple(ids))


def test_neurons_that_join_and_leave(bundle, model, tmp_path):
    """Rows are told apart by ids: nobody else notices, and who joins is measured on its own."""
    n_frames, joined_at, left, back = 420, 60, 200, 230
    dff = recording(N_NEURONS + 2, n_frames)
    names = [f"n{row}" for row in range(N_NEURONS)]
    more = ["--max-neurons", N_NEURONS + 1]  # noise levels of the first are given; others calibrate for 60 s
    order = np.random.default_rng(0)
    with Bench() as bench, run(bundle, bench.endpoints, tmp_path, *more, "--sink", "out.npz") as command:
        for frame in range(n_frames):
            present = [*range(N_NEURONS)]
            if left <= frame < back:
                present.remove(1)
            if frame >= joined_at:
                present.append(N_NEURONS)
            if frame >= 300:  # there is no row for this one
                present.append(N_NEURONS + 1)
            if frame % 50 == 49:
                order.shuffle(present)
            ids = [*names, "new", 8]
            bench.send_parts(
                codec.encode_frames(with_ids(dff[present, frame : frame + 1], frame, [ids[row] for row in present]))
            )
            if frame == 100:  # a message from which nobody can tell whose its values are
                bench.send(dff[:N_NEURONS, :1], first_frame=101)
        bench.send_end(n_frames)
        bench.receive()
        summary = command.summary()
    accounted(summary, n_frames)
    assert summary["frames"]["lost"] == 0
    assert summary["messages"]["rejected"] == {"ids": 1}
    assert summary["rows"] == {
        "ids": [*names, "new"], "at_start": N_NEURONS, "capacity": N_NEURONS + 1, "joined": 1, "without_row": 1,
    }  # fmt: skip
    assert "--max-neurons" in command.stderr
    told = [chunk.ids for chunk in bench.results[LOOKAHEAD] if chunk.ids is not None]
    assert told[-1] == (*names, "new")
    assert all(ids == told[-1][: len(ids)] for ids in told), "a name may come early, with the messages that waited"
    values, valid = by_frame(bench, n_frames)
    expected = undisturbed(dff[:N_NEURONS], model)
    stayed = [0, *range(2, N_NEURONS)]
    same(values[stayed], expected[stayed])
    np.testing.assert_array_equal(valid[stayed], ~np.isnan(expected[stayed]))
    window = model.spec.windowsize
    away = slice(left - LOOKAHEAD, back + window - 1 - LOOKAHEAD)
    assert np.isnan(values[1, away]).all()
    same(values[1, : away.start], expected[1, : away.start])
    same(values[1, away.stop :], expected[1, away.stop :])
    assert np.isnan(values[N_NEURONS, :joined_at]).all()
    # Its first estimate of the noise level is made when a window is full.
    assert np.isfinite(values[N_NEURONS, joined_at + window + 5 : n_frames - LOOKAHEAD]).all()
    assert not valid[N_NEURONS].any(), "its calibration takes 60 s"
    with np.load(tmp_path / "out.npz") as stored:
        same(stored["spike_prob"], values)

"""Record a run in a process of its own, let `rerun` do it again: the same, bit for bit, whatever happened."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import zmq
from live import PATIENCE_MS, Command, recording
from live import Bench as QuietBench
from networks import write_conditioned

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk
from cascade_rt.formats import read_recording
from cascade_rt.recorded import RecordedRun, read_columns, read_lines

NU = np.array([1.5, 2.0, 2.5, 3.0, 4.0, 6.0])

RULES = """
seed: 3
rules:
  busy:
    neurons: [0, 1, 2]
    above: 0.05
    refractory_s: 0.5
    sham: 0.3
  on_request:
    neuron: 4
    above: 0.02
    lookahead: 7
    armed: on_message
  mine:
    plugin: mine.py:Mine
    timeout_ms: 20000
"""

STRICTER = """
rules:
  busy:
    neurons: [0, 1, 2]
    above: 0.3
"""

PLUGIN = """
import numpy as np

class Mine:
    def __init__(self, info):
        pass

    def process(self, chunk):
        sums = np.nansum(chunk.spike_prob, axis=0)
        return [{"frame": int(chunk.first_frame + i), "value": float(sums[i])} for i in np.flatnonzero(sums > 0.3)]

    def reset(self):
        pass

    def save(self):
        return {}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerun")
    np.save(folder / "nu.npy", NU)
    (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    (folder / "mine.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "stricter.yaml").write_text(STRICTER, encoding="utf-8")
    write_conditioned(folder / "other", seed=7, lookaheads=(0, 2, 7))
    return write_conditioned(folder / "small", lookaheads=(0, 2, 7))


class Bench(QuietBench):
    """A bench that takes events for what they are."""

    def receive(self, *, until=None):
        while True:
            assert self.sink.poll(PATIENCE_MS), "no results come"
            parts = self.sink.recv_multipart()
            if parts[0] == codec.TOPIC_END:
                return
            if parts[0] == codec.TOPIC_SPIKES:
                chunk = codec.decode_spikes(parts)
                if until == (chunk.lookahead_frames, chunk.first_frame + chunk.n_frames - 1):
                    return


def run(bundle, bench, folder, *more):
    return Command(
        "run", "--model", bundle, *bench.endpoints, "--record", "kept", "--lookahead", "0,2,7", "--view", "none",
        "--json", *more, folder=folder,
    )  # fmt: skip


def rerun(folder, *more, code=0):
    with Command("rerun", "kept", "--json", *more, folder=folder) as command:
        return command.summary(code)


def identical(told):
    return told["identical"] and all(
        entry["frames"] > 0 and entry["different"] == 0 and entry["only_rerun"] == entry["only_recorded"] == 0
        for entry in told["lookaheads"]
    )


def eventful(bench, dff):
    """Send frames with a gap, a long gap, messages twice and too late, and a counter that starts anew."""
    sizes = np.random.default_rng(5).integers(1, 9, 1000)
    bench.send(dff[:, :300], sizes)
    bench.send(dff[:, 280:310], [30], first_frame=280)  # overlaps
    bench.send(dff[:, 315:400], sizes, first_frame=315)
    bench.send(dff[:, 310:312], [2], first_frame=310)  # late
    bench.send(dff[:, 350:352], [2], first_frame=350)  # again
    bench.send(dff[:, 700:900], sizes, first_frame=700)
    bench.send(dff[:, :200], sizes)
    bench.send_end(200)


@pytest.mark.parametrize(
    "options",
    [
        ("--threads", 1, "--noise-levels", "nu.npy"),
        ("--threads", 2, "--calibration-s", 8, "--gap", "nan", "--threshold", "noise_floor"),
        ("--threads", 2, "--calibration-s", 9, "--threshold", "none", "--alignment", "cascade"),
    ],
    ids=["given", "calibrated", "cascade"],
)
def test_a_run_with_every_disturbance_is_reproduced(bundle, tmp_path, options):
    dff = recording(n_frames=900)
    dff[2, 500:700] = np.nan
    options = [bundle.parent / o if o == "nu.npy" else o for o in options]
    with Bench() as bench, run(bundle, bench, tmp_path, *options, "--rules", bundle.parent / "rules.yaml") as command:
        eventful(bench, dff)
        bench.receive()
        summary = command.summary()
    frames = summary["frames"]
    assert (frames["filled"], frames["skipped"], frames["restarts"], frames["late"]) == (5, 300, 1, 2)
    assert summary["recordings"][0]["complete"]
    assert summary["events"]["stimulate"] > 3
    assert "fault" not in summary["events"]
    told = rerun(tmp_path, "--check")
    assert identical(told)
    assert sum(entry["frames"] for entry in told["lookaheads"]) == 3 * (400 + 200 + 200)
    assert told["events"]["difference"] is None
    assert told["events"]["same"] == sum(summary["events"].values())
    assert {match["rule"] for match in told["events"]["rules"]} >= {"busy", "mine"}
    kept = RecordedRun(tmp_path / "kept")
    message = read_columns(tmp_path / "kept" / "message.npy", np.dtype(np.int64), 2)
    assert message[1].sum() == frames["received"], "every message is there, also those whose frames came twice"
    assert [350, 2] in message.T.tolist()
    assert kept.configuration["rules"]["files"].keys() == {"mine.py"}
    if "--calibration-s" in options:
        final = kept.described["noise_levels_final_before_frame"]
        assert 8 * 30 <= final <= 400
    # Everything is in the folder: model and rules may be gone.
    folder = tmp_path / "elsewhere"
    (tmp_path / "kept").rename(folder)
    with Command("rerun", folder, "--check", folder=tmp_path) as command:
        code, out = command.wait()
    assert code == 0, command.stderr
    assert "everything is as recorded, bit for bit" in out


def joining(bench, dff):
    """Send three neurons to which others come, in other orders and numbers from message to message."""
    known = {0: ("a", 7, "c"), 40: ("a", 7, "c", "d"), 180: ("c", "e", "d", "f", "a"), 300: (7, "f", "e", "a", "c", 9)}
    rows = {one: row for row, one in enumerate(("a", 7, "c", "d", "e", "f"))}
    for start in range(0, dff.shape[1], 5):
        ids = known[max(first for first in known if first <= start)]
        frames = np.stack([dff[rows.get(one, 0), start : start + 5] for one in ids])
        first = start + 400 * (start >= 480)  # a gap too long to be filled
        bench.send_parts(
            codec.encode_frames(
                FrameChunk(frames=frames, first_frame=first, stream="test", frame_rate_hz=30.0, ids=ids)
            )
        )
    bench.receive(until=(7, 400 + dff.shape[1] - 8))


@pytest.mark.parametrize("killed", [False, True])
def test_neurons_that_joined(bundle, tmp_path, killed):
    more = ("--max-neurons", 6, "--calibration-s", 5, "--threads", 1)
    with Bench() as bench, run(bundle, bench, tmp_path, *more) as command:
        joining(bench, recording(n_frames=700))
        if killed:
            deadline = time.monotonic() + PATIENCE_MS / 1000
            # Readable once a second, also while nothing comes.
            while min(RecordedRun(tmp_path / "kept").results(n).frame[-1:].sum() for n in (0, 2, 7)) < 1092:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            command.kill()
        else:
            bench.send_end(1100)
            bench.receive()
            assert command.summary()["rows"]["joined"] == 3
    kept = RecordedRun(tmp_path / "kept")
    assert kept.rows_at_start == 3
    assert [entry["ids"] for entry in kept.rows][-1] == ["a", 7, "c", "d", "e", "f"]
    told = rerun(tmp_path, "--check", "--out", "again")
    assert told["identical"]
    assert [entry["different"] for entry in told["lookaheads"]] == [0, 0, 0]
    assert min(entry["frames"] for entry in told["lookaheads"]) > (600 if killed else 680)
    assert RecordedRun(tmp_path / "kept").results(2).valid[5].any(), "the last one got its noise level"
    again = read_lines(tmp_path / "again" / "rows.jsonl")
    assert [one["ids"] for one in again] == [one["ids"] for one in kept.rows]


def test_a_difference_is_found(bundle, tmp_path):
    with Bench() as bench, run(bundle, bench, tmp_path, "--noise-levels", bundle.parent / "nu.npy") as command:
        bench.send_end(bench.send(recording(n_frames=200)))
        bench.receive()
        command.summary()
    assert identical(rerun(tmp_path, "--check"))
    path = tmp_path / "kept" / "spike_prob_lookahead2.npy"
    changed = np.load(path, mmap_mode="r+")
    before = changed[3, 120]
    changed[3, 120] = before + np.float32(1e-3)
    changed.flush()
    del changed
    told = rerun(tmp_path, "--check", code=1)
    assert not told["identical"]
    by_lookahead = {entry["lookahead_frames"]: entry for entry in told["lookaheads"]}
    assert [by_lookahead[n]["different"] for n in (0, 2, 7)] == [0, 1, 0]
    assert by_lookahead[2]["largest_difference"] == pytest.approx(1e-3, rel=1e-3)
    assert rerun(tmp_path, "--check", "--tolerance", 0.002)["lookaheads"][1]["different"] == 1
    weights = next((tmp_path / "kept" / "model").glob("*/*.onnx"))
    weights.write_bytes(weights.read_bytes() + b"\0")
    with Command("rerun", "kept", folder=tmp_path) as command:
        code, _ = command.wait()
    assert code == 1
    assert "was changed since the run" in command.stderr


def test_what_another_model_or_other_rules_would_have_done(bundle, tmp_path):
    rules = bundle.parent / "rules.yaml"
    given = ("--noise-levels", bundle.parent / "nu.npy", "--rules", rules, "--arm")
    with Bench() as bench, run(bundle, bench, tmp_path, *given) as command:
        bench.send_end(bench.send(recording(n_frames=400)))
        bench.receive()
        summary = command.summary()
    told = rerun(tmp_path, "--rules", bundle.parent / "stricter.yaml", "--out", "strict")
    assert told["changed"] == [f"rules {bundle.parent / 'stricter.yaml'}"]
    assert all(entry["different"] == 0 for entry in told["lookaheads"]), "the results are the same, the events are not"
    by_rule = {match["rule"]: match for match in told["events"]["rules"]}
    assert by_rule["busy"]["rerun"] < by_rule["busy"]["recorded"]
    assert (
        by_rule["mine"]["missing"] == by_rule["mine"]["recorded"] == summary["triggers"]["rules"]["mine"]["stimulate"]
    )
    lines = (
        (tmp_path / "strict" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        if told["events"]["rerun"]
        else []
    )
    assert len(lines) == sum(told["events"]["rerun"].values())
    np.testing.assert_array_equal(
        np.load(tmp_path / "strict" / "spike_prob_lookahead7.npy"),
        np.load(tmp_path / "kept" / "spike_prob_lookahead7.npy"),
    )
    assert not (tmp_path / "strict" / "dff.npy").exists()
    told = rerun(tmp_path, "--model", bundle.parent / "other", "--threshold", "none", "--lookahead", "2,7")
    assert [entry["lookahead_frames"] for entry in told["lookaheads"]] == [2, 7]
    assert told["lookaheads"][0]["different"] > 100
    assert -1 <= told["lookaheads"][0]["correlation"] < 1
    assert len(told["changed"]) == 3
    with Command("rerun", "kept", "--model", bundle.parent / "other", "--check", folder=tmp_path) as command:
        assert command.wait()[0] == 2


def test_control_messages_take_effect_where_they_did(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_RT_CONTROL_TOKEN", "a long secret")
    dff = recording(n_frames=300)
    with zmq.Context() as context, context.socket(zmq.PUSH) as control, Bench() as bench:
        control.linger = 0
        port = control.bind_to_random_port("tcp://127.0.0.1")
        control.unbind(f"tcp://127.0.0.1:{port}")
        more = ("--noise-levels", bundle.parent / "nu.npy", "--rules", bundle.parent / "rules.yaml")
        with run(bundle, bench, tmp_path, *more, "--control", f"tcp://127.0.0.1:{port}?type=pull") as command:
            control.connect(f"tcp://127.0.0.1:{port}")
            bench.send(dff[:, :100])
            bench.receive(until=(7, 92))
            for message in (
                {"rule": "on_request", "action": "arm"},
                {"rule": "busy", "action": "set", "threshold": 0.08},
                {"rule": "busy", "action": "pause", "for_s": 1.5},
            ):
                control.send_json({"token": "a long secret", **message})
            sent, log = 100, tmp_path / "kept" / "controls.jsonl"
            while not log.is_file() or log.read_bytes().count(b"\n") < 3:
                sent = bench.send(dff[:, sent : sent + 1], first_frame=sent, pause_s=0.02)
                assert sent < 250
            bench.send_end(bench.send(dff[:, sent:], first_frame=sent))
            bench.receive()
            summary = command.summary()
    assert summary["events"]["armed"] >= 1
    assert summary["events"]["changed"] == 1
    controls = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [entry["message"]["action"] for entry in controls] == ["arm", "set", "pause"]
    assert all(100 <= entry["next_frame"] <= sent for entry in controls)
    told = rerun(tmp_path, "--check")
    assert identical(told)
    assert told["events"]["same"] == sum(summary["events"].values())


def test_a_finished_recording_through_run_and_rerun(bundle, tmp_path):
    """The source is a file: it waits for the disk, nothing is left out; a run's recording is a source itself."""
    np.save(tmp_path / "rec.npy", recording(n_frames=600))
    with Command(
        "run", "--model", bundle, "--source", "rec.npy", "--frame-rate", 30, "--record", "kept", "--json",
        "--view", "none", "--calibration-s", 10, folder=tmp_path,
    ) as command:  # fmt: skip
        command.summary()
    assert identical(rerun(tmp_path, "--check"))
    np.testing.assert_array_equal(read_recording(tmp_path / "kept").dff, np.load(tmp_path / "rec.npy"))


def test_folders_that_are_no_recordings(tmp_path):
    (tmp_path / "kept").mkdir()
    for text, message in (
        (None, "run.json"),
        ("{}", "format None"),
        ('{"format": 2}', "configuration"),
        ("[", "run.json"),
    ):
        if text is not None:
            (tmp_path / "kept" / "run.json").write_text(text, encoding="utf-8")
        with Command("rerun", "kept", folder=tmp_path) as command:
            code, _ = command.wait()
        assert code == 1
        assert message in command.stderr
        assert "Traceback" not in command.stderr

"""Rules from the command line: a run of real processes that decides, is controlled, logs, and can be redone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zmq
from live import Bench, Command
from networks import picking_network, write_conditioned

from cascade_rt import codec
from cascade_rt.cli import main

N_NEURONS = 5
WINDOW = 16
TOKEN = "secret of the test"

RULES = """\
seed: 2
rules:
  pair: {neurons: [0, 2], above: 0.5, refractory_s: 0.5, sham: 0.3}
  later: {neuron: 1, above: 0.5, lookahead: 4, probability: 0.6}
  asked: {neuron: 3, above: 0.5, armed: on_message}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A model whose result is the frame itself, so that what a rule must do is known."""
    folder = tmp_path_factory.mktemp("triggers")
    network = picking_network(WINDOW, (0, 2, 4))
    np.save(folder / "nu.npy", np.full(N_NEURONS, 2.0))
    return write_conditioned(folder / "picking", lookaheads=(0, 2, 4), network=network)


@pytest.fixture(scope="module")
def dff():
    rng = np.random.default_rng(5)
    frames = np.abs(rng.normal(0, 0.08, (N_NEURONS, 400)))
    frames[:, 40:] += 0.9 * (rng.random((N_NEURONS, 360)) < 0.06)
    return frames.astype(np.float32)


def onsets(trace):
    above = np.nan_to_num(trace) > 0.5
    return np.flatnonzero(above & ~np.concatenate([[False], above[:-1]]))


def logged(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start(bundle, bench, folder, *more, rules=RULES):
    (folder / "rules.yaml").write_text(rules, encoding="utf-8")
    return Command(
        "run", "--model", bundle, *bench.endpoints, "--noise-levels", bundle.parent / "nu.npy", "--lookahead", "2,4",
        "--threads", 1, "--view", "none", "--json", "--rules", "rules.yaml", *more, folder=folder,
    )  # fmt: skip


class Listener(Bench):
    """Takes events as well, in the order in which they come."""

    def __init__(self):
        super().__init__()
        self.events = []
        self.order = []

    def receive(self, *, until=None):
        """Go on to the end, or until the results of a look-ahead have come up to a frame."""
        while (row := self.take()) is not None:
            if row[0] == "results" and until is not None and row[1:] >= until and row[1] == until[0]:
                return

    def take(self):
        """Take one message; None at the end."""
        assert self.sink.poll(60_000), "nothing comes"
        parts = self.sink.recv_multipart()
        if parts[0] == codec.TOPIC_END:
            return None
        if parts[0] == codec.TOPIC_EVENT:
            self.events.append(codec.decode_event(parts))
            self.order.append(("event", self.events[-1].lookahead, self.events[-1].frame))
        else:
            chunk = codec.decode_spikes(parts)
            self.order.append(("results", chunk.lookahead_frames, chunk.first_frame + chunk.n_frames - 1))
        return self.order[-1]


@pytest.fixture(scope="module")
def session(bundle, dff, tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    with Listener() as bench:
        more = ["--event-sink", "file:log.jsonl?kinds=stimulate", "--record", "kept"]
        with start(bundle, bench, folder, *more) as command:
            bench.send_end(bench.send(dff, [3, 1, 8, 1, 1, 2] * 60))
            bench.receive()
            return folder, bench, command.summary()


def test_events_arrive_behind_the_results_that_they_are_about(session, dff):
    _, bench, summary = session
    decided = [event for event in bench.events if event.kind in ("stimulate", "sham", "suppressed")]
    later = [event.frame for event in decided if event.rule == "later"]
    expected = onsets(dff[1])
    np.testing.assert_array_equal(later, expected[(expected >= WINDOW) & (expected < 396)])
    pair = [event for event in decided if event.rule == "pair"]
    assert np.all(np.diff([event.frame for event in pair]) >= 15), "0.5 s of refractory time"
    for event in pair:
        assert event.value == pytest.approx(dff[[0, 2], event.frame].mean(), abs=1e-5)
        assert event.value > 0.5
        assert event.newest_frame == event.frame + 2
        assert event.t_emit >= event.t_recv
    assert {event.rule for event in decided} == {"pair", "later"}, "nobody has armed the third"
    assert [event.number for event in bench.events] == list(range(len(bench.events)))
    for place, (what, lookahead, frame) in enumerate(bench.order):
        if what == "event":
            assert any(row[:2] == ("results", lookahead) and row[2] >= frame for row in bench.order[:place])
    counted = {name: sum(counts.values()) for name, counts in summary["triggers"]["rules"].items()}
    assert counted == {"pair": len(pair), "later": len(later), "asked": 0}
    assert summary["events"]["stimulate"] == sum(event.kind == "stimulate" for event in decided)
    assert summary["stages"]["triggers"]["count"] > 0
    assert summary["stages"]["event"]["count"] == summary["events"]["stimulate"]


def test_events_are_logged(session):
    folder, bench, summary = session
    kept = logged(folder / "kept" / "events.jsonl")
    assert [row["number"] for row in kept] == [event.number for event in bench.events]
    assert {row["kind"] for row in kept} == {"stimulate", "sham", "suppressed"}
    log = [row["number"] for row in logged(folder / "log.jsonl")]
    assert log == [event.number for event in bench.events if event.kind == "stimulate"]
    (output,) = summary["triggers"]["outputs"]
    assert (output["sent"], output["dropped"], output["failure"]) == (len(log), 0, None)
    assert json.loads((folder / "kept" / "run.json").read_text(encoding="utf-8"))["rules"]["text"] == RULES


def test_the_same_rules_decide_the_same_on_the_recording(session, monkeypatch, capsys):
    folder, bench, _ = session
    monkeypatch.chdir(folder)
    assert main(["rules", "rules.yaml", "--recording", "kept", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["events"]
    rows = {(event.rule, event.frame, event.kind, event.data["trial"]) for event in bench.events}
    assert {(e["rule"], e["frame"], e["kind"], e["data"]["trial"]) for e in again} == rows
    assert main(["rules", "rules.yaml", "--recording", "kept"]) == 0
    out = capsys.readouterr().out
    assert "pair: mean probability of neurons 0, 2 above 0.5" in out
    assert "rule asked: nothing decided" in out


def test_a_finished_recording_is_decided_on_as_well(session, bundle, dff, tmp_path, monkeypatch):
    _, bench, _ = session
    monkeypatch.chdir(tmp_path)
    np.save("rec.npy", dff)
    (tmp_path / "rules.yaml").write_text(RULES, encoding="utf-8")
    arguments = ["run", "--model", bundle, "--source", "rec.npy", "--frame-rate", 30, "--lookahead", "2,4",
                 "--noise-levels", bundle.parent / "nu.npy", "--threads", 1, "--view", "none",
                 "--rules", "rules.yaml", "--record", "kept"]  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    kept = logged(tmp_path / "kept" / "events.jsonl")
    rows = {(event.rule, event.frame, event.kind) for event in bench.events}
    assert {(row["rule"], row["frame"], row["kind"]) for row in kept} == rows


def test_a_run_is_controlled_from_outside(bundle, dff, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_RT_CONTROL_TOKEN", TOKEN)
    with Listener() as bench, bench.context.socket(zmq.REQ) as control:
        control.linger = 0
        with bench.context.socket(zmq.REP) as probe:
            address = f"tcp://127.0.0.1:{probe.bind_to_random_port('tcp://127.0.0.1')}"
        with start(bundle, bench, tmp_path, "--control", address, "--disarmed") as command:
            control.connect(address)
            bench.send(dff[:, :100], [1] * 100)
            bench.receive(until=(2, 97))

            def ask(**message):
                control.send_json({"token": TOKEN, **message})
                assert control.poll(20_000)
                return control.recv_json()

            assert ask(rule="nobody", action="arm")["ok"] is False
            assert ask(rule="asked", action="arm") == {"ok": True}
            while not bench.events:
                bench.take()
            armed = bench.events.pop()
            assert (armed.rule, armed.kind, armed.newest_frame) == ("asked", "armed", 99)
            state = {row["rule"]: row["armed"] for row in ask(action="status")["rules"]}
            assert state == {"pair": False, "later": False, "asked": True}
            bench.send_end(bench.send(dff[:, 100:], [1] * 300, first_frame=100))
            bench.receive()
            command.summary()
    expected = onsets(dff[3])
    frames = [event.frame for event in bench.events]
    assert {event.rule for event in bench.events} == {"asked"}
    np.testing.assert_array_equal(frames, expected[(expected >= 98) & (expected < 398)])


PLUGIN = """\
import time

class Decoder:
    def __init__(self, info, mode):
        self.mode = mode

    def process(self, chunk):
        last = chunk.first_frame + chunk.n_frames - 1
        if last >= 60 and self.mode == "hang":
            time.sleep(1000)
        if last >= 60 and self.mode == "raise":
            raise RuntimeError("too much")
        found = chunk.valid[0] & (chunk.spike_prob[0] > 0.5)
        return [{"frame": chunk.first_frame + n} for n in found.nonzero()[0]]

    def reset(self):
        pass

    def save(self):
        return {"mode": self.mode}
"""


@pytest.mark.parametrize("mode", ["well", "raise", "hang"])
def test_a_plug_in_and_its_faults_in_a_run(bundle, dff, tmp_path, mode):
    (tmp_path / "decoder.py").write_text(PLUGIN, encoding="utf-8")
    text = f"rules: {{mine: {{plugin: 'decoder.py:Decoder', options: {{mode: {mode}}}, timeout_ms: 2000}}}}"
    with Listener() as bench, start(bundle, bench, tmp_path, "--record", "kept", rules=text) as command:
        bench.send(dff[:, :40])
        bench.receive(until=(4, 35))
        bench.send(dff[:, 40:], [1] * 360, first_frame=40, pause_s=0.004)  # the queue of a plug-in is short
        if mode == "hang":  # all results come, and then the word that something is wrong
            bench.receive(until=(4, 395))
            while not any(event.kind == "fault" for event in bench.events):
                bench.take()
        bench.send_end(400)
        if mode != "hang":
            bench.receive()
        summary = command.summary()
    assert summary["frames"]["processed"] == 400
    assert summary["complete"] is True
    plugin = summary["triggers"]["plugins"]["mine"]
    if mode == "well":
        expected = np.flatnonzero(dff[0] > 0.5)
        expected = expected[(expected >= WINDOW) & (expected < 398)]
        assert plugin["saved"] == {"mode": "well"}
        assert plugin["dropped_frames"] == 0
        np.testing.assert_array_equal([row["frame"] for row in logged(tmp_path / "kept" / "events.jsonl")], expected)
        return
    faults = [event for event in bench.events if event.kind == "fault"]
    assert [fault.rule for fault in faults] == ["mine"]
    assert ("RuntimeError: too much (decoder.py:" if mode == "raise" else "no answer within") in faults[0].data["text"]
    assert plugin["dropped_frames"] > 0
    assert "fault" in {row["kind"] for row in logged(tmp_path / "kept" / "events.jsonl")}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("rules: {a: {neuron: 0, abov: 1}}", [], "rules.yaml:1: rule 'a': unknown key 'abov'"),
        ("rules: {a: {neuron: 5, above: 1}}", [], "neuron 5: the run has neurons 0 to 4"),
        ("rules: {a: {neuron: 0, above: 1, lookahead: 7}}", [], "lookahead: 7 is not published by this run"),
        ("rules: {a: {plugin: 'p.py:Nothing'}}", [], "rule 'a': plug-in p.py: "),
        ("rules: {a: {neuron: 0, above: 1}}", ["--event-sink", "smoke:x"], "unknown kind 'smoke'"),
        ("rules: {a: {neuron: 0, above: 1}}", ["--control", "tcp://0.0.0.0:5600"], "CURVE"),
    ],
)
def test_what_is_wrong_with_rules_is_told_before_the_run(bundle, tmp_path, monkeypatch, capsys, text, options, message):
    monkeypatch.chdir(tmp_path)
    np.save("rec.npy", np.zeros((N_NEURONS, 50), np.float32))
    (tmp_path / "p.py").write_text("", encoding="utf-8")
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    arguments = ["run", "--model", bundle, "--source", "rec.npy", "--frame-rate", 30, "--sink", "out.npz",
                 "--view", "none", "--noise-levels", bundle.parent / "nu.npy", "--rules", "rules.yaml",
                 *options]  # fmt: skip
    assert main([*map(str, arguments)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_options_about_rules_need_rules(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rec.npy", np.zeros((N_NEURONS, 50), np.float32))
    arguments = ["run", "--model", bundle, "--source", "rec.npy", "--frame-rate", 30, "--arm"]
    assert main([*map(str, arguments)]) == 1
    assert "--rules FILE" in capsys.readouterr().err

"""Plug-ins in real processes: what they decide, and that none of their faults reaches the run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from cascade_rt.chunks import SpikeChunk
from cascade_rt.errors import InputError
from cascade_rt.ports import RunInfo
from cascade_rt.testing import fake_spec
from cascade_rt.triggers.host import TriggerHost
from cascade_rt.triggers.rulefile import parse_rules
from cascade_rt.triggers.rules import Gate, Gating

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

PLUGIN = """
import os, sys, time
import numpy as np

class Plugin:
    def __init__(self, info, mode="fire", frame=5):
        self.info, self.mode, self.at, self.seen = info, mode, frame, 0
        print("made with", info["n_neurons"])
        if mode == "unmade":
            raise ValueError("cannot be made")

    def process(self, chunk):
        self.seen += chunk.n_frames
        here = chunk.first_frame <= self.at < chunk.first_frame + chunk.n_frames
        if self.mode == "fire":
            column = self.at - chunk.first_frame
            return [{"frame": self.at, "value": float(chunk.spike_prob[0, column])}] if here else []
        if self.mode == "always":
            return [{"frame": chunk.first_frame + n} for n in range(chunk.n_frames)]
        if here and self.mode == "raise":
            raise ZeroDivisionError("of all things")
        if here and self.mode == "die":
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)
        if here and self.mode == "hang":
            while True:
                time.sleep(1)
        if here and self.mode == "slow":
            time.sleep(0.6)
        if self.mode == "nonsense":
            return [{"frame": 10**6}]
        if self.mode == "wrong type":
            return 3

    def reset(self):
        self.seen = 0

    def save(self):
        return {"seen": self.seen, "array": np.arange(2)}

class Incomplete:
    def process(self, chunk):
        pass
"""

RATE = 30.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    return tmp_path


@pytest.fixture
def hosts():
    made = []
    yield made
    for host in made:
        host.close()


def info(n_neurons=3):
    return RunInfo(
        stream="test", n_neurons=n_neurons, frame_rate_hz=RATE, lookaheads=(2,), spec=fake_spec(),
        metadata=MappingProxyType({"first_frame": 0}),
    )  # fmt: skip


def start(hosts, folder, more="", *, patient=False, mode="fire", timeout_ms=10_000, **options):
    text = f"rules: {{it: {{plugin: 'plugin.py:Plugin', options: {{mode: {mode}}}, timeout_ms: {timeout_ms}{more}}}}}"
    host = TriggerHost(parse_rules(text, folder=folder), patient=patient, **options)
    hosts.append(host)
    host.prepare()
    host.start(info())
    return host


def chunk(frame, n_frames=1):
    prob = np.arange(frame, frame + n_frames, dtype=np.float32) + np.zeros((3, 1), np.float32)
    return SpikeChunk(
        spike_prob=prob, first_frame=frame, valid=np.ones(prob.shape, bool), lookahead_frames=2, t_recv=float(frame)
    )


def until(host, enough, patience_s=30.0):
    """Poll until enough has come."""
    events, deadline = [], time.monotonic() + patience_s
    while not enough(events):
        events += host.poll()
        assert time.monotonic() < deadline, events
        time.sleep(0.002)
    return events


def test_a_plug_in_decides_and_the_run_does_not_wait(folder, hosts):
    host = start(hosts, folder)
    events = [event for frame in range(8) for event in host.process(chunk(frame))]
    events += until(host, lambda found: events + found)
    (event,) = events
    assert (event.rule, event.kind, event.frame, event.newest_frame, event.value) == ("it", "stimulate", 5, 7, 5.0)
    assert (event.t_recv, event.data["trial"]) == (5.0, 0)
    summary = host.finish()
    assert summary["rules"] == {"it": {"stimulate": 1}}
    plugin = summary["plugins"]["it"]
    assert (plugin["chunks"], plugin["dropped_frames"]) == (8, 0)
    assert plugin["saved"] == {"seen": 8, "array": [0, 1]}


@pytest.mark.parametrize("sizes", [[1] * 40, [7, 13, 20], [40]])
def test_what_holds_back_a_rule_holds_back_a_plug_in(folder, hosts, sizes):
    more = ", refractory_s: 0.2, sham: 0.5, probability: 0.8, armed: {from_s: 0.3}, seed: 4"
    host = start(hosts, folder, more, mode="always", patient=True)
    frame, events = 0, []
    for size in sizes:
        events += host.process(chunk(frame, size))
        frame += size
    decided = [(event.frame, event.kind) for event in events if event.kind not in ("armed", "disarmed")]
    assert [frame for frame, _ in decided] == list(range(7, 40, 6)), "armed from frame 9 on, which comes 2 frames later"
    gate = Gate("it", Gating(sham=0.5, probability=0.8, seed=4), RATE)
    assert [kind for _, kind in decided] == [gate.decide(0) for _ in decided]
    assert len({kind for _, kind in decided}) > 1
    assert [(event.kind, event.newest_frame) for event in events[:1]] == [("armed", 9)]
    host.finish()


def test_reset_reaches_the_plug_in(folder, hosts):
    host = start(hosts, folder, patient=True)
    host.process(chunk(0, 4))
    host.restart()
    host.process(chunk(100, 3))
    assert host.finish()["plugins"]["it"]["saved"]["seen"] == 3


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("raise", "ZeroDivisionError: of all things (plugin.py:"),
        ("die", "ended with exit code 7: last words"),
        ("unmade", "ValueError: cannot be made"),
        ("nonsense", "frame 1000000: the chunk has"),
        ("wrong type", "process returned int"),
    ],
)
def test_a_fault_is_told_and_disarms(folder, hosts, mode, text):
    host = start(hosts, folder, mode=mode)
    events = [event for frame in range(8) for event in host.process(chunk(frame))]
    events += until(host, lambda found: events + found)
    assert [event.kind for event in events] == ["fault"]
    assert text in events[0].data["text"]
    assert host.describe()[0]["armed"] is False
    before = host.finish()["plugins"]["it"]
    assert before["chunks"] + before["dropped_frames"] >= 8


def test_a_slow_answer_is_a_fault_and_what_waits_is_dropped(folder, hosts):
    host = start(hosts, folder, mode="slow", timeout_ms=200)
    until(host, lambda _: host._plugins["it"].process.ready)
    slowest, events = 0.0, []
    for frame in range(40):
        begun = time.perf_counter()
        events += host.process(chunk(frame))
        slowest = max(slowest, time.perf_counter() - begun)
        time.sleep(0.01)
    events += until(host, lambda found: events + found)
    assert [event.kind for event in events] == ["fault"]
    assert "slow: no answer within 200 ms" in events[0].data["text"]
    summary = host.finish()["plugins"]["it"]
    assert summary["dropped_frames"] > 0
    assert slowest < 0.2, "it never waited for an answer"


def test_one_that_hangs_is_ended_and_can_be_armed_again(folder, hosts):
    host = start(hosts, folder, mode="hang", timeout_ms=200)
    until(host, lambda _: host._plugins["it"].process.ready)
    events = [event for frame in range(8) for event in host.process(chunk(frame))]
    events += until(host, lambda found: events + found)
    assert [event.kind for event in events] == ["fault"]
    process = host._plugins["it"].process._process
    until(host, lambda _: not host._plugins["it"].process.alive)
    process.wait(10)
    (armed,) = host.control({"rule": "it", "action": "arm"})
    assert armed.kind == "armed"
    until(host, lambda _: host._plugins["it"].process.ready)
    host.process(chunk(20))
    assert host._plugins["it"].process.answers(wait_s=20)
    assert host.finish()["plugins"]["it"]["saved"]["seen"] == 1, "a new object"


def test_results_beyond_the_queue_are_dropped_and_counted(folder, hosts):
    host = start(hosts, folder, mode="slow")
    until(host, lambda _: host._plugins["it"].process.ready)
    for frame in range(5, 205):
        host.process(chunk(frame))
    process = host._plugins["it"].process
    assert process.dropped_frames >= 200 - 64 - 64
    assert process.chunks + process.dropped_frames == 200


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("plugin.py:Nothing", "has no class Nothing"),
        ("plugin.py:Incomplete", "no reset and no save"),
        ("broken.py:Plugin", r"SyntaxError"),
        ("leaves.py:Plugin", r"SystemExit"),
    ],
)
def test_plug_ins_that_cannot_be_loaded_are_refused_with_their_line(folder, name, reason):
    (folder / "broken.py").write_text("def", encoding="utf-8")
    (folder / "leaves.py").write_text("raise SystemExit(3)", encoding="utf-8")
    host = TriggerHost(parse_rules(f"rules:\n  it:\n    plugin: {name}\n", name="r.yaml", folder=folder))
    with pytest.raises(InputError, match=rf"r.yaml:2: rule 'it': plug-in .*{reason}"):
        host.prepare()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a parent that can vanish")
def test_nothing_is_left_when_the_run_is_gone(folder, hosts):
    host = start(hosts, folder, mode="hang")
    until(host, lambda _: host._plugins["it"].process.ready)
    host.process(chunk(5))
    process = host._plugins["it"].process._process
    host._plugins["it"].process._outbox.put(None)  # closes the pipe, as the end of the run does
    process.wait(20)


def test_the_example(hosts):
    text = (EXAMPLES / "rules" / "plugin.yaml").read_text(encoding="utf-8").replace("[3, 17, 42]", "[0, 2]")
    rules = parse_rules(text.replace("sham: 0.2", "sham: 0"), folder=EXAMPLES / "rules")
    host = TriggerHost(rules, patient=True)
    hosts.append(host)
    host.prepare()
    host.start(info())
    prob = np.random.default_rng(0).normal(0.2, 0.01, (3, 60 * 30 + 200)).astype(np.float32)
    prob[[0, 2], 1900] = 0.4
    events = []
    for first in range(0, prob.shape[1], 50):
        part = prob[:, first : first + 50]
        events += host.process(
            SpikeChunk(spike_prob=part, first_frame=first, valid=np.ones(part.shape, bool), lookahead_frames=2)
        )
    assert [(event.frame, event.kind) for event in events] == [(1900, "stimulate")]
    assert events[0].data["usual"] == pytest.approx(0.2, abs=0.01)
    assert host.finish()["plugins"]["adaptive decoder"]["saved"]["seen"] == prob.shape[1]

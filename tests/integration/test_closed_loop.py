"""The loop closed through real processes: neurons that fire make others fire, and a sham trial does not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import zmq
from live import ROOT, Command

from cascade_rt import codec

MODEL = "GCaMP8_EXC_30Hz_smoothing25ms"
RESPONDING = [1, 2, 3]
RULES = """\
seed: 11
rules:
  closed loop: {neuron: 0, above: 0.25, refractory_s: 1, sham: 0.4}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def received(address, context):
    """What a program at the run's sink gets: results, events."""
    subscriber = context.socket(zmq.SUB)
    subscriber.linger = 0
    subscriber.subscribe(b"")
    subscriber.connect(address)
    chunks, events = [], []
    while True:
        assert subscriber.poll(90_000), "nothing comes"
        parts = subscriber.recv_multipart()
        if parts[0] == codec.TOPIC_END:
            subscriber.close()
            return chunks, events
        if parts[0] == codec.TOPIC_EVENT:
            events.append(codec.decode_event(parts))
        else:
            chunks.append(codec.decode_spikes(parts))


@pytest.mark.slow
def test_stimulated_neurons_respond_and_sham_trials_do_nothing(tmp_path):
    frames, results = free_port(), free_port()
    (tmp_path / "rules.yaml").write_text(RULES, encoding="utf-8")
    np.save(tmp_path / "nu.npy", np.full(20, 1.5))
    run = ["run", "--model", MODEL, "--source", f"{frames}?type=pull", "--sink", results, "--noise-levels", "nu.npy",
           "--rules", "rules.yaml", "--threads", 1, "--view", "none", "--record", "kept", "--json"]  # fmt: skip
    rig = [sys.executable, "-m", "cascade_rt.rig", "--frames", frames, "--events", results, "--n-frames", "1800",
           "--pace", "150", "--respond", ",".join(map(str, RESPONDING)), "--spikes", "5", "--spike-rate", "0.5",
           "--seed", "3", "--out", "rig.npz"]  # fmt: skip
    context = zmq.Context()
    with Command(*run, folder=tmp_path) as command:
        neurons = subprocess.Popen(rig, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            chunks, events = received(results, context)
            summary = command.summary()
            assert neurons.wait(60) == 0
        finally:
            neurons.kill()
            neurons.wait()
            context.term()

    assert summary["frames"]["processed"] == 1800
    assert summary["frames"]["lost"] == 0
    with np.load(tmp_path / "rig.npz") as log:
        spikes, heard = log["spikes"], json.loads(str(log["events"]))
    kept = [json.loads(line) for line in (tmp_path / "kept" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["number"] for row in kept] == list(range(len(kept)))
    numbers = {row["number"] for row in kept}
    assert {event.number for event in events} == numbers, "the subscriber got every event"
    assert {row["number"] for row in heard} >= numbers - {max(numbers)}, "and so did the rig, as long as it went on"

    prob = np.full((20, 1800), np.nan)
    for chunk in chunks:
        prob[:, chunk.first_frame : chunk.first_frame + chunk.n_frames] = chunk.spike_prob
    response = {"stimulate": [], "sham": []}
    for row in heard:
        at = row["heard_before_frame"]
        assert at > row["newest_frame"], "an event cannot be heard before the frame that it is about"
        if at + 6 < 1700:
            before, after = prob[RESPONDING, at - 6 : at - 1].sum(axis=1), prob[RESPONDING, at - 1 : at + 5].sum(axis=1)
            response[row["kind"]].append(float((after - before).mean()))
            fired = spikes[RESPONDING, at] >= 5
            assert fired.all() == (row["kind"] == "stimulate")
    assert min(map(len, response.values())) >= 3, response
    stimulated, sham = (np.array(response[kind]) for kind in ("stimulate", "sham"))
    assert np.median(stimulated) > 2.0, "spikes: five were made"
    assert np.median(np.abs(sham)) < 0.5
    assert stimulated.min() > sham.max()
    told = summary["stages"]["event"]
    print(f"\n{stimulated.size} and {sham.size} (sham): {np.median(stimulated):.2f}, {np.median(sham):.2f} spikes")
    print(f"receive to event: p50 {told['p50_ms']:.2f} ms, p99 {told['p99_ms']:.2f} ms")

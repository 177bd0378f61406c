"""A run between fuzzed messages: it does not stop, counts each by its reason, and processes every good frame.

``CASCADE_RT_FUZZ_RUN`` sets the number of messages (default 3000).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zmq
from fuzzing import Fuzzer, verdict
from live import Bench, Command, recording, same
from networks import write_conditioned

from cascade_rt.engine import load_model
from cascade_rt.offline import predict

N_MESSAGES = int(os.environ.get("CASCADE_RT_FUZZ_RUN", "3000"))
#: Fuzzed messages before each good frame.
BETWEEN = 15
NU = np.full(6, 2.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    np.save(folder / "nu.npy", NU)
    return write_conditioned(folder / "small", lookaheads=(0, 2, 7))


def resident_mb(pid: int) -> float:
    """Memory that a process really has (MB); 0 where /proc is not there."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.timeout(120 + N_MESSAGES // 50)
@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.XPUB], ids=["push", "pub"])
def test_a_run_between_fuzzed_messages(bundle, tmp_path, capsys, kind):
    n_good = max(N_MESSAGES // BETWEEN, 100)
    dff = recording(n_frames=n_good)
    fuzzer, expected, memory = Fuzzer(3), Counter(), []
    with Bench(kind) as bench, Command(
        "run", "--model", bundle, *bench.endpoints, "--noise-levels", bundle.parent / "nu.npy", "--lookahead", "2",
        "--threads", 1, "--view", "none", "--json", folder=tmp_path,
    ) as command:  # fmt: skip
        if kind == zmq.XPUB:
            assert {bench.source.recv(), bench.source.recv()} == {b"\1dff", b"\1end"}
        bench.send(dff[:, :1])
        began = time.perf_counter()
        for frame in range(1, n_good):
            sent = 0
            while sent < BETWEEN:
                parts = fuzzer.message()
                reason = verdict(parts)
                if not reason or (kind == zmq.XPUB and not parts[0].startswith((b"dff", b"end"))):
                    continue  # a good message after all; one that nobody subscribed to
                bench.send_parts(parts)
                expected[reason] += 1
                sent += 1
            bench.send(dff[:, frame : frame + 1], first_frame=frame)
            if frame % 20 == 19:  # no more on the way than the sockets hold
                bench.receive(until=(2, frame - 2))
                memory.append(resident_mb(command.process.pid))
        took = time.perf_counter() - began
        bench.send_end(n_good)
        bench.receive()
        summary = command.summary()
    settled = memory[len(memory) // 5]
    with capsys.disabled():
        print(
            f"\n{sum(expected.values())} fuzzed messages between {n_good} good frames in {took:.1f} s: "
            + ", ".join(f"{n} {reason}" for reason, n in expected.most_common())
            + f"; resident memory {settled:.1f} MB after a fifth, {memory[-1]:.1f} MB at the end"
        )
    assert summary["exit_reason"] == "end"
    assert summary["messages"]["rejected"] == dict(sorted(expected.items()))
    frames = summary["frames"]
    assert (frames["processed"], frames["lost"], frames["duplicate"], frames["late"]) == (n_good, 0, 0, 0)
    index, prob, _ = bench.values(2)
    np.testing.assert_array_equal(index, np.arange(n_good))
    model = load_model(bundle, threads=1)
    same(prob, predict(dff, model, frame_rate_hz=30.0, noise_levels=NU, lookahead_frames=2))
    assert memory[-1] - settled < 5.0
    assert len(command.stderr.splitlines()) < 100 + took, "the log is written at a limited rate"

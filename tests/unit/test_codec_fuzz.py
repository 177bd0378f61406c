"""The decoder against messages made to break it: WireError and nothing else, quickly, and without keeping memory.

``CASCADE_RT_FUZZ`` sets the number of messages (default 5000).
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections import Counter

import numpy as np
from fuzzing import RAW_HEADERS, Fuzzer

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk, SpikeChunk
from cascade_rt.errors import WireError
from cascade_rt.events import Event
from cascade_rt.ports import EndOfStream

N_MESSAGES = int(os.environ.get("CASCADE_RT_FUZZ", "5000"))
DECODERS = {
    "message": (codec.decode_message, (FrameChunk, EndOfStream)),
    "spikes": (codec.decode_spikes, SpikeChunk),
    "event": (codec.decode_event, Event),
    "raw": (lambda parts: codec.decode_raw(parts, n_neurons=6, first_frame=0), (FrameChunk, EndOfStream)),
}


def test_nothing_but_wire_errors_and_sound_chunks(capsys):
    fuzzer, reasons = Fuzzer(1), Counter()
    slowest, longest = 0.0, 0
    began = time.perf_counter()
    for number in range(N_MESSAGES):
        parts = fuzzer.message()
        name = "message" if number % 4 else ("spikes", "event", "raw")[number // 4 % 3]
        decode, kinds = DECODERS[name]
        if name in ("spikes", "event"):  # so that more than the topic is looked at
            parts = [codec.TOPIC_SPIKES if name == "spikes" else codec.TOPIC_EVENT, *parts[1:]]
        started = time.perf_counter()
        try:
            item = decode(parts)
        except WireError as error:
            reasons[error.reason] += 1
            longest = max(longest, len(str(error)))
        else:
            assert isinstance(item, kinds)
            if isinstance(item, FrameChunk):
                assert item.frames.nbytes <= max(sum(map(len, parts)), 8)
                assert item.frame_rate_hz is None or np.isfinite(item.frame_rate_hz)
            reasons["good after all"] += 1
        slowest = max(slowest, time.perf_counter() - started)
    with capsys.disabled():
        print(
            f"\n{N_MESSAGES} fuzzed messages in {time.perf_counter() - began:.1f} s, slowest {1000 * slowest:.1f} ms: "
            + ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        )
    assert sum(reasons.values()) == N_MESSAGES
    assert {"parts", "topic", "header", "version", "shape", "dtype", "payload", "rate", "time", "stream"} <= set(
        reasons
    )


def test_rejected_messages_leave_nothing_behind():
    fuzzer = Fuzzer(2)
    messages = [fuzzer.message() for _ in range(400)] + [[b"dff", header, b""] for header in RAW_HEADERS]

    def reject_all():
        for parts in messages:
            try:
                codec.decode_message(parts)
            except WireError:
                continue

    reject_all()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            reject_all()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.reset_peak()
        reject_all()
        peak = tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 100_000
    assert peak < 20_000_000, "a small message must not make the decoder take much memory"

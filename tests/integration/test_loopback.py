"""`cascade-rt loopback` through its real processes: the figures belong together, and the page stands alone."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from live import Command
from networks import write_conditioned

from cascade_rt.loopback import Loop, percentiles
from cascade_rt.loopback_report import html_report


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_conditioned(tmp_path_factory.mktemp("loopback") / "small", lookaheads=(0, 2, 7))


def test_a_loop_is_measured(bundle, tmp_path):
    with Command(
        "loopback", "--model", bundle, "--neurons", 40, "--seconds", 6, "--threads", 1, "--report", "page.html",
        "--json", "--", "--record", tmp_path / "kept", folder=tmp_path,
    ) as command:  # fmt: skip
        values = command.summary()
    assert values["frames"]["sent"] == values["frames"]["processed"] == 180
    assert (values["frames"]["lost"], values["frames"]["without_result"]) == (0, 0)
    assert {"receive", "decode", "wait", "inference", "triggers", "send", "event"} <= set(values["stages"])
    assert values["integration"] == {"lookahead_frames": 2, "frames": 3, "ms": 100.0}
    end_to_end, event = values["end_to_end"], values["event"]
    assert end_to_end["count"] == 178
    assert 0 < end_to_end["p50_ms"] <= end_to_end["p99_ms"] <= end_to_end["p99.9_ms"] <= end_to_end["max_ms"]
    assert end_to_end["max_ms"] > values["stages"]["inference"]["p50_ms"]
    assert values["sum_p99_ms"] == pytest.approx(100 + end_to_end["p99_ms"], abs=1e-3)
    assert event["frame_received_to_subscriber"]["count"] > 3
    assert event["frame_sent_to_subscriber"]["max_ms"] >= event["frame_received_to_subscriber"]["p50_ms"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{values['sum_p99_ms']:.1f} ms from the start of a frame to its result" in page
    assert values["machine"]["system"] in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "it loads nothing from elsewhere"
    image = re.search(r"base64,([^\"]+)", page)
    assert base64.b64decode(image.group(1))[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "kept" / "dff.npy").exists(), "options behind -- go to run"


def test_rules_of_the_users_own(bundle, tmp_path):
    (tmp_path / "mine.yaml").write_text("rules: {all: {neuron: 3, above: -1, refractory_s: 0.2}}", encoding="utf-8")
    with Command(
        "loopback", "--model", bundle, "--neurons", 5, "--seconds", 4, "--rules", "mine.yaml", "--json", folder=tmp_path
    ) as command:
        values = command.summary()
    assert "neuron: 3" in values["event"]["rule"]
    with Command("loopback", "--model", bundle, "--report", "page.txt", folder=tmp_path) as command:
        assert command.wait()[0] == 1
        assert ".html" in command.stderr
    (tmp_path / "bad.yaml").write_text("rules: {all: {neuron: 3000, above: 1}}", encoding="utf-8")
    with Command(
        "loopback", "--model", bundle, "--neurons", 5, "--seconds", 4, "--rules", "bad.yaml", folder=tmp_path
    ) as command:
        assert command.wait()[0] == 1
        assert "the run process ended" in command.stderr
        assert "3000" in command.stderr


def test_percentiles_are_times_that_occurred():
    times = np.arange(1, 1001) / 1000
    assert percentiles(times) == {"count": 1000, "p50_ms": 501.0, "p99_ms": 991.0, "p99.9_ms": 1000.0, "max_ms": 1000.0}
    assert percentiles(np.empty(0))["max_ms"] is None


def test_a_page_about_a_loop_without_results_or_events():
    nothing = {"count": 0, "p50_ms": None, "p99_ms": None, "p99.9_ms": None, "max_ms": None}
    summary = {
        "model": "<m>", "n_neurons": 1, "frame_rate_hz": 30.0, "stages": {}, "latency": nothing, "load": None,
        "frames": {"processed": 0, "lost": 0}, "integration": [{"lookahead_frames": 2, "frames": 3, "ms": 100.0}],
    }  # fmt: skip
    from cascade_rt.benchmarks import machine

    loop = Loop(
        summary=summary, sent=np.arange(5.0), received=np.full(5, np.nan), events=np.empty((0, 3)), rule="a < b",
        described={"machine": machine(), "seconds": 1, "options": []},
    )  # fmt: skip
    page = html_report(loop)
    assert "&lt;m&gt;" in page
    assert "a &lt; b" in page
    assert "no result came back" in page
    json.dumps(loop.to_dict())

"""What rules decide on results: each condition, what holds it back, and that chunks make no difference."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_rt.chunks import SpikeChunk
from cascade_rt.discretization import discretize
from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.ports import RunInfo, Triggers
from cascade_rt.testing import ManualClock, chunked, fake_spec
from cascade_rt.triggers.host import TriggerHost
from cascade_rt.triggers.rehearsing import apply_rules, read_results
from cascade_rt.triggers.rulefile import parse_rules

RATE = 10.0


def info(n_neurons=4, lookaheads=(2,), first_frame=0):
    return RunInfo(
        stream="test", n_neurons=n_neurons, frame_rate_hz=RATE, lookaheads=lookaheads,
        spec=fake_spec(frame_rate_hz=RATE, smoothing_s=0.1), metadata=MappingProxyType({"first_frame": first_frame}),
    )  # fmt: skip


def host_of(text, first_frame=0, n_neurons=4, lookaheads=(2,), **options):
    host = TriggerHost(parse_rules(text), **options)
    host.start(info(n_neurons, lookaheads, first_frame))
    return host


def chunks_of(prob, sizes=(), *, valid=None, first_frame=0, lookahead=2, provisional=False):
    """Results as a run publishes them: the described frames begin ``lookahead`` before the newest."""
    prob = np.atleast_2d(np.asarray(prob, np.float32))
    valid = np.isfinite(prob) if valid is None else np.broadcast_to(valid, prob.shape)
    for part in chunked(prob.shape[1], sizes):
        stop = first_frame + part.stop
        yield SpikeChunk(
            spike_prob=prob[:, part], first_frame=first_frame + part.start, valid=valid[:, part],
            lookahead_frames=lookahead, provisional=provisional,
            t_source=(stop - 1 + lookahead) / RATE, t_recv=float(stop),
        )  # fmt: skip


def decide(text, prob, sizes=(), *, host=None, **options):
    host = host or host_of(text, n_neurons=np.atleast_2d(prob).shape[0])
    events = []
    for chunk in chunks_of(prob, sizes, **options):
        events += host.process(chunk)
    return events


def frames(events, *kinds):
    return [event.frame for event in events if not kinds or event.kind in kinds]


def rule(text):
    return f"rules: {{it: {{{text}}}}}"


UP = [0, 0, 1, 1, 1, 0, 1, 0, 1, 1]


def test_the_host_is_what_the_runner_wants():
    host: Triggers = TriggerHost(parse_rules(rule("neuron: 0, above: 1")))
    assert host.finish()["rules"] == {"it": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("neuron: 0, above: 0.5", [2, 6, 8]),
        ("neuron: 0, above: 1", []),
        ("neuron: 0, below: 0.5", [0, 5, 7]),
        ("neuron: 0, above: 0.5, hold_frames: 2", [3, 9]),
        ("neuron: 0, above: 0.5, hold_frames: 3", [4]),
        ("neuron: 0, above: 0.5, repeat: true", [2, 3, 4, 6, 8, 9]),
        ("neuron: 0, above: 0.5, refractory_s: 0.4", [2, 6]),
        ("neuron: 0, above: 0.5, refractory_s: 0.5", [2, 8]),
        ("neuron: 0, above: 0.5, refractory_s: 0.2, repeat: true", [2, 4, 6, 8]),
        ("neuron: 0, above: 0.5, hold_frames: 2, repeat: true", [3, 4, 9]),
    ],
)
def test_conditions(text, expected):
    assert frames(decide(rule(text), UP)) == expected


def test_what_an_event_tells():
    clock = ManualClock(100.0)
    host = TriggerHost(parse_rules("rules:\n  dim: {neurons: [0, 2], above: 0.4}\n"), clock=clock)
    host.start(info(first_frame=1000))
    prob = np.zeros((4, 6), np.float32)
    prob[:, 3] = [0.5, 9, 0.7, 9]
    (event,) = decide("", prob, [6], host=host, first_frame=1000)
    assert (event.rule, event.kind, event.number) == ("dim", "stimulate", 0)
    assert (event.frame, event.newest_frame, event.lookahead) == (1003, 1005, 2)
    assert event.value == pytest.approx(0.6)
    assert event.t_source == pytest.approx(100.5), "the time of frame 1005, although the chunk ends with 1007"
    assert (event.t_recv, event.t_emit) == (1006.0, 100.0)
    assert event.data["neurons"] == [0, 2]
    assert event.data["threshold"] == 0.4
    assert (event.data["n_neurons"], event.data["trial"]) == (2, 0)


def test_sums_means_and_files(tmp_path):
    np.save(tmp_path / "w.npy", [1.0, 0.0, -1.0, 0.5])
    prob = np.random.default_rng(0).random((4, 50)).astype(np.float32)
    text = (
        "rules:\n  sum: {weights: {1: 2, 3: -1}, above: -100, repeat: true}\n"
        "  mean: {neurons: [0, 1, 2], above: -100, repeat: true}\n"
        "  file: {weights: w.npy, above: -100, repeat: true}\n"
    )
    host = TriggerHost(parse_rules(text, folder=tmp_path))
    host.start(info())
    events = decide("", prob, host=host)
    wide = prob.astype(np.float64)
    for name, values in {
        "sum": 2 * wide[1] - wide[3],
        "mean": wide[:3].mean(axis=0),
        "file": wide[0] - wide[2] + wide[3] / 2,
    }.items():
        mine = [event for event in events if event.rule == name]
        assert frames(mine) == list(range(50))
        np.testing.assert_allclose([event.value for event in mine], values, rtol=1e-12)


def test_nothing_invalid_ever_triggers():
    prob = np.ones((2, 8), np.float32)
    prob[1, 2] = np.nan
    valid = np.isfinite(prob)
    valid[1, 4:6] = False
    both = rule("neurons: [0, 1], above: 0.5, repeat: true")
    assert frames(decide(both, prob, valid=valid)) == [0, 1, 3, 6, 7]
    loose = rule("neurons: [0, 1], above: 0.5, repeat: true, only_valid: false")
    assert frames(decide(loose, prob, valid=valid)) == [0, 1, 3, 4, 5, 6, 7], "NaN never does"
    half = rule("neurons: [0, 1], above: 0.5, repeat: true, min_valid: 0.5")
    events = decide(half, prob, valid=valid)
    assert frames(events) == list(range(8))
    assert {event.value for event in events} == {1.0}, "the mean of those that are usable"
    assert decide(rule("neuron: 0, above: 0.5"), prob, provisional=True) == []
    assert len(decide(rule("neuron: 0, above: 0.5, only_valid: false"), prob, provisional=True)) == 1
    assert decide(rule("neuron: 1, below: 0.5, only_valid: false"), np.full((2, 4), np.nan)) == []


def test_an_invalid_value_ends_the_holding_but_is_no_release():
    prob = [1, np.nan, 1, 1, 1, 0, 1]
    assert frames(decide(rule("neuron: 0, above: 0.5"), prob)) == [0, 6]
    assert frames(decide(rule("neuron: 0, above: 0.5, hold_frames: 2"), prob)) == [3]


def test_rate_over_a_window():
    prob = np.random.default_rng(1).random(200).astype(np.float32)
    prob[77] = np.nan
    events = decide(rule("neuron: 0, signal: rate_hz, window_s: 0.5, above: -1, repeat: true"), prob)
    windows = np.lib.stride_tricks.sliding_window_view(prob.astype(np.float64), 5).mean(axis=1) * RATE
    defined = ~np.isnan(windows)
    assert frames(events) == (np.flatnonzero(defined) + 4).tolist()
    np.testing.assert_allclose([event.value for event in events], windows[defined], rtol=1e-12)


def test_change_against_a_running_baseline():
    prob = np.full(200, 0.2, np.float32)
    prob[100] = 0.5
    for change, value in (("by: 0.25", 0.3), ("factor: 2.4", 2.5)):
        (event,) = decide(rule(f"neuron: 0, change: {{against_s: 5, {change}}}"), prob)
        assert event.frame == 100
        assert event.value == pytest.approx(value, rel=1e-6)
    prob[20] = 0.9
    assert frames(decide(rule("neuron: 0, change: {against_s: 5, by: 0.25}"), prob)) == [100], "no baseline before 5 s"
    prob[100] = 0.0
    assert frames(decide(rule("neuron: 0, change: {against_s: 5, by: -0.15}"), prob)) == [100]
    assert frames(decide(rule("neuron: 0, change: {against_s: 5, factor: 0.5}"), prob)) == [100]


def test_discrete_spikes():
    spec = fake_spec(frame_rate_hz=RATE, smoothing_s=0.1)
    prob = np.zeros((3, 120), np.float32)
    kernel = np.exp(-0.5 * (np.arange(-4, 5)) ** 2)
    for neuron, frame, count in ((0, 20, 1), (0, 60, 2), (2, 90, 1), (1, 40, 1)):
        prob[neuron, frame - 4 : frame + 5] += (count * kernel / kernel.sum()).astype(np.float32)
    assert [f.tolist() for f in discretize(prob, spec)] == [[20, 60, 60], [40], [90]]
    events = decide(rule("neurons: [0, 2], signal: spike, above: 0"), prob)
    assert frames(events) == [20, 60, 90]
    assert [event.value for event in events] == [1.0, 2.0, 1.0]
    assert all(event.newest_frame > event.frame + 2 for event in events), "known once the spike's event is over"
    assert frames(decide(rule("neurons: [0, 2], signal: spike, above: 1"), prob)) == [60]
    assert frames(decide(rule("weights: {0: 1, 1: 1}, signal: spike, above: 0, refractory_s: 3"), prob)) == [20, 60]


def test_sham_and_probability_are_shares_and_repeat():
    prob = np.tile([1.0, 0.0], 2000)
    text = "seed: 3\nrules: {it: {neuron: 0, above: 0.5, probability: 0.7, sham: 0.25}}"
    events = decide(text, prob)
    kinds = [event.kind for event in events]
    assert len(kinds) == 2000
    assert kinds.count("suppressed") / 2000 == pytest.approx(0.3, abs=0.04)
    assert kinds.count("sham") / (2000 - kinds.count("suppressed")) == pytest.approx(0.25, abs=0.04)
    assert [event.kind for event in decide(text, prob, [7, 13, 64])] == kinds
    assert [event.kind for event in decide(text.replace("3", "4", 1), prob)] != kinds
    other = [event.kind for event in decide(text.replace("{it:", "{other:"), prob)]
    assert other != kinds, "rules do not decide in step"
    with_another = text.replace("}}", "}, more: {neuron: 0, above: 0.5, sham: 0.5}}")
    assert [e.kind for e in decide(with_another, prob) if e.rule == "it"] == kinds, "nor does one disturb another"


def test_suppressed_and_sham_decisions_are_followed_by_the_refractory_time():
    text = rule("neuron: 0, above: 0.5, repeat: true, refractory_s: 1, probability: 0.5, sham: 0.5")
    assert frames(decide(text, np.ones(50))) == [0, 10, 20, 30, 40]


def test_armed_by_time():
    text = rule("neuron: 0, above: 0.5, repeat: true, armed: [{from_s: 0.5, to_s: 0.8}, {from_s: 1.5, to_s: 1.7}]")
    events = decide(text, np.ones(30))
    # Time runs with the newest frame, which is 2 frames later than the described one.
    assert [(e.kind, e.newest_frame) for e in events if e.kind in ("armed", "disarmed")] == [
        ("armed", 5), ("disarmed", 8), ("armed", 15), ("disarmed", 17),
    ]  # fmt: skip
    assert [e.newest_frame for e in events if e.kind == "stimulate"] == [5, 6, 7, 15, 16]
    assert {e.data["by"] for e in events if e.kind in ("armed", "disarmed")} == {"time"}


def test_armed_by_messages():
    text = rule("neuron: 0, above: 0.5, armed: on_message")
    host = host_of(text, n_neurons=1)
    assert decide("", np.ones(5), host=host) == []
    (armed,) = host.control({"rule": "it", "action": "arm"})
    assert (armed.kind, armed.rule, armed.newest_frame) == ("armed", "it", 6)
    assert frames(decide("", np.ones(5), host=host, first_frame=5)) == [5]
    (changed,) = host.control({"rule": "it", "action": "set", "threshold": 3})
    assert (changed.kind, changed.data["before"], changed.data["message"]["threshold"]) == ("changed", 0.5, 3)
    assert decide("", np.tile([1.0, 2.0], 5), host=host, first_frame=10) == []
    assert frames(decide("", [4.0], host=host, first_frame=20)) == [20]
    (disarmed,) = host.control({"rule": "*", "action": "disarm"})
    assert disarmed.kind == "disarmed"
    assert decide("", [0.0, 4.0], host=host, first_frame=21) == []
    assert host.describe()[0]["armed"] is False
    assert host.describe()[0]["threshold"] == 3.0


def test_a_pause_ends_by_itself():
    host = host_of(rule("neuron: 0, above: 0.5, repeat: true"), n_neurons=1)
    decide("", np.ones(5), host=host)
    (event,) = host.control({"rule": "it", "action": "pause", "for_s": 0.3})
    assert event.kind == "disarmed"
    events = decide("", np.ones(6), host=host, first_frame=5)
    assert [(e.kind, e.frame) for e in events] == [("armed", 8), *(("stimulate", n) for n in (8, 9, 10))]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "action"),
        ({"rule": "it", "action": "explode"}, "expected one of arm"),
        ({"rule": "no", "action": "arm"}, "expected one of it"),
        ({"rule": ["it"], "action": "arm"}, "expected one of it"),
        ({"rule": "it", "action": ["arm"]}, "expected one of arm"),
        ({"rule": "it", "action": "set"}, "threshold None"),
        ({"rule": "it", "action": "set", "threshold": float("nan")}, "threshold nan"),
        ({"rule": "it", "action": "set", "threshold": 10**400}, "threshold 1000"),
        ({"rule": "it", "action": "arm", "threshold": 1}, "goes with the action set"),
        ({"rule": "it", "action": "pause"}, "for_s None"),
        ({"rule": "it", "action": "pause", "for_s": -1}, "for_s -1"),
        ({"rule": "it", "action": "arm", "more": 1}, "unknown entry 'more'"),
    ],
)
def test_messages_that_make_no_sense_are_counted_and_change_nothing(message, reason, caplog):
    host = host_of(rule("neuron: 0, above: 0.5"), n_neurons=1)
    assert reason in host.check_control(message)
    assert host.control(message) == []
    assert "refused" in caplog.text
    assert host.finish()["rejected_controls"] == 1
    assert frames(decide("", [1.0], host=host)) == [0]


def test_all_rules_can_begin_armed_or_disarmed():
    text = "rules:\n  a: {neuron: 0, above: 0}\n  b: {neuron: 0, above: 0, armed: on_message}\n"
    for armed, expected in ((None, {"a"}), (True, {"a", "b"}), (False, set())):
        host = host_of(text, n_neurons=1, armed=armed)
        assert {event.rule for event in decide("", [1.0], host=host)} == expected


def test_each_rule_sees_its_own_look_ahead():
    text = "rules:\n  a: {neuron: 0, above: 0.5}\n  b: {neuron: 0, above: 0.5, lookahead: 7}\n"
    host = host_of(text, n_neurons=1, lookaheads=(2, 7))
    assert [e.rule for e in decide("", [1.0], host=host, lookahead=2)] == ["a"]
    (event,) = decide("", [1.0], host=host, lookahead=7)
    assert (event.rule, event.lookahead, event.newest_frame) == ("b", 7, 7)
    with pytest.raises(InputError, match="lookahead: 7 is not published"):
        host_of(text, lookaheads=(2,))
    with pytest.raises(InputError, match="neurons 0 to 0"):
        host_of(rule("neuron: 1, above: 1"), n_neurons=1)


ALL_KINDS = """\
seed: 5
rules:
  plain: {neuron: 0, above: 0.6, refractory_s: 0.3, sham: 0.3, probability: 0.8}
  held: {neurons: [0, 1, 2], above: 0.5, hold_frames: 2, min_valid: 0.6}
  decoder: {weights: {0: 0.3, 3: -0.7}, below: -0.3, only_valid: false, repeat: true, refractory_s: 0.7}
  rate: {neuron: 1, signal: rate_hz, window_s: 0.5, above: 5.5}
  rise: {neuron: 2, signal: rate_hz, window_s: 0.3, change: {against_s: 2, by: 1.5}, armed: {from_s: 3, to_s: 20}}
  ratio: {neuron: 3, change: {against_s: 1, factor: 1.6}, refractory_s: 0.5, sham: 0.5}
  spikes: {neurons: [1, 3], signal: spike, above: 0, sham: 0.2}
"""


def results_with_gaps(seed=2, n_frames=300):
    rng = np.random.default_rng(seed)
    prob = (rng.random((4, n_frames)) ** 2).astype(np.float32)
    prob[rng.random(prob.shape) < 0.02] = np.nan
    valid = np.isfinite(prob) & (rng.random(prob.shape) > 0.02)
    return prob, valid


def plain(events):
    return [(e.rule, e.kind, e.number, e.frame, e.newest_frame, e.value, e.t_source, dict(e.data)) for e in events]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 70), max_size=30))
def test_chunks_make_no_difference(sizes):
    prob, valid = results_with_gaps()
    whole = decide(ALL_KINDS, prob, [300], valid=valid)
    single = decide(ALL_KINDS, prob, valid=valid)
    assert {event.rule for event in whole} == {"plain", "held", "decoder", "rate", "rise", "ratio", "spikes"}
    for events in (single, decide(ALL_KINDS, prob, sizes, valid=valid)):
        assert repr([row[:6] + row[7:] for row in plain(events)]) == repr([row[:6] + row[7:] for row in plain(whole)])
        np.testing.assert_allclose([e.t_source for e in events], [e.t_source for e in whole], atol=1e-9)


def test_after_a_restart_values_are_forgotten_and_decisions_go_on():
    prob, valid = results_with_gaps()
    host = host_of(ALL_KINDS)
    before = decide("", prob, host=host, valid=valid)
    host.restart()
    after = decide("", prob, host=host, valid=valid)  # the source counts anew
    assert not any(event.rule == "rise" and event.kind == "armed" for event in after), "3 s of the run are long past"
    fresh = [e.frame for e in decide(ALL_KINDS, prob, valid=valid) if e.rule == "rate"]
    assert [e.frame for e in after if e.rule == "rate"] == fresh
    trials = [e.data["trial"] for e in (*before, *after) if e.rule == "plain"]
    assert trials == list(range(len(trials)))
    assert [e.number for e in (*before, *after)] == list(range(len(before) + len(after)))


def test_time_goes_on_over_a_gap_and_a_counter_that_restarts():
    host = host_of(rule("neuron: 0, above: 0.5, repeat: true, refractory_s: 10"), n_neurons=1, first_frame=500)
    assert frames(decide("", np.ones(20), host=host, first_frame=500)) == [500]
    host.restart()  # a gap: 100 frames later in time
    assert frames(decide("", np.ones(20), host=host, first_frame=590)) == [600]
    host.restart()  # counts anew: of 100 frames 10 have passed with frame 0
    assert frames(decide("", np.ones(120), host=host, first_frame=0)) == [90]


def test_what_came_during_the_calibration_does_not_count_afterwards_either(tmp_path):
    told = '{"lookahead_frames": [2], "frame_rate_hz": 10, "first_frame": 7}'
    (tmp_path / "run.json").write_text(told, encoding="utf-8")
    frame = np.array([7, 8, 9, 10, 20, 21])
    arrays = {
        "spike_prob": np.array([[1, 0, 1, 0, 1, 1]], np.float32), "valid": np.ones((1, 6), bool),
        "frame": frame, "provisional": frame < 9,
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}_lookahead2.npy", array)
    results = read_results(tmp_path)
    events, summary = apply_rules(parse_rules(rule("neuron: 0, above: 0.5")), results)
    assert frames(events) == [9, 20]
    assert summary["rules"] == {"it": {"stimulate": 2}}
    loose, _ = apply_rules(parse_rules(rule("neuron: 0, above: 0.5, only_valid: false")), results)
    assert frames(loose) == [7, 9, 20]
    with pytest.raises(FileFormatError, match=r"expected an \.npz"):
        read_results(tmp_path / "nothing.npz")

"""Rule files: what is read, and that every mistake is told with its line and reason."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.triggers.rulefile import parse_rules, read_rules

EVERYTHING = """\
seed: 7
rules:
  one:
    neuron: 12
    lookahead: 2
    above: 0.4
    hold_frames: 2
    refractory_s: 1.5
    probability: 0.8
    sham: 0.2
    armed: {from_s: 60, to_s: 600}
  many:
    neurons: [3, 17, 5]
    signal: rate_hz
    window_s: 0.5
    change: {against_s: 30, by: -3}
    armed: on_message
    seed: 9
    min_valid: 0.5
    repeat: true
  decoder:
    weights: {3: 0.5, 17: -0.2}
    below: -1e-3
    only_valid: false
  from a file:
    weights: weights.npy
    change: {against_s: 10, factor: 2}
  spike:
    neurons: [0, 1]
    signal: spike
    above: 0
    armed: [{to_s: 5}, {from_s: 10}]
"""


def test_everything_that_can_be_said_is_read(tmp_path):
    np.save(tmp_path / "weights.npy", np.array([0.5, 0, -1], np.float32))
    (tmp_path / "rules.yaml").write_text(EVERYTHING, encoding="utf-8")
    rules = read_rules(tmp_path / "rules.yaml")
    one, many, decoder, dense, spike = rules.rules
    assert (one.name, one.neurons.tolist(), one.lookahead, one.compare, one.threshold) == ("one", [12], 2, "above", 0.4)
    assert (one.hold_frames, one.repeat, one.only_valid, one.line) == (2, False, True, 3)
    gating = one.gating
    assert (gating.refractory_s, gating.probability, gating.sham, gating.seed) == (1.5, 0.8, 0.2, 7)
    assert gating.windows == ((60.0, 600.0),)
    assert many.mean
    np.testing.assert_allclose(many.weights, 1 / 3)
    assert (many.signal, many.window_s, many.change, many.against_s) == ("rate_hz", 0.5, "by", 30.0)
    assert (many.compare, many.threshold, many.gating.armed, many.gating.seed) == ("below", -3.0, "on_message", 9)
    assert (many.min_valid, many.repeat, many.lookahead) == (0.5, True, None)
    assert (decoder.neurons.tolist(), decoder.weights.tolist(), decoder.mean) == ([3, 17], [0.5, -0.2], False)
    assert (decoder.compare, decoder.threshold, decoder.only_valid) == ("below", -0.001, False)
    assert dense.all_neurons
    assert dense.weights.tolist() == [0.5, 0, -1]
    assert (dense.compare, dense.threshold, dense.change) == ("above", 2.0, "factor")
    assert spike.weights.tolist() == [1.0, 1.0], "spikes are counted, not averaged"
    assert spike.gating.windows == ((0.0, 5.0), (10.0, np.inf))
    assert rules.text == EVERYTHING
    assert all(rule.in_words() for rule in rules.all)


MISTAKES = [
    ("neuron: 1\n    treshold: 3\n    above: 1", 4, "unknown key 'treshold'"),
    ("neuron: 1\n    abov: 3", 4, "did you mean 'above'"),
    ("neuron: 1\n    above: high", 4, "above: 'high': expected a number"),
    ("neuron: 1\n    above: .nan", 4, "above: nan: expected a number"),
    ("neuron: 1\n    above: true", 4, "above: True: expected a number"),
    ("neuron: 1\n    above: 1\n    above: 2", 5, "'above' is given twice"),
    ("neuron: -1\n    above: 1", 3, "neuron: -1: expected a whole number"),
    ("neuron: 1.5\n    above: 1", 3, "neuron: 1.5: expected a whole number"),
    ("neurons: []\n    above: 1", 3, "expected different neuron numbers"),
    ("neurons: [1, 1]\n    above: 1", 3, "expected different neuron numbers"),
    ("neurons: all\n    above: 1", 3, "expected different neuron numbers"),
    ("neuron: 1\n    neurons: [2]\n    above: 1", 2, "seen: neuron and neurons"),
    ("above: 1", 2, "expected one of neuron, neurons, weights; seen: none"),
    ("neuron: 1", 2, "expected one of above, below, change; seen: none"),
    ("neuron: 1\n    above: 1\n    below: 0", 2, "seen: above and below"),
    ("weights:\n      3: 1\n      x: 2\n    above: 1", 5, "weights: x: 2: expected NEURON: NUMBER"),
    ("weights: none.npy\n    above: 1", 3, "none.npy cannot be read"),
    ("neuron: 1\n    change: 3", 4, "expected {against_s: 30, by: 3}"),
    ("neuron: 1\n    change: {by: 3}", 4, "against_s is missing"),
    ("neuron: 1\n    change: {against_s: 1, by: 3, factor: 2}", 4, "either 'by' (a difference) or 'factor'"),
    ("neuron: 1\n    change: {against_s: 1, by: 0}", 4, "by: 0 is no change"),
    ("neuron: 1\n    above: 1\n    hold_frames: 0", 5, "hold_frames: 0: expected a whole number of at least 1"),
    ("neuron: 1\n    above: 1\n    probability: 1.5", 5, "probability: 1.5: expected a number from 0 to 1"),
    ("neuron: 1\n    above: 1\n    sham: -0.1", 5, "sham: -0.1"),
    ("neuron: 1\n    above: 1\n    refractory_s: -1", 5, "expected a number of at least 0"),
    ("neuron: 1\n    above: 1\n    repeat: often", 5, "expected true or false"),
    ("neuron: 1\n    above: 1\n    armed: later", 5, "expected always, on_message, or"),
    ("neuron: 1\n    above: 1\n    armed: {from_s: 5, to_s: 5}", 5, "expected an end after the beginning"),
    ("neuron: 1\n    above: 1\n    armed: {from: 5}", 5, "did you mean 'from_s'"),
    ("neuron: 1\n    above: 1\n    signal: rate", 5, "expected one of probability, rate_hz, spike"),
    ("neuron: 1\n    above: 1\n    signal: rate_hz", 5, "belong together"),
    ("neuron: 1\n    above: 1\n    window_s: 1", 5, "belong together"),
    ("neuron: 1\n    below: 1\n    signal: spike", 5, "a spike is one frame"),
    ("neuron: 1\n    above: 1\n    min_valid: 0.5", 5, "min_valid is for the mean"),
    ("neuron: 1\n    above: 1\n    lookahead: x", 5, "lookahead: 'x'"),
    ("neuron: 1\n    above: !!python/object:os.system x", 4, "could not determine a constructor"),
    ("plugin: nothing.py:Decoder", 3, "there is no file"),
    ("plugin: decoder", 3, "expected FILE.py:CLASS"),
    ("plugin: a.py:B\n    above: 3", 4, "unknown key 'above'"),
    ("plugin: a.py:B\n    timeout_ms: 0", 4, "timeout_ms: 0: expected a number above 0"),
    ("[1, 2]", 2, "expected a description"),
]


@pytest.mark.parametrize(("text", "line", "message"), MISTAKES)
def test_mistakes_are_told_with_their_line(tmp_path, text, line, message):
    path = tmp_path / "bad.yaml"
    path.write_text(f"rules:\n  trial:\n    {text}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_rules(path)
    told = [row for row in str(caught.value).splitlines() if message in row]
    assert told, str(caught.value)
    assert told[0].startswith(f"{path}:{line}: "), told


def test_all_mistakes_are_told_at_once():
    text = "rules:\n  a:\n    neuron: x\n    above: 1\n  b:\n    neuron: 1\n    above: y\n"
    with pytest.raises(InputError) as caught:
        parse_rules(text, name="r.yaml")
    rows = str(caught.value).splitlines()
    assert [row.split(" rule")[0] for row in rows] == ["r.yaml:3:", "r.yaml:7:"]


EMPTY = ["", "rules: {}", "rules: [1]", "- 1", "seed: 1", "rules: {a: {neuron: 0, above: 1}}\nx: 1"]


@pytest.mark.parametrize("text", EMPTY)
def test_files_without_rules_are_refused(text):
    with pytest.raises(InputError, match=r"rules:\d"):
        parse_rules(text)


@pytest.mark.parametrize(("text", "line"), [("rules:\n  a: [1\n", 3), ("rules:\n\ta: 1", 2), ("a: &x\nb: *y", 2)])
def test_what_is_not_yaml_is_told_with_its_line(text, line):
    with pytest.raises(FileFormatError, match=rf"rules:{line}: not YAML"):
        parse_rules(text)


def test_files_that_would_grow_without_end_are_refused():
    steps = zip("abcdefg", "bcdefgh", strict=True)
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    bomb += "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in steps)
    with pytest.raises(InputError, match="more values"):
        parse_rules(bomb)
    with pytest.raises(InputError, match="deeper nesting"):
        parse_rules("rules: " + "[" * 50 + "]" * 50)


def test_rules_that_do_not_fit_the_run_are_named(tmp_path):
    np.save(tmp_path / "weights.npy", np.ones(5))
    text = (
        "rules:\n  a: {neuron: 9, above: 1}\n  b: {neuron: 10, above: 1}\n  c: {neuron: 0, above: 1, lookahead: 3}\n"
        "  d: {weights: weights.npy, above: 1}\n"
    )
    rules = parse_rules(text, name="r.yaml", folder=tmp_path)
    rules.check()
    with pytest.raises(InputError) as caught:
        rules.check(n_neurons=10, lookaheads=(0, 2))
    assert str(caught.value).splitlines() == [
        "r.yaml:3: rule 'b': neuron 10: the run has neurons 0 to 9",
        "r.yaml:4: rule 'c': lookahead: 3 is not published by this run, which publishes 0, 2",
        "r.yaml:5: rule 'd': weights for 5 neurons: the run has 10",
    ]


DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples" / "rules").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_right(path):
    rules = read_rules(path)
    rules.check(n_neurons=50, lookaheads=(2,))
    assert rules.all


def test_the_rules_in_the_documentation_are_right():
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "triggers.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert parse_rules(block, folder=DOCS / "examples").all


def test_every_key_is_documented():
    from cascade_rt.triggers import rulefile

    text = (DOCS / "triggers.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 3
    for key in {*rulefile._RULE, *rulefile._PLUGIN}:
        assert f"`{key}" in text or f"{key}:" in text, key

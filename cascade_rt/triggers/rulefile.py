"""Rules from a YAML file. Every mistake is found at load and told with its file, line and reason."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from cascade_rt.errors import FileFormatError, InputError

from .rules import Gating, PluginRule, Rule, RuleSet

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["parse_rules", "read_rules"]

#: Larger files are refused.
MAX_BYTES, MAX_NODES, MAX_RULES = 1_000_000, 100_000, 1000

_EXPONENT = re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]{1,3}")
_GATING = ("armed", "refractory_s", "probability", "sham", "seed", "lookahead")
_SOURCES = ("neuron", "neurons", "weights")
_CONDITIONS = ("above", "below", "change")
_RULE = (
    *_SOURCES, *_CONDITIONS, *_GATING, "signal", "window_s", "hold_frames", "repeat", "only_valid", "min_valid",
)  # fmt: skip
_PLUGIN = ("plugin", "options", "timeout_ms", *_GATING)


def read_rules(path: str | os.PathLike[str]) -> RuleSet:
    """Read a rule file.

    Parameters
    ----------
    path : path
        YAML; docs/triggers.md describes it.

    Raises
    ------
    FileFormatError
        The file cannot be read, or is not YAML.
    InputError
        With a line for each mistake: ``FILE:LINE: rule 'NAME': what was seen and what was expected``.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise FileFormatError(f"{path}: {len(data)} bytes: expected a rule file of at most {MAX_BYTES}")
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: cannot be read as a rule file: {error}") from error
    return parse_rules(text, name=str(path), folder=path.parent)


def parse_rules(text: str, *, name: str = "rules", folder: Path | None = None) -> RuleSet:
    """Read rules from text.

    Parameters
    ----------
    text : str
    name : str
        For messages.
    folder : Path, optional
        Where weights and plug-ins are looked for.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or str(error)
        raise FileFormatError(f"{where}: not YAML: {problem}") from error
    except RecursionError as error:
        raise FileFormatError(f"{name}: nested too deeply for a rule file") from error
    reader = _Reader(folder or Path())
    rules, plugins = reader.read(node)
    if reader.problems:
        raise InputError("\n".join(f"{name}:{line}: {problem}" for line, problem in sorted(reader.problems)))
    return RuleSet(rules=rules, plugins=plugins, path=name, text=text)


class _Mapping(dict[str, Any]):
    """A mapping of the file that knows the line of each key."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class _Constructor(yaml.SafeLoader):
    """Makes values of nodes and keeps their lines; refuses keys that are given twice."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("")
        self._problems = problems
        self._n_nodes = 0

    def plain(self, node: yaml.Node, depth: int = 0) -> Any:
        """Value of a node."""
        line = node.start_mark.line + 1
        self._n_nodes += 1  # counted at each use: a few anchors can stand for millions of values
        if self._n_nodes > MAX_NODES or depth > 20:
            raise InputError(f"line {line}: more values, or deeper nesting, than a rule file has")
        if isinstance(node, yaml.MappingNode):
            mapping = _Mapping(line)
            for key_node, value_node in node.value:
                key, key_line = str(key_node.value), key_node.start_mark.line + 1
                if key in mapping:
                    self._problems.append((key_line, f"{key!r} is given twice"))
                    continue
                mapping[key] = self.plain(value_node, depth + 1)
                mapping.lines[key] = key_line
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, depth + 1) for item in node.value]
        try:
            return self.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self._problems.append((line, f"{node.value!r} cannot be used: {problem}"))
            return None


class _Reader:
    """Collects mistakes while it makes rules."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[tuple[int, str]] = []
        self._folder = folder

    def read(self, node: yaml.Node | None) -> tuple[tuple[Rule, ...], tuple[PluginRule, ...]]:
        try:
            values = None if node is None else _Constructor(self.problems).plain(node)
        except InputError as error:
            self.problems.append((1, str(error)))
            return (), ()
        if not isinstance(values, _Mapping) or not isinstance(values.get("rules"), _Mapping) or not values["rules"]:
            self.problems.append((1, "expected 'rules:' with a name and a description for each rule"))
            return (), ()
        self._unknown(values, ("rules", "seed"), "")
        seed = _Entry(self, values, "").whole("seed", 0, low=0)
        entries = values["rules"]
        if len(entries) > MAX_RULES:
            self.problems.append((entries.line, f"{len(entries)} rules: expected at most {MAX_RULES}"))
            return (), ()
        rules: list[Rule] = []
        plugins: list[PluginRule] = []
        for name, entry in entries.items():
            line, who = entries.lines[name], f"rule {name!r}: "
            if not (name.isprintable() and 0 < len(name) <= 100) or name == "*" or ":" in name:
                self.problems.append((line, f"{who}expected a printable name of at most 100 characters, without ':'"))
            elif not isinstance(entry, _Mapping):
                self.problems.append((line, f"{who}expected a description such as 'neuron: 12' and 'above: 0.5'"))
            elif "plugin" in entry:
                plugins += self._plugin(name, _Entry(self, entry, who), line, seed)
            else:
                rules += self._rule(name, _Entry(self, entry, who), line, seed)
        return tuple(rules), tuple(plugins)

    def _unknown(self, values: _Mapping, known: Sequence[str], who: str) -> None:
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                self.problems.append((values.lines[key], f"{who}unknown key {key!r}: {hint}"))

    def _rule(self, name: str, entry: _Entry, line: int, seed: int) -> list[Rule]:
        before = len(self.problems)
        self._unknown(entry.values, _RULE, entry.who)
        signal = entry.choice("signal", "probability", ("probability", "rate_hz", "spike"))
        source = self._source(entry, line, spikes=signal == "spike")
        compare, threshold, change, against = self._condition(entry, line)
        rule: dict[str, Any] = {
            "window_s": entry.number("window_s", 0.0, low=0, open_low=True),
            "hold_frames": entry.whole("hold_frames", 1, low=1),
            "repeat": entry.boolean("repeat", False),
            "only_valid": entry.boolean("only_valid", True),
            "min_valid": entry.number("min_valid", 1.0, low=0, high=1, open_low=True),
        }
        if (signal == "rate_hz") != ("window_s" in entry.values):
            where = "window_s" if "window_s" in entry.values else "signal"
            entry.problem(where, "'signal: rate_hz' and 'window_s' (seconds to average over) belong together")
        if "min_valid" in entry.values and not source["mean"]:
            entry.problem("min_valid", "min_valid is for the mean of 'neurons'; a sum needs all of its neurons")
        if signal == "spike" and (compare == "below" or change or threshold < 0 or rule["hold_frames"] != 1):
            entry.problem("signal", "a spike is one frame: it goes with 'above' (0 or more spikes) alone")
        gating, lookahead = self._gating(entry, seed)
        if len(self.problems) > before:
            return []
        return [
            Rule(
                name=name, signal=signal, compare=compare, threshold=threshold, change=change, against_s=against,
                lookahead=lookahead, gating=gating, line=line, **source, **rule,
            )
        ]  # fmt: skip

    def _source(self, entry: _Entry, line: int, *, spikes: bool) -> dict[str, Any]:
        nothing = {"neurons": np.zeros(1, np.int64), "weights": np.ones(1), "mean": False, "all_neurons": False}
        given = [key for key in _SOURCES if key in entry.values]
        if len(given) != 1:
            seen = " and ".join(given) or "none of them"
            self.problems.append((line, f"{entry.who}expected one of neuron, neurons, weights; seen: {seen}"))
            return nothing
        kind, value = given[0], entry.values[given[0]]
        if kind == "neuron":
            return {**nothing, "neurons": np.array([entry.whole("neuron", 0, low=0)], np.int64)}
        if kind == "neurons":
            if not _is_list(value, _is_neuron) or len(set(value)) < len(value):
                entry.problem(kind, f"neurons: {_short(value)}: expected different neuron numbers, such as [3, 17]")
                return nothing
            # The mean of discrete spikes would be a fraction of one; their number is meant.
            weights = np.ones(len(value)) if spikes else np.full(len(value), 1 / len(value))
            return {**nothing, "neurons": np.array(value, np.int64), "weights": weights, "mean": not spikes}
        if isinstance(value, str):
            weights = self._weights(entry, value)
            return {**nothing, "neurons": np.empty(0, np.int64), "weights": weights, "all_neurons": True}
        if not isinstance(value, _Mapping) or not value:
            entry.problem(kind, f"weights: {_short(value)}: expected {{3: 0.5, 17: -0.2}} or the name of a .npy file")
            return nothing
        neurons: list[int] = []
        values: list[float] = []
        for key, weight in value.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10) or not _is_number(weight):
                where = value.lines[key]
                self.problems.append((where, f"{entry.who}weights: {key}: {_short(weight)}: expected NEURON: NUMBER"))
                return nothing
            neurons.append(int(key))
            values.append(float(weight))
        if len(set(neurons)) < len(neurons):
            entry.problem(kind, "weights: a neuron is given twice")
        return {**nothing, "neurons": np.array(neurons, np.int64), "weights": np.array(values)}

    def _weights(self, entry: _Entry, text: str) -> NDArray[np.float64]:
        path = self._folder / text
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            entry.problem("weights", f"weights: {path} cannot be read as .npy: {error}")
            return np.ones(1)
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "fiu" or not array.size:
            seen = f"{getattr(array, 'dtype', '')} {getattr(array, 'shape', type(array).__name__)}"
            entry.problem("weights", f"weights: {path} holds {seen}: expected one number for each neuron of the run")
            return np.ones(1)
        weights = array.astype(np.float64)
        if not np.isfinite(weights).all() or not weights.any():
            entry.problem("weights", f"weights: {path}: expected finite numbers, not all 0")
        return weights

    def _condition(
        self, entry: _Entry, line: int
    ) -> tuple[Literal["above", "below"], float, Literal["", "by", "factor"], float]:
        given = [key for key in _CONDITIONS if key in entry.values]
        if len(given) != 1:
            seen = " and ".join(given) or "none of them"
            self.problems.append((line, f"{entry.who}expected one of above, below, change; seen: {seen}"))
            return "above", 0.0, "", 0.0
        if given[0] == "above":
            return "above", entry.number("above", 0.0), "", 0.0
        if given[0] == "below":
            return "below", entry.number("below", 0.0), "", 0.0
        value = entry.values["change"]
        if not isinstance(value, _Mapping):
            entry.problem(
                "change", f"change: {_short(value)}: expected {{against_s: 30, by: 3}} or factor instead of by"
            )
            return "above", 0.0, "", 0.0
        inner = _Entry(self, value, f"{entry.who}change: ")
        self._unknown(value, ("against_s", "by", "factor"), inner.who)
        against = inner.number("against_s", None, low=0, open_low=True)
        if ("by" in value) == ("factor" in value):
            entry.problem("change", "change: expected either 'by' (a difference) or 'factor' (a ratio)")
            return "above", 0.0, "", against
        if "by" in value:
            by = inner.number("by", None)
            if by == 0:
                inner.problem("by", "by: 0 is no change: expected a rise (above 0) or a fall (below 0)")
            return ("above" if by > 0 else "below"), by, "by", against
        factor = inner.number("factor", None, low=0, open_low=True)
        if factor == 1:
            inner.problem("factor", "factor: 1 is no change: expected more for a rise, less for a fall")
        return ("above" if factor > 1 else "below"), factor, "factor", against

    def _gating(self, entry: _Entry, seed: int) -> tuple[Gating, int | None]:
        armed, windows = self._armed(entry)
        gating = Gating(
            armed=armed,
            windows=windows,
            refractory_s=entry.number("refractory_s", 0.0, low=0),
            probability=entry.number("probability", 1.0, low=0, high=1),
            sham=entry.number("sham", 0.0, low=0, high=1),
            seed=entry.whole("seed", seed, low=0),
        )
        return gating, (entry.whole("lookahead", 0, low=0) if "lookahead" in entry.values else None)

    def _armed(self, entry: _Entry) -> tuple[Literal["always", "on_message"], tuple[tuple[float, float], ...]]:
        value = entry.values.get("armed", "always")
        if value in ("always", "on_message") and isinstance(value, str):
            return ("on_message" if value == "on_message" else "always"), ()
        windows = []
        for window in value if isinstance(value, list) and value else [value]:
            if not isinstance(window, _Mapping):
                entry.problem(
                    "armed", f"armed: {_short(value)}: expected always, on_message, or {{from_s: 60, to_s: 600}}"
                )
                return "always", ()
            inner = _Entry(self, window, f"{entry.who}armed: ")
            self._unknown(window, ("from_s", "to_s"), inner.who)
            start = inner.number("from_s", 0.0, low=0)
            stop = inner.number("to_s", math.inf, low=0)
            if stop <= start:
                entry.problem("armed", f"armed: from {start:g} to {stop:g} s: expected an end after the beginning")
            windows.append((start, stop))
        return "always", tuple(windows)

    def _plugin(self, name: str, entry: _Entry, line: int, seed: int) -> list[PluginRule]:
        before = len(self.problems)
        self._unknown(entry.values, _PLUGIN, entry.who)
        value = entry.values["plugin"]
        path_text, colon, class_name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        path = self._folder / path_text
        if not (colon and path_text.endswith(".py") and class_name.isidentifier()):
            entry.problem("plugin", f"plugin: {_short(value)}: expected FILE.py:CLASS")
        elif not path.is_file():
            entry.problem("plugin", f"plugin: there is no file {path}")
        options = entry.values.get("options", {})
        if not isinstance(options, dict) or not all(key.isidentifier() for key in options):
            entry.problem("options", f"options: {_short(options)}: expected names and values for the class")
        timeout = entry.number("timeout_ms", 100.0, low=0, open_low=True)
        gating, lookahead = self._gating(entry, seed)
        if len(self.problems) > before:
            return []
        return [
            PluginRule(
                name=name, path=path, class_name=class_name, options=MappingProxyType(_plain(options)),
                lookahead=lookahead, timeout_ms=timeout, gating=gating, line=line,
            )
        ]  # fmt: skip


class _Entry:
    """Reads typed values of one mapping; a mistake is noted and the default taken."""

    def __init__(self, reader: _Reader, values: _Mapping, who: str) -> None:
        self._reader = reader
        self.values = values
        self.who = who

    def problem(self, key: str, text: str) -> None:
        """Note a mistake at the line of a key."""
        self._reader.problems.append((self.values.lines.get(key, self.values.line), f"{self.who}{text}"))

    def number(
        self, key: str, default: float | None, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
    ) -> float:
        """Read a number; one without a default must be there."""
        if key not in self.values and default is not None:
            return default
        value: Any = self.values.get(key)
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)  # YAML 1.1 takes 1e-3, without a point, for text
        if not _is_number(value) or not low <= value <= high or (open_low and value == low):
            span = {
                (False, False): "a number", (True, False): f"a number {'above' if open_low else 'of at least'} {low:g}",
                (True, True): f"a number {'above' if open_low else 'from'} {low:g} to {high:g}",
            }[(low > -math.inf, high < math.inf)]  # fmt: skip
            seen = f"{key}: {_short(value)}" if key in self.values else f"{key} is missing"
            self.problem(key, f"{seen}: expected {span}")
            return 1.0
        return float(value)

    def whole(self, key: str, default: int, *, low: int) -> int:
        """Read a whole number."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**53:
            self.problem(key, f"{key}: {_short(value)}: expected a whole number of at least {low}")
            return low
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """Read true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.problem(key, f"{key}: {_short(value)}: expected true or false")
            return default
        return value

    def choice(self, key: str, default: Any, allowed: Sequence[str]) -> Any:
        """Read one of some words."""
        value = self.values.get(key, default)
        if value not in allowed:
            self.problem(key, f"{key}: {_short(value)}: expected one of {', '.join(allowed)}")
            return default
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_neuron(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_list(value: Any, good: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(good(item) for item in value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = repr(_plain(value))
    return text if len(text) <= 60 else text[:59] + "…"

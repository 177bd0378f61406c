"""The error tree: complete, drawn as it is, and catchable by its bases."""

from __future__ import annotations

import re

import pytest

from cascade_rt import errors


def _drawn() -> dict[str, str]:
    """Parent of each class in the picture at the top of errors.py."""
    stack: list[tuple[int, str]] = []
    parents = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    (?P<tree>[│├└─ ]*)(?P<name>\w+(?:Error|Warning))\b", line)
        if match is None:
            continue
        depth = len(match["tree"])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        parents[match["name"]] = stack[-1][1] if stack else ""
        stack.append((depth, match["name"]))
    return parents


def test_every_class_has_the_parent_that_is_drawn() -> None:
    drawn = _drawn()
    assert set(drawn) | {"CascadeWarning"} == set(errors.__all__)
    for name, parent in drawn.items():
        expected = getattr(errors, parent) if parent else Exception
        assert getattr(errors, name).__bases__[0] is expected, name


def test_all_errors_share_a_base_and_bad_input_is_a_value_error() -> None:
    raised = [getattr(errors, name) for name in errors.__all__ if name != "CascadeWarning"]
    assert all(issubclass(kind, errors.CascadeError) for kind in raised)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.CascadeWarning, UserWarning)
    assert not issubclass(errors.CascadeWarning, errors.CascadeError)


def test_wire_error_keeps_the_label_under_which_it_is_counted() -> None:
    with pytest.raises(errors.CascadeError, match="3 bytes, expected 8") as caught:
        raise errors.WireError("shape", "3 bytes, expected 8")
    assert caught.value.reason == "shape"

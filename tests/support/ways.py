"""The two ways in which statements are sent: both are tried with one case, and many cases share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

WAYS = ("prepared", "plain")


def is_prepared(request: pytest.FixtureRequest) -> bool:
    """Return whether a fixture is to prepare its statements: unless the test says otherwise."""
    return getattr(request, "param", WAYS[0]) == "prepared"


def both_ways(fixture: str) -> pytest.MarkDecorator:
    """Run a test with both ways of the fixture."""
    return pytest.mark.parametrize(fixture, WAYS, indirect=True)


def in_turn(fixture: str, names: str, cases: Mapping[str, Any], first: int = 0) -> pytest.MarkDecorator:
    """Give a test the cases, with the ways of the fixture in turn: the text that is sent is the same in both."""
    given = [
        pytest.param(WAYS[number % 2], *(case if isinstance(case, tuple) else [case]), id=f"{name}-{WAYS[number % 2]}")
        for number, (name, case) in enumerate(cases.items(), first)
    ]
    return pytest.mark.parametrize(f"{fixture}, {names}", given, indirect=[fixture])

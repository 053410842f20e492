"""Decode a hook's answer as strictly as Metacontroller's hook v2 does: an unknown or doubled key is an error.

https://metacontroller.github.io/metacontroller/api/compositecontroller.html#sync-hook-response
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

FIELDS = {
    "composite": {"status", "children", "resyncAfterSeconds", "finalized"},
    "decorator": {"labels", "annotations", "status", "attachments", "resyncAfterSeconds", "finalized"},
}
STATUS_FIELDS = {"observedGeneration", "id", "observedTable", "tables", "columns", "conditions"}
CONDITION_FIELDS = {"type", "status", "reason", "message", "observedGeneration", "lastTransitionTime"}


class NotDecodable(AssertionError):
    """Metacontroller would refuse the answer."""


def decode_answer(body: str | bytes, controller: str) -> dict[str, Any]:
    """Return the decoded answer; NotDecodable when Metacontroller would fail on it."""
    try:
        answer = json.loads(body, object_pairs_hook=_once, parse_constant=_no_json)
    except ValueError as exc:
        raise NotDecodable(f"not JSON: {body!r:.200}") from exc
    if not isinstance(answer, dict):
        raise NotDecodable(f"not an object: {answer!r:.200}")
    unknown = answer.keys() - FIELDS[controller]
    if unknown:
        raise NotDecodable(f"unknown fields {unknown}")
    _need(answer, "status", (dict, type(None)))
    _need(answer, "children" if controller == "composite" else "attachments", list)
    _need(answer, "resyncAfterSeconds", (int, float))
    _need(answer, "finalized", bool)
    return answer


def check_own_status(status: dict[str, Any]) -> None:
    """Check a status that the hook built itself (not one that it echoes) against the fields of the resource."""
    assert status.keys() <= STATUS_FIELDS, status
    assert isinstance(status["observedGeneration"], int)
    assert isinstance(status["id"], str)
    assert isinstance(status.get("observedTable", ""), str)
    assert all(isinstance(table, str) for table in status["tables"])
    assert len(set(status["tables"])) == len(status["tables"])
    kinds = [condition["type"] for condition in status["conditions"]]
    assert len(set(kinds)) == len(kinds)
    for condition in status["conditions"]:
        assert condition.keys() <= CONDITION_FIELDS, condition
        assert condition["status"] in ("True", "False", "Unknown")
        assert isinstance(condition.get("observedGeneration", 0), int)
        # the schema's default has no time, and a pause keeps it as it is
        optional = {"observedGeneration"} | ({"lastTransitionTime"} if condition["reason"] == "Pending" else set())
        assert all(isinstance(condition[field], str) for field in CONDITION_FIELDS - optional)


def _need(answer: dict[str, Any], field: str, kind: Any) -> None:
    value = answer.get(field)
    if field not in answer or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise NotDecodable(f"{field} is {value!r}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"doubled key in {keys}")
    return dict(pairs)


def _no_json(name: str) -> NoReturn:
    raise ValueError(name)

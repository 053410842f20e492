"""The result of an audit as it travels: the audit stores it in a ConfigMap, /metrics of the server shows it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

RESULT_KEY = "result.json"  # the key of the ConfigMap, and so the name of the file in a pod that mounts it


class Fault(str, Enum):
    """The kinds of findings, in the order in which they are shown."""

    MISSING = "missing"  # the resource has no row in spec.table
    DIFFERS = "differs"  # the row has other values than the spec
    ELSEWHERE = "elsewhere"  # the only row found is in another table than spec.table
    DUPLICATE = "duplicate"  # A second row, in another table
    NO_RESOURCE = "no-resource"  # A row with the shape of an id that no resource has
    UNMANAGED = "unmanaged"  # the controller's selector does not match the resource
    UNREADABLE = "unreadable"  # the rows of a table could not be compared


@dataclass(frozen=True)
class AuditResult:
    """What an audit found. ``finished`` is Unix time in seconds, 0 when none has run; ``seconds`` is its duration."""

    finished: float = 0.0
    seconds: float = 0.0
    resources: int = 0
    rows: int = 0
    tables: int = 0
    findings: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AuditResult:
        """Read what ``to_json`` made; fields of a later release are ignored. Raises ValueError for anything else."""
        given = json.loads(text)
        found = given.get("findings") if isinstance(given, dict) else None
        if not isinstance(found, dict):
            raise ValueError("not an object with findings")  # noqa: TRY004 - as for every other text that is not a result
        numbers = {each.name: _number(given, each.name) for each in fields(cls) if each.name != "findings"}
        return cls(
            **numbers, findings={kind.value: _number(found, kind.value) for kind in Fault if kind.value in found}
        )


def _number(given: Mapping[str, Any], name: str) -> Any:
    value = given.get(name)
    # JSON gives true as a bool, which is an int; Python's also reads Infinity and NaN
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is not a number")
    return value

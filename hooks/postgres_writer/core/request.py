"""Wire -> value: the body of a hook request becomes one frozen HookRequest. No I/O.

The two shapes of Metacontroller (CompositeController sends ``parent``, DecoratorController ``object``) become one here.
Identity is demanded, everything else is taken as it comes: an unusable spec is a ``problem`` of the value, never an
exception, because a broken spec must neither crash a sync nor block a deletion.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from marshmallow import ValidationError, fields, missing

from postgres_writer.config.variables import IDENTIFIER
from postgres_writer.errors import InvalidRequest

PAUSED_ANNOTATION = "demo.yash.com/paused"
DEFAULT_SCHEMA = "public"
MAX_TABLES = 16
"""What status.tables may list at most; the CustomResourceDefinition says the same."""

_MAX_CHARACTERS = 1024
TABLE_PATTERN = re.compile(rf"(?!pg_|information_schema\.){IDENTIFIER}(?:\.{IDENTIFIER})?")
"""``table`` or ``schema.table``."""
_SURROGATE = re.compile("[\ud800-\udfff]")

# the patterns of metav1.Condition: the API server accepted nothing else, and would refuse it if it were echoed
# https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#Condition
_TIMESTAMP = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ")
_REASON = re.compile(r"[A-Za-z](?:[A-Za-z0-9_,:]{0,1022}[A-Za-z0-9_])?")

Controller = Literal["composite", "decorator"]
Field = fields.Field[Any]


@dataclass(frozen=True, slots=True)
class Spec:
    """A valid spec: the values of the row by column, and the relation they belong to, always with its schema."""

    table: str
    values: tuple[tuple[str, Any], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the row's values are for."""
        return tuple(column for column, _ in self.values)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the status as it was given; every field has the shape the API server accepts."""

    status: str
    reason: str
    message: str
    last_transition_time: str
    observed_generation: int | None


@dataclass(frozen=True, slots=True)
class PriorStatus:
    """What the status that came with the request says; what has a foreign shape counts as not said.

    ``tables`` are relation names (schema.table); ``observed_table`` is as it was written.
    A resource that no sync has answered yet comes with the defaults of the CustomResourceDefinition: ``ready`` is then
    Unknown with the reason Pending, which is not a verdict.
    """

    tables: tuple[str, ...] = ()
    observed_table: str | None = None
    ready: Condition | None = None
    stalled: Condition | None = None
    reconciling: Condition | None = None
    paused: Condition | None = None


@dataclass(frozen=True, slots=True)
class HookRequest:
    """One resource as Metacontroller handed it over, and what it wants done.

    ``table`` is spec.table as written, also when it cannot be a table name, and ``relation`` the relation that it
    names; ``spec`` is None exactly when ``problem`` has a text (one sentence per field).
    """

    controller: Controller
    finalizing: bool
    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    last_finalizer: bool
    paused: bool
    retain: bool
    table: str | None
    relation: str | None
    spec: Spec | None
    problem: str
    status: PriorStatus
    raw_status: dict[str, Any] | None

    @property
    def id(self) -> str:
        """The primary key of the row."""
        return f"{self.namespace}/{self.name}"


def is_table(value: object) -> TypeGuard[str]:
    """Say whether the value can be the name of a table that this product writes."""
    return isinstance(value, str) and TABLE_PATTERN.fullmatch(value) is not None


def relation_name(table: object, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Give the one relation that ``table`` or ``schema.table`` names; None where it can be no table's name.

    A table without a schema is in ``schema``, whatever the search path of the session or role says.
    """
    if not is_table(table):
        return None
    return table if "." in table else f"{schema}.{table}"


def is_text(value: str) -> bool:
    """Say whether PostgreSQL can store the text: no NUL, no lone surrogate (it is not Unicode text)."""
    return "\0" not in value and (value.isascii() or _SURROGATE.search(value) is None)


def _field(kind: type[Field], name: str, holds: Callable[[Any], bool], rule: str, **options: Any) -> Field:
    sentence = f"spec.{name} must be {rule}."

    def check(value: Any) -> None:
        if not holds(value):
            raise ValidationError(sentence)

    messages: dict[str, Any] = dict.fromkeys(("null", "invalid", "invalid_utf8", "too_large"), sentence)
    messages["required"] = f"spec.{name} is required."
    return kind(validate=check, error_messages=messages, **{"required": True, **options})


def _is_value(text: str) -> bool:
    return 1 <= len(text) <= _MAX_CHARACTERS and is_text(text)


_TABLE = (
    "a table or schema.table, each at most 63 letters, digits, '_' or '$', not starting with a digit or '$'; "
    "system schemas (pg_*, information_schema) are not allowed"
)
COLUMNS = ("name", "age", "country")
_VALUE = "a string of 1 to 1024 characters without NUL or lone surrogates"
_SPEC: dict[str, Field] = {
    "table": _field(fields.String, "table", is_table, _TABLE),
    "name": _field(fields.String, "name", _is_value, _VALUE),
    "age": _field(
        fields.Integer, "age", lambda age: 0 <= age < 2**31, "a whole number from 0 to 2147483647", strict=True
    ),
    "country": _field(fields.String, "country", _is_value, _VALUE),
    "deletionPolicy": _field(
        fields.String,
        "deletionPolicy",
        lambda policy: policy in {"Delete", "Retain"},
        "Delete or Retain",
        required=False,
        allow_none=True,  # the API server, too, takes null for the default
    ),
}
"""The fields of the spec; the CustomResourceDefinition accepts and refuses the same. Others are accepted and ignored.

They stand alone because a Schema around them would take as long again as they take themselves, at every sync.
"""


def load_request(payload: object, *, finalizing: bool = False, schema: str = DEFAULT_SCHEMA) -> HookRequest:
    """Turn the decoded body of a hook request into a value; ``finalizing``: it came to the finalize hook.

    ``schema`` is that of tables without one in their name.

    A resource that is being deleted is finalized whichever hook was called: without a finalize hook Metacontroller
    calls sync for it, which must not write the row again.

    Raises InvalidRequest with one sentence when the body is not a hook request or the resource has no identity.
    """
    if not isinstance(payload, dict):
        raise InvalidRequest("The body must be a JSON object as Metacontroller sends it.")
    controller, resource = _resource(payload)
    metadata = resource.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidRequest("The resource must have metadata with a namespace and a name.")
    raw_spec, raw_status = resource.get("spec"), resource.get("status")
    wire_spec: dict[str, Any] = raw_spec if isinstance(raw_spec, dict) else {}
    table = wire_spec.get("table")
    relation = relation_name(table, schema)
    spec, problem = _load_spec(raw_spec, relation)
    deleting = metadata.get("deletionTimestamp") is not None
    annotations = metadata.get("annotations")
    uid = metadata.get("uid")
    return HookRequest(
        controller=controller,
        finalizing=finalizing or deleting or payload.get("finalizing") is True,
        namespace=_identity(metadata, "namespace"),
        name=_identity(metadata, "name"),
        uid=uid if isinstance(uid, str) and is_text(uid) else "",
        generation=_whole(metadata.get("generation")) or 0,
        deleting=deleting,
        last_finalizer=_is_last_finalizer(controller, metadata.get("finalizers"), payload.get("controller")),
        paused=isinstance(annotations, dict) and annotations.get(PAUSED_ANNOTATION) == "true",
        # from the wire and not from the valid spec: an invalid one must not turn Retain into Delete
        retain=wire_spec.get("deletionPolicy") == "Retain",
        # also where it is no table name: the rule on spec.table compares it with observedTable as it is
        table=table if isinstance(table, str) and is_text(table) else None,
        relation=relation,
        spec=spec,
        problem=problem,
        status=_load_status(raw_status, schema),
        raw_status=raw_status if isinstance(raw_status, dict) else None,
    )


def _resource(payload: dict[str, Any]) -> tuple[Controller, dict[str, Any]]:
    parent, decorated = payload.get("parent"), payload.get("object")
    if (parent is None) == (decorated is None):
        raise InvalidRequest(
            "The body must have either 'parent' (CompositeController) or 'object' (DecoratorController)."
        )
    resource = decorated if parent is None else parent
    if not isinstance(resource, dict):
        raise InvalidRequest("The resource in the body must be a JSON object.")
    return ("decorator" if parent is None else "composite"), resource


def _identity(metadata: dict[str, Any], field: str) -> str:
    value = metadata.get(field)
    if not isinstance(value, str) or not value or not is_text(value):
        raise InvalidRequest(f"metadata.{field} must be a non-empty string: it is part of the row's id.")
    return value


def _is_last_finalizer(controller: Controller, finalizers: object, definition: object) -> bool:
    """Say whether nothing but the calling controller's own finalizer keeps the resource.

    https://metacontroller.github.io/metacontroller/api/compositecontroller.html#finalize-hook
    """
    # without a list nothing is known to keep the resource
    if not isinstance(finalizers, list):
        return True
    metadata = definition.get("metadata") if isinstance(definition, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    own = f"metacontroller.io/{controller}controller-{name}"
    return all(finalizer == own for finalizer in finalizers)


def _load_spec(spec: object, relation: str | None) -> tuple[Spec | None, str]:
    if not isinstance(spec, dict):
        return None, "spec is required: give table, name, age and country."
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, field in _SPEC.items():
        try:
            values[name] = field.deserialize(spec.get(name, missing), name, spec)
        except ValidationError as exc:
            problems.append(str(exc.messages[0]))
    # without a relation spec.table is a problem, too
    if problems or relation is None:
        return None, " ".join(problems)
    return Spec(relation, tuple((column, values[column]) for column in COLUMNS)), ""


def _whole(value: object) -> int | None:
    """Give the value when it is an int64 that is not negative, as the API server's counters are."""
    # type() and not isinstance(): true is an int to Python
    return value if type(value) is int and 0 <= value < 2**63 else None


def _load_status(status: object, schema: str) -> PriorStatus:
    if not isinstance(status, dict):
        return PriorStatus()
    tables = status.get("tables")
    # what cannot be the name of a table never held the row
    named = (relation_name(table, schema) for table in (tables if isinstance(tables, list) else []))
    observed = status.get("observedTable")
    conditions = status.get("conditions")
    by_type = {
        condition.get("type"): condition
        for condition in (conditions if isinstance(conditions, list) else [])
        if isinstance(condition, dict) and isinstance(condition.get("type"), str)
    }
    return PriorStatus(
        tables=tuple(dict.fromkeys(filter(None, named))),
        observed_table=observed if isinstance(observed, str) else None,
        ready=_load_condition(by_type.get("Ready")),
        stalled=_load_condition(by_type.get("Stalled")),
        reconciling=_load_condition(by_type.get("Reconciling")),
        paused=_load_condition(by_type.get("Paused")),
    )


def _load_condition(condition: dict[str, Any] | None) -> Condition | None:
    if condition is None:
        return None
    reason, message = condition.get("reason"), condition.get("message")
    since = condition.get("lastTransitionTime")
    sound = (
        condition.get("status") in ("True", "False", "Unknown")
        and isinstance(reason, str)
        and _REASON.fullmatch(reason) is not None
        and isinstance(message, str)
        and is_text(message)
        and isinstance(since, str)
        and _TIMESTAMP.fullmatch(since) is not None
    )
    if not sound:
        return None
    generation = _whole(condition.get("observedGeneration"))
    return Condition(condition["status"], condition["reason"], condition["message"], since or "", generation)

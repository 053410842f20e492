"""Wire -> value: the body of a hook request becomes one frozen HookRequest. No I/O.

The two shapes of Metacontroller (CompositeController sends ``parent``, DecoratorController ``object``) become one here.
Identity is demanded, everything else is taken as it comes: an unusable spec is a ``problem`` of the value, never an
exception, because a broken spec must neither crash a sync nor block a deletion.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from postgres_writer.config.variables import DEFAULT_DATABASE, is_database
from postgres_writer.core.row import DEFAULT_SCHEMA, GROUP, KINDS, Kind, Spec, column_names, is_text, relation_name
from postgres_writer.errors import InvalidRequest

PAUSED_ANNOTATION = "demo.yash.com/paused"
# what YAML 1.1 reads as true and false, and what people write for it
_PAUSES = re.compile("true|True|TRUE|yes|Yes|YES|on|On|ON|y|Y|1")
_RUNS = re.compile("(false|False|FALSE|no|No|NO|off|Off|OFF|n|N|0)?")
MAX_TABLES = 16  # what status.tables may list at most; the CustomResourceDefinition says the same
MAX_LISTED_COLUMNS = 200  # the same of status.columns

# the patterns of metav1.Condition: the API server accepted nothing else, and would refuse it if it were echoed
# https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#Condition
_TIMESTAMP = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ")
_REASON = re.compile(r"[A-Za-z](?:[A-Za-z0-9_,:]{0,1022}[A-Za-z0-9_])?")

Controller = Literal["composite", "decorator"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the status as it was given; every field has the shape the API server accepts."""

    status: str
    reason: str
    message: str
    last_transition_time: str | None
    observed_generation: int | None


@dataclass(frozen=True, slots=True)
class PriorStatus:
    """What the status that came with the request says; what has a foreign shape counts as not said.

    ``tables`` are relation names (schema.table); ``observed_table`` is as it was written.
    A resource that no sync has answered yet comes with the defaults of the CustomResourceDefinition: ``ready`` is then
    Unknown with the reason Pending, which is not a verdict.
    """

    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    observed_table: str | None = None
    ready: Condition | None = None
    stalled: Condition | None = None
    reconciling: Condition | None = None
    paused: Condition | None = None


@dataclass(frozen=True, slots=True)
class HookRequest:
    """One resource as Metacontroller handed it over, and what it wants done.

    ``database`` is the name of the database that spec means, also where it is invalid: empty if it can be no name.
    ``table`` is spec.table as written, also when it cannot be a table name, and ``relation`` the relation that it
    names; ``spec`` is None where ``problem`` has a text (one sentence per field), and in a request that finalizes.
    ``id_column`` and ``columns`` are what spec names, also where it is invalid.
    """

    controller: Controller
    kind: Kind
    finalizing: bool
    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    last_finalizer: bool
    paused: str  # empty, true, or the value of the annotation that cannot be read and pauses, too
    retain: bool
    database: str
    table: str | None
    relation: str | None
    id_column: str
    columns: tuple[str, ...]
    spec: Spec | None
    problem: str
    status: PriorStatus
    raw_status: dict[str, Any] | None

    @property
    def id(self) -> str:
        """The primary key of the row."""
        return f"{self.kind.prefix}{self.namespace}/{self.name}"

    @property
    def of_database(self) -> str:
        """What names the database in a sentence, behind a table; the default one is not named."""
        return "" if self.database == DEFAULT_DATABASE else f" of database {self.database}"


def load_request(
    payload: object, *, finalizing: bool = False, schema_of: Callable[[str], str] = lambda _database: DEFAULT_SCHEMA
) -> HookRequest:
    """Turn the decoded body of a hook request into a value; ``finalizing``: it came to the finalize hook.

    ``schema_of`` gives, for the name of a database, the schema of tables without one in their name.

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
    table, named = wire_spec.get("table"), wire_spec.get("database")
    database = DEFAULT_DATABASE if named is None else named if is_database(named) else ""
    schema = schema_of(database)
    relation = relation_name(table, schema)
    kind, uid = _kind(resource), metadata.get("uid")
    deleting = metadata.get("deletionTimestamp") is not None
    finalizing = finalizing or deleting or payload.get("finalizing") is True
    spec, problem = (None, "") if finalizing else kind.load(raw_spec, relation)  # a row is deleted by its id alone
    return HookRequest(
        controller=controller,
        kind=kind,
        finalizing=finalizing,
        namespace=_identity(metadata, "namespace"),
        name=_identity(metadata, "name"),
        uid=uid if isinstance(uid, str) and is_text(uid) else "",
        generation=_whole(metadata.get("generation")) or 0,
        deleting=deleting,
        last_finalizer=_is_last_finalizer(controller, metadata.get("finalizers"), payload.get("controller")),
        paused=_pause(metadata.get("annotations")),
        # from the wire and not from the valid spec: an invalid one must not turn Retain into Delete
        retain=wire_spec.get("deletionPolicy") == "Retain",
        database=database,
        # also where it is no table name: the rule on spec.table compares it with observedTable as it is
        table=table if isinstance(table, str) and is_text(table) else None,
        relation=relation,
        id_column=spec.id_column if spec else kind.id_column(wire_spec),
        columns=kind.fixed or (spec.columns if spec else kind.columns(wire_spec)),
        spec=spec,
        problem=problem,
        status=_load_status(raw_status, schema),
        raw_status=raw_status if isinstance(raw_status, dict) else None,
    )


def _resource(payload: dict[str, Any]) -> tuple[Controller, dict[str, Any]]:
    parent, decorated = payload.get("parent"), payload.get("object")
    if (parent is None) == (decorated is None):
        raise InvalidRequest("The body needs either 'parent' (CompositeController) or 'object' (DecoratorController).")
    resource = decorated if parent is None else parent
    if not isinstance(resource, dict):
        raise InvalidRequest("The resource in the body must be a JSON object.")
    return ("decorator" if parent is None else "composite"), resource


def _pause(annotations: object) -> str:
    value = str(annotations.get(PAUSED_ANNOTATION, "")) if isinstance(annotations, dict) else ""
    return "" if _RUNS.fullmatch(value) else "true" if _PAUSES.fullmatch(value) else value


def _kind(resource: dict[str, Any]) -> Kind:
    group, _, _ = str(resource.get("apiVersion")).rpartition("/")
    kind = KINDS.get(str(resource.get("kind")))
    if kind is None or group != GROUP:
        raise InvalidRequest(f"The resource must be of the group {GROUP} and of the kind {' or '.join(KINDS)}.")
    return kind


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
    columns, observed = status.get("columns"), status.get("observedTable")
    conditions = status.get("conditions")
    by_type = {
        condition.get("type"): condition
        for condition in (conditions if isinstance(conditions, list) else [])
        if isinstance(condition, dict) and isinstance(condition.get("type"), str)
    }
    return PriorStatus(
        tables=tuple(dict.fromkeys(filter(None, named))),
        columns=column_names(columns)[:MAX_LISTED_COLUMNS] if isinstance(columns, list) else (),
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
        # the schema's default has none
        and (since is None or (isinstance(since, str) and _TIMESTAMP.fullmatch(since) is not None))
    )
    if not sound:
        return None
    generation = _whole(condition.get("observedGeneration"))
    return Condition(condition["status"], condition["reason"], condition["message"], since, generation)

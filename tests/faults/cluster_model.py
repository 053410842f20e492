"""An API server and a Metacontroller as a model: enough of both to show the hook every order of events they allow.

Nothing here knows PostgreSQL or the hook. The API server keeps resources of one kind, enforces the rules of the
CustomResourceDefinition, counts generations and lets an object go with its last finalizer. The controller works
from a cache that may lag behind, and writes back as CompositeController or DecoratorController do.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from postgres_writer.core.request import PAUSED_ANNOTATION, Controller
from postgres_writer.core.row import COLUMNS, GROUP, POSTGRES_WRITER, Kind, relation_name

NAMESPACE = "default"
OTHER_FINALIZER = "example.com/other"
CONTROLLER_NAME = "postgres-writer"

Object = dict[str, Any]


class Refused(Exception):
    """The API server refuses a change."""


class Conflict(Exception):
    """The object has changed, or is another one, since it was read."""


def values_of(spec: Object) -> Object:
    """Return the fields of a spec, those of spec.columns among them."""
    columns = {column["name"]: column.get("value") for column in spec.get("columns", ())}
    return {**{field: value for field, value in spec.items() if field != "columns"}, **columns}


def spec_of(kind: Kind, values: Object) -> Object:
    """Return the spec of a resource of that kind; a column is left out where its value is `...`."""
    values = {field: value for field, value in values.items() if value is not ...}
    if kind.fixed:
        return values
    columns = [{"name": column, "value": values.pop(column)} for column in COLUMNS if column in values]
    return {**values, "columns": columns}


def edit_of(kind: Kind, values: Object, what: str) -> Object:
    """Return the fields that an edit sets; a PostgresRow also loses its column country, and gets it again."""
    age = values["age"] if isinstance(values["age"], int) else 0
    country = f"{values.get('country')}'" if kind.fixed else ... if "country" in values else "canada"
    edits: dict[str, Object] = {
        "age": {"age": max(age, 0) + 1},
        "name": {"name": f"{values['name']}'"},
        "country": {"country": country},
        "deletionPolicy": {"deletionPolicy": "Delete" if values.get("deletionPolicy") == "Retain" else "Retain"},
        "broken": {"age": -1 if kind.fixed else "\0"},
        "toggle": {"age": 24 if age == 23 else 23},
    }
    return edits[what]


def may_change(old: Object, new: Object, *, rules: bool = True) -> bool:
    """Evaluate the transition rules of the CustomResourceDefinitions; without ``rules`` all may change."""
    removed = values_of(old["spec"]).keys() - values_of(new["spec"]).keys() - {"deletionPolicy"}
    return not rules or (_may_change_table(old, new) and removed <= set(old.get("status", {}).get("columns", ())))


def _may_change_table(old: Object, new: Object) -> bool:
    """Evaluate the rule on spec.table, term by term."""
    return (
        "spec" not in old
        or "table" not in old["spec"]
        or ("spec" in new and "table" in new["spec"] and new["spec"]["table"] == old["spec"]["table"])
        or (
            "status" in old
            and "observedTable" in old["status"]
            and old["status"]["observedTable"] == old["spec"]["table"]
        )
    )


@dataclass
class ApiServer:
    """The resources by name, and every version of each that a cache may still show."""

    max_tables: int
    rules: bool = True
    kind: Kind = POSTGRES_WRITER
    objects: dict[str, Object] = field(default_factory=dict)
    history: dict[str, list[Object | None]] = field(default_factory=dict)
    _counter: int = 0

    def create(self, name: str, values: Object) -> None:
        """Create a resource; its uid differs from every earlier one's of that name."""
        about = {"apiVersion": f"{GROUP}/{self.kind.version}", "kind": self.kind.name}
        uid = f"uid-{self._next()}"
        metadata = {"namespace": NAMESPACE, "name": name, "uid": uid, "generation": 1, "labels": {"managed": "yes"}}
        found = {**about, "metadata": {**metadata, "annotations": {}, "finalizers": []}}
        self._keep(name, {**found, "spec": spec_of(self.kind, values)})

    def edit(self, name: str, values: Object) -> None:
        """Change fields of the spec. Raises Refused when a transition rule forbids it."""
        new = copy.deepcopy(self.objects[name])
        new["spec"] = spec_of(self.kind, {**values_of(new["spec"]), **values})
        self.update(name, new)

    def update(self, name: str, new: Object) -> None:
        """Write everything but the status, as a PUT or PATCH of the resource does."""
        old = self.objects[name]
        new = copy.deepcopy(new)
        if new["spec"] != old["spec"]:
            if not may_change(old, new, rules=self.rules):
                raise Refused(new["spec"]["table"])
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        self._keep(name, new)

    def set_metadata(self, name: str, field_name: str, key: str, value: str | None) -> None:
        """Set a label or an annotation, or take it away with None."""
        new = copy.deepcopy(self.objects[name])
        new["metadata"][field_name].pop(key, None)
        if value is not None:
            new["metadata"][field_name][key] = value
        self.update(name, new)

    def set_finalizer(self, name: str, finalizer: str, *, present: bool) -> None:
        """Add a finalizer or take it away; the last one lets an object go that is being deleted."""
        new = copy.deepcopy(self.objects[name])
        others = [other for other in new["metadata"]["finalizers"] if other != finalizer]
        new["metadata"]["finalizers"] = [*others, finalizer] if present else others
        self.update(name, new)

    def delete(self, name: str) -> None:
        """Mark a resource as being deleted, or let it go at once when no finalizer keeps it."""
        new = copy.deepcopy(self.objects[name])
        if "deletionTimestamp" not in new["metadata"]:
            new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            new["metadata"]["generation"] += 1
        self._keep(name, new)

    def update_status(self, name: str, status: Object) -> None:
        """Write the status alone."""
        assert len(status.get("tables", [])) <= self.max_tables, "the CustomResourceDefinition caps status.tables"
        self._keep(name, {**copy.deepcopy(self.objects[name]), "status": copy.deepcopy(status)})

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    def _keep(self, name: str, new: Object) -> None:
        new["metadata"]["resourceVersion"] = str(self._next())
        gone = "deletionTimestamp" in new["metadata"] and not new["metadata"]["finalizers"]
        if gone:
            self.objects.pop(name, None)
        else:
            self.objects[name] = new
        self.history.setdefault(name, []).append(None if gone else new)


@dataclass
class Sync:
    """One hook call on its way: the object as it was sent, whether to finalize, and the answer when there is one."""

    parent: Object
    finalizing: bool
    stale: bool
    answer: Object | None = None

    @property
    def name(self) -> str:
        """The resource's name."""
        name: str = self.parent["metadata"]["name"]
        return name


@dataclass
class Metacontroller:
    """The controller: what it has seen of each resource, what it sends, and how it writes answers back."""

    api: ApiServer
    kind: Controller
    seen: dict[str, int] = field(default_factory=dict)

    @property
    def finalizer(self) -> str:
        """The finalizer that this controller adds."""
        return f"metacontroller.io/{self.kind}controller-{CONTROLLER_NAME}"

    def take(self, name: str, lag: int) -> Sync | None:
        """Begin to sync a resource from the cache, which is ``lag`` versions behind but never goes back.

        Gives None when there is nothing to call the hook for.
        """
        versions = self.api.history.get(name, [])
        if not versions:
            return None
        newest = len(versions) - 1
        self.seen[name] = min(max(self.seen.get(name, 0), newest - lag), newest)
        parent = versions[self.seen[name]]
        if parent is None or not (is_managed(parent) or self.finalizer in parent["metadata"]["finalizers"]):
            return None
        deleting = "deletionTimestamp" in parent["metadata"]
        if self.finalizer not in parent["metadata"]["finalizers"] and not deleting:
            try:
                parent = self._with_finalizer(parent)
            except Conflict:
                return None
        stale = parent is not versions[-1]
        return Sync(copy.deepcopy(parent), finalizing=deleting or not is_managed(parent), stale=stale)

    def catch_up(self) -> None:
        """See to it that no version is sent again of which a newer one exists or is about to be written."""
        self.seen = {name: version + 1 for name, version in self.seen.items()}

    def payload(self, sync: Sync) -> Object:
        """Build the body of the hook request."""
        resource = "parent" if self.kind == "composite" else "object"
        definition = {"metadata": {"name": CONTROLLER_NAME}}
        return {"controller": definition, resource: copy.deepcopy(sync.parent), "finalizing": sync.finalizing}

    def write(self, sync: Sync) -> bool:
        """Write the answer back; True when the finalizer was removed.

        Composite reads the object again and overwrites its status whatever happened meanwhile; decorator writes on
        the version that it sent, and drops everything when that is no longer the newest.
        """
        try:
            return self._write_composite(sync) if self.kind == "composite" else self._write_decorator(sync)
        except Conflict:
            return False

    def _with_finalizer(self, parent: Object) -> Object:
        name = parent["metadata"]["name"]
        current = self._same(parent)
        if self.finalizer not in current["metadata"]["finalizers"]:
            if "deletionTimestamp" in current["metadata"]:
                raise Conflict(name)
            self.api.set_finalizer(name, self.finalizer, present=True)
        self.seen[name] = len(self.api.history[name]) - 1
        return self.api.objects[name]

    def _same(self, parent: Object) -> Object:
        """Read the object again. Raises Conflict when it is gone, or another one has its name."""
        current = self.api.objects.get(parent["metadata"]["name"])
        if current is None or current["metadata"]["uid"] != parent["metadata"]["uid"]:
            raise Conflict(parent["metadata"]["name"])
        return current

    def _write_composite(self, sync: Sync) -> bool:
        assert sync.answer is not None
        current = self._same(sync.parent)
        released = sync.answer["finalized"] and self.finalizer in current["metadata"]["finalizers"]
        if released:
            self.api.set_finalizer(sync.name, self.finalizer, present=False)
        status = {**(sync.answer["status"] or {}), "observedGeneration": sync.parent["metadata"]["generation"]}
        if sync.name in self.api.objects and self.api.objects[sync.name].get("status") != status:
            self.api.update_status(sync.name, status)
        return bool(released)

    def _write_decorator(self, sync: Sync) -> bool:
        assert sync.answer is not None
        current = self._same(sync.parent)
        status = sync.answer["status"]
        changed = status is not None and status != sync.parent.get("status", {})
        released = sync.answer["finalized"] and self.finalizer in sync.parent["metadata"]["finalizers"]
        if not changed and not released:
            return False
        if current["metadata"]["resourceVersion"] != sync.parent["metadata"]["resourceVersion"]:
            raise Conflict(sync.name)
        if changed:
            self.api.update_status(sync.name, status)
        if released:
            self.api.set_finalizer(sync.name, self.finalizer, present=False)
        return bool(released)


def is_managed(resource: Object) -> bool:
    """Say whether the controller's selector matches the resource."""
    return bool(resource["metadata"]["labels"].get("managed") == "yes")


def is_paused(resource: Object) -> bool:
    """Say whether the user has paused the resource."""
    return bool(resource["metadata"]["annotations"].get(PAUSED_ANNOTATION) == "true")


def listed_tables(resource: Object) -> set[str]:
    """Return the relations that the status lists."""
    return {relation_name(table) or table for table in resource.get("status", {}).get("tables", [])}


def stays(sync: Sync) -> bool:
    """Say whether the row was to stay when the finalizer was released."""
    deleting = "deletionTimestamp" in sync.parent["metadata"]
    return not deleting or sync.parent["spec"].get("deletionPolicy") == "Retain"

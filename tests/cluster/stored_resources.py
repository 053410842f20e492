"""What 0.1.0 left behind, as it was recorded, and the commands of the guide that lead from it and back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.installation import Installation
from cluster.played_metacontroller import PlayedMetacontroller
from support.api_client import ApiClient, ApiError, Object, ready_of
from support.documents import guide
from support.manifests import shell
from support.server import running_server

DATA = Path(__file__).parent / "data"
RELEASED_CRD = DATA / "crd_0.1.0.yaml"
STORED: dict[str, Any] = yaml.safe_load((DATA / "stored_0.1.0.yaml").read_text())
RESOURCES: dict[str, Object] = {item["metadata"]["name"]: item for item in STORED["resources"]}
INVALID = ("blank", "invalid", "unreadable")
"""Only the original operator's CRD let these in."""
APPLIED = "long"
"""Created by a server-side apply."""
TABLES = tuple(sorted({*STORED["rows"], "landing", "opened", "secret", "strict"}))
MORE_KINDS = """
    CREATE TABLE parted (id text PRIMARY KEY) PARTITION BY HASH (id);
    CREATE FOREIGN DATA WRAPPER none;
    CREATE SERVER none FOREIGN DATA WRAPPER none;
    CREATE FOREIGN TABLE far (id text) SERVER none;
"""
POLICY = {
    "rules": [
        {"namespaces": ["default"], "tables": ["*", "archive.*", "closed.*", "nowhere.*"]},
        {"namespaces": ["guests"], "tables": ["none"]},
    ]
}
"""What 0.1.0 was given, with a glob for each other schema."""

STUDENTS, PUPILS, STRICT = "public.students", "archive.pupils", "public.strict"
_SYNCED = "matches the spec"
_GRANT = "Grant them, or correct spec.table"
_CREATE = "create it or correct spec.table"
_ASK = "choose an allowed table or ask"
_CHOOSE = "choose an ordinary or partitioned table in spec.table"
EXPECTED: dict[str, tuple[str, list[str], str]] = {
    **{
        name: ("True/RowSynced", [STUDENTS], _SYNCED)
        for name in ("short", "long", "spelled", "down", "edited", "expired", "new", "released", "retain", "unseen")
    },
    **{name: ("True/RowSynced", [PUPILS], _SYNCED) for name in ("pupil", "late", "promoted")},
    "busy": ("True/RowSynced", ["public.locked"], _SYNCED),
    "guarded": ("True/RowSynced", ["public.guarded"], _SYNCED),
    "opened": ("True/RowSynced", ["public.opened"], _SYNCED),
    "renamed": ("True/RowSynced", ["public.landing"], _SYNCED),
    "replaced": ("True/RowSynced", ["public.graduates"], _SYNCED),
    "seen": ("True/RowSynced", ["public.alumni"], _SYNCED),
    "altered": ("True/RowSynced", [STUDENTS], "The row stands in table students."),
    "held": ("True/RowSynced", [STUDENTS], "The row stands in table students."),
    "paused": ("", [STUDENTS], ""),
    "never": ("False/TableNotFound", ["public.nowhere"], _CREATE),
    "astray": ("False/TableNotFound", ["nowhere.students"], _CREATE),
    **{name: ("False/AccessDenied", [], _GRANT) for name in ("denied", "barred")},
    "lost": ("False/AccessDenied", ["public.lost"], _GRANT),
    "rejected": ("False/RowRejected", [STRICT], "constraint strict_age_check"),
    "moving": ("False/RowRejected", [STUDENTS, STRICT], "constraint strict_age_check"),
    "out": ("False/RowRejected", [PUPILS, STRICT], "constraint strict_age_check"),
    "into": ("False/RowRejected", [STUDENTS, PUPILS], "constraint pupils_id_check"),
    **{name: ("False/RowRejected", [f"public.{name}"], _CHOOSE) for name in ("copied", "joined", "triggered")},
    "invalid": ("False/InvalidSpec", [STUDENTS], "spec.age must be a whole number"),
    "unreadable": ("False/InvalidSpec", [], "spec.table must be a table or schema.table"),
    "blank": ("False/InvalidSpec", [], "spec is required"),
    "refused": ("False/TableNotAllowed", [], _ASK),
    "shared": ("False/TableNotAllowed", ["public.shared"], _ASK),
    "kept": ("False/DeleteFailed", ["public.kept"], "set spec.deletionPolicy to Retain"),
    "deleted": ("False/RowDeleted", [], "waiting for another finalizer"),
    "retained": ("Unknown/Unmanaged", [STUDENTS], "left in place because spec.deletionPolicy is Retain"),
}
"""Ready, status.tables and a part of the message after the first sync; `unreached` and `ward` are deleted by it."""
WRITTEN = {
    "students": {"edited", "new", "expired", "unseen"},
    "archive.pupils": {"late", "promoted"},
    "landing": {"renamed"},
}
WRITTEN |= {"locked": {"busy"}, "opened": {"opened"}}
"""The rows that a user's edit, or 0.1.0's failure, left to be written."""
REMOVED = {"students": {"unreached", "renamed", "promoted"}, "alumni": {"ward"}}
REMOVED |= {"enrolments": REMOVED["students"], "marks": REMOVED["alumni"]}
"""The rows whose resource was being deleted, or was given another table, and what refers to them."""


Rows = dict[str, dict[str, tuple[Any, ...]]]
Touched = dict[str, set[str]]


def _names(ids: Touched) -> Touched:
    """Turn ids into names and leave out the tables of which there are none."""
    return {table: {key.split("/")[1] for key in keys} for table, keys in ids.items() if keys}


@dataclass
class Upgrade(Installation):
    """An install of 0.1.0 with what it stored, upgraded step by step; what each step found is kept."""

    client: ApiClient
    role: str
    folder: Path
    controller: str = "composite"
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    """What the guide's query said."""
    refused: set[str] = field(default_factory=set)
    """The resources whose spec.table could not be edited after the upgrade."""
    newborn: Object = field(default_factory=dict)
    """A resource that no sync had answered before the rollback, with a status that was written after it."""
    log: str = ""
    found: dict[str, dict[str, Object]] = field(default_factory=dict)
    """The resources by name, by when they were read."""
    held: dict[str, Rows] = field(default_factory=dict)
    """The rows with all columns, their place and their version, by table and id, by when they were read."""

    def sql(self, text: str) -> None:
        """Run statements in which the server's role has the name that the guide gives it."""
        self.database.query(re.sub(r"\bpostgres_writer\b", self.role, text))

    def look(self, when: str) -> None:
        """Keep what is in the cluster and in the database now."""
        self.found[when] = {item["metadata"]["name"]: item for item in self.client.resources()}
        self.held[when] = {
            table: {
                row[0]: row for row in self.database.query(f"SELECT *, ctid::text, xmin::text FROM {table} ORDER BY 1")
            }
            for table in TABLES
        }

    def touched(self, before: str, after: str) -> tuple[Touched, Touched]:
        """Return the rows that are new or another version between two looks, and those that are gone, by table."""
        pairs = {table: (self.held[before][table], self.held[after][table]) for table in TABLES}
        written = {table: {key for key in new if old.get(key) != new[key]} for table, (old, new) in pairs.items()}
        removed = {table: old.keys() - new.keys() for table, (old, new) in pairs.items()}
        return _names(written), _names(removed)

    def unexpected(self, item: Object) -> str:
        """Return what is not as expected of the status of a resource after the first sync; an empty text if nothing."""
        verdict, tables, message = EXPECTED.get(item["metadata"]["name"], ("deleted", [], ""))
        ready, status = ready_of(item), item.get("status", {})
        found = "/".join((ready["status"], ready["reason"])) if ready else ""
        same = (found, status.get("tables")) == (verdict, tables) and message in ready.get("message", "")
        return "" if same else json.dumps(status)

    def store(self, *names: str) -> None:
        """Bring resources to the spec, the generation, the finalizers and the deletion that they had."""
        for name in names:
            known, spec = RESOURCES[name]["metadata"], RESOURCES[name].get("spec")
            where = (known["namespace"], name)
            metadata = {key: known[key] for key in ("namespace", "name", "annotations") if key in known}
            finalizers = [finalizer.replace("composite", self.controller) for finalizer in known.get("finalizers", ())]
            deleted = "deletionTimestamp" in known
            for left in range(known["generation"] - deleted - 1, -1, -1):
                edited = {**spec, "age": spec["age"] + left} if spec else {}
                if self.client.get(*where) is None:
                    manifest = {**self.client.manifest(*where), "spec": edited or None}
                    manifest["metadata"] = {**metadata, "finalizers": finalizers}
                    self.client.create(manifest)
                else:
                    self.client.edit(*where, **edited)
            if deleted:
                self.client.delete(*where)

    def answer(self, *names: str) -> None:
        """Store the statuses as Metacontroller does."""
        for name in names:
            stored = RESOURCES[name]
            now = self.client.get(stored["metadata"]["namespace"], name) or {}
            assert (now["metadata"]["generation"], now.get("spec")) == (
                stored["metadata"]["generation"],
                stored.get("spec"),
            )
            if "status" in stored:
                now = self.put_status({**now, "status": stored["status"]})
            assert now.get("status") == stored.get("status")

    def put_status(self, resource: Object) -> Object:
        """Write a status as Metacontroller does: the whole object, on the subresource."""
        path = self.client.path(resource["metadata"]["namespace"], resource["metadata"]["name"])
        found: Object = self.client.request("PUT", f"{path}/status?fieldManager=metacontroller", resource)
        return found

    def fill(self) -> None:
        """Create the tables, with the rows that 0.1.0 left."""
        self.sql(STORED["tables"])
        self.database.query(MORE_KINDS)
        with self.database.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            for table, rows in STORED["rows"].items():
                for row in rows:
                    cursor.execute(f"INSERT INTO {table} VALUES ({','.join(['%s'] * len(row))})", row)
        self.sql(STORED["changes"])

    def stop(self) -> None:
        """Stop the pods with the guide's commands, without the pause."""
        shell(self.cluster, f"sleep() {{ :; }}\n{guide('From 0.1.0')[1]}")

    def sync(self, when: str, rounds: int = 2) -> None:
        """Run this release with 0.1.0's settings, sync everything, and look after each round."""
        policy = self.folder / "policy"
        policy.write_text(json.dumps(POLICY))
        login = {"PSQL_USER": self.role, "PSQL_PASSWORD": "secret"}
        files = {"HOOK_TOKENS_FILE": str(self.mount_tokens(self.folder)), "HOOK_TABLE_POLICY_FILE": str(policy)}
        with running_server(self.database, **STORED["settings"], **login, **files) as server:
            player = PlayedMetacontroller(self.client, server.url)
            for number in range(1, rounds + 1):
                player.round()
                self.look(f"{when} {number}")
            self.log = server.logs

    def name(self, old: str, new: str) -> str:
        """Run step 4 of the guide for a table, and return what it printed."""
        command = guide("From 0.1.0")[2]
        assert command.startswith("OLD=pupils NEW=archive.pupils\n")
        return shell(self.cluster, command.replace("OLD=pupils NEW=archive.pupils", f"OLD={old} NEW={new}")).stdout

    def start(self) -> None:
        """Apply this release with the guide's commands."""
        shell(self.cluster, guide("From 0.1.0")[3])

    def replicas(self) -> str:
        """Return how many pods the Deployment asks for."""
        command = ("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", "jsonpath={.spec.replicas}")
        return self.cluster.kubectl(*command).stdout

    def meanings(self) -> list[tuple[Any, ...]]:
        """Ask what each table means as the role, with the guide's command and query."""
        names = shell(self.cluster, guide("From 0.1.0")[0]).stdout.strip()
        query = guide("From 0.1.0", "sql")[0].rstrip().rstrip(";")
        assert query.count("'students'") == 1
        query = query.replace("'students'", f"{names},'far','parted'")
        login = {"user": self.role, "password": "secret"}
        with self.database.connection(**login) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def applied(self, table: str) -> Object:
        """Return what a user's server-side apply would make of the resource that was created by one."""
        manifest = {**self.client.manifest("default", APPLIED), "spec": {**RESOURCES[APPLIED]["spec"], "table": table}}
        command = ("apply", "--server-side", "--dry-run=server", "--output=json", "--filename=-")
        found: Object = json.loads(self.cluster.kubectl(*command, input=json.dumps(manifest)).stdout)
        return found

    def frozen(self) -> set[str]:
        """Return the resources whose spec.table the API server would not let a user edit now."""
        found = set()
        for name, item in self.found["upgraded 2"].items():
            path = self.client.path(item["metadata"]["namespace"], name) + "?dryRun=All"
            spec = {"name": "alex", "age": 23, "country": "canada", **item.get("spec", {}), "table": "elsewhere"}
            try:
                self.client.request("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")
            except ApiError:
                found.add(name)
        return found

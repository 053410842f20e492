"""Tables between 0.1.0, which compared them as written, and this release: the commands of the guide, both ways."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.conftest import apply_crd
from cluster.installation import Installation
from cluster.round_trip import ready, write_statuses
from support.custom_resource import KIND, Resource, condition
from support.documents import guide
from support.manifests import shell
from support.payloads import payload
from support.server import running_server
from support.spec_cases import SpecCase, spec_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Database

# an installation, and some thirty calls of kubectl

RELEASED_CRD = Path(__file__).parent / "data" / "crd_0.1.0.yaml"
NAMES = {"short": "students", "long": "public.students", "pupil": "pupils", "seen": "seen", "never": "nowhere"}
"""The resources, and what their spec.table says."""
RELATIONS = {
    "short": "public.students",
    "long": "public.students",
    "pupil": "archive.pupils",
    "seen": "public.alumni",
    "never": "public.nowhere",
}
SETUP = """
    ALTER TABLE students ADD grade text;
    CREATE TABLE enrolments (sid text REFERENCES students ON DELETE CASCADE);
    CREATE SCHEMA archive;
    CREATE TABLE archive.pupils (LIKE students INCLUDING ALL);
    CREATE TABLE alumni (LIKE students INCLUDING ALL);
    CREATE VIEW seen AS SELECT * FROM alumni;
    CREATE MATERIALIZED VIEW copied AS SELECT * FROM alumni;
    CREATE TABLE guarded (LIKE students INCLUDING ALL);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE TABLE parted (id text PRIMARY KEY) PARTITION BY HASH (id);
    CREATE FOREIGN DATA WRAPPER none;
    CREATE SERVER none FOREIGN DATA WRAPPER none;
    CREATE FOREIGN TABLE far (id text) SERVER none;
    INSERT INTO students VALUES ('default/short', 'alex', 23, 'canada', 'A');
    INSERT INTO students VALUES ('default/long', 'alex', 23, 'canada', 'A');
    INSERT INTO archive.pupils VALUES ('default/pupil', 'alex', 23, 'canada', 'B');
    INSERT INTO alumni VALUES ('default/seen', 'alex', 23, 'canada', 'C');
    INSERT INTO enrolments VALUES ('default/short'), ('default/long');
"""


@dataclass
class Installed010(Installation):
    """What 0.1.0 leaves: its CRD, resources with its statuses, their rows, and a role whose search_path finds them."""

    role: str = ""

    def resources(self) -> dict[str, dict[str, Any]]:
        """Read the resources, by name."""
        found = self.cluster.kubectl("--namespace", "default", "get", KIND, "--output=json").stdout
        return {item["metadata"]["name"]: item for item in json.loads(found)["items"]}

    def write(self, statuses: dict[str, dict[str, Any]]) -> None:
        """Replace the statuses as Metacontroller does."""
        found = self.resources()
        written = [{**found[name], "status": status} for name, status in statuses.items()]
        write_statuses(Resource(self.cluster, "default"), written)

    def rows(self) -> list[list[tuple[Any, ...]]]:
        """Return every row with all its columns and its version, and what refers to it."""
        tables = ("students", "archive.pupils", "alumni")
        found = [self.database.query(f"SELECT *, xmin::text FROM {table} ORDER BY id") for table in tables]
        return [*found, self.database.query("SELECT sid FROM enrolments ORDER BY sid")]

    def stop(self) -> None:
        """Stop the pods with the guide's commands, without the pause."""
        shell(self.cluster, f"sleep() {{ :; }}\n{guide('From 0.1.0')[1]}")

    def replicas(self) -> str:
        """Return how many pods the Deployment asks for."""
        command = ("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", "jsonpath={.spec.replicas}")
        return self.cluster.kubectl(*command).stdout


@pytest.fixture
def installed(installation: Installation, database: Database) -> Iterator[Installed010]:
    role = f"writer_{database.name}"
    database.query(SETUP)
    database.query(f"CREATE ROLE {role}")
    database.query(f"GRANT USAGE ON SCHEMA public, archive TO {role}")
    database.query(f"ALTER ROLE {role} SET search_path = archive, public")
    apply_crd(installation.cluster, RELEASED_CRD)
    found = Installed010(installation.cluster, database, role)
    items = [SpecCase("", spec_with(table=table)).manifest(name, "default") for name, table in NAMES.items()]
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    found.cluster.kubectl("create", "--filename=-", input=content)
    told = {"observedGeneration": 1, "conditions": [condition("True", "RowSynced", "The row stands in its table.")]}
    found.write(
        {
            name: {**told, "id": f"default/{name}", "observedTable": table, "tables": [table]}
            for name, table in NAMES.items()
        }
    )
    yield found
    database.query(f"DROP OWNED BY {role}")
    database.query(f"DROP ROLE {role}")


def asked(installed: Installed010, *more: str) -> list[tuple[Any, ...]]:
    """Run the guide's query as the server's role, with the names that the guide's command prints."""
    names = shell(installed.cluster, guide("From 0.1.0")[0]).stdout.strip()
    assert names == ",".join(f"'{name}'" for name in sorted(NAMES.values()))
    query = guide("From 0.1.0", "sql")[0].rstrip().rstrip(";")
    assert query.count("'students'") == 1
    query = query.replace("'students'", ",".join([names, *(f"'{name}'" for name in more)]))
    with installed.database.connection() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {installed.role}; SET search_path = archive, public")
        cursor.execute(query)
        return cursor.fetchall()


def test_the_query_tells_what_each_name_means_to_the_role(installed: Installed010) -> None:
    assert asked(installed, "copied", "far", "guarded", "parted") == [
        ("pupils", "archive", "table", False),
        ("copied", "public", "materialized view", False),
        ("far", "public", "foreign table", False),
        ("guarded", "public", "table", True),
        ("parted", "public", "partitioned table", False),
        ("public.students", "public", "table", False),
        ("seen", "public", "view", False),
        ("students", "public", "table", False),
        ("nowhere", None, None, None),
    ]


def upgrade(installed: Installed010) -> None:
    """Run steps 3 to 5 of the guide."""
    _, _, name_schema, start = guide("From 0.1.0")
    installed.stop()
    assert installed.replicas() == "0"
    shell(installed.cluster, name_schema)
    assert name_schema.startswith("OLD=pupils NEW=archive.pupils\n")
    shell(installed.cluster, name_schema.replace("OLD=pupils NEW=archive.pupils", "OLD=seen NEW=public.alumni"))
    shell(installed.cluster, start)
    assert installed.replicas() == "2"


def synced(installed: Installed010) -> dict[str, dict[str, Any]]:
    """Sync each resource once, and return the statuses."""
    with running_server(installed.database) as server:
        found = installed.resources().items()
        statuses = {name: server.post("sync", payload(item)).json()["status"] for name, item in found}
    installed.write(statuses)
    return statuses


def test_the_upgrade_touches_no_row_and_writes_each_status_once(installed: Installed010) -> None:
    before = installed.rows()
    upgrade(installed)
    first = synced(installed)
    assert {name: status["tables"] for name, status in first.items()} == {
        name: [relation] for name, relation in RELATIONS.items()
    }
    assert {name: ready(status)[0] for name, status in first.items()} == {
        **dict.fromkeys(NAMES, "True"),
        "never": "False",
    }
    assert synced(installed) == first
    assert installed.rows() == before


def test_the_way_back_gives_0_1_0_the_spellings_that_it_compares(installed: Installed010) -> None:
    """It moves a row unless the status lists the very text of spec.table, with a delete and an insert."""
    upgrade(installed)
    synced(installed)
    before = installed.rows()
    moving = installed.resources()["short"]["status"]
    installed.write({"short": {**moving, "tables": ["public.alumni", "public.students"]}})
    installed.stop()
    (path,) = guide("Back to 0.1.0", "sql")
    installed.database.query(re.sub(r"\bpostgres_writer\b", installed.role, path))
    (command,) = guide("Back to 0.1.0")
    shell(installed.cluster, command)
    apply_crd(installed.cluster, RELEASED_CRD)
    found = installed.resources()
    specs = {name: item["spec"]["table"] for name, item in found.items()}
    assert specs == {**NAMES, "pupil": "archive.pupils", "seen": "public.alumni"}
    spelled = {name: [table] for name, table in specs.items()}
    listed = {name: item["status"]["tables"] for name, item in found.items()}
    assert listed == {**spelled, "short": ["public.alumni", "students"]}
    assert installed.rows() == before
    assert "patched" not in shell(installed.cluster, command).stdout, "again it changes nothing"

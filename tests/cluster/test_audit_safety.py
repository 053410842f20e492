"""Pruning on a real API server and a real database: what must not be deleted, however it is looked at."""

from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cluster.audit_setting import PGW, Asked, Setting
from postgres_writer.audit.cluster import Cluster
from postgres_writer.audit.compare import Audit
from postgres_writer.audit.spool import Spool
from postgres_writer.core.row import KINDS, Kind
from postgres_writer.database.statements import lock_key
from support.payloads import payload
from support.planted import DOUBLES
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from support.apiserver import ApiServer

pytestmark = pytest.mark.long


def prune(setting: Setting, *arguments: str) -> subprocess.CompletedProcess[str]:
    return setting.audit("--prune", "--yes", *arguments)


@contextmanager
def search_path(setting: Setting, path: str) -> Iterator[None]:
    """Give the audit's role another search_path in this database."""
    role = setting.database.query("SELECT current_user")[0][0]
    alter = f"ALTER ROLE {role} IN DATABASE {setting.database.name}"
    setting.database.query(f"{alter} SET search_path = {path}")
    try:
        yield
    finally:
        setting.database.query(f"{alter} RESET search_path")


def test_a_search_path_that_hides_the_live_table_deletes_nothing(setting: Setting) -> None:
    setting.apply("live")
    setting.apply("bystander", table="public.students")
    setting.row("live", "bystander")
    setting.database.query("CREATE SCHEMA copies")
    setting.database.create_table("copies.students")
    setting.database.query("INSERT INTO copies.students SELECT * FROM public.students")
    with search_path(setting, "copies, public"):
        assert setting.findings() == []
        done = prune(setting)
        named = prune(setting, f"{setting.namespace}/live")
    assert done.returncode == 0, done.stderr
    assert "no row to prune" in done.stdout
    assert named.returncode == 2
    assert setting.rows("public.students") == ["bystander", "live"]


@pytest.mark.parametrize("status", ["of this release", "of 0.1.0"])
def test_another_psql_schema_than_the_server_s_deletes_nothing(setting: Setting, status: str) -> None:
    """The server's is copies; the audit reads spec.table as a table of another program, with the same ids."""
    setting.database.query("CREATE SCHEMA copies")
    setting.database.create_table("copies.students")
    setting.database.create_table("old")
    for table in ("copies.students", "public.students", "old"):
        setting.row("live", table=table)
    setting.row("theirs", table="public.students")
    setting.apply("live")
    tables = ["copies.students"] if status == "of this release" else ["students"]
    patch = json.dumps({"status": {"tables": tables}})
    setting.kubectl("patch", PGW, "live", "--subresource=status", "--type=merge", f"--patch={patch}")
    for options in ((), ("--table", "old")):
        assert "no row to prune" in prune(setting, *options).stdout
    assert setting.rows("copies.students") == setting.rows("old") == ["live"]
    assert setting.rows("public.students") == ["live", "theirs"]


def test_what_others_plant_in_the_search_path_is_not_run_while_rows_are_deleted(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.double()
    setting.row("orphan")
    setting.database.query(DOUBLES)
    with search_path(setting, "planted, pg_catalog, public"):
        done = prune(setting, "--table", "old")
    assert "2 of 2 rows deleted." in done.stdout, done.stdout + done.stderr
    assert (setting.rows(), setting.rows("old")) == (["double"], [])


def test_the_stray_row_of_a_parent_goes_without_the_child_s_row(setting: Setting) -> None:
    setting.database.create_table("parent")
    setting.database.query("CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")
    setting.apply("both", table="child")
    setting.row("both", table="parent")
    setting.row("both", table="child")
    done = prune(setting, "--table", "parent")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 rows deleted." in done.stdout
    assert setting.database.query("SELECT count(*) FROM ONLY parent") == [(0,)]
    assert setting.database.query("SELECT count(*) FROM child") == [(1,)]


def test_a_duplicate_is_kept_once_it_is_the_only_row(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.double()
    asked = Asked(setting, "--table", "old", "--prune")
    setting.database.query("DELETE FROM students")
    code, said = asked.answer("y")
    assert (code, "it may be the row that its resource needs" in said) == (1, True), said
    assert setting.rows("old") == ["double"]


def test_a_table_that_was_exchanged_between_show_and_delete_keeps_its_rows(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "orphan")
    asked = Asked(setting, "--prune")
    setting.database.query("ALTER TABLE students RENAME TO former")
    setting.database.query("CREATE TABLE students AS TABLE former")
    code, said = asked.answer("y")
    assert (code, "0 of 1 rows deleted." in said) == (1, True), said
    assert setting.rows("students") == setting.rows("former") == ["bystander", "orphan"]


def test_of_two_rows_with_one_id_in_a_table_without_a_key_the_statement_takes_one(setting: Setting) -> None:
    setting.database.query("CREATE TABLE loose (id text, name text, age int, country text)")
    setting.apply("bystander")
    setting.row("bystander")
    setting.row("twin", "twin", table="loose")
    asked = Asked(setting, "--table", "loose", "--prune")
    assert asked.shown.count("/twin") == 2
    code, said = asked.answer("y")
    assert (code, "2 of 2 rows deleted." in said) == (0, True), said
    setting.apply("double", table="loose")
    setting.row("double", "double", table="loose")
    assert setting.findings() == [("duplicate", "double")]
    assert "no row to prune" in prune(setting).stdout


def test_a_partition_s_row_is_pruned_through_its_parent(setting: Setting) -> None:
    setting.database.query(
        "CREATE TABLE parted (id text PRIMARY KEY, name text, age int, country text) PARTITION BY HASH (id)"
    )
    for number in range(2):
        bounds = f"FOR VALUES WITH (MODULUS 2, REMAINDER {number})"
        setting.database.query(f"CREATE TABLE part_{number} PARTITION OF parted {bounds}")
    setting.apply("kept", table="parted")
    setting.row("kept", *(f"orphan-{number}" for number in range(6)), table="parted")
    done = prune(setting)
    assert "6 of 6 rows deleted." in done.stdout, done.stdout + done.stderr
    assert setting.rows("parted") == ["kept"]


def test_a_row_behind_a_view_is_never_pruned(setting: Setting) -> None:
    setting.database.query("CREATE VIEW seen AS SELECT * FROM students")
    setting.apply("bystander", table="seen")
    setting.row("bystander", "orphan")
    assert setting.findings() == [("unreadable", "")]
    assert "no row to prune" in prune(setting).stdout
    assert setting.rows() == ["bystander", "orphan"]


def test_a_database_or_cluster_in_which_nothing_fits_is_not_emptied(setting: Setting) -> None:
    setting.apply("elsewhere")
    setting.row("orphan-1", "orphan-2")
    done = prune(setting)
    assert done.returncode == 2
    assert "has its row in this database" in done.stderr
    assert setting.rows() == ["orphan-1", "orphan-2"]


def check_both_stay(setting: Setting) -> None:
    """Check that a second row of a resource is not deleted: with it the first one would go."""
    setting.double()
    done = prune(setting, "--table", "old")
    assert (done.returncode, "0 of 1 rows deleted." in done.stdout) == (1, True), done.stdout
    assert setting.rows() == setting.rows("old") == ["double"]


def test_a_rule_that_deletes_the_live_row_instead_is_rolled_back(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.database.query(
        "CREATE RULE sly AS ON DELETE TO old DO INSTEAD DELETE FROM students WHERE students.id = OLD.id"
    )
    check_both_stay(setting)


def test_a_trigger_that_would_take_the_live_row_along_is_rolled_back(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.database.query(
        "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN DELETE FROM students WHERE id = OLD.id; RETURN OLD; END $$"
    )
    setting.database.query("CREATE TRIGGER follow AFTER DELETE ON old FOR EACH ROW EXECUTE FUNCTION follow()")
    check_both_stay(setting)


@pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_row_that_a_trigger_writes_again_is_not_called_deleted(setting: Setting, when: str) -> None:
    setting.apply("bystander")
    setting.row("bystander", "orphan")
    setting.database.query(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO students VALUES (OLD.*); RETURN OLD; END $$"
    )
    trigger = "CREATE CONSTRAINT TRIGGER" if when else "CREATE TRIGGER"
    setting.database.query(f"{trigger} again AFTER DELETE ON students {when} FOR EACH ROW EXECUTE FUNCTION again()")
    done = prune(setting)
    assert (done.returncode, "a trigger or a rule keeps it" in done.stdout) == (1, True), done.stdout
    assert setting.rows() == ["bystander", "orphan"]


def test_nothing_acts_behind_the_look(setting: Setting) -> None:
    """A trigger that is deferred again runs at the commit, after the look."""
    setting.apply("bystander")
    setting.row("bystander", "orphan")
    setting.database.query(
        "CREATE TABLE armed (x int);"
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" INSERT INTO students VALUES ('{setting.namespace}/orphan', 'back', 1, 'x'); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON armed DEFERRABLE FOR EACH ROW EXECUTE FUNCTION late();"
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN SET CONSTRAINTS late DEFERRED; INSERT INTO armed VALUES (1); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER act AFTER DELETE ON students DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION act()"
    )
    done = prune(setting)
    assert (done.returncode, "PostgreSQL refuses it (SQLSTATE 25006)" in done.stdout) == (1, True), done.stdout
    assert setting.rows() == ["bystander", "orphan"]


def test_a_row_with_a_write_in_flight_is_kept(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "orphan")
    with setting.database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(f"{setting.namespace}/orphan"),))
        done = prune(setting)
    assert (done.returncode, "a write of it is in progress" in done.stdout) == (1, True), done.stdout
    assert setting.rows() == ["bystander", "orphan"]


def test_tables_that_no_status_lists_are_not_emptied(setting: Setting) -> None:
    """Another cluster's table in the same database, and one that a user's spec merely names."""
    setting.database.create_table("theirs")
    setting.database.create_table("inventory")
    setting.apply("bystander")
    setting.cluster.kubectl("create", "-f", "-", input=json.dumps(never_synced(setting, "greedy", "inventory")))
    setting.row("bystander")
    setting.row("a", table="theirs")
    setting.row("b", table="inventory")
    assert ("no-resource", "a") in setting.findings("--all-tables")
    assert "no row to prune" in prune(setting, "--all-tables").stdout
    assert "1 of 1 rows deleted." in prune(setting, "--table", "inventory").stdout
    assert (setting.rows("theirs"), setting.rows("inventory")) == (["a"], [])


def never_synced(setting: Setting, name: str, table: str) -> dict[str, object]:
    return {
        "apiVersion": "demo.yash.com/v1",
        "kind": "PostgresWriter",
        "metadata": {"name": name, "namespace": setting.namespace},
        "spec": {"table": table, "name": "alex", "age": 23, "country": "canada"},
    }


def test_two_audits_and_a_writer_at_once_delete_each_orphan_once_and_nothing_else(setting: Setting) -> None:
    """Two prunes and a repair run over the same rows while live rows are written as the hook server writes them."""
    setting.apply("live-1", "live-2")
    setting.row("live-1", "live-2", *(f"orphan-{number}" for number in range(6)))
    commands = [("--prune", "--yes"), ("--prune", "--yes"), ("--repair",)]
    running = [
        subprocess.Popen(
            setting.command(*arguments),
            env=setting.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for arguments in commands
    ]
    write = "INSERT INTO students VALUES (%s, 'alex', %s, 'canada') ON CONFLICT (id) DO UPDATE SET age = EXCLUDED.age"
    rounds = 0
    while any(process.poll() is None for process in running):
        rounds += 1
        for name in ("live-1", "live-2"):
            setting.database.query(write, f"{setting.namespace}/{name}", rounds % 100)
    said = [process.communicate()[0] for process in running]
    deleted = [int(found[1]) for text in said[:2] if (found := re.search(r"(\d+) of \d+ rows deleted", text))]
    assert sum(deleted) == 6, said
    assert setting.rows() == ["live-1", "live-2"]


def test_a_resource_that_is_created_and_synced_during_a_prune_has_its_row_afterwards(setting: Setting) -> None:
    """Whichever comes first at the lock of the id: the row is kept, or it is deleted and written again."""
    setting.apply("bystander")
    names = [f"back-{number}" for number in range(4)]
    setting.row("bystander", *names)
    manifests = [never_synced(setting, name, "students") for name in names]
    with running_server(setting.database) as server:
        pruning = subprocess.Popen(
            setting.command("--prune", "--yes"),
            env=setting.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for manifest in manifests:
            setting.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
            while ready(server.post("sync", payload(manifest)).json()) != "True":
                time.sleep(0.05)
        said, _ = pruning.communicate(timeout=60)
        assert setting.rows() == [*names, "bystander"], said


def ready(answer: dict[str, Any]) -> str:
    [found] = [str(one["status"]) for one in answer["status"]["conditions"] if one["type"] == "Ready"]
    return found


class Expiring(Cluster):
    """The real API server, which forgets the state of one list (the first is 1) after its first page."""

    server: ApiServer
    lists = 0
    expires = 1

    def pages(
        self, namespace: str | None = None, page: int = 1000, kinds: Iterable[Kind] = KINDS.values()
    ) -> Iterator[list[dict[str, Any]]]:
        self.lists += 1
        for number, found in enumerate(super().pages(namespace, page, kinds)):
            yield found
            if (self.lists, number) == (self.expires, 0):
                self.server.kubectl("annotate", "--all", "--overwrite", "-n", str(namespace), PGW, "changed=since")
                self.server.compact()
                self.server.restart()


@pytest.mark.parametrize(("expires", "lists"), [(1, 3), (2, 3)], ids=["the first look", "the second look"])
def test_a_list_that_expires_half_way_makes_no_row_an_orphan(
    expires: int, lists: int, setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("postgres_writer.audit.compare.PAGE", 2)
    monkeypatch.setattr("postgres_writer.audit.compare._LARGER_PAGE", 10)
    monkeypatch.setattr("postgres_writer.audit.compare._FEW_IDS", 0)
    # the API server ends with the thread that started it, so it is not restarted from the one that reads ahead
    monkeypatch.setattr("postgres_writer.audit.compare.ahead", iter)
    names = [f"student-{number}" for number in range(6)]
    setting.apply(*names)
    # more than are read one by one
    orphans = [f"orphan-{number}" for number in range(4)]
    setting.row(*names, *orphans)
    (tmp_path / "token").write_text(setting.cluster.token)
    (tmp_path / "ca.crt").write_bytes(setting.cluster.certificate.read_bytes())
    host, _, port = setting.cluster.url.removeprefix("https://").partition(":")
    source = Expiring({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, tmp_path)
    source.server, source.expires = setting.cluster, expires
    with closing(source), closing(Spool()) as spool:
        databases = {"default": setting.database.config()}
        audit = Audit(source, databases, spool, namespace=setting.namespace, confirm_after=0)
        audit.run()
        assert (source.lists, audit.resources, audit.matched["default"]) == (lists, 6, 6)
        assert [(finding.kind.value, finding.id) for finding in spool.findings()] == [
            ("no-resource", f"{setting.namespace}/{orphan}") for orphan in orphans
        ]

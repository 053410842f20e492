"""A name means one relation, function, operator, type and collation, whatever the session would take it for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database import qualified
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import ROW, Limited, Subject
from support.ways import both_ways, in_turn, is_prepared

PATH = "ALTER DATABASE {} SET search_path = public, pg_catalog"
"""As a database has it in which what others put into public comes first."""
OPERATORS = ("=", "<>", "<", ">", "||", "*=", "~*")
TYPES = ("text", "name", "jsonb", "int4", "int8", "float8", "bool", "regclass", "record", "oid", "timestamptz")
PLANTED_FUNCTIONS = """
DO $do$ DECLARE found record; BEGIN
    FOR found IN SELECT proname, pg_get_function_identity_arguments(oid) AS takes, pg_get_function_result(oid) AS gives
        FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proname = ANY (%s)
        AND '"any"'::regtype <> ALL (proargtypes)  -- PL/pgSQL cannot have it, and the audit's statements use concat()
    LOOP
        EXECUTE format('CREATE FUNCTION public.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS'
            ' $$ BEGIN RAISE EXCEPTION ''planted''; END $$', found.proname, found.takes, found.gives);
    END LOOP;
END $do$
"""
PLANTED_OPERATORS = """
DO $do$ DECLARE found record; BEGIN
    FOR found IN
        SELECT DISTINCT o.name, l.left, r.right, CASE WHEN o.name = '||' THEN 'text' ELSE 'boolean' END AS gives
        FROM unnest(%s) AS o (name), unnest(ARRAY['text', 'varchar', 'name', 'bool', 'int4', 'int8', 'oid', 'record',
        '"char"', 'float8', 'timestamptz']) AS l ("left"), unnest(ARRAY['text', 'varchar', 'name', 'bool', 'int4',
        'int8', 'oid', 'record', '"char"', 'float8', 'timestamptz']) AS r ("right")
        WHERE (l.left = r.right) OR (l.left || r.right) IN ('varchartext', 'textvarchar', 'nametext', 'textname')
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION public.planted_%%s(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS'
            ' $$ BEGIN RAISE EXCEPTION ''planted''; END $$', found.gives, found.left, found.right, found.gives);
        EXECUTE format('CREATE OPERATOR public.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = public.planted_%%s)',
            found.name, found.left, found.right, found.gives);
    END LOOP;
END $do$
"""


@pytest.fixture
def store(request: pytest.FixtureRequest, database: Database) -> Iterator[Store]:
    """Make a store of one connection, which every resource of a test uses."""
    store = Store(database.config(prepared_statements=is_prepared(request)), 1)
    yield store
    store.close()


@pytest.fixture
def subject(store: Store) -> Subject:
    return Subject(store)


def resources(store: Store, count: int) -> list[Subject]:
    return [Subject(store, metadata={"name": f"r{number}"}) for number in range(count)]


def lives(database: Database, subject: Subject) -> None:
    """Check every kind of message: a row comes, stays, changes, heals, moves, is refused, and goes."""
    assert subject.sync() is Operation.INSERTED, subject.message
    assert database.rows() == [ROW]
    assert subject.sync() is Operation.UNCHANGED
    assert subject.edit(age=24).sync() is Operation.UPDATED
    database.query("DELETE FROM public.students")
    assert subject.sync() is Operation.INSERTED
    assert subject.edit(age=23, table="pupils").sync() is Operation.MOVED
    subject.edit(table="nowhere").sync()
    assert (subject.ready, subject.tables) == ("False TableNotFound", ["public.pupils", "public.nowhere"])
    subject.edit(age=-1).sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", ["public.pupils", "public.nowhere"])
    subject.status["tables"] = ["public.pupils"]
    subject.edit(age=23).sync()
    assert subject.ready == "False TableNotFound"
    assert (database.rows(), database.rows("pupils")) == ([], [ROW])
    assert subject.finalize()
    assert database.rows("pupils") == []


# Relations


LEAVES = {
    "a search path": "SET search_path TO other;",
    "a search path with the schema of temporary tables first": "SET search_path TO pg_temp, other, public;",
    "a temporary table": "CREATE TEMP TABLE IF NOT EXISTS students (LIKE public.students INCLUDING ALL);",
}


@in_turn("store", "body", LEAVES)
def test_what_a_trigger_leaves_in_the_session_is_no_other_table(database: Database, store: Store, body: str) -> None:
    database.query(
        "CREATE TABLE pupils (LIKE students INCLUDING ALL); CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;"
        "CREATE TABLE other.students (LIKE students INCLUDING ALL); CREATE FUNCTION act() RETURNS trigger"
        f" LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;"
        "CREATE TRIGGER act BEFORE INSERT ON pupils FOR EACH ROW EXECUTE FUNCTION act()"
    )
    before, after = resources(store, 5), resources(store, 10)[5:]
    for each in before:
        each.sync()
    Subject(store).edit(table="pupils").sync()
    for each in (*before, *after):
        each.sync()
        assert each.ready == "True RowSynced"
    assert len(database.rows("public.students")) == 10
    assert database.rows("other.students") == []
    assert [each.finalize() for each in (*before, *after)] == [True] * 10
    assert database.rows("public.students") == []


@both_ways("store")
def test_a_table_that_appears_earlier_in_the_path_is_another_one(database: Database, subject: Subject) -> None:
    database.query(
        f"CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;"
        f"ALTER DATABASE {database.name} SET search_path = other, public"
    )
    subject.sync()
    database.query("CREATE TABLE other.students (LIKE public.students INCLUDING ALL)")
    subject.store.close()
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert len(database.rows("public.students")) == 1
    assert database.rows("other.students") == []
    assert subject.finalize()
    assert database.rows("public.students") == []


def test_the_path_of_the_role_is_left_to_its_triggers(database: Database, subject: Subject) -> None:
    database.query(
        "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC; CREATE TABLE other.log (id text);"
        f"ALTER DATABASE {database.name} SET search_path = other;"
        "CREATE FUNCTION public.act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES (NEW.id); RETURN NEW; END $$;"
        "CREATE TRIGGER act BEFORE INSERT ON public.students FOR EACH ROW EXECUTE FUNCTION public.act()"
    )
    assert subject.sync() is Operation.INSERTED
    assert database.query("SELECT id FROM other.log") == [(ROW[0],)]


@pytest.mark.parametrize("status", ["as today", "of an older release"])
def test_two_spellings_of_one_table_are_no_move(database: Database, subject: Subject, status: str) -> None:
    database.query(
        "ALTER TABLE students ADD grade text;CREATE TABLE enrolments (sid text REFERENCES students ON DELETE CASCADE)"
    )
    subject.sync()
    database.query("UPDATE students SET grade = 'A'; INSERT INTO enrolments VALUES (%s)", ROW[0])
    if status != "as today":
        subject.status["tables"] = ["students"]
    for table in ("public.students", "students"):
        assert subject.edit(table=table).sync() is Operation.UNCHANGED
        assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
        assert subject.status["observedTable"] == table
    assert database.query("SELECT grade FROM students") == [("A",)]
    assert database.query("SELECT sid FROM enrolments") == [(ROW[0],)]
    subject.status["tables"] = ["students"]
    assert subject.finalize()
    assert database.rows() == []


def test_a_table_without_a_schema_is_in_the_one_that_is_set(database: Database, subject: Subject) -> None:
    database.query("CREATE SCHEMA school; GRANT USAGE ON SCHEMA school TO PUBLIC")
    database.create_table("school.students")
    subject.schema = "school"
    assert subject.sync() is Operation.INSERTED
    assert (subject.tables, database.rows("school.students"), database.rows()) == (["school.students"], [ROW], [])
    assert subject.edit(table="public.students").sync() is Operation.MOVED
    assert (subject.tables, database.rows("school.students"), database.rows()) == (["public.students"], [], [ROW])


USED = ("gone", "d", "cur", "upd", "put", "x", "v", "l", "excluded", "pg_temp_1")


@in_turn("store", "table", {name: name for name in USED})
def test_a_table_may_have_any_name_that_the_messages_use(database: Database, subject: Subject, table: str) -> None:
    if table.startswith("pg_"):
        subject.edit(table=table).sync()
        assert subject.ready == "False InvalidSpec"
        return
    database.create_table(table)
    assert subject.edit(table=table).sync() is Operation.INSERTED
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert subject.sync() is Operation.UNCHANGED
    assert subject.edit(table="students").sync() is Operation.MOVED
    assert subject.edit(table=table).sync() is Operation.MOVED
    assert subject.finalize()
    assert database.rows(table) == []


# Functions, operators, types, collations


def plant(database: Database, what: str) -> None:
    """Put ``what`` into public, each of which would fail or lie, and let it come first."""
    if what == "functions":
        # the settings and the greeting, too, are qualified when the module is loaded
        database.query(PLANTED_FUNCTIONS, sorted(qualified._functions))
        [(planted,)] = database.query("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    elif what == "operators":
        database.query(PLANTED_OPERATORS, list(OPERATORS))
        [(planted,)] = database.query("SELECT count(*) FROM pg_operator WHERE oprnamespace = 'public'::regnamespace")
    else:
        database.query(";".join(f"CREATE DOMAIN public.{name} AS pg_catalog.text CHECK (false)" for name in TYPES))
        planted = len(TYPES)
    assert planted > 10
    database.query(PATH.format(database.name))


@pytest.mark.parametrize(
    ("what", "kind", "prepared"),
    [
        *((what, "text", prepared) for what in ("functions", "types") for prepared in (True, False)),
        *(("operators", kind, kind != "varchar") for kind in ("text", "varchar", "name")),
    ],
)
def test_nothing_that_is_planted_is_run(maintenance: Database, what: str, kind: str, prepared: bool) -> None:
    # a database of its own: what empties the one of the other tests would run it
    with maintenance.sibling() as database:
        database.create_table("pupils")
        database.query(f"ALTER TABLE students ALTER id TYPE {kind}")
        plant(database, what)
        store = Store(database.config(prepared_statements=prepared))
        lives(database, Subject(store))
        store.close()


def test_a_planted_function_of_a_user_does_not_run_as_the_writer(limited: Limited) -> None:
    """It would be preferred to the one of pg_catalog for an argument that is written as a regclass."""
    limited.grant("SELECT, INSERT, UPDATE, DELETE")
    limited.run(
        "CREATE TABLE caught (who text); GRANT INSERT ON caught TO PUBLIC;"
        "CREATE FUNCTION public.row_security_active(regclass) RETURNS boolean LANGUAGE sql AS"
        " 'INSERT INTO public.caught VALUES (current_user) RETURNING false'"
    )
    subject = limited.subject
    subject.sync()
    limited.revoke("DELETE")
    assert not subject.finalize()
    limited.grant("DELETE")
    assert subject.finalize()
    assert limited.database.query("SELECT who FROM caught") == []


def test_a_planted_collation_does_not_make_another_s_row_ours(contrib: Database) -> None:
    contrib.create_table("pupils")
    contrib.query(
        "CREATE COLLATION public.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "CREATE COLLATION public.\"C\" (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "ALTER TABLE students ALTER id TYPE text COLLATE caseless;"
        "INSERT INTO students VALUES ('Default/Sample', 'bob', 1, 'chile')"
    )
    contrib.query(PATH.format(contrib.name))
    store = Store(contrib.config())
    subject = Subject(store)
    subject.sync()
    assert subject.ready == "False RowRejected"
    assert subject.finalize()
    assert contrib.rows() == [("Default/Sample", "bob", 1, "chile")]
    store.close()

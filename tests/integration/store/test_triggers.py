"""What happens behind a statement: the answer says what the table holds afterwards, and a refusal leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import ROW, Subject
from support.waiting import wait_until
from support.ways import both_ways, in_turn, is_prepared

DEFERRED = "CONSTRAINT TRIGGER act AFTER {} ON students DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
SHOUT = "UPDATE students SET country = upper(country) WHERE country <> upper(country); RETURN NULL;"
CAP = "DELETE FROM students WHERE id = 'default/sample'; RETURN NULL;"
REDIRECT = "INSERT INTO pupils VALUES (NEW.*); RETURN NULL;"
WRITES = {
    "a row trigger changes the row": ("TRIGGER act AFTER {} ON students FOR EACH ROW", SHOUT),
    "a statement trigger changes the row": ("TRIGGER act AFTER {} ON students FOR EACH STATEMENT", SHOUT),
    "a deferred trigger changes the row": (DEFERRED, SHOUT),
    "a row trigger deletes the row": ("TRIGGER act AFTER {} ON students FOR EACH ROW", CAP),
    "a statement trigger caps the table": ("TRIGGER act AFTER {} ON students FOR EACH STATEMENT", CAP),
    "a deferred trigger deletes the row": (DEFERRED, CAP),
    "a row trigger doubles the row": (
        "TRIGGER act AFTER {} ON students FOR EACH ROW",
        "INSERT INTO kids VALUES (NEW.*); RETURN NULL;",
    ),
    "a row trigger renames the row": (
        "TRIGGER act AFTER {} ON students FOR EACH ROW",
        "UPDATE students SET id = 'default/other' WHERE id = NEW.id; RETURN NULL;",
    ),
    "a trigger redirects the row": ("TRIGGER act BEFORE {} ON students FOR EACH ROW", REDIRECT),
    "a trigger redirects another row too": (
        "TRIGGER act BEFORE {} ON students FOR EACH ROW",
        "INSERT INTO pupils VALUES (NEW.*); NEW.name := 'bob'; RETURN NEW;",
    ),
    "a trigger puts the row into a child": (
        "TRIGGER act BEFORE {} ON students FOR EACH ROW",
        "INSERT INTO kids VALUES (NEW.*); RETURN NEW;",
    ),
}
"""Triggers of students that leave something else than the row, and what they do."""
BACK = "INSERT INTO students VALUES (OLD.*); RETURN NULL;"
DELETES = {
    "a row trigger puts it back": ("TRIGGER act AFTER DELETE ON students FOR EACH ROW", BACK),
    "a statement trigger puts it back": (
        "TRIGGER act AFTER DELETE ON students REFERENCING OLD TABLE AS gone FOR EACH STATEMENT",
        "INSERT INTO students SELECT * FROM gone; RETURN NULL;",
    ),
    "a deferred trigger puts it back": (DEFERRED.format("DELETE"), BACK),
    "a trigger puts it into a child": (
        "TRIGGER act AFTER DELETE ON students FOR EACH ROW",
        "INSERT INTO kids VALUES (OLD.*); RETURN NULL;",
    ),
    "a trigger keeps it": ("TRIGGER act BEFORE DELETE ON students FOR EACH ROW", "RETURN NULL;"),
    "a trigger marks it as deleted": (
        "TRIGGER act BEFORE DELETE ON students FOR EACH ROW",
        "UPDATE students SET name = 'deleted' WHERE id = OLD.id; RETURN NULL;",
    ),
}
RULES = {
    "nothing": "NOTHING",
    "an update": "UPDATE students SET name = 'deleted' WHERE id = OLD.id",
    "an update that returns the row": "UPDATE students SET name = 'deleted' WHERE id = OLD.id RETURNING OLD.*",
}


@pytest.fixture
def subject(request: pytest.FixtureRequest, database: Database) -> Iterator[Subject]:
    """Make a resource, and beside its table another one and a child of it; its statements are prepared, or plain."""
    database.create_table("pupils")
    database.query("CREATE TABLE kids () INHERITS (students)")
    store = Store(database.config(prepared_statements=is_prepared(request)))
    yield Subject(store)
    store.close()


def create(database: Database, trigger: str, body: str) -> None:
    database.query(
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f"CREATE {trigger} EXECUTE FUNCTION act()"
    )


def everything(database: Database) -> list[list[tuple[object, ...]]]:
    """Return the rows of students (its child's too) and of pupils."""
    return [database.rows(), database.rows("pupils")]


def is_kept(database: Database, subject: Subject) -> None:
    """Check that neither finalize nor move takes the row away, and Retain is a way out."""
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students", "public.pupils"])
    assert everything(database) == [[ROW], []]
    for _ in range(2):
        assert not subject.finalize()
        assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
        assert "puts it back or keeps it" in subject.message
        assert "Retain" in subject.message
        assert everything(database) == [[ROW], []]
    subject.edit(deletionPolicy="Retain")
    assert subject.finalize()


@in_turn("subject", "trigger, body", WRITES)
def test_a_first_write_that_ends_otherwise_leaves_nothing(
    database: Database, subject: Subject, trigger: str, body: str
) -> None:
    create(database, trigger.format("INSERT"), body)
    for _ in range(3):
        subject.sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
        assert everything(database) == [[], []]
    assert subject.finalize()
    assert everything(database) == [[], []]


@in_turn("subject", "trigger, body", WRITES, 1)
def test_an_update_that_ends_otherwise_leaves_the_row_as_it_was(
    database: Database, subject: Subject, trigger: str, body: str
) -> None:
    subject.sync()
    create(database, trigger.format("UPDATE"), body)
    for _ in range(2):
        subject.edit(age=24).sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
        assert everything(database) == [[ROW], []]


@both_ways("subject")
def test_a_deferred_trigger_that_does_no_harm_is_none_of_our_business(database: Database, subject: Subject) -> None:
    create(database, DEFERRED.format("INSERT OR DELETE"), "INSERT INTO pupils VALUES (TG_OP, '', 0, ''); RETURN NULL;")
    assert subject.sync() is Operation.INSERTED
    assert subject.sync() is Operation.UNCHANGED
    assert subject.finalize()
    assert [row[0] for row in database.rows("pupils")] == ["DELETE", "INSERT"]


@in_turn("subject", "trigger, body", DELETES)
def test_a_delete_that_ends_otherwise_is_no_delete(
    database: Database, subject: Subject, trigger: str, body: str
) -> None:
    subject.sync()
    create(database, trigger, body)
    is_kept(database, subject)
    subject.edit(deletionPolicy="Delete")
    database.query("DROP TRIGGER act ON students")
    assert subject.finalize()
    assert everything(database) == [[], []]


@in_turn("subject", "rule", RULES)
def test_a_rule_instead_of_a_delete_is_no_delete(database: Database, subject: Subject, rule: str) -> None:
    subject.sync()
    database.query(f"CREATE RULE soft AS ON DELETE TO students DO INSTEAD {rule}")
    is_kept(database, subject)


def test_a_rule_beside_a_delete_does_not_keep_it(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("CREATE RULE note AS ON DELETE TO students DO ALSO INSERT INTO pupils VALUES (OLD.*)")
    assert subject.finalize()
    assert everything(database) == [[], [ROW]]


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
@pytest.mark.parametrize("rule", ["NOTHING", "INSERT INTO pupils VALUES (NEW.*)",
                                  "INSERT INTO pupils VALUES (NEW.*) RETURNING pupils.*"])  # fmt: skip
def test_a_rule_instead_of_a_write_leaves_nothing(database: Database, subject: Subject, event: str, rule: str) -> None:
    subject.sync()
    database.query(f"CREATE RULE act AS ON {event} TO students DO INSTEAD {rule}")
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert "a rule" in subject.message
    assert everything(database) == [[ROW], []]
    assert subject.finalize()


@both_ways("subject")
def test_a_child_that_has_the_id_already_makes_two_rows_and_is_refused(database: Database, subject: Subject) -> None:
    """A unique constraint covers a table, and not those that inherit from it."""
    database.query("INSERT INTO kids VALUES (%s, %s, %s, %s)", *ROW)
    database.query("UPDATE kids SET age = 5")
    subject.sync()
    assert subject.ready == "True RowSynced", "a row of a child is a row of the table"
    assert database.rows() == [ROW]
    database.query("INSERT INTO students SELECT * FROM kids")
    for age in (23, 24):
        subject.edit(age=age).sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
        assert "more than one row has its id" in subject.message
        assert database.rows() == [ROW, ROW]
    assert subject.finalize()
    assert database.rows() == []


@pytest.mark.parametrize("body", ["NEW.name := 'bob'; RETURN NEW;", "RETURN NULL;"], ids=["changes", "discards"])
def test_a_trigger_of_a_partition_is_one_of_the_table(database: Database, subject: Subject, body: str) -> None:
    database.query(
        "CREATE TABLE parts (LIKE pupils INCLUDING ALL) PARTITION BY HASH (id);"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    create(database, "TRIGGER act BEFORE INSERT ON parts_0 FOR EACH ROW", body)
    subject.edit(table="parts").sync()
    assert subject.ready == "False RowRejected"
    assert database.rows("parts") == []


def test_a_move_between_a_table_and_its_partition_is_one_row(database: Database, subject: Subject) -> None:
    database.query(
        "CREATE TABLE parts (LIKE pupils INCLUDING ALL) PARTITION BY HASH (id);"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    for table in ("parts", "parts_0", "parts"):
        subject.edit(table=table).sync()
        assert (subject.ready, subject.tables) == ("True RowSynced", [f"public.{table}"])
        assert database.rows("parts") == [ROW]
    assert subject.finalize()
    assert database.rows("parts") == []


@both_ways("subject")
def test_a_cascade_that_takes_the_written_row_away_undoes_the_move(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("ALTER TABLE pupils ADD FOREIGN KEY (id) REFERENCES students ON DELETE CASCADE")
    for _ in range(2):
        subject.edit(table="pupils").sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students", "public.pupils"])
        assert everything(database) == [[ROW], []]


SIDE_EFFECTS = {
    "the check of a domain": (
        "CREATE FUNCTION look(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {} RETURN true; END $$;"
        "CREATE DOMAIN seen AS text CHECK (look(value)); ALTER TABLE students ALTER name TYPE seen"
    ),
    "a trigger that is deferred again": (
        "CREATE TABLE armed (x int);"
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON armed DEFERRABLE FOR EACH ROW EXECUTE FUNCTION late();"
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN SET CONSTRAINTS late DEFERRED; INSERT INTO armed VALUES (1); RETURN NULL; END $$;"
        f"CREATE {DEFERRED.format('INSERT OR UPDATE OR DELETE')} EXECUTE FUNCTION act()"
    ),
}
"""What acts while the look is taken, or after it; {} stands for what it does."""


@in_turn("subject", "made", SIDE_EFFECTS)
def test_nothing_acts_behind_the_look_of_a_write(database: Database, subject: Subject, made: str) -> None:
    database.query(made.replace("{}", "DELETE FROM students;"))
    for _ in range(2):
        subject.sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
        assert "raised an error" in subject.message
        assert database.rows() == []
    assert subject.finalize()


@both_ways("subject")
def test_nothing_acts_behind_the_look_of_a_delete(database: Database, subject: Subject) -> None:
    subject.sync()
    made = SIDE_EFFECTS["a trigger that is deferred again"]
    back = "INSERT INTO students VALUES ('default/sample', 'alex', 23, 'canada') ON CONFLICT DO NOTHING;"
    database.query(made.replace("{}", back))
    assert not subject.finalize()
    assert subject.ready == "False DeleteFailed"
    assert database.rows() == [ROW]


RELOADS = {
    "deletes": "DELETE FROM students",
    "replaces": "DELETE FROM students; INSERT INTO students VALUES ('default/sample', 'bob', 1, 'peru')",
}


@pytest.mark.parametrize("reload", RELOADS.values(), ids=RELOADS)
@pytest.mark.parametrize("hook", ["sync", "finalize"])
def test_a_row_that_another_transaction_takes_away_meanwhile_is_no_trigger(
    database: Database, subject: Subject, reload: str, hook: str
) -> None:
    """The statement that waited for the other transaction sees neither its row nor the one that it put there."""
    subject.sync()
    subject.edit(age=24)
    with database.connection() as other, futures.ThreadPoolExecutor(1) as pool:
        other.autocommit = False
        other.cursor().execute(reload)
        call = pool.submit(getattr(subject, hook))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_until(lambda: database.query(waits) == [(1,)], "the hook waits for the row")
        other.commit()
        call.result()
    assert subject.ready == {"sync": "True RowSynced", "finalize": "False RowDeleted"}[hook], subject.message
    assert database.rows() == {"sync": [("default/sample", "alex", 24, "canada")], "finalize": []}[hook]


@both_ways("subject")
def test_a_constraint_that_reads_the_word_of_the_guards_only_refuses(database: Database, subject: Subject) -> None:
    """The query that runs holds the word; what follows it need not be the name of a guard."""
    word = "substring(current_query() FROM '''([0-9a-f]{16})''')"
    database.query(f"ALTER TABLE students ADD CHECK (({word} || ' nothing ' || age)::int > 0)")
    subject.sync()
    assert subject.ready == "False RowRejected"
    assert database.rows() == []


WORDS = ("readonly", "busy", "late", "kind", "missing", "double", "altered", "kept")


@in_turn("subject", "word", {word: word for word in WORDS})
def test_no_value_imitates_a_guard(database: Database, subject: Subject, word: str) -> None:
    """The column's type quotes the value in the same error that a guard fails with."""
    database.query("ALTER TABLE students ALTER name TYPE int USING 0")
    for name in (f"x {word} ", f"postgres-writer:{word}", word):
        subject.edit(name=name).sync()
        assert subject.ready == "False RowRejected"
        assert "does not have the form" in subject.message

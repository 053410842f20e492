"""What is hidden is not gone: row-level security, and views whose condition a row does not meet."""

from __future__ import annotations

import pytest

from integration.relay import relayed
from postgres_writer.core.plan import Operation
from postgres_writer.core.refusals import Access
from postgres_writer.database.store import Store
from postgres_writer.deadlines import Call
from support.postgres import Database
from support.subject import ROW, Limited, Subject

EVERY = "SELECT, INSERT, UPDATE, DELETE"
SECURE = "ALTER TABLE students ENABLE ROW LEVEL SECURITY;"
SHOW_ALL = "CREATE POLICY shown ON students USING (true);"
HIDE_ALL = "ALTER POLICY shown ON students USING (false) WITH CHECK (true)"
OWN_ROWS = (
    "ALTER TABLE students ADD owner text DEFAULT current_user;"
    "CREATE POLICY shown ON students USING (owner = current_user)"
)


@pytest.fixture
def secured(limited: Limited) -> Limited:
    """Give a role with every grant, on a table with row-level security and without a policy."""
    limited.grant(EVERY)
    limited.run(SECURE)
    return limited


# Deletion


@pytest.mark.parametrize("policy", [SHOW_ALL, OWN_ROWS], ids=["all rows", "own rows"])
def test_a_finalize_is_repeated_and_a_row_that_is_gone_is_gone(secured: Limited, policy: str) -> None:
    secured.run(policy)
    subject = secured.subject
    assert subject.sync() is Operation.INSERTED
    listed = subject.status
    assert subject.finalize()
    assert subject.done() is Operation.DELETED
    assert secured.database.rows() == []
    subject.status = listed  # the answer got lost
    assert subject.finalize()
    assert subject.done() is Operation.ABSENT
    assert secured.database.rows() == [], "the probe must leave nothing"


def test_policies_that_are_taken_away_amid_a_finalize_hide_nothing(
    secured: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delete did not see the row, and what is asked next finds no policies any more."""
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.run(HIDE_ALL)
    subject.edit(age=-1)  # with a spec that cannot be inserted the index is not asked
    survey = subject.store._survey

    def survey_without_policies(table: str, call: Call) -> Access:
        secured.run("ALTER TABLE students DISABLE ROW LEVEL SECURITY")
        return survey(table, call)

    monkeypatch.setattr(subject.store, "_survey", survey_without_policies)
    assert not subject.finalize(), "released, although the row is there"
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert subject.finalize()
    assert secured.database.rows() == []


@pytest.mark.parametrize(
    "hiding",
    [
        pytest.param("UPDATE students SET owner = 'somebody'", id="the row's owner changed"),
        pytest.param("ALTER POLICY shown ON students USING (owner = 'x') WITH CHECK (true)", id="the policy changed"),
        pytest.param("DROP POLICY shown ON students", id="the policy is gone"),
        pytest.param("ALTER ROLE LIMITED SET row_security = off", id="the role asks for an error instead"),
    ],
)
def test_a_hidden_row_is_not_gone(secured: Limited, hiding: str) -> None:
    secured.run(OWN_ROWS)
    subject = secured.subject
    subject.sync()
    secured.run(hiding)
    subject.store.close()
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert "row-level security" in subject.message
    assert "Retain" in subject.message
    assert secured.database.rows() == [ROW]
    secured.run("ALTER ROLE LIMITED RESET ALL; ALTER ROLE LIMITED BYPASSRLS")
    subject.store.close()
    assert subject.finalize()
    assert secured.database.rows() == []


def test_the_ways_out_of_a_hidden_row_are_named(secured: Limited) -> None:
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.run(HIDE_ALL)
    assert not subject.finalize()
    assert all(way in subject.message for way in ("a policy", "BYPASSRLS", "Retain"))
    subject.edit(deletionPolicy="Retain")
    assert subject.finalize()
    assert secured.database.rows() == [ROW]


def test_without_a_valid_spec_it_cannot_be_asked_whether_a_row_is_hidden(secured: Limited) -> None:
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.database.query("DELETE FROM students")
    subject.edit(age=-1)
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    subject.edit(age=1)
    assert subject.finalize()


def test_a_table_that_is_not_listed_is_not_probed(secured: Limited) -> None:
    subject = secured.subject
    assert subject.finalize()
    assert subject.done() is Operation.ABSENT


def test_the_owner_of_a_table_meets_forced_policies(secured: Limited) -> None:
    secured.run("ALTER TABLE students OWNER TO LIMITED;" + SHOW_ALL)
    subject = secured.subject
    subject.sync()
    listed = subject.status
    secured.run(HIDE_ALL)
    assert subject.finalize(), "without FORCE the owner sees all"
    subject.status = listed
    secured.database.query("INSERT INTO students VALUES (%s, %s, %s, %s)", *ROW)
    secured.run("ALTER TABLE students FORCE ROW LEVEL SECURITY")
    assert not subject.finalize()
    assert subject.ready == "False DeleteFailed"
    assert secured.database.rows() == [ROW]


def write_to_parts(limited: Limited, secured: str) -> Subject:
    """Make a partitioned table, secure it, and let a resource have its row there."""
    limited.run(
        "CREATE TABLE parts (LIKE students INCLUDING ALL) PARTITION BY HASH (id);"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);" + secured
    )
    limited.grant(EVERY, "parts")
    subject = limited.subject
    assert subject.edit(table="parts").sync() is Operation.INSERTED
    return subject


def test_policies_of_a_partition_do_not_apply_to_its_table(limited: Limited) -> None:
    subject = write_to_parts(
        limited, "ALTER TABLE parts_0 ENABLE ROW LEVEL SECURITY; ALTER TABLE parts_0 FORCE ROW LEVEL SECURITY"
    )
    listed = subject.status
    assert subject.finalize()
    subject.status = listed
    assert subject.finalize()
    assert limited.database.rows("parts") == []


def test_policies_of_a_partitioned_table_hide_its_rows(limited: Limited) -> None:
    subject = write_to_parts(
        limited, "ALTER TABLE parts ENABLE ROW LEVEL SECURITY; CREATE POLICY shown ON parts USING (true)"
    )
    limited.run("ALTER POLICY shown ON parts USING (false) WITH CHECK (true)")
    assert not subject.finalize()
    assert limited.database.rows("parts") == [ROW]


def test_the_probe_fires_no_trigger_that_could_be_seen_outside(secured: Limited) -> None:
    secured.run(
        SHOW_ALL + "CREATE TABLE log (what text); GRANT INSERT ON log TO LIMITED;"
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES (TG_WHEN || TG_OP); RETURN NEW; END $$;"
        "CREATE TRIGGER one BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION act();"
        "CREATE TRIGGER two AFTER INSERT ON students FOR EACH ROW EXECUTE FUNCTION act()"
    )
    subject = secured.subject
    subject.status = {"tables": ["public.students"], "observedTable": "students"}
    assert subject.finalize()
    assert secured.database.query("SELECT * FROM log") == []


# Moves and looks


def test_a_row_that_is_hidden_in_its_old_table_cannot_move(secured: Limited) -> None:
    secured.database.create_table("pupils")
    secured.grant(EVERY, "pupils")
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.run(HIDE_ALL)
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students", "public.pupils"])
    assert "cannot be moved out of table students: row-level security" in subject.message
    assert (secured.database.rows(), secured.database.rows("pupils")) == ([ROW], [])
    secured.run("ALTER POLICY shown ON students USING (true)")
    assert subject.sync() is Operation.MOVED
    assert (secured.database.rows(), secured.database.rows("pupils")) == ([], [ROW])


def test_a_row_that_is_gone_from_its_old_table_holds_up_no_move(secured: Limited) -> None:
    secured.database.create_table("pupils")
    secured.grant(EVERY, "pupils")
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.database.query("DELETE FROM students")
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.pupils"])
    assert (secured.database.rows(), secured.database.rows("pupils")) == ([], [ROW])


def test_a_look_does_not_drop_a_table_that_may_hide_the_row(secured: Limited) -> None:
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.run(HIDE_ALL)
    subject.edit(age=-1, table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", ["public.students", "public.pupils"])
    assert not subject.finalize()
    assert secured.database.rows() == [ROW]


# First writes


def test_a_first_write_that_policies_refuse_blocks_nothing(secured: Limited) -> None:
    subject = secured.subject
    for _ in range(3):
        subject.sync()
        assert (subject.ready, subject.tables) == ("False AccessDenied", [])
        assert subject.status["observedTable"] == "students"
        assert "row-level security" in subject.message
    assert subject.finalize()


def test_a_policy_that_comes_later_is_recorded_first(secured: Limited) -> None:
    subject = secured.subject
    subject.sync()
    secured.run(SHOW_ALL)
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.students"])
    assert secured.database.rows() == []
    assert subject.sync() is Operation.INSERTED


def test_a_visible_row_is_adopted_after_it_was_recorded(secured: Limited) -> None:
    subject = secured.subject
    subject.sync()
    secured.run(SHOW_ALL)
    secured.database.query("INSERT INTO students VALUES ('default/sample', 'bob', 1, 'chile')")
    subject.sync()
    assert subject.ready == "False TableRecorded"
    assert subject.sync() is Operation.UPDATED


def test_a_hidden_row_under_the_id_is_not_taken_over_and_may_be_ours(secured: Limited) -> None:
    secured.run(OWN_ROWS)
    secured.database.query("INSERT INTO students VALUES ('default/sample', 'bob', 1, 'chile', 'somebody')")
    subject = secured.subject
    for _ in range(2):
        subject.sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert not subject.finalize()
    assert secured.database.rows() == [("default/sample", "bob", 1, "chile")]


@pytest.mark.parametrize("synced", [True, False], ids=["and is synced again", "and is deleted"])
def test_a_row_that_became_hidden_after_its_answer_got_lost_is_not_forgotten(secured: Limited, synced: bool) -> None:
    secured.run(OWN_ROWS)
    subject = secured.subject
    subject.sync(lost=True)
    secured.database.query("UPDATE students SET owner = 'somebody'")
    if synced:
        subject.sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert secured.database.rows() == [ROW]


def test_policies_that_refuse_a_later_write_keep_the_table_listed(secured: Limited) -> None:
    secured.run(SHOW_ALL)
    subject = secured.subject
    subject.sync()
    secured.run("ALTER POLICY shown ON students USING (true) WITH CHECK (age < 24)")
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert secured.database.rows() == [ROW]


# Views


def test_a_row_that_a_view_does_not_show_any_more_is_not_gone(database: Database, subject: Subject) -> None:
    database.query("CREATE VIEW adults AS SELECT * FROM students WHERE age >= 18")
    subject.edit(table="adults").sync()
    assert subject.ready == "True RowSynced"
    database.query("UPDATE students SET age = 10")
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.adults"])
    assert "the condition of a view" in subject.message
    assert database.rows() == [("default/sample", "alex", 10, "canada")]
    database.query("DELETE FROM students")
    assert subject.finalize()


@pytest.mark.parametrize("hidden", ["USING (false) WITH CHECK (true)", "USING (false)"], ids=["taken", "refused"])
def test_a_view_passes_on_the_policies_of_its_table(secured: Limited, hidden: str) -> None:
    """That the view itself has none says nothing."""
    secured.run(SHOW_ALL + "CREATE VIEW pupils WITH (security_invoker) AS SELECT * FROM students")
    secured.grant(EVERY, "pupils")
    subject = secured.subject
    assert subject.edit(table="pupils").sync() is Operation.INSERTED
    secured.run(f"ALTER POLICY shown ON students {hidden}")
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.pupils"])
    secured.run("ALTER POLICY shown ON students USING (true) WITH CHECK (true)")
    assert subject.finalize()
    assert secured.database.rows() == []


def test_a_row_that_a_view_does_not_show_any_more_cannot_move(database: Database, subject: Subject) -> None:
    database.create_table("pupils")
    database.query("CREATE VIEW adults AS SELECT * FROM students WHERE age >= 18")
    subject.edit(table="adults").sync()
    database.query("UPDATE students SET age = 10")
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.adults", "public.pupils"])
    assert "cannot be moved out of table adults" in subject.message
    assert database.rows("pupils") == []


def test_a_table_that_became_a_view_while_it_was_listed(database: Database, subject: Subject) -> None:
    database.create_table("pupils")
    subject.sync()
    database.query(
        "ALTER TABLE students RENAME TO base;CREATE VIEW students AS SELECT b.* FROM base b JOIN base c USING (id)"
    )
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students", "public.pupils"])
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert database.rows("base") == [ROW]
    database.query("DROP VIEW students; ALTER TABLE base RENAME TO students")
    assert subject.finalize()
    assert database.rows() == []


def test_a_view_that_shows_the_row_of_a_listed_table_holds_up_no_move(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("CREATE VIEW pairs AS SELECT s.* FROM students s JOIN students t USING (id)")
    subject.status = {**subject.status, "tables": ["public.pairs", "public.students"]}  # listed while the database was away
    subject.sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])


# Cost


def test_only_hidden_rows_cost_a_second_round_trip(secured: Limited) -> None:
    secured.run(SHOW_ALL)
    with relayed(secured.database) as (relay, reached):
        owner = secured.database.connect
        for user, password, trips in (
            (owner["user"], owner.get("password", ""), 1),
            (secured.role, secured.password, 2),
        ):
            store = Store(reached.config(user=user, password=password))
            subject = Subject(store)
            subject.sync()
            listed = subject.status
            subject.finalize()
            relay.take()
            subject.status = listed
            assert subject.finalize()
            assert relay.take() == ["Q"] * trips
            store.close()

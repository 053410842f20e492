"""Row-level security that applies to the role: it cannot be seen whether the row is there, so nothing is claimed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from postgres_writer.core.plan import Operation
from support.subject import ROW, Limited, Subject

EVERY = "SELECT, INSERT, UPDATE, DELETE"
SECURE = "ALTER TABLE students ENABLE ROW LEVEL SECURITY;"
POLICIES = {
    "no policy": "",
    "a policy for all rows": "CREATE POLICY shown ON students USING (true)",
    "a policy for the role's rows": "ALTER TABLE students ADD owner text DEFAULT current_user;"
    "CREATE POLICY shown ON students USING (owner = current_user)",
    "a policy that hides all": "CREATE POLICY shown ON students USING (false) WITH CHECK (true)",
    "a policy that raises 22P02": "CREATE POLICY shown ON students USING (name::int > 0) WITH CHECK (true)",
    "a policy that raises 42883": "CREATE FUNCTION check_row() RETURNS boolean LANGUAGE plpgsql AS"
    " $$ BEGIN RETURN nothing(1); END $$; CREATE POLICY shown ON students USING (check_row()) WITH CHECK (true)",
    "a policy that raises 42703": "CREATE FUNCTION check_row() RETURNS boolean LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION '' USING ERRCODE = '42703'; END $$; CREATE POLICY shown ON students USING (check_row())",
}
SEES_ALL = {
    "BYPASSRLS": "ALTER ROLE LIMITED BYPASSRLS",
    "the owner": "ALTER TABLE students OWNER TO LIMITED",
    "a member of the owner": "ALTER TABLE students OWNER TO owner_LIMITED; GRANT owner_LIMITED TO LIMITED",
}
"""What lets the role see every row, as the messages advise."""


@pytest.fixture
def granted(limited: Limited) -> Iterator[Limited]:
    """Give a role with every grant, and one that may become an owner."""
    limited.grant(EVERY)
    limited.run("CREATE ROLE owner_LIMITED; GRANT CREATE, USAGE ON SCHEMA public TO owner_LIMITED")
    yield limited
    limited.run("DROP OWNED BY owner_LIMITED; DROP ROLE owner_LIMITED")


def is_held(subject: Subject) -> None:
    """Check that the finalizer stays and the ways out are named."""
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert all(way in subject.message for way in ("row-level security", "BYPASSRLS", "owner", "Retain"))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_table_whose_policies_apply_is_refused_and_blocks_nothing(granted: Limited, policy: str) -> None:
    granted.run(SECURE + policy)
    subject = granted.subject
    for _ in range(3):
        subject.sync()
        assert (subject.ready, subject.tables) == ("False AccessDenied", [])
        assert subject.status["observedTable"] == "students"
        assert "row-level security" in subject.message
        assert "BYPASSRLS" in subject.message
    subject.edit(age=-1).sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", [])
    assert granted.database.rows() == []
    assert subject.finalize()


@pytest.mark.parametrize(
    ("policy", "lost"),
    # each policy, and with the first both
    [(POLICIES["no policy"], True), *((policy, number % 2 == 1) for number, policy in enumerate(POLICIES.values()))],
    ids=["no policy, answer lost", *POLICIES],
)
def test_policies_that_come_later_hold_what_may_be_there(granted: Limited, policy: str, lost: bool) -> None:
    granted.database.create_table("pupils")
    granted.grant(EVERY, "pupils")
    subject = granted.subject
    subject.sync()
    granted.run(SECURE + policy)
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", ["public.students"])
    subject.edit(table="pupils").sync(lost=lost)
    if not lost:
        assert (subject.ready, subject.tables) == ("False AccessDenied", ["public.students", "public.pupils"])
        assert "cannot be moved from table public.students" in subject.message
    assert granted.database.rows("pupils") == []
    is_held(subject)
    assert granted.database.rows() == [ROW]
    subject.edit(deletionPolicy="Retain")
    assert subject.finalize()


@pytest.mark.parametrize(
    ("policy", "way"),
    # each policy, and with the one that hides all every way
    [
        *(zip(POLICIES.values(), itertools.cycle(SEES_ALL.values()))),
        *((POLICIES["a policy that hides all"], way) for way in SEES_ALL.values()),
    ],
    ids=[*POLICIES, *SEES_ALL],
)
def test_with_each_of_the_ways_out_the_row_lives_its_life(granted: Limited, policy: str, way: str) -> None:
    granted.run(SECURE + policy)
    subject = granted.subject
    subject.sync()
    granted.run(way)
    subject.store.close()
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.students"])
    assert subject.sync() is Operation.INSERTED
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert subject.sync() is Operation.UNCHANGED
    assert subject.finalize()
    assert granted.database.rows() == []


def test_the_owner_meets_forced_policies(granted: Limited) -> None:
    granted.run("ALTER TABLE students OWNER TO LIMITED;" + SECURE + POLICIES["a policy that hides all"])
    subject = granted.subject
    assert subject.sync() is Operation.INSERTED
    granted.run("ALTER TABLE students FORCE ROW LEVEL SECURITY")
    is_held(subject)
    assert granted.database.rows() == [ROW]


def test_a_setting_of_the_role_does_not_show_what_policies_hide(granted: Limited) -> None:
    subject = granted.subject
    subject.sync()
    granted.run(SECURE + POLICIES["a policy that hides all"])
    granted.run("ALTER ROLE LIMITED SET row_security = on")
    subject.store.close()
    is_held(subject)
    granted.run("ALTER ROLE LIMITED RESET ALL")


@pytest.mark.parametrize(
    "checks",
    [
        "CREATE POLICY shown ON students USING (true) WITH CHECK (length(name) < 4)",
        "CREATE POLICY shown ON students USING (true); ALTER TABLE students ADD CHECK (length(name) < 4)",
    ],
    ids=["policy", "constraint"],
)
def test_the_deletion_of_a_row_that_never_was_written_is_not_held(granted: Limited, checks: str) -> None:
    """All rows are shown, and the value is refused: nothing was ever there to be deleted."""
    granted.run(SECURE + checks)
    subject = granted.subject
    for _ in range(2):
        subject.sync()
        assert (subject.ready, subject.tables) == ("False AccessDenied", [])
    assert subject.finalize()


@pytest.mark.parametrize("name", ["alex", "alexander"])
def test_the_owner_s_check_does_not_hold_the_deletion_either(granted: Limited, name: str) -> None:
    granted.run(SECURE + "ALTER TABLE students OWNER TO LIMITED; ALTER TABLE students ADD CHECK (length(name) < 6)")
    subject = granted.subject
    subject.edit(name=name).sync()
    assert subject.ready == ("True RowSynced" if name == "alex" else "False RowRejected")
    assert subject.finalize()
    assert granted.database.rows() == []


def test_policies_that_end_amid_a_finalize_hide_nothing(granted: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delete did not see the row, and what is asked next finds no policies any more."""
    subject = granted.subject
    subject.sync()
    granted.run(SECURE + POLICIES["a policy that hides all"])
    survey = subject.store._survey

    def survey_without_policies(*arguments: object) -> object:
        granted.run("ALTER TABLE students DISABLE ROW LEVEL SECURITY")
        return survey(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(subject.store, "_survey", survey_without_policies)
    assert not subject.finalize(), "released, although the row is there"
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert subject.finalize()
    assert granted.database.rows() == []


@pytest.mark.parametrize("secured", ["parts_0", "parts"])
def test_policies_of_a_partition_do_not_apply_to_its_table_but_those_of_the_table_do(
    granted: Limited, secured: str
) -> None:
    granted.run(
        "CREATE TABLE parts (LIKE students INCLUDING ALL) PARTITION BY HASH (id);"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    granted.grant(EVERY, "parts")
    subject = granted.subject
    assert subject.edit(table="parts").sync() is Operation.INSERTED
    granted.run(f"ALTER TABLE {secured} ENABLE ROW LEVEL SECURITY; ALTER TABLE {secured} FORCE ROW LEVEL SECURITY")
    assert subject.finalize() == (secured == "parts_0")
    assert granted.database.rows("parts") == ([] if secured == "parts_0" else [ROW])


def test_a_trigger_that_writes_a_table_with_policies_is_not_disturbed(granted: Limited) -> None:
    """The look alone is made without policies: side tables of the user's triggers may rely on theirs."""
    granted.run(
        "CREATE TABLE side (id text, owner text DEFAULT current_user); ALTER TABLE side ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON side USING (owner = current_user); GRANT SELECT, INSERT, DELETE ON side TO LIMITED;"
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'DELETE' THEN DELETE FROM side WHERE id = OLD.id; RETURN OLD; END IF;"
        " INSERT INTO side VALUES (NEW.id); RETURN NEW; END $$;"
        "CREATE TRIGGER act AFTER INSERT OR DELETE ON students FOR EACH ROW EXECUTE FUNCTION act()"
    )
    subject = granted.subject
    assert subject.sync() is Operation.INSERTED
    assert granted.database.query("SELECT id FROM side") == [(ROW[0],)]
    assert subject.finalize()
    assert granted.database.query("SELECT id FROM side") == []

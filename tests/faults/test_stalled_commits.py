"""A commit that hangs may land at any later moment: until it is over, nothing may be claimed about its row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from postgres_writer.database.store import Store
from support.postgres import STUDENTS, Database, PostgresInstance, private_instance
from support.stall import ENDINGS, hanging, stalled_commits
from support.subject import ROW, Subject
from support.waiting import wait_until

STATEMENT_SECONDS = 0.5
"""The time-out of what will hang, so that its caller does not wait long; all others have the usual one."""
UNAVAILABLE = "False DatabaseUnavailable"
BUSY = "False DatabaseBusy"
SYNCED = "True RowSynced"
CHANGED = (ROW[0], "alex", 24, "canada")

Stalled = Callable[[], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def instance() -> Iterator[PostgresInstance]:
    with private_instance() as instance:
        yield instance


@pytest.fixture
def database(instance: PostgresInstance) -> Database:
    database = instance.maintenance
    database.query(f"DROP TABLE IF EXISTS students, pupils; {STUDENTS}; {STUDENTS.replace('students', 'pupils')}")
    return database


class Replicas:
    """Hooks that know nothing of each other: every call finds a store of its own."""

    def __init__(self, database: Database) -> None:
        self._config = database.config()
        self.subject = Subject(Store(self._config))

    def sync(self, *, lost: bool = False, hangs: bool = False, **changes: object) -> str:
        """Sync, after an edit if there are changes; gives the condition Ready."""
        if changes:
            self.subject.edit(**changes)
        with self._another(hangs):
            self.subject.sync(lost=lost)
        return "" if lost else self.subject.ready

    def finalize(self, *, hangs: bool = False) -> bool:
        """Finalize; gives whether the finalizer is released."""
        with self._another(hangs):
            return self.subject.finalize()

    def settle(self) -> None:
        """Sync until the resource is Ready, as Metacontroller keeps doing."""
        wait_until(lambda: self.sync() == SYNCED, "the resource is Ready again")

    def vanish(self) -> None:
        """Finalize until the finalizer is released."""
        wait_until(self.finalize, "the finalizer is released")

    @contextlib.contextmanager
    def _another(self, hangs: bool) -> Iterator[None]:
        seconds = STATEMENT_SECONDS if hangs else self._config.statement_timeout
        self.subject.store = Store(replace(self._config, statement_timeout=seconds))
        yield
        self.subject.store.close()


@pytest.fixture
def hooks(database: Database) -> Replicas:
    return Replicas(database)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("lost", [False, True], ids=["answered", "answer lost"])
def test_an_insert_that_hangs_does_not_outlive_its_resource(
    instance: PostgresInstance, database: Database, hooks: Replicas, ending: str, lost: bool
) -> None:
    with stalled_commits(instance):
        assert hooks.sync(lost=lost, hangs=True) in ("", UNAVAILABLE)
        assert hanging(database) == 1
        assert database.rows() == []
        assert not hooks.finalize(), "released, although the row is about to appear"
        assert hooks.subject.ready == BUSY
        assert hooks.subject.tables == ["public.students"]
        ENDINGS[ending](instance)
        assert database.rows() == [ROW]
    hooks.vanish()
    assert database.rows() == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_move_that_hangs_and_is_taken_back(
    instance: PostgresInstance, database: Database, hooks: Replicas, ending: str
) -> None:
    assert hooks.sync() == SYNCED
    with stalled_commits(instance):
        assert hooks.sync(table="pupils", hangs=True) == UNAVAILABLE
        assert hooks.sync(table="students") == BUSY, "claimed, although the row is about to leave the table"
        assert set(hooks.subject.tables) == {"public.students", "public.pupils"}
        ENDINGS[ending](instance)
        assert (database.rows(), database.rows("pupils")) == ([], [ROW])
    hooks.settle()
    assert (database.rows(), database.rows("pupils")) == ([ROW], [])


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_update_that_hangs_and_is_taken_back(
    instance: PostgresInstance, database: Database, hooks: Replicas, ending: str
) -> None:
    assert hooks.sync() == SYNCED
    with stalled_commits(instance):
        assert hooks.sync(age=24, hangs=True) == UNAVAILABLE
        assert hooks.sync(age=23) == BUSY, "claimed, although the row is about to change"
        ENDINGS[ending](instance)
        assert database.rows() == [CHANGED]
    hooks.settle()
    assert database.rows() == [ROW]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_delete_that_hangs(instance: PostgresInstance, database: Database, hooks: Replicas, ending: str) -> None:
    assert hooks.sync() == SYNCED
    with stalled_commits(instance):
        assert not hooks.finalize(hangs=True)
        assert not hooks.finalize()
        assert hooks.subject.ready == BUSY
        assert database.rows() == [ROW]
        ENDINGS[ending](instance)
        assert database.rows() == []
    hooks.vanish()
    assert database.rows() == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_move_that_hangs_and_goes_on(
    instance: PostgresInstance, database: Database, hooks: Replicas, ending: str
) -> None:
    """A look, too, believes nothing: the spec becomes unusable, the table is refused, the spec moves on."""
    database.query(f"DROP TABLE IF EXISTS third; {STUDENTS.replace('students', 'third')}")
    assert hooks.sync() == SYNCED
    with stalled_commits(instance):
        assert hooks.sync(table="pupils", hangs=True) == UNAVAILABLE
        assert hooks.sync(age=-1) == "False InvalidSpec"
        assert set(hooks.subject.tables) == {"public.students", "public.pupils"}
        assert hooks.sync(table="third", age=23) == BUSY
        assert set(hooks.subject.tables) == {"public.students", "public.pupils", "public.third"}
        ENDINGS[ending](instance)
    hooks.settle()
    assert [database.rows(table) for table in ("students", "pupils", "third")] == [[], [], [ROW]]
    hooks.vanish()
    assert [database.rows(table) for table in ("students", "pupils", "third")] == [[], [], []]


def test_a_steady_row_stays_ready_while_commits_hang(
    instance: PostgresInstance, database: Database, hooks: Replicas
) -> None:
    """Drift is repaired under the lock, and what hangs of the repair holds back the next one only."""
    assert hooks.sync() == SYNCED
    database.query("UPDATE students SET age = 5")
    with stalled_commits(instance):
        assert hooks.sync(lost=True, hangs=True) == ""
        assert hooks.sync(lost=True) == ""
        assert hooks.subject.outcome.error is not None
        assert hooks.subject.outcome.error.reason.value == "DatabaseBusy"
    hooks.settle()
    assert database.rows() == [ROW]
    with stalled_commits(instance):
        assert hooks.sync() == SYNCED

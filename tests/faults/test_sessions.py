"""What may become of a session between two statements: its prepared statements lost, its clock set."""

import time

import pytest

from postgres_writer.core.plan import Operation, Outcome, Plan, Remove, Write
from postgres_writer.core.row import Spec
from postgres_writer.database.dial import wait
from postgres_writer.database.store import Store
from postgres_writer.deadlines import Call
from support.postgres import Database
from support.subject import next_session

ID = "default/sample"


def remove(table: str) -> Remove:
    return Remove(ID, (table,), (table,), (table,))


def write(table: str, age: int, *leave: str) -> Write:
    return Write(ID, Spec(table, (("name", "alex"), ("age", age), ("country", "canada"))), leave, listed=True)


def apply(store: Store, plan: Plan) -> Outcome:
    return store.apply(plan, Call(time.monotonic(), lambda: False))


def run_on_its_session(store: Store, statement: str) -> None:
    """Do to the store's session what a pooler in between would do."""
    session = next_session(store)
    session._cursor.execute(statement)
    wait(session._connection, time.monotonic() + 60)


@pytest.mark.parametrize("lost", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_lost_prepared_statements_are_prepared_again(database: Database, lost: str) -> None:
    store = Store(database.config())
    assert apply(store, write("public.students", 1)).operation is Operation.INSERTED
    run_on_its_session(store, lost)
    assert apply(store, write("public.students", 2)) == Outcome(("public.students",), Operation.UPDATED)
    run_on_its_session(store, lost)
    assert apply(store, remove("public.students")) == Outcome((), Operation.DELETED)
    assert database.rows() == []
    store.close()


@pytest.mark.parametrize("jump", [-3600.0, 3600.0], ids=["backwards", "forwards"])
def test_a_clock_of_the_database_that_was_set_is_learnt_anew(database: Database, jump: float) -> None:
    """The clock of a test's database cannot be set; what the session has learnt of it can, which is the same."""
    database.create_table("pupils")
    store = Store(database.config())
    apply(store, write("public.students", 1))
    steps: list[tuple[Plan, Operation]] = [
        (write("public.students", 2), Operation.UPDATED),
        (write("public.pupils", 2, "public.students"), Operation.MOVED),
        (remove("public.pupils"), Operation.DELETED),
    ]
    for plan, operation in steps:
        next_session(store)._offset -= jump
        outcome = apply(store, plan)
        assert (outcome.operation, outcome.error) == (operation, None)
    assert database.rows() == database.rows("pupils") == []
    store.close()

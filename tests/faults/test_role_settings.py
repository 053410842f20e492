"""What is set for the role in PostgreSQL must not break the promise: commits that a crash forgets, other isolations."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.database.store import Store
from support.pgbouncer import running_pgbouncer
from support.postgres import Database, PostgresInstance
from support.subject import Subject

USERS = {"hook": "hook", "postgres": "first"}
IDS = 480
CALLERS = 8


@pytest.fixture(params=["prepared", "plain", "behind a pooler of transactions"])
def config(request: pytest.FixtureRequest, instance: PostgresInstance) -> Iterator[DatabaseConfig]:
    """Give each way in which the hooks log in as the role, which finds an empty table."""
    instance.maintenance.query("TRUNCATE students")
    direct = Database({**instance.connect, "user": "hook", "password": "hook"})
    if not request.param.startswith("behind"):
        yield direct.config(prepared_statements=request.param == "prepared")
        return
    with running_pgbouncer(instance, "transaction", USERS, pool_size=CALLERS) as pooler:
        yield pooler.database(instance, "hook", "hook").config(prepared_statements=False)


def set_for_role(database: Database, name: str, value: str) -> None:
    database.query(f"ALTER ROLE hook SET {name} = {value}")


@pytest.fixture(autouse=True)
def _reset(instance: PostgresInstance) -> Iterator[None]:
    yield
    instance.maintenance.query("DROP FUNCTION IF EXISTS hurry CASCADE")
    instance.maintenance.query("ALTER ROLE hook RESET ALL")
    instance.maintenance.query("ALTER SYSTEM RESET ALL")
    instance.maintenance.query("SELECT pg_reload_conf()")


@pytest.mark.parametrize("by", ["the role", "a trigger"])
def test_a_deleted_row_stays_deleted_after_a_crash(instance: PostgresInstance, config: DatabaseConfig, by: str) -> None:
    """With synchronous_commit = off its deletion would reach the disk only when the log is written next."""
    database = instance.maintenance
    if by == "the role":
        set_for_role(database, "synchronous_commit", "off")
    else:
        database.query(
            "CREATE FUNCTION hurry() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN SET synchronous_commit TO off; RETURN COALESCE(NEW, OLD); END $$;"
            "CREATE TRIGGER hurry BEFORE INSERT OR DELETE ON students FOR EACH ROW EXECUTE FUNCTION hurry()"
        )
    database.query("ALTER SYSTEM SET wal_writer_delay = '10s'")
    database.query("ALTER SYSTEM SET wal_writer_flush_after = '1GB'")
    database.query("SELECT pg_reload_conf()")
    subject = Subject(Store(config))
    subject.sync()
    database.query("CHECKPOINT")
    assert subject.finalize()
    instance.kill()
    instance.start()
    assert database.rows() == []
    subject.store.close()


def test_different_resources_do_not_hold_up_each_other(instance: PostgresInstance, config: DatabaseConfig) -> None:
    """Serializable transactions fail on rows that are only neighbours in the index."""
    set_for_role(instance.maintenance, "default_transaction_isolation", "serializable")
    store = Store(config, CALLERS)

    def sync(number: int) -> str:
        subject = Subject(store, metadata={"name": f"r{number}"})
        subject.sync()
        return subject.ready

    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(sync, range(IDS))) == {"True RowSynced"}
    assert len(instance.maintenance.rows()) == IDS
    store.close()

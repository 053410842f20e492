"""The tests' own PostgreSQL helpers, on which every other test relies."""

import contextlib

import psycopg2
import pytest

from support.memory import memory_folder
from support.postgres import Database, private_instance


def test_an_emptied_database_has_nothing_of_an_earlier_test(database: Database) -> None:
    with database.connection() as left, left.cursor() as cursor:
        cursor.execute("INSERT INTO students VALUES ('default/a', 'alex', 23, 'canada')")
        cursor.execute("CREATE SCHEMA team; CREATE TABLE team.pupils (id text); CREATE FOREIGN DATA WRAPPER none")
        cursor.execute(f"ALTER DATABASE {database.name} SET search_path = team")
        cursor.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {database.name} SET search_path = team")
        cursor.execute("BEGIN; LOCK TABLE students")
        database.empty()
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")
    assert database.rows() == []
    named = "SELECT nspname FROM pg_namespace WHERE nspname = 'team' UNION SELECT fdwname FROM pg_foreign_data_wrapper"
    assert database.query(named) == []
    with database.connection() as fresh, fresh.cursor() as cursor:
        cursor.execute("SELECT current_schemas(false)")
        assert cursor.fetchall() == [(["public"],)]


def test_a_query_leaves_nothing_to_the_next_and_waits_for_no_other(database: Database) -> None:
    database.query("SET search_path = nowhere; CREATE TEMP TABLE students (id text)")
    with pytest.raises(psycopg2.errors.DivisionByZero):
        database.query("SELECT 1 / 0")
    assert database.rows() == []
    [(pid,)] = database.query("SELECT pg_backend_pid()")
    with pytest.raises(psycopg2.OperationalError):
        database.query("SELECT pg_terminate_backend(pg_backend_pid())")
    assert database.query("SELECT pg_backend_pid()") != [(pid,)]


def test_a_private_server_asks_for_its_password_and_comes_back_at_once_after_a_kill() -> None:
    with private_instance(memory_folder(), password="right") as instance:
        database = instance.maintenance.create_sibling()
        assert database.query("SELECT 1") == [(1,)]
        with pytest.raises(psycopg2.OperationalError, match="password"), database.connection(password="wrong"):
            pass
        instance.freeze()
        instance.thaw()
        for sessions in (1, 30):
            with contextlib.ExitStack() as opened:
                for _ in range(sessions):
                    opened.enter_context(database.connection())
                instance.kill()
                with pytest.raises(psycopg2.OperationalError), database.connection():
                    pass
                instance.start()
                assert database.rows() == []

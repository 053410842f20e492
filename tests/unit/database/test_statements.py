"""The statements as values: names are quoted, values are never in the text, and the prepared form is equivalent."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pglast import ast, parse_sql

from postgres_writer.core.refusals import Guard
from postgres_writer.core.row import TABLE_PATTERN, relation_name
from postgres_writer.database import statements
from postgres_writer.database.qualified import forbidden_function, quoted
from postgres_writer.database.statements import WORD, Message

COLUMNS = ("name", "age", "country")
NAMES = st.from_regex(TABLE_PATTERN, fullmatch=True).map(lambda table: relation_name(table) or "")


def relations(message: Message) -> list[str]:
    """Return the relations that a message changes or reads, in its order."""
    found = []
    for part in message.parts:
        stack: list[object] = list(parse_sql(re.sub(r"%\(\w+\)s", "NULL", part.text)))
        while stack:
            node = stack.pop()
            if isinstance(node, ast.RangeVar) and node.schemaname not in {None, "pg_catalog"}:
                found.append(f"{node.schemaname}.{node.relname}")
            elif isinstance(node, (list, tuple)):
                stack.extend(node)
            elif isinstance(node, ast.Node):
                stack.extend(getattr(node, name) for name in node)
    return found


@settings(max_examples=15)
@given(NAMES, NAMES)
def test_a_message_names_its_tables_and_no_others(table: str, old: str) -> None:
    for message in (
        statements.write(table, COLUMNS),
        statements.remove(table),
        statements.present(table),
        statements.matches(table, COLUMNS),
        statements.write(table, COLUMNS, (old,)),
    ):
        assert set(relations(message)) == message.tables
        assert table in message.tables


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_quoted_name_is_one_identifier(name: str) -> None:
    [parsed] = parse_sql(f"SELECT {quoted(name.replace('.', '_'))}")
    assert isinstance(parsed.stmt, ast.SelectStmt)
    [target] = parsed.stmt.targetList or ()
    assert [field.sval for field in target.val.fields] == [name.replace(".", "_")]


@pytest.mark.parametrize(
    ("row", "key"),
    # printf ID | b2sum | cut -c1-16, read as a signed number
    [("default/sample", -195354832941809203), ("kube-system/a.b", -7438757952969108955)],
)
def test_the_key_of_the_lock_of_an_id_never_changes(row: str, key: int) -> None:
    """Releases that run side by side must take the same lock."""
    assert statements.lock_key(row) == key


@given(st.text())
def test_every_id_has_a_key_that_postgresql_takes(row: str) -> None:
    assert -(2**63) <= statements.lock_key(row) < 2**63


def test_statements_of_the_same_text_are_the_same() -> None:
    """Not the same object: what is prepared must be found also after the module has forgotten that it made it."""
    made = statements.write("public.students", COLUMNS)
    statements.write.cache_clear()
    again = statements.write("public.students", COLUMNS)
    assert again is not made
    assert (again, hash(again.parts)) == (made, hash(made.parts))
    assert made != statements.write("public.Students", COLUMNS)


def test_a_move_deletes_first_and_in_the_order_given() -> None:
    message = statements.write("s.new", COLUMNS, ("s.a", "s.b"))
    assert message.parts[0] is statements.LOCK
    assert relations(Message(message.parts[1:3], message.tables)) == ["s.a", "s.b"]


@pytest.mark.parametrize(
    "message",
    [statements.write("public.students", COLUMNS), statements.remove("public.students")],
    ids=["write", "remove"],
)
def test_prepared_says_the_same_with_numbers(message: Message) -> None:
    often = [part for part in message.parts if part.often]
    assert len(often) == 3
    for part in often:
        prepare, execute = part.prepared()
        names = re.findall(r"%\((\w+)\)s", execute)
        assert set(names) == set(re.findall(r"%\((\w+)\)s", part.text))
        assert "%" not in prepare
        called, types = re.findall(r"^PREPARE (\w+) \(([^)]*)\) AS ", prepare)[0]
        assert len(types.split(", ")) == len(names)
        assert {int(number) for number in re.findall(r"\$(\d+)", prepare)} == set(range(1, len(names) + 1))
        assert execute.startswith(f"EXECUTE {called} (")


def test_the_name_of_what_is_prepared_says_what_it_is() -> None:
    """A pooler hands sessions on; under a number, what another client prepared would be run."""
    texts = {part for table in ("a.t", "b.t") for part in statements.remove(table).parts if part.often}
    assert len({part.prepared()[1].split()[1] for part in texts}) == len(texts) == 5


def test_the_word_of_the_guards_is_of_this_process_alone() -> None:
    code = "from postgres_writer.database.statements import WORD; print(WORD)"
    words = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
             for _ in range(2)}  # fmt: skip
    assert len(words | {WORD}) == 3
    assert all(len(word) >= 16 for word in words)
    assert not any(WORD in part.text for part in statements.write("public.students", COLUMNS).parts)


def test_every_guard_can_be_told_from_the_others() -> None:
    assert not any(one.value in other.value for one in Guard for other in Guard if one is not other)


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("permission denied for function pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock"),
        ("keine Berechtigung für Funktion to_timestamp", "to_timestamp"),
        ("permission denied for table version", None),
    ],
)
def test_a_function_that_the_role_may_not_execute_is_named_in_any_language(text: str, function: str | None) -> None:
    assert forbidden_function(text) == function

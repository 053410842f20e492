"""Everything that a message names is named with its schema, as PostgreSQL's own parser reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from inspect import isfunction, signature
from itertools import product

import pytest
from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, SubLinkType

from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.database import statements
from postgres_writer.database.session import Parameters, Result, Session
from postgres_writer.database.sharing import Circuit
from postgres_writer.database.statements import Message, Statement
from postgres_writer.deadlines import CIRCUIT_SECONDS
from postgres_writer.telemetry.metrics import OfDatabase
from support.subject import fresh_call

COLUMNS = ("name", "age", "country")
TABLE, OLD = "public.students", ("public.pupils", "Team.Order")
SAMPLES: dict[str, object] = {
    "table": TABLE,
    "id_column": "key",
    "statement_timeout": 2.5,
    "lock_timeout": 1.5,
}
"""What the functions of the module are called with; those of WAYS take all that they can."""
WAYS: dict[str, tuple[object, ...]] = {
    "vacate": ((), OLD[:1], OLD),
    "local": (True, False),
    "columns": (COLUMNS, ()),
    "released": ((), ("seats", "note")),
}
NO_SQL = {"lock_key", "dataclass", "qualified", "quoted", "token_hex", "blake2b", "lru_cache"}


def nodes(found: object) -> Iterator[ast.Node]:
    """Give every node of a tree of PostgreSQL's parser."""
    if isinstance(found, ast.Node):
        yield found
        for name in found:
            yield from nodes(getattr(found, name))
    elif isinstance(found, (list, tuple)):
        for part in found:
            yield from nodes(part)


def names(node: ast.Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give each kind and name (its parts) that the node leads PostgreSQL to look up, except for relations."""
    for kind, attribute in (
        ("function", "funcname"),
        ("operator", "name" if isinstance(node, ast.A_Expr) else "operName"),
        ("operator", "useOp"),
        ("type", "names"),
        ("collation", "collname" if isinstance(node, ast.CollateClause) else "collation"),
        ("operator class", "opclass"),
    ):
        if parts := getattr(node, attribute, None):
            yield kind, tuple(part.sval for part in parts)


def lookups(node: ast.Node) -> Iterator[str]:
    """Give what looks up an operator that it does not name."""
    match node:
        case ast.A_Expr(kind=A_Expr_Kind() as kind) if kind not in (A_Expr_Kind.AEXPR_OP, A_Expr_Kind.AEXPR_OP_ANY):
            yield kind.name
        case ast.SubLink(subLinkType=SubLinkType.ANY_SUBLINK, operName=None):
            yield "IN"
        case ast.CaseExpr(arg=arg) if arg is not None:
            yield "simple CASE"
        case ast.JoinExpr(usingClause=using, isNatural=natural) if using or natural:
            yield "USING"


def unqualified(sql: str) -> set[str]:
    """Return whatever a text of SQL leaves to the session to find."""
    every = list(nodes(parse_sql(sql)))
    own = {node.ctename for node in every if isinstance(node, ast.CommonTableExpr)}
    found = {
        f"{kind} {parts[-1]}"
        for node in every
        for kind, parts in names(node)
        if parts[0] != "pg_catalog" and (kind, ".".join(parts)) != ("type", TABLE)
    }
    found |= {
        f"relation {node.relname}"
        for node in every
        if isinstance(node, ast.RangeVar) and not node.schemaname and node.relname not in own
    }
    return found.union(*(lookups(node) for node in every))


class Recorder(Session):
    """A session that notes what would be sent."""

    def __init__(self, *, prepares: bool) -> None:
        config = DatabaseConfig(
            host_names=("h",), ports=(1,), dbname="d", user="u", password="", prepared_statements=prepares
        )
        super().__init__(config, Circuit(CIRCUIT_SECONDS), OfDatabase("default"), lambda: None)
        self.sent = [self._greeting()]

    def compose(self, message: Message) -> None:
        self.sent.append(self._composed(fresh_call(), message))

    def _run(self, text: str, parameters: Parameters | None, hung_up: Callable[[], bool] = lambda: False) -> Result:
        assert parameters is None, "only messages have parameters"
        self.sent.append(text)
        return ()


def made() -> dict[str, list[object]]:
    """Return, by its name, all that the module has and makes."""
    found: dict[str, list[object]] = {}
    for name, value in vars(statements).items():
        if isinstance(value, (Message, Statement)) or name == "HELLO":
            found[name] = [value]
        elif (isfunction(value) or hasattr(value, "cache_info")) and not name.startswith("_") and name not in NO_SQL:
            parameters = signature(value).parameters
            choices = [WAYS.get(each, (SAMPLES.get(each),)) for each in parameters]
            found[name] = [value(**dict(zip(parameters, chosen, strict=True))) for chosen in product(*choices)]
    return found


def test_the_module_makes_what_is_looked_at_here() -> None:
    found = made()
    assert {"LOCK", "SURVEY", "HELLO", "write", "remove", "matches", "present", "limits"} <= found.keys()
    assert [len(found[name]) for name in ("write", "session_settings", "remove")] == [12, 2, 1]


@pytest.mark.parametrize("prepares", [True, False], ids=["prepared", "direct"])
def test_nothing_that_is_sent_is_left_to_the_session(prepares: bool) -> None:
    session = Recorder(prepares=prepares)
    for value in (each for values in made().values() for each in values):
        match value:
            case Message():
                session.compose(value)
            case Statement():
                session.sent += [value.direct(), *(value.prepared() if value.often else ())]
            case str():
                session.sent.append(value)
            case _:
                raise AssertionError(f"{value!r} is not looked at")
    assert len(session.sent) > len(made())
    for text in session.sent:
        assert unqualified(re.sub(r"%\(\w+\)s", "'x'", text)) == set(), text


PLANTED = {
    "function lower": "SELECT lower('x')",
    "function row_security_active": "SELECT mine.row_security_active(1)",
    "operator =": "SELECT 1 = 1",
    "operator <": "SELECT 1 OPERATOR(mine.<) 1",
    "operator ~": "SELECT 1 ~ ANY (ARRAY[1])",
    "operator >": "SELECT 1 ORDER BY 1 USING >",
    "type text": "SELECT 1::text",
    "type int4": "PREPARE x (int4) AS SELECT $1",
    "type int8": "SELECT 1::mine.int8",
    "collation C": "SELECT 'x' COLLATE \"C\"",
    "relation students": "DELETE FROM students",
    "relation cte": "WITH other AS (SELECT FROM public.students) SELECT FROM cte",
    "AEXPR_IN": "SELECT 1 IN (1, 2)",
    "IN": "SELECT 1 IN (SELECT 1)",
    "AEXPR_DISTINCT": "SELECT 1 IS DISTINCT FROM 2",
    "AEXPR_NOT_DISTINCT": "SELECT 1 IS NOT DISTINCT FROM 2",
    "AEXPR_NULLIF": "SELECT NULLIF(1, 2)",
    "AEXPR_BETWEEN": "SELECT 1 BETWEEN 1 AND 2",
    "AEXPR_LIKE": "SELECT 'x' LIKE 'y'",
    "simple CASE": "SELECT CASE 1 WHEN 1 THEN 2 END",
    "USING": "SELECT FROM public.a JOIN public.b USING (id)",
}


@pytest.mark.parametrize("what", PLANTED)
def test_the_check_finds_what_is_planted(what: str) -> None:
    assert what in unqualified(PLANTED[what])

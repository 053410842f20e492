"""SQL whose meaning no session decides: every function, operator, type and collation is named with its schema.

Else a session's search_path, a temporary object, or a function that someone planted in a schema of the path would
decide what a statement runs, with the rights of the server's role (CVE-2018-1058). Templates are written as usual, with
lower case for functions and types and blanks around operators; ``qualified`` puts pg_catalog before them. What looks an
operator up without naming one (IN, IS DISTINCT FROM, NULLIF, BETWEEN, CASE x WHEN) cannot be qualified: do not use it.
All operators share one precedence then, so comparisons next to each other need parentheses.
https://www.postgresql.org/docs/current/sql-expressions.html#SQL-PRECEDENCE
"""

from __future__ import annotations

import re

_TOKENS = re.compile(
    r"""
    COLLATE[ ]"(?P<collation>\w+)"
    | '[^']*' | "[^"]*" | %\(\w+\)s | \{\w+\}     # literals, names and places to fill stay as they are
    | ::(?P<type>[a-z]\w*)
    | (?<![\w.])(?P<function>[a-z]\w*)(?=\()
    | (?<=\s)(?P<operator>[<>|*=~!]+)(?=\s)
    """,
    re.VERBOSE,
)
_FORMS = {
    "collation": 'COLLATE pg_catalog."{}"',
    "type": "::pg_catalog.{}",
    "function": "pg_catalog.{}",
    "operator": "OPERATOR(pg_catalog.{})",
}

_functions: set[str] = set()


def qualified(template: str) -> str:
    """Return a template of SQL with pg_catalog before every function, operator, type and collation."""

    def name(token: re.Match[str]) -> str:
        kind = token.lastgroup
        if kind == "function":
            _functions.add(token[kind])
        return _FORMS[kind].format(token[kind]) if kind else token[0]

    return " ".join(_TOKENS.sub(name, template).split())


def forbidden_function(text: str) -> str | None:
    """Return which function of the statements a message of PostgreSQL names; the message may be translated."""
    # a name of one plain word may be a table's too
    return next((word for word in re.findall(r"\w+", text) if word in _functions and "_" in word), None)


def quoted(relation: str) -> str:
    """Quote ``table``, ``schema.table`` or a column's name, in exact case."""
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in relation.split("."))

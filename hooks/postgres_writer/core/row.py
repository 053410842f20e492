"""What a row is made of, for each kind of resource; no other module knows it. No I/O.

A kind is its name, the shape of its ids and how its spec turns into values by column. Plans, statements and answers are
the same for all kinds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from marshmallow import ValidationError, fields, missing

from postgres_writer.config.variables import DEFAULT_DATABASE, IDENTIFIER, is_database

GROUP = "demo.yash.com"
DEFAULT_SCHEMA = "public"
ID_COLUMN = "id"  # the column that holds the id unless a resource names another one
MAX_COLUMNS = 100  # what spec.columns may hold at most; the CustomResourceDefinition says the same
MAX_DEPTH = 64  # how deep a value may be nested: less than what PostgreSQL's and Python's parsers allow
MAX_CHARACTERS = 1024 * 1024
"""How long the values may be together, as JSON: less than what the API server stores of an object."""

TABLE_PATTERN = re.compile(rf"(?!pg_|information_schema\.){IDENTIFIER}(?:\.{IDENTIFIER})?")
"""``table`` or ``schema.table``."""
_COLUMN_PATTERN = re.compile(IDENTIFIER)
# made once: json.dumps makes an encoder at each call
encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
_SURROGATE = re.compile("[\ud800-\udfff]")

Field = fields.Field[Any]
Values = tuple[tuple[str, Any], ...]  # the values of a row, each with its column


@dataclass(frozen=True, slots=True)
class Spec:
    """A valid spec: the values of the row by column, and the relation they belong to, always with its schema."""

    table: str
    values: Values
    id_column: str = ID_COLUMN

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the row's values are for."""
        return tuple(column for column, _ in self.values)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource: ``prefix`` is what the ids of its rows begin with.

    ``controller`` is the name of its CompositeController, of which Metacontroller makes the finalizer.
    ``fields`` are those of the spec; the CustomResourceDefinition accepts and refuses the same, and others are ignored.
    They stand alone because a Schema around them would take as long again as they take themselves, at every sync.
    """

    name: str
    version: str
    controller: str
    prefix: str
    fields: dict[str, Field]
    needs: str  # what a spec has to give, as the user is told
    fixed: tuple[str, ...] | None = None
    """The columns, each a field of the spec; None where spec.columns chooses them, which status.columns then lists."""

    @property
    def plural(self) -> str:
        """Its name in the paths of the API."""
        return f"{self.name.lower()}s"

    def load(self, spec: object, relation: str | None) -> tuple[Spec | None, str]:
        """Give the spec of a row of ``relation``, or None and what is wrong with it: one sentence per field."""
        if not isinstance(spec, dict):
            return None, f"spec is required: give {self.needs}."
        loaded: dict[str, Any] = {}
        problems: list[str] = []
        for name, field in self.fields.items():
            try:
                loaded[name] = field.deserialize(spec.get(name, missing), name, spec)
            except ValidationError as exc:
                problems.append(str(exc.messages[0]))
        # without a relation spec.table is a problem, too
        if problems or relation is None:
            return None, " ".join(problems)
        id_column = loaded.get("idColumn") or ID_COLUMN
        values = loaded["columns"] if self.fixed is None else tuple((column, loaded[column]) for column in self.fixed)
        if id_column in dict(values):
            return None, f"spec.columns must not name {id_column}: it holds the id of the resource."
        return Spec(relation, values, id_column), ""

    def columns(self, spec: dict[str, Any]) -> tuple[str, ...]:
        """Give the columns that a spec names, also where it is invalid."""
        if self.fixed is not None:
            return self.fixed
        listed = spec.get("columns")
        named = listed if isinstance(listed, list) else []
        return column_names(column.get("name") for column in named if isinstance(column, dict))[:MAX_COLUMNS]

    def id_column(self, spec: dict[str, Any]) -> str:
        """Give the column that holds the id, also where the spec is invalid."""
        name = spec.get("idColumn") if "idColumn" in self.fields else None
        return name if is_column(name) else ID_COLUMN


def is_table(value: object) -> TypeGuard[str]:
    """Say whether the value can be the name of a table that this product writes."""
    return isinstance(value, str) and TABLE_PATTERN.fullmatch(value) is not None


def is_column(value: object) -> TypeGuard[str]:
    """Say whether the value can be the name of a column that this product writes."""
    return isinstance(value, str) and _COLUMN_PATTERN.fullmatch(value) is not None


def column_names(values: Iterable[object]) -> tuple[str, ...]:
    """Give those of the values that can be names of columns, each once."""
    return tuple(dict.fromkeys(value for value in values if is_column(value)))


def relation_name(table: object, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Give the one relation that ``table`` or ``schema.table`` names; None where it can be no table's name.

    A table without a schema is in ``schema``, whatever the search path of the session or role says.
    """
    if not is_table(table):
        return None
    return table if "." in table else f"{schema}.{table}"


def is_text(value: str) -> bool:
    """Say whether PostgreSQL can store the text: no NUL, no lone surrogate (it is not Unicode text)."""
    return "\0" not in value and (value.isascii() or _SURROGATE.search(value) is None)


def _field(kind: type[Field], name: str, holds: Callable[[Any], bool], rule: str, **options: Any) -> Field:
    sentence = f"spec.{name} must be {rule}."

    def check(value: Any) -> None:
        if not holds(value):
            raise ValidationError(sentence)

    messages: dict[str, Any] = dict.fromkeys(("null", "invalid", "invalid_utf8", "too_large"), sentence)
    messages["required"] = f"spec.{name} is required."
    return kind(validate=check, error_messages=messages, **{"required": True, **options})


_NAME = "at most 63 letters, digits, '_' or '$', not starting with a digit or '$'"
# the API server, too, takes null for the default
_OPTIONAL = {"required": False, "allow_none": True}
_RELATION = f"a table or schema.table, each {_NAME}; system schemas (pg_*, information_schema) are not allowed"
_TABLE = _field(fields.String, "table", is_table, _RELATION)
_LABEL = f"at most 63 lower-case letters, digits or '-', not '{DEFAULT_DATABASE}': leave it out for the default one"
_DATABASE = _field(fields.String, "database", is_database, _LABEL, **_OPTIONAL)
_POLICY = _field(fields.String, "deletionPolicy", {"Delete", "Retain"}.__contains__, "Delete or Retain", **_OPTIONAL)


_LONGEST = 1024
_AGE = "a whole number from 0 to 2147483647"


def _text_field(name: str) -> Field:
    rule = f"a string of 1 to {_LONGEST} characters without NUL or lone surrogates"
    return _field(fields.String, name, lambda text: 1 <= len(text) <= _LONGEST and is_text(text), rule)


COLUMNS = ("name", "age", "country")
_FIELDS = {
    "table": _TABLE,
    "database": _DATABASE,
    "name": _text_field("name"),
    "age": _field(fields.Integer, "age", lambda age: 0 <= age < 2**31, _AGE, strict=True),
    "country": _text_field("country"),
    "deletionPolicy": _POLICY,
}
POSTGRES_WRITER = Kind("PostgresWriter", "v1", "postgres-writer", "", _FIELDS, "table, name, age and country", COLUMNS)


class _Columns(fields.Field[Any]):
    """The list of columns: each an object with a name and any JSON as its value."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Values:
        if problem := next(_column_problems(value), ""):
            raise ValidationError(problem)
        return tuple((column["name"], column.get("value")) for column in value)


def _column_problems(value: Any) -> Iterator[str]:
    """Yield what is wrong with spec.columns, the first thing first; a value is never repeated."""
    if not isinstance(value, list) or not all(isinstance(column, dict) for column in value):
        yield "spec.columns must be a list of objects with name and value."
        return
    if len(value) > MAX_COLUMNS:
        yield f"spec.columns must have at most {MAX_COLUMNS} columns."
    names = [column.get("name") for column in value]
    yield from (
        f"spec.columns[{number}].name must be {_NAME}." for number, name in enumerate(names) if not is_column(name)
    )
    if len(set(names)) < len(names):
        yield f"spec.columns must name column {max(names, key=names.count)} once."
    for column in value:
        if problem := _value_problem(column.get("value")):
            yield f"The value of column {column['name']} in spec.columns {problem}."
    if len(encode(value)) > MAX_CHARACTERS:
        yield f"spec.columns must be at most {MAX_CHARACTERS} characters long, as JSON."


def _value_problem(value: Any, depth: int = MAX_DEPTH) -> str:
    """Say why a value that may be nested as deep as ``depth`` cannot be stored, or give an empty text."""
    if isinstance(value, str):
        return "" if is_text(value) else "must not contain NUL or lone surrogates"
    if not isinstance(value, (dict, list)):
        return ""
    if not depth:
        return f"must not be nested deeper than {MAX_DEPTH} levels"
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return next(filter(None, (_value_problem(each, depth - 1) for each in inner)), "")


_ROW_FIELDS: dict[str, Field] = {
    "table": _TABLE,
    "database": _DATABASE,
    "idColumn": _field(fields.String, "idColumn", is_column, f"a column: {_NAME}", **_OPTIONAL),
    "columns": _Columns(load_default=(), error_messages={"null": "spec.columns must be a list."}),
    "deletionPolicy": _POLICY,
}
POSTGRES_ROW = Kind("PostgresRow", "v1alpha1", "postgres-writer-row", "row/", _ROW_FIELDS, "table and columns")

KINDS = {kind.name: kind for kind in (POSTGRES_WRITER, POSTGRES_ROW)}


def owner_of(row_id: str) -> tuple[Kind, str, str]:
    """Give the kind, namespace and name of the resource whose row has that id, which no other resource's has."""
    *prefix, namespace, name = row_id.split("/")
    return next(kind for kind in KINDS.values() if kind.prefix.split("/")[:-1] == prefix), namespace, name

"""The table policy: which namespaces may write which columns of which tables, as rules of globs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate

import yaml
from marshmallow import Schema, ValidationError, fields, validate

# as fnmatch reads a set: a ] right after the [ or [! is one of its characters
_SET = re.compile(r"\[!?]?[^]]*]")


class _RuleSchema(Schema):
    namespaces = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    tables = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    columns = fields.List(fields.String(), load_default=["*"], validate=validate.Length(min=1))


class _PolicySchema(Schema):
    rules = fields.List(fields.Nested(_RuleSchema), required=True)


Globs = re.Pattern[str]  # the compiled union of some globs


@dataclass(frozen=True)
class TablePolicy:
    """Rules of (namespaces, relations, columns); what one rule matches is allowed, so rules add up column by column."""

    rules: tuple[tuple[Globs, Globs, Globs], ...]

    def permits(self, namespace: str, relation: str, column: str | None = None) -> bool:
        """Say whether resources of ``namespace`` may write ``column`` (None: any) of ``relation`` (schema.table)."""
        return any(
            spaces.fullmatch(namespace) and tables.fullmatch(relation) and (column is None or columns.fullmatch(column))
            for spaces, tables, columns in self.rules
        )


_ALL = re.compile(".*", re.DOTALL)
ALLOW_ALL = TablePolicy(((_ALL, _ALL, _ALL),))


def parse_policy(text: str, schema: str) -> TablePolicy:
    """Read the policy from the text of its YAML file; a glob for tables without a dot is for those of ``schema``.

    Raises ValueError when it is not rules, each with namespaces, tables and, if not all, columns as lists of globs.
    """
    try:
        loaded = _PolicySchema().load(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, AttributeError, LookupError, RecursionError) as exc:
        # the last three for a value that does not fit its tag, and for brackets too deep
        raise ValueError("not a table policy") from exc

    def compiled(rule: dict[str, list[str]]) -> tuple[Globs, Globs, Globs]:
        tables = re.compile("|".join(_relations(glob, schema) for glob in rule["tables"]))
        spaces, columns = (re.compile("|".join(map(_pattern, rule[name]))) for name in ("namespaces", "columns"))
        return spaces, tables, columns

    return TablePolicy(tuple(map(compiled, loaded["rules"])))


def _relations(glob: str, schema: str) -> str:
    """Translate a glob for tables, which says nothing about other schemas unless it has a dot."""
    return _pattern(glob) if _dots(glob) else rf"{re.escape(schema)}[.]{_pattern(glob)}"


def _pattern(glob: str) -> str:
    """Translate a glob so that no wildcard and no set matches a dot: ``team_*`` must not reach into a schema team_x.

    The dots of the glob itself use up all of a name that has as many, so none is left for a wildcard.
    """
    # a lookahead, because translate() gives wildcards that match a dot and they cannot be told to leave it out
    return rf"(?=[^.]*{r'[.][^.]*' * _dots(glob)}\Z){translate(glob)}"


def _dots(glob: str) -> int:
    return _SET.sub("", glob).count(".")

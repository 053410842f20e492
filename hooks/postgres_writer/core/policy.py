"""The table policy: which namespaces may write which tables, as rules of globs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

import yaml
from marshmallow import Schema, ValidationError, fields, validate

# as fnmatch reads a set: a ] right after the [ or [! is one of its characters
_SET = re.compile(r"\[!?]?[^]]*]")


class _RuleSchema(Schema):
    namespaces = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    tables = fields.List(fields.String(), required=True, validate=validate.Length(min=1))


class _PolicySchema(Schema):
    rules = fields.List(fields.Nested(_RuleSchema), required=True)


@dataclass(frozen=True)
class TablePolicy:
    """Rules of (namespaces, relations), each a compiled union of globs; one rule must match both."""

    rules: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...]

    def permits(self, namespace: str, relation: str) -> bool:
        """Say whether a resource of ``namespace`` may write ``relation`` (schema.table), however spec.table says it."""
        return any(spaces.fullmatch(namespace) and tables.fullmatch(relation) for spaces, tables in self.rules)


ALLOW_ALL = TablePolicy(((re.compile(".*", re.DOTALL), re.compile(".*", re.DOTALL)),))


def parse_policy(text: str, schema: str) -> TablePolicy:
    """Read the policy from the text of its YAML file; a glob for tables without a dot is for those of ``schema``.

    Raises ValueError when it is not rules, each with namespaces and tables as lists of globs.
    """
    try:
        loaded = _PolicySchema().load(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, AttributeError, LookupError, RecursionError) as exc:
        # the last three for a value that does not fit its tag, and for brackets too deep
        raise ValueError("not a table policy") from exc
    return TablePolicy(
        tuple(
            (_union(map(_pattern, rule["namespaces"])), _union(_relations(glob, schema) for glob in rule["tables"]))
            for rule in loaded["rules"]
        )
    )


def _union(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


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

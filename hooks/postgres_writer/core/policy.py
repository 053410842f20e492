"""The table policy: which namespaces may write which columns of which tables and databases, as rules of globs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate

import yaml
from marshmallow import Schema, ValidationError, fields, validate

from postgres_writer.config.variables import DEFAULT_DATABASE

# as fnmatch reads a set: a ] right after the [ or [! is one of its characters
_SET = re.compile(r"\[!?]?[^]]*]")


class _RuleSchema(Schema):
    namespaces = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    tables = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    columns = fields.List(fields.String(), load_default=["*"], validate=validate.Length(min=1))
    databases = fields.List(fields.String(), load_default=[DEFAULT_DATABASE], validate=validate.Length(min=1))


class _PolicySchema(Schema):
    rules = fields.List(fields.Nested(_RuleSchema), required=True)


Globs = re.Pattern[str]  # the compiled union of some globs


@dataclass(frozen=True)
class TablePolicy:
    """Rules of (namespaces, tables, columns, databases); what one matches is allowed, so rules add up by column."""

    rules: tuple[tuple[Globs, ...], ...]

    def permits(
        self, namespace: str, relation: str, column: str | None = None, *, schema: str, database: str = DEFAULT_DATABASE
    ) -> bool:
        """Say whether resources of ``namespace`` may write ``column`` (None: any) of ``relation`` (schema.table).

        A glob for tables without a dot is for those of ``schema``, the one of the database's tables without a schema.
        """
        bare = relation.removeprefix(f"{schema}.")
        return any(
            spaces.fullmatch(namespace)
            and databases.fullmatch(database)
            # a glob matches only what has as many dots
            and (tables.fullmatch(relation) or tables.fullmatch(bare))
            and (column is None or columns.fullmatch(column))
            for spaces, tables, columns, databases in self.rules
        )


_ALL = re.compile(".*", re.DOTALL)
ALLOW_ALL = TablePolicy(((_ALL, _ALL, _ALL, _ALL),))


def parse_policy(text: str) -> TablePolicy:
    """Read the policy from the text of its YAML file.

    Raises ValueError when it is not rules, each with namespaces, tables and, if not all, columns as lists of globs, and
    of databases if not the default one.
    """
    try:
        loaded = _PolicySchema().load(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, AttributeError, LookupError, RecursionError) as exc:
        # the last three for a value that does not fit its tag, and for brackets too deep
        raise ValueError("not a table policy") from exc

    parts = ("namespaces", "tables", "columns", "databases")
    globs = ((map(_pattern, rule[part]) for part in parts) for rule in loaded["rules"])
    return TablePolicy(tuple(tuple(re.compile("|".join(each)) for each in rule) for rule in globs))


def _pattern(glob: str) -> str:
    """Translate a glob so that no wildcard and no set matches a dot: ``team_*`` must not reach into a schema team_x.

    The dots of the glob itself use up all of a name that has as many, so none is left for a wildcard.
    """
    dots = _SET.sub("", glob).count(".")
    # a lookahead, because translate() gives wildcards that match a dot and they cannot be told to leave it out
    return rf"(?=[^.]*{r'[.][^.]*' * dots}\Z){translate(glob)}"

"""The table policy: which namespaces may write which tables. A mounted YAML file; absent means all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

import yaml
from marshmallow import Schema, ValidationError, fields, validate

from postgres_writer.errors import ConfigError


class _RuleSchema(Schema):
    namespaces = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    tables = fields.List(fields.String(), required=True, validate=validate.Length(min=1))


class _PolicySchema(Schema):
    rules = fields.List(fields.Nested(_RuleSchema), required=True)


@dataclass(frozen=True)
class TablePolicy:
    """Rules of (namespaces, tables), each a compiled union of globs; a pair is allowed when one rule matches both."""

    rules: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...]

    def permits(self, namespace: str, table: str) -> bool:
        """Say whether a resource of ``namespace`` may write ``table`` (as written in spec.table)."""
        return any(spaces.fullmatch(namespace) and tables.fullmatch(table) for spaces, tables in self.rules)


ALLOW_ALL = TablePolicy(((re.compile(".*", re.DOTALL), re.compile(".*", re.DOTALL)),))


def load_policy(path: Path) -> TablePolicy:
    """Read the policy from a file.

    Raises ConfigError with one sentence when it cannot be read or is no policy.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        loaded = _PolicySchema().load(document)
    except OSError as exc:
        raise ConfigError(f"HOOK_TABLE_POLICY_FILE: {path} cannot be read ({exc.strerror}).") from exc
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as exc:
        raise ConfigError(
            f"HOOK_TABLE_POLICY_FILE: {path} must hold rules, each with namespaces and tables as lists of globs."
        ) from exc
    return TablePolicy(tuple((_union(rule["namespaces"]), _union(rule["tables"])) for rule in loaded["rules"]))


def _union(globs: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs))

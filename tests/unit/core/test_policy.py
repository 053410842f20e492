"""The table policy: globs over namespaces and tables; everything else is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.core.policy import ALLOW_ALL, TablePolicy, parse_policy

SCHEMA = "school"


@dataclass(frozen=True)
class Loaded:
    """A policy as it is asked for resources of a database with that schema."""

    policy: TablePolicy
    schema: str = SCHEMA

    def permits(self, namespace: str, relation: str, column: str | None = None) -> bool:
        return self.policy.permits(namespace, relation, column, schema=self.schema)


def loaded(text: str, schema: str = SCHEMA) -> Loaded:
    return Loaded(parse_policy(text), schema)


def relation(table: str) -> str:
    """Return the relation that spec.table names."""
    return table if "." in table else f"{SCHEMA}.{table}"


GLOBS: list[tuple[str, str, str, bool]] = [
    ("students", "students", "", True),
    ("students", "Students", "", False),
    ("students", "students2", "", False),
    ("students", "public.students", "", False),
    ("*", "students", "", True),
    ("*", "public.students", "a wildcard matches no dot", False),
    ("*.*", "public.students", "", True),
    ("team_*", "team_x.secret", "a wildcard matches no dot", False),
    ("team_*.*", "team_x.secret", "", True),
    ("team_?secret", "team_.secret", "a wildcard matches no dot", False),
    ("team_[!a]secret", "team_.secret", "nor does a set of what is excluded", False),
    ("team_[+-/]secret", "team_.secret", "nor a range around it", False),
    ("team_[.]secret", "team_.secret", "nor a set with one", False),
    ("[.t]?secret", "t.secret", "nor what follows such a set", False),
    ("team_*", "team_a", "", True),
    ("team_*", "team_", "", True),
    ("team_*", "other_team_a", "", False),
    ("team_a.*", "team_a.students", "", True),
    ("team_a.*", "team_abc", "a dot is a dot", False),
    ("*.students", "a.students", "", True),
    ("t?", "t1", "", True),
    ("t?", "t12", "", False),
    ("t[ab]", "ta", "", True),
    ("t[!ab]", "ta", "", False),
    ("t[!ab]", "tc", "", True),
    ("", "students", "an empty glob matches nothing", False),
    ("a|students", "students", "a bar is a bar", False),
    ("(", "(", "not even a regular expression's sign", True),
    ("students\\Z", "students", "", False),
    ("students", "students\n", "", False),
    ("a$b", "a$b", "", True),
]


@pytest.mark.parametrize(("glob", "value", "allowed"), [(case[0], case[1], case[3]) for case in GLOBS])
@pytest.mark.parametrize("side", ["namespaces", "tables"])
def test_a_glob_matches_the_whole_name_in_exact_case(side: str, glob: str, value: str, allowed: bool) -> None:
    other = "tables" if side == "namespaces" else "namespaces"
    policy = loaded(f"rules: [{{{side}: [{glob!r}], {other}: ['*']}}]")
    pair = (value, "school.x") if side == "namespaces" else ("x", relation(value))
    assert policy.permits(*pair) is allowed


@pytest.mark.parametrize(
    ("glob", "value", "allowed"),
    [
        ("students", "school.students", True),
        ("school.students", "school.students", True),
        ("*", "school.students", True),
        ("*.*", "school.students", True),
        ("s*.*", "school.students", True),
        ("*", "schools.students", False),
        ("students", "schoolXstudents", False),
        ("school.*", "public.students", False),
        ("public.*", "school.students", False),
    ],
)
def test_a_glob_without_a_dot_is_for_the_schema_of_names_without_one(glob: str, value: str, allowed: bool) -> None:
    policy = loaded(f"rules: [{{namespaces: ['*'], tables: [{glob!r}]}}]")
    assert policy.permits("default", value) is allowed


def test_the_schema_is_no_pattern() -> None:
    policy = loaded("rules: [{namespaces: [a], tables: [t]}]", "a$b")
    assert policy.permits("a", "a$b.t")
    assert not policy.permits("a", "a.t")


def test_one_rule_must_match_both() -> None:
    policy = loaded(
        "rules:\n- {namespaces: [a, b], tables: [t, 'a_*']}\n- {namespaces: ['*'], tables: [open]}\n"
        "- {namespaces: [admin], tables: ['*']}\n",
    )
    pairs = [("a", "t"), ("b", "a_x"), ("c", "open"), ("admin", "t"), ("c", "t"), ("a", "b_x")]
    assert [policy.permits(namespace, relation(table)) for namespace, table in pairs] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]


def test_no_rules_permit_nothing() -> None:
    assert not loaded("rules: []").permits("default", "school.students")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rules:",
        "rules: x",
        "[]",
        "rules: [x]",
        "rules: [{}]",
        "rules: [{namespaces: [a]}]",
        "rules: [{tables: [a]}]",
        "rules: [{namespaces: [], tables: [a]}]",
        "rules: [{namespaces: [a], tables: []}]",
        "rules: [{namespaces: a, tables: [a]}]",
        "rules: [{namespaces: [1], tables: [a]}]",
        "rules: [{namespaces: [a], tables: [null]}]",
        "rules: [{namespaces: [a], tables: [a], extra: 1}]",
        "rules: []\nextra: 1",
        "rules: [",
        "rules: !!python/object/apply:os.system ['true']",
        "rules: [{namespaces: [!!bool x], tables: [a]}]",
        "rules: [{namespaces: [!!timestamp x], tables: [a]}]",
        "rules: " + "[" * 1000,
        "\x00",
    ],
)
def test_what_is_not_a_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a table policy"):
        loaded(text)


NAMES = st.text(alphabet="ab_", min_size=1, max_size=3)


@given(st.text(alphabet="ab_*?.", min_size=1, max_size=6), NAMES, NAMES, NAMES)
def test_a_glob_matches_part_by_part(glob: str, default: str, schema: str, table: str) -> None:
    policy = loaded(json.dumps({"rules": [{"namespaces": ["*"], "tables": [glob]}]}), default)
    globs = glob.split(".") if "." in glob else [default, glob]
    by_part = len(globs) == 2 and all(map(fnmatchcase, [schema, table], globs))
    assert policy.permits("default", f"{schema}.{table}") is by_part


@given(st.text(alphabet="a*?[]!", max_size=8), st.text(alphabet="a", min_size=1), st.text(alphabet="a", min_size=1))
def test_without_a_dot_of_its_own_a_glob_reaches_into_no_schema(glob: str, schema: str, table: str) -> None:
    policy = loaded(json.dumps({"rules": [{"namespaces": ["*"], "tables": [glob]}]}))
    assert not policy.permits("default", f"{schema}.{table}")


@given(st.text(), st.text())
def test_without_a_policy_everything_is_allowed(namespace: str, table: str) -> None:
    assert ALLOW_ALL.permits(namespace, table, schema=SCHEMA)


def test_a_rule_may_name_columns_and_rules_add_up() -> None:
    policy = loaded(
        "rules:\n- {namespaces: [billing], tables: [tenants], columns: [plan, 'seat*']}\n"
        "- {namespaces: [billing], tables: ['tenant*'], columns: [note]}\n- {namespaces: [ops], tables: ['*']}",
        "public",
    )
    table = "public.tenants"
    assert policy.permits("billing", table)
    assert [policy.permits("billing", table, column) for column in ("plan", "seats", "note")] == [True] * 3
    assert not policy.permits("billing", table, "limits")
    assert policy.permits("billing", "public.tenant_x", "note")
    assert not policy.permits("billing", "public.tenant_x", "plan")
    assert policy.permits("ops", table, "limits"), "a rule without columns allows all"


def test_a_rule_is_for_the_default_database_unless_it_names_others() -> None:
    policy = parse_policy(
        "rules:\n- {namespaces: [a], tables: [t]}\n- {namespaces: [a], tables: [t], databases: ['team-a*', archive]}\n"
        "- {namespaces: [b], tables: [x.t], databases: ['*']}"
    )

    def permitted(namespace: str, relation: str) -> list[str]:
        names = ("default", "team-a", "team-a-eu", "archive", "other")
        return [name for name in names if policy.permits(namespace, relation, database=name, schema="public")]

    assert permitted("a", "public.t") == ["default", "team-a", "team-a-eu", "archive"]
    assert permitted("a", "x.t") == []
    assert permitted("b", "x.t") == ["default", "team-a", "team-a-eu", "archive", "other"]


def test_a_glob_without_a_dot_is_for_the_schema_of_each_database() -> None:
    policy = parse_policy("rules: [{namespaces: [a], tables: [t], databases: [one, two]}]")
    for database, schema in (("one", "public"), ("two", "kept")):
        assert policy.permits("a", f"{schema}.t", database=database, schema=schema)
        assert not policy.permits("a", "other.t", database=database, schema=schema)

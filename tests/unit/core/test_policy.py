"""The table policy: globs over namespaces and tables, and a sentence for every file that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.core.policy import ALLOW_ALL, TablePolicy, load_policy
from postgres_writer.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def loaded(path: Path, text: str) -> TablePolicy:
    path.write_text(text)
    return load_policy(path)


GLOBS: list[tuple[str, str, str, bool]] = [
    ("students", "students", "", True),
    ("students", "Students", "", False),
    ("students", "students2", "", False),
    ("students", "public.students", "", False),
    ("*", "public.students", "", True),
    ("*", "students", "", True),
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
def test_a_glob_matches_the_whole_name_in_exact_case(
    path: Path, side: str, glob: str, value: str, allowed: bool
) -> None:
    other = "tables" if side == "namespaces" else "namespaces"
    path.write_text(f"rules: [{{{side}: [{glob!r}], {other}: ['*']}}]")
    policy = load_policy(path)
    pair = (value, "x") if side == "namespaces" else ("x", value)
    assert policy.permits(*pair) is allowed


def test_one_rule_must_match_both(path: Path) -> None:
    policy = loaded(
        path,
        "rules:\n- {namespaces: [a, b], tables: [t, 'a_*']}\n- {namespaces: ['*'], tables: [open]}\n"
        "- {namespaces: [admin], tables: ['*']}\n",
    )
    pairs = [("a", "t"), ("b", "a_x"), ("c", "open"), ("admin", "t"), ("c", "t"), ("a", "b_x")]
    assert [policy.permits(*pair) for pair in pairs] == [True, True, True, True, False, False]


def test_no_rules_permit_nothing(path: Path) -> None:
    assert not loaded(path, "rules: []").permits("default", "students")


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
        "\x00",
    ],
)
def test_what_is_no_policy_is_said_in_one_sentence(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^HOOK_TABLE_POLICY_FILE: .* must hold rules, .*\.$"):
        load_policy(path)


def test_a_file_that_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="HOOK_TABLE_POLICY_FILE"):
        load_policy(path)


def test_a_file_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^HOOK_TABLE_POLICY_FILE: .* cannot be read \(No such file or directory\)"):
        load_policy(path)


@given(st.text(), st.text())
def test_without_a_policy_everything_is_allowed(namespace: str, table: str) -> None:
    assert ALLOW_ALL.permits(namespace, table)

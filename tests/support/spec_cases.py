# spec.table matches TABLE_PATTERN and does not match SYSTEM_TABLE_PATTERN: the one rule, in all parts.
"""The one table of valid and invalid specs, for the CRD's schema and for the hook's own schema.

`SPEC_CASES` holds what a user can apply: the API server and the hook server must agree on every one of them.
`WIRE_ONLY` holds what reaches the hook only from a client that is not the API server, because the API server
turns it into something else before it stores it: the hook must have an answer of its own.

The rule for spec.table is PostgreSQL's identifier without quotes, in ASCII, once or twice, in its exact case.
A first part that begins with `pg_` is refused also without a schema, because PostgreSQL looks into pg_catalog
before anything else; `public.pg_mine` is a user's own table and stays valid.
Lengths count code points, as Kubernetes and Python both do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

TABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_$]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62})?$"
SYSTEM_TABLE_PATTERN: Final = r"^(pg_|information_schema[.])"
TEXT_LIMIT: Final = 1024
AGE_LIMIT: Final = 2**31 - 1


class _Absent:
    """The type of `ABSENT`."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""A field that is absent, which is not the same as null."""


@dataclass(frozen=True)
class SpecCase:
    """One spec and the verdict on it: `field` is the field at fault ("spec" for the whole), None if valid."""

    sentence: str
    spec: Any
    field: str | None = None

    @property
    def valid(self) -> bool:
        """Whether the spec must be accepted."""
        return self.field is None

    @property
    def id(self) -> str:
        """A name for pytest: the sentence with hyphens."""
        return re.sub(r"\W+", "-", self.sentence).strip("-")

    def manifest(self, name: str = "sample", namespace: str = "default") -> dict[str, Any]:
        """Return the whole resource, without a spec when the spec is `ABSENT`."""
        found: dict[str, Any] = {
            "apiVersion": "demo.yash.com/v1",
            "kind": "PostgresWriter",
            "metadata": {"name": name, "namespace": namespace},
        }
        if self.spec is not ABSENT:
            found["spec"] = self.spec
        return found


def spec_with(**changes: object) -> dict[str, Any]:
    """Return the sample's spec with fields replaced, or left out when the value is `ABSENT`."""
    spec: dict[str, Any] = {"table": "students", "name": "alex", "age": 23, "country": "canada"}
    spec.update(changes)
    return {key: value for key, value in spec.items() if value is not ABSENT}


def _valid(sentence: str, **changes: object) -> SpecCase:
    return SpecCase(sentence, spec_with(**changes))


def _bad(field: str, sentence: str, value: object) -> SpecCase:
    return SpecCase(f"{field}: {sentence}", spec_with(**{field: value}), field)


_LONGEST: Final = "t" * 63
_KEPT_EXACTLY: Final = {
    "single quotes": "O'Brien '' '",
    "double quotes": 'the "best"',
    "semicolons and a comment": "x'; DROP TABLE students; --",
    "percent signs": "100% %s %(id)s %%",
    "backslashes": "C:\\temp\\n \\' \\x00 \\u0000",
    "emoji": "\U0001f9d1\u200d\U0001f680 \U0001f1e8\U0001f1e6 \u00e9",
    "right to left": "\u05de\u05dc\u05db\u05d4 \u202e \u0633\u0627\u0631\u0629",
    "line breaks and tabs": "first\nsecond\r\n\tthird",
    "outer blanks": "  alex  ",
    "one blank": " ",
    "what YAML would read as something else": "null",
    "braces and dollars": "{0} ${HOME} $1 $$ {{x}}",
    "control characters other than NUL": "\x01\x1f\x7f",
    "a byte order mark": "\ufeffalex\ufffe",
}

VALID_SPECS: Final[tuple[SpecCase, ...]] = (
    _valid("the sample"),
    _valid("table of one letter", table="t"),
    _valid("table that begins with an underscore", table="_students"),
    _valid("table in capitals keeps its case", table="STUDENTS"),
    _valid("table of mixed case", table="StudentsOf2024"),
    _valid("table with a dollar sign inside", table="students$old"),
    _valid("table that is an SQL keyword", table="select"),
    _valid("table of 63 characters", table=_LONGEST),
    _valid("table with a schema", table="public.students"),
    _valid("table and schema of 63 characters each", table=f"{_LONGEST}.{_LONGEST}"),
    _valid("own table with a system-like name in an own schema", table="public.pg_mine"),
    _valid("table that only sounds like the information schema", table="information_schema"),
    _valid("schema that only begins like the information schema", table="information_schema_2.students"),
    _valid("schema in capitals is not the system's", table="PG_CATALOG.students"),
    _valid("table that begins with pg and no underscore", table="pgtable"),
    *(
        _valid(f"{field} with {what}", **{field: text})
        for field in ("name", "country")
        for what, text in _KEPT_EXACTLY.items()
    ),
    *(_valid(f"{field} of one character", **{field: "x"}) for field in ("name", "country")),
    *(_valid(f"{field} of 1024 characters", **{field: "x" * TEXT_LIMIT}) for field in ("name", "country")),
    *(_valid(f"{field} of 1024 emoji", **{field: "\U0001f600" * TEXT_LIMIT}) for field in ("name", "country")),
    _valid("age 0", age=0),
    _valid("the highest age", age=AGE_LIMIT),
    _valid("a database", database="archive"),
    _valid("a database of one character", database="7"),
    _valid("a database of 63 characters", database="a" + 61 * "-" + "1"),
    _valid("deletionPolicy Delete", deletionPolicy="Delete"),
    _valid("deletionPolicy Retain", deletionPolicy="Retain"),
    _valid("an unknown field beside the known ones", nickname="al"),
    _valid("an unknown object beside the known ones", more={"deep": [1, {"deeper": None}]}),
)

INVALID_SPECS: Final[tuple[SpecCase, ...]] = (
    SpecCase("spec is missing", ABSENT, "spec"),
    SpecCase("spec is null", None, "spec"),
    SpecCase("spec is a string", "students", "spec"),
    SpecCase("spec is a list", [spec_with()], "spec"),
    SpecCase("spec is a number", 3, "spec"),
    SpecCase("spec is true", True, "spec"),
    SpecCase("spec is empty", {}, "table"),
    *(_bad(field, "missing", ABSENT) for field in ("table", "name", "age", "country")),
    *(_bad(field, "null", None) for field in ("table", "name", "age", "country")),
    *(
        _bad(field, what, value)
        for field in ("table", "name", "country")
        for what, value in (
            ("a number", 7),
            ("a fraction", 7.5),
            ("true", True),
            ("a list", ["students"]),
            ("an object", {"x": "students"}),
            ("empty", ""),
        )
    ),
    _bad("table", "three parts", "a.b.c"),
    _bad("table", "64 characters", "t" * 64),
    _bad("table", "schema of 64 characters", "s" * 64 + ".students"),
    _bad("table", "64 characters after a schema", "public." + "t" * 64),
    _bad("table", "only a dot", "."),
    _bad("table", "no schema before the dot", ".students"),
    _bad("table", "nothing after the dot", "public."),
    _bad("table", "two dots", "public..students"),
    _bad("table", "leading digit", "2024_students"),
    _bad("table", "leading digit after a schema", "public.2024_students"),
    _bad("table", "leading dollar sign", "$students"),
    _bad("table", "a blank inside", "my students"),
    _bad("table", "only a blank", " "),
    _bad("table", "outer blanks", " students "),
    _bad("table", "a line break at its end", "students\n"),
    _bad("table", "a line break before it", "\nstudents"),
    _bad("table", "double quotes", '"students"'),
    _bad("table", "single quotes", "students'"),
    _bad("table", "a statement", 'students"; DROP TABLE students; --'),
    _bad("table", "a hyphen", "team-students"),
    _bad("table", "a percent sign", "students%s"),
    _bad("table", "a backslash", "students\\"),
    _bad("table", "a slash", "public/students"),
    _bad("table", "a NUL", "students\x00"),
    _bad("table", "letters beyond ASCII", "\u00e9tudiants"),
    _bad("table", "digits beyond ASCII", "students\u0663"),
    _bad("table", "a look-alike letter", "stud\u0435nts"),
    _bad("table", "the system catalogue", "pg_catalog.pg_class"),
    _bad("table", "the system catalogue without a schema", "pg_class"),
    _bad("table", "the large values' schema", "pg_toast.students"),
    _bad("table", "a session's own schema", "pg_temp.students"),
    _bad("table", "any schema reserved for the system", "pg_mine.students"),
    _bad("table", "the information schema", "information_schema.tables"),
    *(
        _bad(field, what, value)
        for field in ("name", "country")
        for what, value in (
            ("1025 characters", "x" * (TEXT_LIMIT + 1)),
            ("1025 emoji", "\U0001f600" * (TEXT_LIMIT + 1)),
            ("a megabyte", "x" * 2**20),
            ("a NUL inside", "al\x00ex"),
            ("only a NUL", "\x00"),
        )
    ),
    *(
        _bad("database", what, value)
        for what, value in (
            ("the name of the default one", "default"),
            ("empty", ""),
            ("capitals", "Archive"),
            ("an underscore", "my_archive"),
            ("a hyphen at its beginning", "-archive"),
            ("a hyphen at its end", "archive-"),
            ("64 characters", "a" * 64),
            ("a dot", "archive.eu"),
            ("another folder", "../archive"),
            ("a line break at its end", "archive\n"),
            ("letters beyond ASCII", "archiv\u00e9"),
            ("a number", 7),
            ("a list", ["archive"]),
        )
    ),
    _bad("age", "a string of digits", "23"),
    _bad("age", "an empty string", ""),
    _bad("age", "a fraction", 23.5),
    _bad("age", "true", True),
    _bad("age", "false", False),
    _bad("age", "a list", [23]),
    _bad("age", "an object", {"years": 23}),
    _bad("age", "minus one", -1),
    _bad("age", "one more than the highest", AGE_LIMIT + 1),
    _bad("age", "beyond 64 bits", 10**30),
    _bad("deletionPolicy", "empty", ""),
    _bad("deletionPolicy", "wrong case", "retain"),
    _bad("deletionPolicy", "another word", "Orphan"),
    _bad("deletionPolicy", "true", True),
    _bad("deletionPolicy", "a list", ["Retain"]),
)

SPEC_CASES: Final[tuple[SpecCase, ...]] = VALID_SPECS + INVALID_SPECS

WIRE_ONLY: Final[tuple[SpecCase, ...]] = (
    # The API server replaces a lone surrogate by U+FFFD.
    _bad("table", "a lone surrogate", "students\ud800"),
    _bad("name", "a lone high surrogate", "al\ud800ex"),
    _bad("name", "a lone low surrogate", "al\udc00ex"),
    _bad("country", "a lone high surrogate", "\udbff"),
    # The API server stores 23.0 as 23.
    _bad("age", "a whole number written as a fraction", 23.0),
    _bad("age", "not a number", float("nan")),
    _bad("age", "infinity", float("inf")),
    # The API server replaces a null by the default.
    _valid("deletionPolicy null is the default", deletionPolicy=None),
)

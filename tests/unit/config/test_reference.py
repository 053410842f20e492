"""docs/configuration.md and docs/reference.md are what code and manifests say, which say something of everything."""

import re
from pathlib import Path

import pytest

from postgres_writer.config.settings import SETTINGS
from postgres_writer.config.variables import Setting
from postgres_writer.errors import Reason
from support.reference import reference, settings

DOCS = Path(__file__).parents[3] / "docs"


def test_the_pages_are_current() -> None:
    _, heading, tables = (DOCS / "configuration.md").read_text(encoding="utf-8").partition("## ")
    assert heading + tables == settings(), "run `make docs`"
    assert (DOCS / "reference.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_variable_has_one_row_of_three_cells(setting: Setting) -> None:
    [row] = [line for line in settings().splitlines() if line.startswith(f"| `{setting.name}` | ")]
    assert [cell.strip() for cell in row.split("|")] == [
        "",
        f"`{setting.name}`",
        setting.default_text,
        setting.meaning,
        "",
    ]


def test_the_reference_says_something_of_everything() -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in reference().splitlines() if line.startswith("| ")]
    meanings = {row[0].strip(): row[-1].strip() for row in rows}
    assert all(meanings.values()), [name for name, meaning in meanings.items() if not meaning]
    assert {reason.value for reason in Reason} <= set(re.findall(r"\[(\w+)\]\(runbook\.md#", reference()))

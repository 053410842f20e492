"""docs/configuration.md is what the code says, and the code says something of every variable."""

from pathlib import Path

import pytest

from postgres_writer.config.settings import SETTINGS
from postgres_writer.config.variables import Setting
from support.reference import markdown

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_current() -> None:
    _, heading, tables = (DOCS / "configuration.md").read_text(encoding="utf-8").partition("## ")
    assert heading + tables == markdown(), "run `make docs`"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_variable_has_one_row_of_three_cells(setting: Setting) -> None:
    [row] = [line for line in markdown().splitlines() if line.startswith(f"| `{setting.name}` | ")]
    assert [cell.strip() for cell in row.split("|")] == [
        "",
        f"`{setting.name}`",
        setting.default_text,
        setting.meaning,
        "",
    ]

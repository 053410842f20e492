"""What the README says of settings and files is so."""

import re
from pathlib import Path

import pytest

from postgres_writer.config.reference import markdown
from postgres_writer.config.settings import SETTINGS

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", [line for line in markdown().splitlines() if line.startswith("| `")])
def test_the_readme_lists_every_setting_as_the_code_has_it(line: str) -> None:
    assert line in README.splitlines()


def test_the_readme_lists_no_setting_that_is_gone() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert listed == [setting.name for setting in SETTINGS]


DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []

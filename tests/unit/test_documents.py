"""What the documents link to and name exists."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", document.read_text(encoding="utf-8")))
    known = [
        str(path.relative_to(TOP)) for folder in ("hooks", "tests", ".ci") for path in (TOP / folder).rglob("*.py")
    ]
    assert [name for name in sorted(named) if not any(f"/{path}".endswith(f"/{name}") for path in known)] == []

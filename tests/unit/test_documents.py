"""What the documents link to and name exists."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

README = TOP / "README.md"
PAGES = sorted((TOP / "docs").glob("*.md"))
DOCUMENTS = [README, TOP / "CONTRIBUTING.md", *PAGES]


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_of_make_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"(?:`|^    )make ([a-z0-9-]+)", document.read_text(encoding="utf-8"), re.M))
    targets = set(re.findall(r"^([a-z0-9-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.M))
    # the original operator's
    assert named - targets <= {"undeploy"}


def test_the_commands_that_install_are_those_of_the_guide_which_are_tried() -> None:
    guide = (TOP / "docs" / "install.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    lines = re.split(r"(?<!\\)\n", commands.strip())
    assert len(lines) > 5
    assert [line for line in lines if line not in guide] == []


READ_BY_USERS = [
    *DOCUMENTS,
    TOP / "CHANGELOG.md",
    TOP / "SECURITY.md",
    *(
        path
        for folder in ("crds", "k8s", "metacontroller", "hooks/postgres_writer")
        for path in sorted((TOP / folder).rglob("*"))
        if path.suffix in {".yaml", ".sh", ".sql", ".py"}
    ),
]
MISREAD = re.compile(
    r"\b(anew|mend(s|ed|ing)?|by (itself|themselves)|in force|put right|belongs? into|at the most|for ever|shall"
    r"|whoever|nobody|somebody|short of breath)\b",
    re.IGNORECASE,
)


def test_no_word_is_used_that_readers_stumble_over() -> None:
    lines = ((path, line) for path in READ_BY_USERS for line in path.read_text(encoding="utf-8").splitlines())
    assert [f"{path.relative_to(TOP)}: {line}" for path, line in lines if MISREAD.search(line)] == []

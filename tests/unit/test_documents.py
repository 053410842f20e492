"""What the documents link to and name exists, and their lists of contents are complete."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from support.documents import README, ROOT, anchor, code_blocks, guide, headings, links

DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PAGES = sorted(set(DOCS.glob("*.md")) - {INDEX})
DOCUMENTS = [*sorted(ROOT.glob("*.md")), INDEX, *PAGES]
MANIFESTS = [path for folder in ("crds", "k8s", "metacontroller") for path in sorted((ROOT / folder).rglob("*.yaml"))]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def leads_somewhere(document: Path, file: str, fragment: str) -> bool:
    """Say whether a link of a document leads to a file, and to one of its headings if it names any."""
    target = document.parent / file if file else document
    return target.exists() and (not fragment or fragment in {anchor(title) for _, title in headings(target)})


@every_document
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: Path) -> None:
    assert [link for link in links(document) if not leads_somewhere(document, *link)] == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[a](#one), [b](#two), [c](page.md#one), [d](no.md), [e](https://x/y#z)\n```sh\n# Two\n```\n"
    )
    assert [link for link in links(page) if not leads_somewhere(page, *link)] == [("", "two"), ("no.md", "")]


@every_page
def test_no_two_headings_of_a_page_have_one_anchor(page: Path) -> None:
    anchors = Counter(anchor(title) for _, title in headings(page))
    assert [found for found, number in anchors.items() if number > 1] == []


@every_page
def test_the_contents_at_the_top_of_a_page_are_its_headings(page: Path) -> None:
    before, _, _ = page.read_text(encoding="utf-8").partition("\n## ")
    listed = re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)", "\n".join(re.findall(r"^(?:- |  ).*$", before, re.M)))
    (level, _), *rest = headings(page)
    assert level == 1
    assert listed == [(title, anchor(title)) for level, title in rest if level <= 2]


def test_the_index_has_a_line_for_every_page() -> None:
    lines = re.findall(r"^- \[(\w+\.md)\]\((\w+\.md)\): \S.*$", INDEX.read_text(encoding="utf-8"), re.M)
    assert sorted(lines) == [(page.name, page.name) for page in PAGES]


def test_the_readme_is_short_and_leads_to_the_index() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert ("docs/README.md", "") in links(README)


def test_the_section_that_a_manifest_refers_to_exists() -> None:
    named = set()
    for path in MANIFESTS:
        text = re.sub(r"\n *# ", " ", path.read_text(encoding="utf-8"))
        named |= {(page, title) for page, title in re.findall(r"(docs/\w+\.md)(?:, \"([^\"]+)\")?", text)}
    assert len(named) > 5
    assert [(page, title) for page, title in named if not leads_somewhere(ROOT / "x", page, anchor(title))] == []


@every_document
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", document.read_text(encoding="utf-8")))
    known = [
        str(path.relative_to(ROOT)) for folder in ("hooks", "tests", ".ci") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [name for name in sorted(named) if not any(f"/{path}".endswith(f"/{name}") for path in known)] == []


@every_document
def test_every_target_of_make_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"(?:`|^ *)(?:[A-Z]+=\S+ )*make ([a-z0-9-]+)", document.read_text(encoding="utf-8"), re.M))
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    # the original operator's
    assert named - targets <= {"undeploy"}


def test_the_commands_that_install_are_those_of_the_guide_which_explains_them() -> None:
    block = "".join(code_blocks(README, "Install", "sh"))
    explained = "".join((*guide("Install"), *guide("Install with kubectl"), *guide("Install from a checkout")))
    lines = [line for line in re.sub(r"(^|  )#.*$", "", block, flags=re.M).splitlines() if line]
    assert len(lines) > 25
    assert [line for line in lines if line not in explained.splitlines()] == []


READ_BY_USERS = [
    *DOCUMENTS,
    *(
        path
        for folder in ("crds", "k8s", "metacontroller", "hooks/postgres_writer")
        for path in sorted((ROOT / folder).rglob("*"))
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
    assert [f"{path.relative_to(ROOT)}: {line}" for path, line in lines if MISREAD.search(line)] == []

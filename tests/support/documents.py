"""The documents as tests use them: their sections, code blocks, anchors, and what a transcript shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = tuple(ROOT / "docs" / f"{name}.md" for name in ("install", "operate", "switch", "migrate"))
"""The pages whose commands are run in order; no two have a section in common."""
_CODE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def headings(page: Path) -> list[tuple[int, str]]:
    """Return (level, title) of every heading of a page; a comment in a code block is none."""
    found = re.findall(r"^(#+) (.*)$", _CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return [(len(marks), title) for marks, title in found]


def anchor(title: str) -> str:
    """Return the anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def links(page: Path) -> list[tuple[str, str]]:
    """Return (file, anchor) of every link of a page that leads to no other site; either may be empty."""
    prose = _CODE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"\]\((?![a-z]+:)([^)#]*)#?([^)]*)\)", prose)


def section(page: Path, title: str) -> str:
    """Return one section of a page, up to the next heading."""
    hidden = _CODE.sub(lambda block: re.sub("^#", "\0", block[0], flags=re.MULTILINE), page.read_text(encoding="utf-8"))
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", hidden, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[1].replace("\0", "#")


def code_blocks(page: Path, title: str, language: str) -> list[str]:
    """Return the code blocks of one language in a section of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(page, title), re.MULTILINE | re.DOTALL)


def guide_text(title: str) -> str:
    """Return one section of the guides, up to the next heading."""
    (page,) = [page for page in GUIDES if title in {found for _, found in headings(page)}]
    return section(page, title)


def guide(title: str, language: str = "sh") -> list[str]:
    """Return the code blocks of one section of the guides, by default its shell commands."""
    return re.findall(rf"^```{language}\n(.*?)^```", guide_text(title), re.MULTILINE | re.DOTALL)


def transcript(block: str) -> list[tuple[str, str]]:
    """Return (command, output) of each command of a block that shows a terminal."""
    _, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def as_shown(output: str) -> str:
    """Return an output without what differs from run to run: ages, and the widths of columns that depend on them."""
    return "\n".join(" ".join(re.sub(r"\b\d+(m\d*)?s\b", "AGE", line).split()) for line in output.strip().splitlines())

"""The tables of docs/configuration.md, from what the code declares (`make docs`)."""

from __future__ import annotations

import sys

from postgres_writer.config.settings import GROUPS


def markdown() -> str:
    """Return the tables."""
    lines: list[str] = []
    for title, group in GROUPS.items():
        lines += [f"## {title.capitalize()}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{each.name}` | {each.default_text} | {each.meaning} |" for each in group]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())

"""Fail on files of more than 400 lines and functions of more than 40: ruff counts statements, not lines."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 400
FUNCTION_LINES = 40


def too_long(path: Path) -> Iterator[str]:
    """Yield a sentence for the file and for each of its functions that is too long; the docstring is not counted."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, at most {FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            documented = ast.get_docstring(node) is not None
            start = (node.body[0].end_lineno or 0) + 1 if documented else node.lineno
            length = (node.end_lineno or start) - start + 1
            if length > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def main(folders: list[str]) -> int:
    """Print what is too long in the folders; returns the exit code."""
    found = [line for folder in folders for path in sorted(Path(folder).rglob("*.py")) for line in too_long(path)]
    for line in found:
        sys.stderr.write(line + "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The recipes of docs/recipes.md as tests use them: their code blocks, by section and language."""

from __future__ import annotations

from support.documents import ROOT, code_blocks

RECIPES = ROOT / "docs" / "recipes.md"


def recipe(title: str, language: str = "sh") -> list[str]:
    """Return the code blocks of one section."""
    return code_blocks(RECIPES, title, language)

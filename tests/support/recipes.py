"""The recipes of docs/recipes.md as tests use them: their code blocks, by section and language."""

from __future__ import annotations

from typing import Any

import yaml

from support.documents import ROOT, code_blocks

RECIPES = ROOT / "docs" / "recipes.md"


def recipe(title: str, language: str = "sh") -> list[str]:
    """Return the code blocks of one section."""
    return code_blocks(RECIPES, title, language)


def selectors() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the label selectors of the two controllers of "Several databases"."""
    first, second = (yaml.safe_load(block) for block in recipe("Several databases", "yaml")[:2])
    return _selector(first), _selector(second)


def _selector(kustomization: dict[str, Any]) -> dict[str, Any]:
    operations = [operation for patch in kustomization["patches"] for operation in yaml.safe_load(patch["patch"])]
    (found,) = [
        operation["value"]
        for operation in operations
        if isinstance(operation, dict) and str(operation.get("path")).endswith("/labelSelector")
    ]
    selector: dict[str, Any] = found
    return selector

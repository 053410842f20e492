"""Programs of other projects that tests run: found on PATH, and never missed without a word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Found = TypeVar("Found")


class ProgramMissing(Exception):
    """A program is not installed; the text says how to get it."""


def find_program(name: str, package: str) -> str:
    """Return the path of a program. Raises ProgramMissing with Debian's package when it is not installed."""
    # Debian keeps daemons in sbin, which is not on everyone's PATH
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise ProgramMissing(f"{name} is not installed: apt-get install {package}.")
    return found


def require_program(name: str, package: str) -> str:
    """Return the path of a program for a test, which is skipped without it."""
    return found_or_skipped(lambda: find_program(name, package))


def found_or_skipped(find: Callable[[], Found]) -> Found:
    """Find what a test needs, or skip the test; fail in CI, where a skip would hide that it is missing."""
    try:
        return find()
    except ProgramMissing as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(str(exc))
        pytest.skip(str(exc))


def packaged_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL of Debian's packages, which has ICU and the contrib modules."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda folder: int(folder.parent.name), default=None)

"""Where a PostgreSQL of the tests has its data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def memory_folder() -> Path | None:
    """Return a folder in memory with room for many tables, if there is one: to make and drop them is cheaper there."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 2**30 else None

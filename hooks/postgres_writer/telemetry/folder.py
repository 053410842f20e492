"""The folder in which the workers share their metrics: made at the start, removed at the end; and whose file is whose.

Nothing here imports prometheus_client at the top: it reads the folder's name from the environment at its import.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "postgres-writer-"
_LOCK = "owner.lock"
_YOUNG_SECONDS = 10.0
"""A folder as young as this may be one whose server has not locked it yet."""
_owner = "master"


def shared_memory_folder() -> str | None:
    """Return a folder in memory if there is a writable one; None lets tempfile decide."""
    folder = Path("/dev/shm")  # noqa: S108 # files there get random names from tempfile
    return str(folder) if folder.is_dir() and os.access(folder, os.W_OK) else None


@contextlib.contextmanager
def metrics_folder(parent: str | None = None) -> Iterator[Path]:
    """Give the workers a folder in which they share their metrics, and remove it at the end.

    Folders that killed servers left in the same place are removed too: in a pod that place outlives its containers.
    """
    place = parent or shared_memory_folder() or tempfile.gettempdir()
    remove_abandoned(Path(place))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    with (folder / _LOCK).open("w") as owner:
        # held by the master, and through fork by its workers, until the last of them is gone
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.environ[VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop(VARIABLE, None)
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Remove the folders in ``place`` whose server is gone: no process holds their lock any more."""
    for lock in place.glob(f"{_PREFIX}*/{_LOCK}"):
        # another server may be removing the same one, or it may belong to another user
        with contextlib.suppress(OSError), lock.open("r+") as owner:
            if time.time() - lock.stat().st_mtime < _YOUNG_SECONDS:
                continue
            # a lock instead of a pid in a file: the kernel frees it however the server ends, and pids are used again
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def enter_slot(slot: int) -> None:
    """Let this process, a worker, write its metrics to the files of a slot from now on."""
    global _owner  # noqa: PLW0603 # a process has one; prometheus_client asks for it at every change
    _owner = str(slot)


def leave_slot(slot: int) -> None:
    """Remove the live gauges from the files of a slot whose worker has ended: its successor's would add to them."""
    from prometheus_client import multiprocess  # noqa: PLC0415 # see the module's docstring

    multiprocess.mark_process_dead(slot, os.environ[VARIABLE])  # type: ignore[no-untyped-call]


def owner() -> str:
    """Return whose files this process writes its metrics to: a slot's, or the master's."""
    return _owner

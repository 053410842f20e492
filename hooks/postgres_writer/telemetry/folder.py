"""The folder in which the workers share their metrics: made at the start, kept small, removed at the end.

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
_OWNER = "owner.lock"
_READERS = "readers.lock"
_YOUNG_SECONDS = 10.0
"""A folder as young as this may be one whose server has not locked it yet."""
_KEPT = ("counter", "histogram")
_MERGE_SECONDS = 1.0
"""How long the master waits for a scrape to end. A worker may be stopped in the middle of one; then the next
merge does it."""


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
    with (folder / _OWNER).open("w") as owner:
        # held by the master, and through fork by its workers, until the last of them is gone
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.environ[VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop(VARIABLE, None)
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Remove the folders in ``place`` whose server is gone: nobody holds their lock any more."""
    for lock in place.glob(f"{_PREFIX}*/{_OWNER}"):
        # another server may be removing the same one, or it may belong to another user
        with contextlib.suppress(OSError), lock.open("r+") as owner:
            if time.time() - lock.stat().st_mtime < _YOUNG_SECONDS:
                continue
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep the files as they are while they are read: a merge in between would count a worker twice or not at all."""
    with (folder / _READERS).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


class DeadWorkers:
    """What the master does with the files of workers that have ended.

    Live gauges go with their worker. Counters and histograms must not: their sums are added to one common file, so
    that a worker that dies again and again does not fill the memory with files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: set[int] = set()

    def bury(self, pid: int) -> None:
        """Clean up after a worker; what cannot be merged now is merged with the next one."""
        from prometheus_client import multiprocess  # noqa: PLC0415 # see the module's docstring

        multiprocess.mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]
        self._pending.add(pid)
        with (self._folder / _READERS).open("a") as lock:
            if _locked(lock.fileno()):
                for dead in sorted(self._pending):
                    self._merge(dead)
                self._pending.clear()

    def _merge(self, pid: int) -> None:
        from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415 # see the module's docstring

        for kind in _KEPT:
            source = self._folder / f"{kind}_{pid}.db"
            if not source.exists():
                continue
            common = MmapedDict(str(self._folder / f"{kind}_dead.db"))  # type: ignore[no-untyped-call]
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):  # type: ignore[no-untyped-call]
                common.write_value(key, common.read_value(key)[0] + value, 0.0)  # type: ignore[no-untyped-call]
            common.close()  # type: ignore[no-untyped-call]
            source.unlink()


def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + _MERGE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True

"""What a watch says of all PostgresWriters: how many exist, and how many are Ready at their generation.

Both benchmarks of the cluster wait on it, because a list of everything, asked for again and again, would cost the API
server more than what is measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.api_client import RESOURCES, ready_of

if TYPE_CHECKING:
    from support.api_client import ApiClient, Object

_PAGE = 2000


@dataclass
class Progress:
    """One watch in a thread of its own; `start()` it, `wait_for()` what is to come, `stop()` it."""

    client: ApiClient
    versions: int = 0
    """Stored versions that the watch has delivered: each is one write that changed something."""
    _synced: dict[str, bool] = field(default_factory=dict)
    _ready: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def existing(self) -> int:
        """How many resources there are."""
        return len(self._synced)

    @property
    def ready(self) -> int:
        """How many of them are Ready=True at their own generation."""
        return self._ready

    def is_ready(self, namespace: str, name: str) -> bool:
        """Say whether one resource is Ready at its generation."""
        return self._synced.get(f"{namespace}/{name}", False)

    def start(self) -> None:
        """Begin to watch, from the state that the API server has now."""
        since = self._list()["metadata"]["resourceVersion"]
        following = (self._list, self._keep, self._stop, since)
        threading.Thread(target=self.client.follow, args=following, name="progress", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; the thread ends with its next event, or with the process."""
        self._stop.set()

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float) -> float:
        """Wait until a condition over this object holds; gives the seconds that it took.

        Raises TimeoutError, with the counts, when it does not hold in time.
        """
        began = time.monotonic()
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"{what}: not within {timeout:.0f} s ({self.ready} of {self.existing} are Ready)")
        return time.monotonic() - began

    def _list(self) -> Object:
        """Take everything that there is, page by page; gives the last page."""
        found: dict[str, bool] = {}
        query = f"?limit={_PAGE}"
        while True:
            page: Object = self.client.request("GET", RESOURCES + query)
            found |= {_key(item): _is_ready(item) for item in page["items"]}
            following = page["metadata"].get("continue")
            if not following:
                break
            query = f"?limit={_PAGE}&continue={following}"
        with self._changed:
            self._synced, self._ready = found, sum(found.values())
            self._changed.notify_all()
        return page

    def _keep(self, kind: str, found: Object) -> None:
        key = _key(found)
        with self._changed:
            self.versions += 1
            self._ready -= self._synced.pop(key, False)
            if kind != "DELETED":
                self._synced[key] = _is_ready(found)
                self._ready += self._synced[key]
            self._changed.notify_all()


def _key(found: Object) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


def _is_ready(found: Object) -> bool:
    ready = ready_of(found)
    return ready.get("status") == "True" and ready.get("observedGeneration") == found["metadata"]["generation"]

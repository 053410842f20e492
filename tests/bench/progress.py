"""What watches say of all resources of both kinds: how many exist, and how many are Ready at their generation.

Both benchmarks of the cluster wait on it, because a list of everything, asked for again and again, would cost the API
server more than what is measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from postgres_writer.core.row import KINDS
from support.api_client import key_of, ready_of

if TYPE_CHECKING:
    from support.api_client import ApiClient, Object

_PAGE = 2000


@dataclass
class Progress:
    """A watch of each kind in a thread of its own; `start()` them, `wait_for()` what is to come, `stop()` them."""

    client: ApiClient
    versions: int = 0
    """Stored versions that the watches have delivered: each is one write that changed something."""
    _synced: dict[str, dict[str, bool]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    _ready: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def existing(self) -> int:
        """How many resources there are."""
        return sum(map(len, self._synced.values()))

    @property
    def ready(self) -> int:
        """How many of them are Ready=True at their own generation."""
        return self._ready

    def is_ready(self, manifest: Object) -> bool:
        """Say whether one resource is Ready at its generation."""
        return self._synced[manifest["kind"]].get(key_of(manifest), False)

    def start(self) -> None:
        """Begin to watch, from the state that the API server has now."""
        for kind in KINDS.values():
            client = self.client.of(kind)
            since = self._list(client)["metadata"]["resourceVersion"]
            following = (lambda it=client: self._list(it), self._keep, self._stop, since)
            threading.Thread(target=client.follow, args=following, name=kind.plural, daemon=True).start()

    def stop(self) -> None:
        """Stop watching; a thread ends with its next event, or with the process."""
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

    def _list(self, client: ApiClient) -> Object:
        """Take everything that there is of a client's kind, page by page; gives the last page."""
        found: dict[str, bool] = {}
        query = f"?limit={_PAGE}"
        while True:
            page: Object = client.request("GET", client.path("") + query)
            found |= {key_of(item): _is_ready(item) for item in page["items"]}
            following = page["metadata"].get("continue")
            if not following:
                break
            query = f"?limit={_PAGE}&continue={following}"
        with self._changed:
            self._synced[client.kind.name] = found
            self._ready = sum(sum(synced.values()) for synced in self._synced.values())
            self._changed.notify_all()
        return page

    def _keep(self, event: str, found: Object) -> None:
        key = key_of(found)
        with self._changed:
            synced = self._synced[found["kind"]]
            self.versions += 1
            self._ready -= synced.pop(key, False)
            if event != "DELETED":
                synced[key] = _is_ready(found)
                self._ready += synced[key]
            self._changed.notify_all()


def _is_ready(found: Object) -> bool:
    ready = ready_of(found)
    return ready.get("status") == "True" and ready.get("observedGeneration") == found["metadata"]["generation"]

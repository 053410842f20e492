"""Users under load: several seeded clients that create, edit, move, pause, delete and recreate resources."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.api_client import ApiClient, ApiError, Recorder, resource
from support.world import PAUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTRIES = ("canada", "italia", "日本", "O'Higgins", 'quo"te', "100%", "back\\slash")
_WEIGHTS = {"edit": 40, "move": 25, "delete": 10, "recreate": 10, "touch": 10, "pause": 5}


@dataclass
class Traffic:
    """`clients` threads that share `objects` names out among themselves; the same seed makes the same choices.

    What the API server refuses by the rule on spec.table (422) is counted and left; while it is away they wait.
    """

    client: ApiClient
    recorder: Recorder
    namespaces: Sequence[str]
    tables: Sequence[str]
    seed: int
    objects: int = 300
    clients: int = 4
    pause: float = 0.03
    counts: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _creating: int = 0
    _failures: list[BaseException] = field(default_factory=list)

    def start(self) -> None:
        """Let the clients begin: each creates its share first, then does one thing after the other."""
        self._stop.clear()
        self._creating = self.clients
        self._threads = [
            threading.Thread(target=self._guard, args=(number,), name=f"client-{number}", daemon=True)
            for number in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the clients end, take every pause back, and raise what went wrong in one of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._failures:
            raise self._failures[0]
        for found in self.client.resources():
            if found["metadata"].get("annotations", {}).get(PAUSED):
                with contextlib.suppress(ApiError):  # 404: it was on its way out
                    self._annotate(found["metadata"]["namespace"], found["metadata"]["name"], None)

    def wait_until_busy(self, actions: int = 100, timeout: float = 60) -> None:
        """Wait until all names were created once and a number of actions has been done since the call."""
        start, deadline = sum(self.counts.values()), time.monotonic() + timeout
        while self._creating or sum(self.counts.values()) < start + actions:
            if time.monotonic() > deadline or self._failures:
                raise TimeoutError(f"the clients come to nothing: {self.counts} {self._failures}")
            time.sleep(0.1)

    def names(self, number: int | None = None) -> list[tuple[str, str]]:
        """Return (namespace, name) of all objects, or of one client's share."""
        every = [
            (self.namespaces[index % len(self.namespaces)], f"load-{index // len(self.namespaces)}")
            for index in range(self.objects)
        ]
        return every if number is None else every[number :: self.clients]

    def _guard(self, number: int) -> None:
        try:
            self._run(number)
        except Exception as error:  # handed to the test by stop()
            self._failures.append(error)

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self.seed}/{number}")
        names = self.names(number)
        existing = {(f["metadata"]["namespace"], f["metadata"]["name"]) for f in self.client.resources()}
        for namespace, name in names:
            if (namespace, name) not in existing and not self._stop.is_set():
                self._try("create", namespace, name, dice)
        self._creating -= 1
        while not self._stop.wait(self.pause * dice.uniform(0.5, 1.5)):
            action = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            self._try(action, *dice.choice(names), dice)

    def _try(self, action: str, namespace: str, name: str, dice: random.Random) -> None:
        """Do one thing; an object that is not there is created instead."""
        while True:
            try:
                self._act(action, namespace, name, dice)
            except ApiError as error:
                self.recorder.note(f"{namespace}/{name}", f"USER     {action} refused: {error.code}")
                if error.code == 404 and action != "create":
                    action = "create"
                    continue
                # 409: it exists, or is going; 422: the rule on spec.table; 429, 5xx: a server that starts or ends
                if error.code not in (404, 409, 422, 429) and error.code < 500:
                    raise
                self.counts[f"{action} refused"] += 1
            except OSError:
                self.counts["unreachable"] += 1
                time.sleep(0.2)
            else:
                self.counts[action] += 1
            return

    def _act(self, action: str, namespace: str, name: str, dice: random.Random) -> None:
        self.recorder.note(f"{namespace}/{name}", f"USER     {action}")
        if action in ("delete", "recreate"):
            self.client.delete(namespace, name)
        if action in ("create", "recreate"):
            self.client.create(resource(namespace, name, table=dice.choice(self.tables), **_values(dice)))
        elif action == "edit":
            self.client.edit(namespace, name, **_values(dice))
        elif action == "move":
            self.client.edit(namespace, name, table=dice.choice(self.tables))
        elif action == "touch":
            self.client.merge(namespace, name, {"metadata": {"annotations": {"touched": str(dice.random())}}})
        elif action == "pause":
            self._annotate(namespace, name, dice.choice(["true", None]))

    def _annotate(self, namespace: str, name: str, value: str | None) -> None:
        self.client.merge(namespace, name, {"metadata": {"annotations": {PAUSED: value}}})


def _values(dice: random.Random) -> dict[str, object]:
    return {"name": f"name {dice.random()}", "age": dice.randrange(2**31), "country": dice.choice(COUNTRIES)}

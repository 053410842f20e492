"""Users under load: several seeded clients that create, edit, move, pause, delete and recreate resources."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from postgres_writer.core.row import COLUMNS, KINDS, Kind
from support.api_client import ApiClient, ApiError, Recorder, key_of
from support.world import PAUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTRIES = ("canada", "italia", "日本", "O'Higgins", 'quo"te', "100%", "back\\slash")
Name = tuple[Kind, str, str]
_WEIGHTS = {"edit": 40, "move": 25, "delete": 10, "recreate": 10, "touch": 10, "pause": 5, "drop": 5}


@dataclass
class Traffic:
    """`clients` threads that share `objects` names out among themselves; the same seed makes the same choices.

    What the API server refuses by the rules on spec.table and spec.columns (422) is counted and left; while it is away
    they wait. Each name is that of a resource of every kind, so that they would meet if their ids could.
    """

    client: ApiClient
    recorder: Recorder
    namespaces: Sequence[str]
    tables: Sequence[str]
    seed: int
    objects: int = 300
    clients: int = 4
    pause: float = 0.03
    database: str | None = None
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
        for found in self.client.every():
            if found["metadata"].get("annotations", {}).get(PAUSED):
                with contextlib.suppress(ApiError):  # 404: it was on its way out
                    self._annotate(_name_of(found), None)

    def wait_until_busy(self, actions: int = 100, timeout: float = 60) -> None:
        """Wait until all names were created once and a number of actions has been done since the call."""
        start, deadline = sum(self.counts.values()), time.monotonic() + timeout
        while self._creating or sum(self.counts.values()) < start + actions:
            if time.monotonic() > deadline or self._failures:
                raise TimeoutError(f"the clients come to nothing: {self.counts} {self._failures}")
            time.sleep(0.1)

    def names(self, number: int) -> list[Name]:
        """Return the kind, the namespace and the name of each object of a client's share."""
        homes = [(kind, namespace) for namespace in self.namespaces for kind in KINDS.values()]
        every = [(*homes[index % len(homes)], f"load-{index // len(homes)}") for index in range(self.objects)]
        return every[number :: self.clients]

    def _guard(self, number: int) -> None:
        try:
            self._run(number)
        except Exception as error:  # handed to the test by stop()
            self._failures.append(error)

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self.seed}/{number}")
        names = self.names(number)
        existing = {key_of(found) for found in self.client.every()}
        for name in names:
            if _key(name) not in existing and not self._stop.is_set():
                self._try("create", name, dice)
        self._creating -= 1
        while not self._stop.wait(self.pause * dice.uniform(0.5, 1.5)):
            action = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            self._try(action, dice.choice(names), dice)

    def _try(self, action: str, name: Name, dice: random.Random) -> None:
        """Do one thing; an object that is not there is created instead."""
        while True:
            try:
                self._act(action, name, dice)
            except ApiError as error:
                self.recorder.note(_key(name), f"USER     {action} refused: {error.code}")
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

    def _act(self, action: str, one: Name, dice: random.Random) -> None:
        self.recorder.note(_key(one), f"USER     {action}")
        kind, namespace, name = one
        client = self.client.of(kind)
        if action in ("delete", "recreate"):
            client.delete(namespace, name)
        if action in ("create", "recreate"):
            manifest = client.manifest(namespace, name, table=dice.choice(self.tables), **_values(dice))
            manifest["spec"] |= {"database": self.database} if self.database else {}
            client.create(manifest)
        elif action == "edit":
            client.edit(namespace, name, **_values(dice))
        elif action == "move":
            client.edit(namespace, name, table=dice.choice(self.tables))
        elif action == "touch":
            client.merge(namespace, name, {"metadata": {"annotations": {"touched": str(dice.random())}}})
        elif action == "pause":
            self._annotate(one, dice.choice(["true", None]))
        elif action == "drop" and kind.fixed is None:
            values = _values(dice)
            kept = dice.sample(COLUMNS, dice.randrange(len(COLUMNS)))
            client.edit(namespace, name, columns=[{"name": column, "value": values[column]} for column in kept])

    def _annotate(self, name: Name, value: str | None) -> None:
        kind, namespace, own_name = name
        self.client.of(kind).merge(namespace, own_name, {"metadata": {"annotations": {PAUSED: value}}})


def _key(name: Name) -> str:
    return f"{name[0].prefix}{name[1]}/{name[2]}"


def _name_of(found: dict[str, Any]) -> Name:
    return KINDS[found["kind"]], found["metadata"]["namespace"], found["metadata"]["name"]


def _values(dice: random.Random) -> dict[str, Any]:
    return {"name": f"name {dice.random()}", "age": dice.randrange(2**31), "country": dice.choice(COUNTRIES)}

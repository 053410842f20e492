"""Steady hook calls from several callers, each on a connection that is kept alive as Metacontroller keeps its own."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from support.callers import PATIENCE, body
from support.waiting import wait_until

CALLERS = 6


@dataclass
class Load:
    """What the callers got: how often each answer came, as "200 True RowSynced" or the name of an error."""

    answers: Counter[str] = field(default_factory=Counter)
    calls: int = 0

    @property
    def failures(self) -> Counter[str]:
        """The answers that are not success."""
        return Counter({answer: number for answer, number in self.answers.items() if answer != "200 True RowSynced"})

    def wait_for(self, calls: int) -> None:
        """Wait until so many more calls were answered."""
        target = self.calls + calls
        wait_until(lambda: self.calls >= target, lambda: f"{calls} more answers than {self.answers}")


@contextlib.contextmanager
def steady_load(
    url: str,
    *,
    verify: bool | Path = True,
    token: Callable[[], str] | None = None,
    connection_calls: int = 25,
) -> Iterator[Load]:
    """Call the sync hook until the with-block ends; each caller renews its connection after so many calls."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()

    def note(answer: str) -> None:
        with lock:
            load.answers[answer] += 1
            load.calls += 1

    def call(number: int) -> None:
        while not stop.is_set():
            with requests.Session() as session:
                session.trust_env = False
                session.verify = str(verify) if isinstance(verify, Path) else verify
                for age in itertools.islice(itertools.count(), connection_calls):
                    if stop.is_set():
                        return
                    headers = {"Authorization": f"Bearer {token()}"} if token else {}
                    note(_answer(session, f"{url}/sync", body(f"load-{number}", age), headers))

    threads = [threading.Thread(target=call, args=(number,), name=f"load-{number}") for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        load.wait_for(5 * CALLERS)
        yield load
        load.wait_for(5 * CALLERS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _answer(session: requests.Session, url: str, request: dict[str, Any], headers: dict[str, str]) -> str:
    try:
        answer = session.post(url, json=request, headers=headers, timeout=PATIENCE)
        if answer.status_code != requests.codes.ok:
            return str(answer.status_code)
        ready = next(one for one in answer.json()["status"]["conditions"] if one["type"] == "Ready")
    except requests.RequestException as error:
        return type(error).__name__
    return f"200 {ready['status']} {ready['reason']}"

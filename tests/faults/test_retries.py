"""After an outage all are Ready again soon, when each resource is asked again exactly when its answer says so."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field

from faults.site import Site
from postgres_writer.core.response import RETRY_SECONDS
from postgres_writer.server.app import RETRIES_PER_SECOND
from support.callers import Answer, ask, body

COUNT = 60


@dataclass
class Queue:
    """What Metacontroller does with resyncAfterSeconds: every resource has one time at which it is due."""

    port: int
    due: list[tuple[float, str]] = field(default_factory=list)

    def ask_next(self) -> tuple[str, Answer]:
        """Wait for the next resource that is due, sync it, and note when it is due again."""
        when, name = heapq.heappop(self.due)
        time.sleep(max(0.0, when - time.monotonic()))
        answer = ask(self.port, body(name))
        heapq.heappush(self.due, (time.monotonic() + answer.body["resyncAfterSeconds"], name))
        return name, answer


def test_after_an_outage_each_is_ready_at_its_first_or_second_retry(site: Site) -> None:
    queue = Queue(site.server.port, [(0.0, f"r{number}") for number in range(COUNT)])
    site.instance.stop()
    try:
        outage = [queue.ask_next()[1] for _ in range(2 * COUNT)]
    finally:
        site.instance.start()
    waits = [answer.body["resyncAfterSeconds"] for answer in outage]
    assert {answer.ready for answer in outage} == {"False DatabaseUnavailable"}
    # as if one worker had answered all of them at the same moment, the last slot is this far away
    assert RETRY_SECONDS <= min(waits) <= max(waits) <= RETRY_SECONDS + COUNT / RETRIES_PER_SECOND

    back = time.monotonic()
    asked = {f"r{number}": 0 for number in range(COUNT)}
    waiting = set(asked)
    while waiting:
        name, answer = queue.ask_next()
        asked[name] += 1
        if answer.ready == "True RowSynced":
            waiting.discard(name)
        else:
            # its worker had not tried yet whether PostgreSQL is back
            assert asked[name] == 1, f"{name}: {answer.ready}"
    print(f"all {COUNT} Ready again after {time.monotonic() - back:.1f} s")  # shown by pytest -rP
    assert len(site.database.rows()) == COUNT

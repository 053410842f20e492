"""Every interleaving of a small world in which commits hang: the lock of the id is enough, and every part is needed.

Two tables, two values, one resource; users edit and delete it, the controller calls from what it has read, answers and
status writes get lost or come late, transactions hang in their commit and land or are undone at any later moment (a
restart of PostgreSQL is one of the two), others change the row, a policy refuses the second table so that nothing is
written but only looked at. A finalize deletes table by table, each in a transaction of its own, with time in between.

Invariants: the row can be only in status.tables united with spec.table, also once what hangs has landed; after the
release there is none; Ready=True of this generation is true, but for what others have changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import pytest

TABLES, VALUES = "AB", "12"
REFUSABLE = "B"

Row = tuple[str, str]
Rows = frozenset[Row]


@dataclass(frozen=True)
class Parts:
    """The parts of the protocol that can be taken out."""

    lock: bool = True
    """A message ends at once where another transaction of the id is in flight."""
    first: bool = True
    """It is taken before the statement that looks, not by it: what it sees is not older than the lock."""
    look: bool = True
    """It is taken, too, by what only looks whether a table may be dropped from the list."""
    steady: bool = True
    """Without it only a status that is Ready at this very generation is believed."""


class Call(NamedTuple):
    """What the controller sent; ``left`` are the tables that a finalize has still to clear."""

    spec: Row
    tables: frozenset[str]
    observed: str
    ready: bool
    deleting: bool
    left: tuple[str, ...]
    stale: bool = False


class Answer(NamedTuple):
    """What the hook says; ``stale``: the resource is of a newer generation by now."""

    released: bool
    tables: frozenset[str]
    ready: bool
    observed: str
    stale: bool


class State(NamedTuple):
    """The resource and its status, the rows and what hangs (the rows as they will be), what is on its way."""

    spec: Row
    tables: frozenset[str] = frozenset()
    observed: str = ""
    ready: bool = False
    rows: Rows = frozenset()
    pending: Rows | None = None
    drift: bool = False
    refused: bool = False
    call: Call | None = None
    answer: Answer | None = None
    life: str = "alive"


Step = tuple[str, State]
Turn = tuple[str, State, Answer | Call]


def _views(state: State, parts: Parts, *, locks: bool) -> Iterator[tuple[Rows, State]]:
    """Give what a message sees and the state in which it acts; none where the lock is held by another transaction."""
    if state.pending is None or not (parts.lock and locks):
        yield state.rows, state
    elif not parts.first:
        # the statement began before what hung has landed, and got the lock after
        for landed in (state.pending, state.rows):
            yield state.rows, state._replace(rows=landed, pending=None)


def _commit(state: State, rows: Rows) -> Iterator[tuple[bool, State]]:
    """Commit; or hang, if nothing hangs already and there is something to write."""
    yield True, state._replace(rows=rows)
    if state.pending is None and rows != state.rows:
        yield False, state._replace(pending=rows)


def _hook(state: State, call: Call, parts: Parts) -> Iterator[Turn]:
    """Give every way in which a call can go on: the answer, or the call where a finalize has more to do."""
    own = frozenset({call.spec[0]} - _refused(state))
    if call.deleting:
        yield from _finalize(state, call, parts, own)
    elif not own or (call.observed in own and not own <= call.tables):
        yield from _look(state, call, parts, own)
    else:
        yield from _sync(state, call, parts, own)


def _answer(call: Call, tables: frozenset[str], *, ready: bool = False, released: bool = False) -> Answer:
    return Answer(released, tables, ready, call.spec[0], call.stale)


def _finalize(state: State, call: Call, parts: Parts, own: frozenset[str]) -> Iterator[Turn]:
    if not call.left:
        yield "finalize", state, _answer(call, frozenset(), released=True)
        return
    table, *more = call.left
    failed = _answer(call, call.tables | own)
    views = list(_views(state, parts, locks=True))
    if not views:
        yield "finalize, busy", state, failed
    for seen, base in views:
        rows = frozenset(row for row in base.rows if row[0] != table or row not in seen)
        for done, after in _commit(base, rows):
            if done:
                yield f"delete from {table}", after, call._replace(left=tuple(more))
            else:
                yield f"delete from {table} hangs", after, failed


def _look(state: State, call: Call, parts: Parts, own: frozenset[str]) -> Iterator[Turn]:
    """Write nothing: the table is refused, or was until now and is recorded first. What holds no row is dropped."""
    views = list(_views(state, parts, locks=parts.look))
    if not views:
        yield "look, busy", state, _answer(call, call.tables)
    for seen, base in views:
        held = frozenset(table for table in call.tables if any(row[0] == table for row in seen))
        yield "look", base, _answer(call, held | own)


def _sync(state: State, call: Call, parts: Parts, own: frozenset[str]) -> Iterator[Turn]:
    wanted, synced = frozenset({call.spec}), _answer(call, own, ready=True)
    failed = _answer(call, call.tables | own)
    if call.tables <= own and state.rows == wanted and (call.ready or not parts.steady):
        yield "no-op", state, synced
        return
    views = list(_views(state, parts, locks=True))
    if not views:
        yield "sync, busy", state, failed
    for seen, base in views:
        if call.tables <= own and seen == wanted:
            yield "no-op, locked", base, synced
            continue
        touched = call.tables | own
        rows = frozenset(row for row in base.rows if row[0] not in touched or (row not in seen and row[0] not in own))
        for done, after in _commit(base, rows | wanted):
            yield ("sync" if done else "sync hangs"), after, synced if done else failed


def _refused(state: State) -> set[str]:
    return {REFUSABLE} if state.refused else set()


def _steps(state: State, parts: Parts) -> Iterator[Step]:
    if state.pending is not None:
        yield "lands", state._replace(rows=state.pending, pending=None, drift=False)
        yield "is undone", state._replace(pending=None)
    if state.life == "gone":
        return
    yield from _user_steps(state)
    yield from _policy_steps(state)
    if state.call is not None:
        yield "call lost", state._replace(call=None)
        for name, after, result in _hook(state, state.call, parts):
            drift = state.drift and after.rows == state.rows
            if isinstance(result, Call):
                yield name, after._replace(call=result, drift=drift)
            else:
                yield name, after._replace(call=None, answer=result, drift=drift)
                yield f"{name}, answer lost", after._replace(call=None, drift=drift)
    elif state.answer is not None:
        yield "status lost", state._replace(answer=None)
        yield _written(state, state.answer)
    else:
        left = tuple(sorted(state.tables | ({state.spec[0]} - _refused(state))))
        call = Call(state.spec, state.tables, state.observed, state.ready, state.life == "deleting", left)
        yield "call", state._replace(call=call)


def _written(state: State, answer: Answer) -> Step:
    if answer.released:
        return "finalizer removed", state._replace(life="gone", answer=None)
    ready = answer.ready and not answer.stale
    return "status written", state._replace(tables=answer.tables, observed=answer.observed, ready=ready, answer=None)


def _user_steps(state: State) -> Iterator[Step]:
    older = state._replace(
        ready=False,
        call=state.call and state.call._replace(stale=True),
        answer=state.answer and state.answer._replace(stale=True),
    )
    if state.life == "alive":
        for spec in product(TABLES, VALUES):
            # the rule of the CustomResourceDefinition
            if spec != state.spec and state.spec[0] in (spec[0], state.observed):
                yield f"edit {spec}", older._replace(spec=spec, drift=False)
        yield "delete", older._replace(life="deleting")
    if state.pending is None and state.ready and not state.drift and state.rows == {state.spec}:
        other = (state.spec[0], "1" if state.spec[1] == "2" else "2")
        yield "drift", state._replace(rows=frozenset({other}), drift=True)


def _policy_steps(state: State) -> Iterator[Step]:
    if state.refused:
        yield "policy allows", state._replace(refused=False)
        return
    # the assumption of the protocol: not in the moment in which an answer gets lost or a commit hangs
    held = {table for table, _ in state.rows}
    quiet = state.pending is None and state.call is None and state.answer is None
    if quiet and state.observed == state.spec[0] and held <= state.tables:
        yield "policy refuses", state._replace(refused=True)


def _wrong(state: State) -> str:
    worlds = [state.rows] + ([state.pending] if state.pending is not None else [])
    if state.life == "gone":
        return "a row without its resource" if any(worlds) else ""
    if any(table not in state.tables | {state.spec[0]} for rows in worlds for table, _ in rows):
        return "a row that is recorded nowhere"
    if state.ready and not state.drift and state.pending is None and state.rows != {state.spec}:
        return "Ready, and not true"
    return ""


def explore(parts: Parts) -> tuple[int, str, list[str]]:
    """Visit every state; gives their number, what is wrong with the first bad one, and the way to it."""
    start = State(spec=("A", "1"))
    seen: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        wrong = _wrong(state)
        if wrong:
            return len(seen), wrong, _path(state, seen)
        for name, after in _steps(state, parts):
            if after not in seen:
                seen[after] = (state, name)
                queue.append(after)
    return len(seen), "", []


def _path(state: State, seen: dict[State, tuple[State, str] | None]) -> list[str]:
    path: list[str] = []
    while (came := seen[state]) is not None:
        state = came[0]
        path.insert(0, came[1])
    return path


def test_it_holds_in_every_state() -> None:
    states, wrong, path = explore(Parts())
    print(f"{states} states")  # shown by pytest -rP
    assert wrong == "", " > ".join(path)
    assert states > 9_000, "the model has lost a part of its world"


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        pytest.param(Parts(lock=False), "Ready, and not true", id="without the lock"),
        pytest.param(Parts(first=False), "a row without its resource", id="with the lock in the statement that looks"),
        pytest.param(Parts(look=False), "a row that is recorded nowhere", id="with looks without the lock"),
        pytest.param(Parts(steady=False), "Ready, and not true", id="with claims without the lock"),
    ],
)
def test_every_part_of_it_is_needed(parts: Parts, wrong: str) -> None:
    states, found, path = explore(parts)
    print(f"{found} after {states} states: {' > '.join(path)}")  # shown by pytest -rP
    assert found == wrong

"""The table of figures that the end-to-end tests leave behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

    from support.metacontroller import HookCalls

_HEAD = ("controller", "fault under load", "converged", "hook calls", "users' actions", "lost rows", "orphans")


@dataclass
class Report:
    """Lines of a table; a line is added only when the world has converged, so nothing was lost and nothing is left."""

    lines: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, fault: str, seconds: float, calls: HookCalls, actions: Counter[str]) -> None:
        """Add a line; `actions` is emptied, because it counts for one line."""
        done = sum(count for action, count in actions.items() if "refused" not in action and action != "unreachable")
        actions.clear()
        self.lines.append((kind, fault, f"{seconds:.1f} s", str(calls.total), str(done), "0", "0"))

    def render(self) -> list[str]:
        """Return the table and the notes, a text per line; nothing when there are no figures."""
        if not self.lines:
            return self.notes
        rows = [_HEAD, *self.lines]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return [line.rstrip() for line in table] + self.notes

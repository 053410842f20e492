"""Read /metrics as Prometheus would, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from support.server import ServerProcess


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape: (name, labels) -> value."""

    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    @property
    def names(self) -> set[str]:
        """The names of all series."""
        return {name for name, _ in self.samples}

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the series of that name with at least these labels; KeyError when there is none."""
        found = [
            value
            for (known, pairs), value in self.samples.items()
            if known == name and labels.items() <= dict(pairs).items()
        ]
        if not found:
            raise KeyError(name, labels)
        return sum(found)


def scrape(server: ServerProcess) -> Scrape:
    """Scrape the server; fails unless the answer is complete."""
    answer = server.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Scrape(
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
    )

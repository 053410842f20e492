"""The programs that the tests of a cluster run: each is built once, for a minute or several, and kept.

`python -m cluster.programs NAME ...` builds those of these names; without names it builds all.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from cluster.verdicts import find_kstatus
from support.helm import MAJORS
from support.kube_tools import find_helm, find_kube_state_metrics, find_tools

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def find_helms() -> list[Path]:
    """Return Helm of each major version, building what is not there."""
    return [find_helm(major) for major in MAJORS]


BUILDS: Final[dict[str, Callable[[], object]]] = {
    "kube_tools": find_tools,
    "kstatus": find_kstatus,
    "helm_programs": find_helms,
    "state_metrics_program": find_kube_state_metrics,
}
"""What finds or builds the program of a fixture, by the name of the fixture."""

if __name__ == "__main__":
    for name in sys.argv[1:] or BUILDS:
        BUILDS[name]()

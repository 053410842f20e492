"""The load, from wrk, and what it costs: CPU time from the kernel's account of the processes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.programs import find_program
from support.server import children

_SCRIPT = Path(__file__).with_name("load.lua")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What is sent to a server: a template of bodies, over so many connections."""

    url: str
    template: str
    connections: int
    objects: int
    """How many different objects are asked about before they begin anew."""
    close: bool = False
    """Whether every request opens a connection of its own."""
    databases: int = 1
    """Over how many databases the objects are spread: the number of an object's follows from its own."""


@dataclass(frozen=True)
class Measured:
    """One run of a load: what it achieved and what it cost."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    server_cpu: float = 0.0
    database_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU time of the server and PostgreSQL together per request in ms."""
        return 1000 * (self.server_cpu + self.database_cpu) / self.requests


def run(load: Load, seconds: int, first: int = 0) -> Measured:
    """Send the load for some seconds, beginning with the object number ``first``.

    Raises ProgramMissing when wrk is missing, RuntimeError when it fails.
    """
    wrk = find_program("wrk", "wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as template:
        template.write(load.template)
        template.flush()
        command = [wrk, "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "15s", "-s", str(_SCRIPT)]
        arguments = [
            template.name,
            str(first),
            str(load.objects),
            "close" if load.close else "keep",
            str(load.databases),
        ]
        done = subprocess.run([*command, load.url, "--", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def cpu_seconds(root: int) -> float:
    """Give the CPU time of a process and of all its descendants up to now."""
    return sum(_cpu(pid) for pid in family(root))


def family(root: int) -> list[int]:
    """Give a process and all its descendants."""
    found = [root]
    for pid in found:
        found += children(pid)
    return found


def memory_mb(pid: int, kind: str = "Rss") -> float:
    """Give a process's memory in MB (2^20): Rss, or Pss, in which shared pages count by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(kind)


def _cpu(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # the name, in parentheses, may hold blanks
    values = text.rpartition(")")[2].split()
    # of its own, and of the children that have ended: a connection that is closed takes its server process along
    return sum(int(value) for value in values[11:15]) / _TICKS

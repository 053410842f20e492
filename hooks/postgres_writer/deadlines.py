"""The time budget of one request, in one place, and the request as the parts that wait see it.

Metacontroller gives up on a call after WEBHOOK_SECONDS and may then call again, so whatever is written for a request
must be written before, and the answer must have left. With S for the configured statement timeout, in seconds after the
arrival of the request:

    0          the request arrives, by the kernel's time stamp: waiting in a queue of ours counts
    8.5 - S    the last message is sent (`Call.start_by`). Everything before ends by then: reading the request, waiting
               for a connection, connecting (whose timeout is at most 8.0 - S: DATABASE_SECONDS), earlier messages.
               PostgreSQL compares the moment with its own clock, so a message that was held up on the way does nothing.
    8.5        WRITE_BY_SECONDS: the server has ended the message, by statement_timeout, or sooner by lock_timeout
    9.0        CLIENT_GRACE_SECONDS later a server that enforces no timeout any more (stopped, or unreachable) is given
               up by the client's own clock
    9.75       PROBE_SECONDS later it is known whether it takes a new connection, and so only the statement hangs
    10         WEBHOOK_SECONDS: what was left is for encoding and sending the answer
    15         CONNECTION_SECONDS: what is still not done is cut off. So no request is still running GRACEFUL_SECONDS
               after SIGTERM, and Kubernetes waits longer than that and the preStop pause together.

No timeout ends a COMMIT that waits for a synchronous standby or a disk. The advisory lock of the id covers that case
(docs/architecture.md). tests/unit/test_deadlines.py checks the inequalities for every configuration that is accepted,
and against the manifests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# https://metacontroller.github.io/metacontroller/api/hook.html
WEBHOOK_SECONDS = 10.0  # after this Metacontroller gives up on a call (its default; metacontroller/*.yaml say the same)
WRITE_BY_SECONDS = 8.5  # all that is written for a request is written within this after its arrival
DATABASE_SECONDS = 8.0
"""What connect and statement timeout may add up to; the rest is for reading the request and writing the answer."""
CLIENT_GRACE_SECONDS = 0.5
"""How much longer than the server's statement_timeout the client waits, so that the server's error comes first."""
# below 1: at the same length statement_timeout would always end the wait first
# https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-LOCK-TIMEOUT
LOCK_SHARE = 0.75
"""lock_timeout as a share of statement_timeout, to distinguish waiting for a lock from a slow statement."""
CIRCUIT_SECONDS = 2.0  # long enough to spare a dead server, short enough that the end of an outage is noticed in time
TABLE_SECONDS = 5.0
"""How long the callers of a locked table fail fast before one tries it: longer than a statement may take by default, so
that one tries at a time, and short enough that its resources are synced soon after the lock is gone."""
LOADED_LOCK_SECONDS, LEAST_LOCK_SECONDS = 0.5, 0.15
"""lock_timeout where less than half of a pool is free, and where many wait for a connection besides: longer than
healthy transactions hold a lock, short enough that a hundred locked rows take turns within WRITE_BY_SECONDS."""
PROBE_SECONDS = 0.75
"""How long a connect may take that is to tell a stuck statement from a stopped server; see above. A request that leaves
less time than that, or than the configured timeout, opens no connection: it is late, and the server not at fault."""
OUTAGE_PAUSE_SECONDS = 300.0
"""After so long with neither a failure nor a success nothing is known of an earlier outage: far longer than the retries
of a single resource take to go round dozens of replicas."""
CONNECTION_LIFE_SECONDS = 3600.0
"""A connection to PostgreSQL older than this is not used again: what its backend caches, and the server that a balancer
or a name once led to, must not be kept permanently."""
CONNECTION_SECONDS = 15.0
"""Longest life of one request on a connection from its first byte on: no one waits for a later answer."""
# IdleConnTimeout of its default transport: https://pkg.go.dev/net/http#DefaultTransport
KEEPALIVE_SECONDS = 120
"""Go's HTTP client drops idle connections after 90 s: ours must live longer, or a request races the close."""
GRACEFUL_SECONDS = 15
"""How long requests may go on after SIGTERM: not below CONNECTION_SECONDS; the Deployment's grace period is longer."""


@dataclass(frozen=True, slots=True)
class Call:
    """The request on whose behalf the database is asked.

    ``arrival`` is when it reached this machine (monotonic seconds), ``hung_up`` says whether its caller is gone.
    """

    arrival: float
    hung_up: Callable[[], bool] = lambda: False

    @property
    def write_by(self) -> float:
        """The moment (monotonic seconds) by which all that is written for this request must be written."""
        return self.arrival + WRITE_BY_SECONDS

    def start_by(self, statement_timeout: float) -> float:
        """Give the latest moment (monotonic seconds) to begin a statement that must end in time for this request."""
        return self.write_by - statement_timeout

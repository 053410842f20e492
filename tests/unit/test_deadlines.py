"""The timeouts of a request fit into each other, in every configuration that is accepted and in the manifests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from postgres_writer import deadlines
from postgres_writer.config.settings import Config, DatabaseConfig
from postgres_writer.core.response import RETRY_SECONDS
from postgres_writer.database import statements
from postgres_writer.deadlines import Call
from postgres_writer.errors import ConfigError
from postgres_writer.server.gunicorn_app import gunicorn_settings

ROOT = Path(__file__).parents[2]
READING_SECONDS = 0.5
"""What reading the request, and waiting for a connection that is lent, may take beside a connect that takes all of its
timeout."""
ANSWERING_SECONDS = 0.25
"""What encoding and sending an answer may take: the largest takes less than half of it on a busy machine."""
GO_IDLE_SECONDS = 90
"""When Go's HTTP client, which is Metacontroller's, drops an idle connection."""

Manifest = dict[str, Any]
# hundredths, because rounding makes a sum of 8.0 indistinguishable from one of 8.000000000000002
timeouts = st.integers(0, 900).map(lambda hundredths: hundredths / 100)


def accepted(**timeouts: float) -> DatabaseConfig | None:
    """Return the configuration, or None if it is refused."""
    environ = {f"PSQL_{name.upper()}_TIMEOUT": str(value) for name, value in timeouts.items()}
    try:
        return DatabaseConfig.from_env({"PSQL_HOST": "db", **environ})
    except ConfigError:
        return None


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@given(connect=timeouts, statement=timeouts)
@example(connect=DatabaseConfig.connect_timeout, statement=DatabaseConfig.statement_timeout)
@example(connect=0.1, statement=7.9)
@example(connect=7.9, statement=0.1)
def test_the_budget_holds_in_every_accepted_configuration(connect: float, statement: float) -> None:
    config = accepted(connect=connect, statement=statement)
    assume(config is not None)
    assert config is not None
    start_by = Call(0.0, lambda: False).start_by(config.statement_timeout)
    assert READING_SECONDS + config.connect_timeout <= start_by + 1e-9, "no message can be sent after a slow connect"
    assert start_by + config.statement_timeout <= deadlines.WRITE_BY_SECONDS + 1e-9
    given_up = start_by + config.statement_timeout + deadlines.CLIENT_GRACE_SECONDS
    assert given_up + deadlines.PROBE_SECONDS + ANSWERING_SECONDS <= deadlines.WEBHOOK_SECONDS + 1e-9


@given(statement=timeouts)
@example(statement=0.1)
def test_postgresql_gets_timeouts_that_are_limits_and_in_their_order(statement: float) -> None:
    config = accepted(connect=0.1, statement=statement)
    assume(config is not None)
    assert config is not None
    for local in (True, False):
        lock_timeout = config.statement_timeout * deadlines.LOCK_SHARE
        sent = statements.limits(config.statement_timeout, lock_timeout, local=local)
        found = dict(re.findall(r"(statement_timeout|lock_timeout) = (\d+)", sent))
        # 0 would be no limit; the lock's must come first, so that its error says what was waited for
        assert 0 < int(found["lock_timeout"]) < int(found["statement_timeout"]) <= config.statement_timeout * 1000


@pytest.mark.parametrize(("connect", "statement"), [(0.0, 4.0), (3.0, 0.0), (4.0, 4.1), (8.1, 0.1), (0.1, 8.1)])
def test_what_does_not_fit_is_refused(connect: float, statement: float) -> None:
    assert accepted(connect=connect, statement=statement) is None


def test_a_dead_connection_is_noticed_while_its_statement_can_be_repeated() -> None:
    config = DatabaseConfig(("db",))
    assert config.tcp_user_timeout < config.statement_timeout
    start_by = Call(0.0, lambda: False).start_by(config.statement_timeout)
    assert config.tcp_user_timeout < start_by


def test_one_statement_at_a_time_tries_a_locked_table() -> None:
    config = DatabaseConfig(("db",))
    assert config.statement_timeout + deadlines.CLIENT_GRACE_SECONDS < deadlines.TABLE_SECONDS
    assert deadlines.LOCK_SHARE * config.statement_timeout > deadlines.LOADED_LOCK_SECONDS


def test_a_resource_that_is_retried_finds_the_circuit_closed() -> None:
    assert deadlines.CIRCUIT_SECONDS <= RETRY_SECONDS


@pytest.mark.parametrize("kind", ["composite", "decorator"])
def test_metacontroller_waits_as_long_as_the_budget_assumes(kind: str) -> None:
    found = load(f"metacontroller/{kind}.yaml")
    hooks = [hook for one in found.get("items", [found]) for hook in one["spec"]["hooks"].values()]
    assert {hook["webhook"]["timeout"] for hook in hooks} == {f"{deadlines.WEBHOOK_SECONDS:g}s"}


@pytest.mark.parametrize("path", sorted((ROOT / "k8s" / "components").glob("*/controller.yaml")), ids=str)
def test_no_component_changes_how_long_metacontroller_waits(path: Path) -> None:
    assert "timeout" not in path.read_text(encoding="utf-8")


def test_the_server_outlives_what_its_callers_wait_for() -> None:
    chosen = gunicorn_settings(Config(DatabaseConfig(("db",))))
    assert chosen["keepalive"] > GO_IDLE_SECONDS
    assert deadlines.CONNECTION_SECONDS > deadlines.WEBHOOK_SECONDS
    assert chosen["graceful_timeout"] >= deadlines.CONNECTION_SECONDS


def test_a_pod_may_stop_as_long_as_the_server_lets_hooks_finish() -> None:
    pod = load("k8s/base/deployment.yaml")["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + deadlines.GRACEFUL_SECONDS

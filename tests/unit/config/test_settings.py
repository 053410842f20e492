"""The environment becomes a Config, or one sentence that names the variable."""

import os
from pathlib import Path

import pytest

from postgres_writer.config.settings import (
    SETTINGS,
    Config,
    DatabaseConfig,
    Host,
)
from postgres_writer.errors import ConfigError
from support.certificates import make_certificate

HOST = {"PSQL_HOST": "db"}


def test_the_host_alone_is_enough() -> None:
    config = Config.from_env(HOST)
    assert config.database == DatabaseConfig(("db",), (5432,), dbname="postgres", user="postgres")
    assert (config.host, config.port, config.connections) == ("127.0.0.1", 8080, 8)
    assert (config.max_body_bytes, config.resync_seconds) == (16 * 1024 * 1024, 300.0)
    assert (config.log_level, config.log_format) == ("INFO", "json")
    assert config.tokens_file is None


def test_an_empty_variable_counts_as_unset() -> None:
    assert Config.from_env({**HOST, **{s.name: "" for s in SETTINGS if s.name != "PSQL_HOST"}}) == Config.from_env(HOST)


EVERYTHING = {
    "PSQL_HOST": "a,b",
    "PSQL_PORT": "5433, 5434",
    "PSQL_DBNAME": "school",
    "PSQL_USER": "writer",
    "PSQL_PASSWORD": "hidden",
    "PSQL_SSLMODE": "Verify-Full",
    "PSQL_SSLROOTCERT": "system",
    "PSQL_SSLCERT": "{certificate}",
    "PSQL_SSLKEY": "{key}",
    "PSQL_CHANNEL_BINDING": "require",
    "PSQL_TARGET_SESSION_ATTRS": "read-write",
    "PSQL_CONNECT_TIMEOUT": "4",
    "PSQL_STATEMENT_TIMEOUT": "2.5",
    "PSQL_PREPARED_STATEMENTS": "false",
    "HOOK_HOST": "0.0.0.0",
    "HOOK_PORT": "8443",
    "HOOK_CONNECTIONS": "5",
    "PSQL_IDLE_TIMEOUT": "45",
    "PSQL_KEEPALIVES_IDLE": "100",
    "PSQL_KEEPALIVES_INTERVAL": "7",
    "PSQL_KEEPALIVES_COUNT": "5",
    "PSQL_TCP_USER_TIMEOUT": "1.5",
    "HOOK_TOKENS_FILE": "{tokens}",
    "HOOK_MAX_BODY_BYTES": "2048",
    "HOOK_RESYNC_SECONDS": "12.5",
    "HOOK_TABLE_POLICY_FILE": "{policy}",
    "HOOK_METRICS_TOKEN_REQUIRED": "yes",
    "LOG_LEVEL": "debug",
    "LOG_FORMAT": "TEXT",
}


def test_every_variable_arrives_in_its_field(tmp_path: Path) -> None:
    tokens, policy = (tmp_path / name for name in ("tokens", "policy"))
    made = make_certificate(tmp_path)
    files = {"tokens": tokens, "policy": policy, "certificate": made.certificate, "key": made.key}
    config = Config.from_env({name: value.format(**files) for name, value in EVERYTHING.items()})
    assert config.database.connect_arguments() == {
        "dbname": "school",
        "user": "writer",
        "sslmode": "verify-full",
        "sslrootcert": "system",
        "sslcert": str(made.certificate),
        "sslkey": str(made.key),
        "passfile": "/dev/null/none",
        "sslcrl": "/dev/null/none",
        "channel_binding": "require",
        "target_session_attrs": "read-write",
        "application_name": "postgres-writer",
        "keepalives_idle": "100",
        "keepalives_interval": "7",
        "keepalives_count": "5",
        "tcp_user_timeout": "1500",
    }
    assert config.database.idle_timeout == 45.0
    assert config.database.hosts == (Host("a", 5433), Host("b", 5434))
    assert config.database.passwords() == ("hidden",)
    assert (config.database.connect_timeout, config.database.statement_timeout) == (4.0, 2.5)
    assert config.database.prepared_statements is False
    assert (config.host, config.port) == ("0.0.0.0", 8443)
    assert config.connections == 5
    assert (config.tokens_file, config.table_policy_file) == (tokens, policy)
    assert (config.max_body_bytes, config.resync_seconds, config.metrics_token_required) == (2048, 12.5, True)
    assert (config.log_level, config.log_format) == ("DEBUG", "text")


UNUSABLE = {
    "no host": ({"PSQL_HOST": ""}, "PSQL_HOST", "--embedded"),
    "an empty host in the list": ({"PSQL_HOST": "a,,b"}, "PSQL_HOST", "empty"),
    "a port that is no number": ({"PSQL_PORT": "abc"}, "PSQL_PORT", "'abc'"),
    "port zero": ({"PSQL_PORT": "0"}, "PSQL_PORT", "1 to 65535"),
    "a port behind many zeros": ({"PSQL_PORT": "0" * 19 + "199999"}, "PSQL_PORT", "1 to 65535"),
    "a port of thousands of digits": ({"PSQL_PORT": "0" * 5000 + "1"}, "PSQL_PORT", "1 to 65535"),
    "a port of other digits": ({"PSQL_PORT": "٥٤٣٢"}, "PSQL_PORT", "1 to 65535"),
    "a host that is no address": ({"PSQL_HOST": "a,256.1.1.1"}, "PSQL_HOST", "'256.1.1.1'"),
    "a host that is no name": ({"PSQL_HOST": "a..b"}, "PSQL_HOST", "'a..b'"),
    "an address to listen on that is none": ({"HOOK_HOST": "256.1.1.1"}, "HOOK_HOST", "'256.1.1.1'"),
    "half an address": ({"HOOK_HOST": "10.1"}, "HOOK_HOST", "'10.1'"),
    "a name with an empty label": ({"HOOK_HOST": "a..b"}, "HOOK_HOST", "'a..b'"),
    "an address in brackets": ({"HOOK_HOST": "[::1]"}, "HOOK_HOST", "'[::1]'"),
    "a name of two lines": ({"HOOK_HOST": "localhost\n"}, "HOOK_HOST", "localhost"),
    "a label of 64 letters": ({"HOOK_HOST": "a" * 64}, "HOOK_HOST", "host name"),
    "a role of two lines": ({"PSQL_USER": "writer\n"}, "PSQL_USER", "one line"),
    "a database with a byte order mark": ({"PSQL_DBNAME": "\ufeffschool"}, "PSQL_DBNAME", "one line"),
    "a role that is no UTF-8": ({"PSQL_USER": "\udcff"}, "PSQL_USER", "UTF-8"),
    "a file name with a control character": ({"HOOK_TOKENS_FILE": "/a\x1b"}, "HOOK_TOKENS_FILE", "one line"),
    "a password that is no UTF-8": ({"PSQL_PASSWORD": "\udcff"}, "PSQL_PASSWORD", "UTF-8"),
    "a password with a byte order mark": ({"PSQL_PASSWORD": "\ufeffx"}, "PSQL_PASSWORD", "byte order mark"),
    "no certificates": ({"PSQL_SSLROOTCERT": os.devnull}, "PSQL_SSLROOTCERT", "PEM"),
    "no client certificate": ({"PSQL_SSLCERT": os.devnull, "PSQL_SSLKEY": os.devnull}, "PSQL_SSLCERT", "PEM"),
    "a port too high": ({"HOOK_PORT": "65536"}, "HOOK_PORT", "1 to 65535"),
    "a port with an underscore": ({"HOOK_PORT": "8_080"}, "HOOK_PORT", "'8_080'"),
    "one bad port of several": ({"PSQL_HOST": "a,b", "PSQL_PORT": "5432,x"}, "PSQL_PORT", "'x'"),
    "more ports than hosts": ({"PSQL_PORT": "5432,5433"}, "PSQL_PORT", "2 ports for 1 hosts"),
    "two passwords": ({"PSQL_PASSWORD": "a", "PSQL_PASSWORD_FILE": os.devnull}, "PSQL_PASSWORD_FILE", "both"),
    "a password file that is not there": ({"PSQL_PASSWORD_FILE": "/no/such"}, "PSQL_PASSWORD_FILE", "No such file"),
    "an unknown TLS mode": ({"PSQL_SSLMODE": "always"}, "PSQL_SSLMODE", "verify-full"),
    "a root certificate that is not there": ({"PSQL_SSLROOTCERT": "/no/such"}, "PSQL_SSLROOTCERT", "No such file"),
    "a client certificate without key": ({"PSQL_SSLCERT": os.devnull}, "PSQL_SSLKEY", "set both"),
    "a client key without certificate": ({"PSQL_SSLKEY": os.devnull}, "PSQL_SSLCERT", "set both"),
    "an unknown kind of session": ({"PSQL_TARGET_SESSION_ATTRS": "rw"}, "PSQL_TARGET_SESSION_ATTRS", "read-write"),
    "a connect timeout of zero": ({"PSQL_CONNECT_TIMEOUT": "0"}, "PSQL_CONNECT_TIMEOUT", "0.1 to 8"),
    "timeouts past the webhook's": ({"PSQL_STATEMENT_TIMEOUT": "5.5"}, "PSQL_STATEMENT_TIMEOUT", "at most 8 s"),
    "a statement timeout that PostgreSQL reads as none": (
        {"PSQL_STATEMENT_TIMEOUT": "0.0004"},
        "PSQL_STATEMENT_TIMEOUT",
        "0.1 to 8",
    ),
    "neither true nor false": ({"PSQL_PREPARED_STATEMENTS": "maybe"}, "PSQL_PREPARED_STATEMENTS", "true or false"),
    "too few connections to leave one to another table": ({"HOOK_CONNECTIONS": "2"}, "HOOK_CONNECTIONS", "3 to"),
    "connections of a negative number": ({"HOOK_CONNECTIONS": "-1"}, "HOOK_CONNECTIONS", "3 to"),
    "a certificate without key": ({"HOOK_TLS_CERT_FILE": os.devnull}, "HOOK_TLS_KEY_FILE", "set both"),
    "a key without certificate": ({"HOOK_TLS_KEY_FILE": os.devnull}, "HOOK_TLS_CERT_FILE", "set both"),
    "a body limit that is no number": ({"HOOK_MAX_BODY_BYTES": "16MiB"}, "HOOK_MAX_BODY_BYTES", "'16MiB'"),
    "a body limit of many digits": ({"HOOK_MAX_BODY_BYTES": "9" * 10_000}, "HOOK_MAX_BODY_BYTES", "from 1024"),
    "a resync of zero": ({"HOOK_RESYNC_SECONDS": "0"}, "HOOK_RESYNC_SECONDS", "0.1 to 604800"),
    "a resync without end": ({"HOOK_RESYNC_SECONDS": "inf"}, "HOOK_RESYNC_SECONDS", "0.1 to 604800"),
    "a resync of other digits": ({"HOOK_RESYNC_SECONDS": "٣"}, "HOOK_RESYNC_SECONDS", "0.1 to 604800"),
    "a resync with an underscore": ({"HOOK_RESYNC_SECONDS": "3_0"}, "HOOK_RESYNC_SECONDS", "0.1 to 604800"),
    "a resync with a line end": ({"HOOK_RESYNC_SECONDS": "30\n"}, "HOOK_RESYNC_SECONDS", "0.1 to 604800"),
    "a resync that is no number": ({"HOOK_RESYNC_SECONDS": "nan"}, "HOOK_RESYNC_SECONDS", "0.1 to 604800"),
    "metrics with a token and no tokens": ({"HOOK_METRICS_TOKEN_REQUIRED": "1"}, "HOOK_TOKENS_FILE", "set it too"),
    "an unknown level": ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL", "DEBUG"),
    "an unknown format": ({"LOG_FORMAT": "xml"}, "LOG_FORMAT", "json"),
}


@pytest.mark.parametrize(("environ", "variable", "hint"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_value_is_refused_in_one_sentence(environ: dict[str, str], variable: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.from_env({**HOST, **environ})
    sentence = str(refused.value)
    assert variable in sentence
    assert hint in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_port_may_serve_all_hosts() -> None:
    config = DatabaseConfig.from_env({"PSQL_HOST": "a, b,/run/postgresql", "PSQL_PORT": "6432"})
    assert config.hosts == (Host("a", 6432), Host("b", 6432), Host("/run/postgresql", 6432))


@pytest.mark.parametrize(
    "host",
    ["::", "::1", "fe80::1%lo", "0.0.0.0", "localhost", "db_1", "db.example.com.", "1.example", "bücher.example"],
)
def test_an_address_or_a_name_is_a_host(host: str) -> None:
    config = Config.from_env({"PSQL_HOST": host, "HOOK_HOST": host})
    assert (config.host, config.database.host_names) == (host, (host,))


def test_several_hosts_share_the_connect_timeout() -> None:
    assert DatabaseConfig.from_env({"PSQL_HOST": "a,b,c,d,e"}).connect_timeout == DatabaseConfig.connect_timeout


def test_a_password_shows_in_no_text_of_the_configuration() -> None:
    assert "hidden" not in repr(Config.from_env({**HOST, "PSQL_PASSWORD": "hidden"}))


class TestPasswordFile:
    """The file is read again for every connection."""

    def test_a_rotated_password_is_used_without_a_restart(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text("first\n")
        database = Config.from_env({**HOST, "PSQL_PASSWORD_FILE": str(file)}).database
        assert database.passwords() == ("first",)
        file.write_text(" second with blanks \r\n")
        assert database.passwords() == (" second with blanks ",)

    def test_old_and_new_are_both_tried_while_it_is_rotated(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text("old\r\n\nnew\n")
        database = Config.from_env({**HOST, "PSQL_PASSWORD_FILE": str(file)}).database
        assert database.passwords() == ("old", "new")
        file.write_text("\n")
        assert database.passwords() == ("",)

    @pytest.mark.parametrize("content", [b"\xef\xbb\xbfsecret\n", b"se\0cret", "secret".encode("utf-16")])
    def test_what_cannot_be_a_password_is_refused(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "password"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^PSQL_PASSWORD_FILE .*\.$") as refused:
            Config.from_env({**HOST, "PSQL_PASSWORD_FILE": str(file)})
        assert "secret" not in str(refused.value)

    def test_a_file_that_went_away_is_a_sentence(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text("first\n")
        database = Config.from_env({**HOST, "PSQL_PASSWORD_FILE": str(file)}).database
        file.unlink()
        with pytest.raises(ConfigError, match="PSQL_PASSWORD_FILE cannot be read"):
            database.passwords()

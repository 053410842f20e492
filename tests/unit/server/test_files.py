"""Values of files that change while the server runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from postgres_writer.config.settings import Config
from postgres_writer.errors import ConfigError
from postgres_writer.server.files import CHECK_SECONDS, Watched, check_files, load_policy, load_tokens, server_context
from support.certificates import make_certificate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that advances the clock by the time between two checks of the files."""
    moment = [1000.0]
    monkeypatch.setattr("postgres_writer.server.files.time.monotonic", lambda: moment[0])

    def pass_by() -> None:
        moment[0] += CHECK_SECONDS

    return pass_by


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("1")
    return path


def number(path: Path) -> int:
    """Read the file as a number."""
    return int(path.read_text())


def replace(path: Path, text: str) -> None:
    """Replace a file as Kubernetes replaces a mounted one: by a rename."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_a_changed_file_is_in_use_after_the_next_look(path: Path, clock: Callable[[], None]) -> None:
    value = Watched("number", number, path)
    assert value.current() == 1
    replace(path, "2")
    assert value.current() == 1, "files are not looked at more often than once a second"
    clock()
    assert value.current() == 2


def test_an_unchanged_file_is_not_read_again(path: Path, clock: Callable[[], None]) -> None:
    loads: list[Path] = []
    value = Watched("number", loads.append, path)
    for _ in range(3):
        clock()
        value.current()
    assert len(loads) == 1


def test_a_change_of_the_same_size_and_time_is_seen_by_the_file_s_identity(
    path: Path, clock: Callable[[], None]
) -> None:
    value = Watched("number", number, path)
    stat = path.stat()
    replace(path, "2")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    clock()
    assert value.current() == 2


@pytest.mark.parametrize("broken", ["secret", "", None], ids=["unusable", "empty", "gone"])
def test_an_unusable_change_leaves_the_previous_value_in_use_and_is_logged_once(
    path: Path, clock: Callable[[], None], caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    value = Watched("number", number, path)
    path.unlink() if broken is None else replace(path, broken)
    for _ in range(3):
        clock()
        assert value.current() == 1
    assert len(caplog.records) == 1
    assert "Could not reload the number; keeping the previous one." in caplog.text
    assert "secret" not in caplog.text
    replace(path, "3")
    clock()
    assert value.current() == 3


def test_a_corrected_mode_is_seen(path: Path, clock: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    def load(path: Path) -> int:
        # root, as which these tests may run, could read it all the same
        if not path.stat().st_mode & 0o400:
            raise PermissionError
        return int(path.read_text())

    value = Watched("number", load, path)
    path.write_text("22")
    path.chmod(0o000)
    for _ in range(3):
        clock()
        assert value.current() == 1
    path.chmod(0o600)
    clock()
    assert value.current() == 22
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_failed_for_a_reason_outside_the_files_is_tried_again(
    path: Path, clock: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception] = [OSError(), OSError()]

    def load(path: Path) -> int:
        if path.read_text() != "1" and failures:
            raise failures.pop()
        return int(path.read_text())

    value = Watched("number", load, path)
    replace(path, "2")
    seen = []
    for _ in range(3):
        clock()
        seen.append(value.current())
    assert seen == [1, 1, 2]
    assert len(caplog.records) == 1


def test_a_sentence_of_ours_is_logged_as_it_is(
    path: Path, clock: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    def load(path: Path) -> int:
        if path.read_text() != "1":
            raise ConfigError("HOOK_TOKENS_FILE: it holds no token.")
        return 1

    value = Watched("list of tokens", load, path)
    replace(path, "2")
    clock()
    value.current()
    assert "Could not reload the list of tokens; keeping the previous one." in caplog.text
    assert "HOOK_TOKENS_FILE: it holds no token." in caplog.text


def test_the_change_is_logged(path: Path, clock: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    value = Watched("number", number, path)
    replace(path, "2")
    clock()
    value.current()
    assert caplog.messages == ["Reloaded the number."]


def test_any_of_several_files_counts(tmp_path: Path, clock: Callable[[], None]) -> None:
    paths = (tmp_path / "a", tmp_path / "b")
    for each in paths:
        each.write_text("1")
    value = Watched("sum", lambda *each: sum(map(number, each)), *paths)
    replace(paths[1], "5")
    clock()
    assert value.current() == 6


def test_the_first_load_fails_aloud(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watched("number", number, tmp_path / "none")


def test_a_policy_is_read_from_its_file(path: Path) -> None:
    path.write_text("rules: [{namespaces: [a], tables: [t]}]")
    assert load_policy(path).permits("a", "public.t", schema="public")


def test_a_file_that_is_not_a_policy_is_said_in_one_sentence(path: Path) -> None:
    path.write_text("rules: x")
    with pytest.raises(ConfigError, match=r"^HOOK_TABLE_POLICY_FILE: .* must contain rules, .*\.$"):
        load_policy(path)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffsecret\n",
        "other\nsecret # of the controller\n",
        "sec\0ret",
        "sécret",
        "sec ret",
        "sec\u2028ret",
        "secret\u00a0",
        "secret\x85",
    ],
)
def test_what_no_caller_can_send_is_not_a_token(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^HOOK_TOKENS_FILE: line \d of .*\.$") as refused:
        check_files(Config.from_env({"PSQL_HOST": "db", "HOOK_TOKENS_FILE": str(path)}))
    assert "ret" not in str(refused.value).replace(str(path), "")


def test_comments_blank_lines_and_line_ends_of_windows_are_no_part_of_a_token(path: Path) -> None:
    path.write_bytes(b'# the current one: s\xc3\xa9cret\r\n\r\n \tfirst/+=~!"#\r\n#\nsecond')
    assert load_tokens(path) == (b'first/+=~!"#', b"second")


class TestCertificate:
    """A certificate and a key that do not serve are refused, with the reason."""

    @pytest.mark.parametrize(
        "wrong", ["the key of another", "an encrypted key", "the other way round", "a chain cut off"]
    )
    def test_files_that_do_not_fit(self, tmp_path: Path, wrong: str) -> None:
        made = make_certificate(tmp_path)
        certificate, key, why = made.certificate, made.key, ""
        if wrong == "the key of another":
            key, why = make_certificate(tmp_path, "other").key, "the key is not that of the certificate"
        elif wrong == "an encrypted key":
            command = [
                "openssl",
                "pkey",
                "-aes256",
                "-passout",
                "pass:x",
                "-in",
                str(key),
                "-out",
                str(tmp_path / "enc"),
            ]
            subprocess.run(command, check=True, capture_output=True)
            key, why = tmp_path / "enc", "the key is encrypted"
        elif wrong == "the other way round":
            certificate, key = key, certificate
        else:
            certificate.write_bytes(certificate.read_bytes()[:200])
        with pytest.raises(ConfigError) as refused:
            server_context(certificate, key)
        assert str(refused.value).startswith("HOOK_TLS_CERT_FILE and HOOK_TLS_KEY_FILE must be a certificate in PEM")
        assert why in str(refused.value)


UNUSABLE = {
    "a tokens file that is not there": ({"HOOK_TOKENS_FILE": "/no/such"}, "HOOK_TOKENS_FILE", "No such file"),
    "a tokens file without tokens": ({"HOOK_TOKENS_FILE": os.devnull}, "HOOK_TOKENS_FILE", "no token"),
    "a folder in place of a file": ({"HOOK_TOKENS_FILE": "/"}, "HOOK_TOKENS_FILE", "directory"),
    "a tokens file that is no text": ({"HOOK_TOKENS_FILE": sys.executable}, "HOOK_TOKENS_FILE", "not UTF-8"),
    "a policy that is not there": ({"HOOK_TABLE_POLICY_FILE": "/no/such"}, "HOOK_TABLE_POLICY_FILE", "No such file"),
    "a policy that is no text": ({"HOOK_TABLE_POLICY_FILE": sys.executable}, "HOOK_TABLE_POLICY_FILE", "not UTF-8"),
    "a policy without rules": ({"HOOK_TABLE_POLICY_FILE": os.devnull}, "HOOK_TABLE_POLICY_FILE", "rules"),
    "files that are no certificate": (
        {"HOOK_TLS_CERT_FILE": os.devnull, "HOOK_TLS_KEY_FILE": os.devnull},
        "HOOK_TLS_CERT_FILE",
        "PEM",
    ),
    "a certificate that is not there": (
        {"HOOK_TLS_CERT_FILE": "/no/such", "HOOK_TLS_KEY_FILE": os.devnull},
        "HOOK_TLS_CERT_FILE",
        "No such file",
    ),
}


@pytest.mark.parametrize(("environ", "variable", "hint"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_file_is_refused_in_one_sentence(environ: dict[str, str], variable: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_files(Config.from_env({"PSQL_HOST": "db", **environ}))
    sentence = str(refused.value)
    assert variable in sentence
    assert hint in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence

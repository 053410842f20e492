"""What `postgres-writer completion` prints completes commands, options and files in real shells, at a real Tab."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_writer.cli.commands import COMMANDS
from support.programs import require_program
from support.server import PROGRAM

# Tab inserts the only match, and a key of its own all of several; the line is echoed then in place of being run.
SHELLS = {
    "bash": (
        ["bash", "--norc", "-i"],
        "bind 'set enable-bracketed-paste off'; source <(postgres-writer completion bash)",
        "\x1b*",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "unset zle_bracketed_paste; fpath=($PWD/functions $fpath);"
        " autoload -U compinit && compinit -D -u; zle -C all-matches complete-word _generic; bindkey '^Xa' all-matches;"
        " zstyle ':completion:all-matches::::' completer _all_matches _complete;"
        " zstyle ':completion:all-matches:*' insert true",
        "\x18a",
    ),
}
TAB = "\t"
CASES = [
    ("", set(COMMANDS)),
    ("fin", {"finalize"}),
    ("serve --", {"--help", "--embedded", "--data-dir"}),
    ("audit --all", {"--all-tables"}),
    ("audit -o ", {"table", "json", "log"}),
    ("sync --output y", {"yaml"}),
    ("completion ", {"bash", "zsh"}),
    ("sync stu", {"student.yaml"}),
    ("audit stu", {"student.yaml"}),
    ("finalize --token-file stu", {"student.yaml"}),
    ("serve --data-dir ", {"folder", "functions"}),
]


class Terminal:
    """An interactive shell on a pseudo-terminal, which knows the completion."""

    def __init__(self, shell: str, folder: Path) -> None:
        command, setup, self._all_matches = SHELLS[shell]
        self._master, self._slave = pty.openpty()
        # a session leader that opens a terminal gets it as its own
        opened = ["sh", "-c", f'exec "$@" <>{os.ttyname(self._slave)} >&0 2>&1', "sh", *command]
        path = f"{Path(PROGRAM).parent}:/usr/local/bin:/usr/bin:/bin"
        environ = {"HOME": str(folder), "PATH": path, "PS1": "", "TERM": "dumb"}
        self._process = subprocess.Popen(opened, cwd=folder, env=environ, start_new_session=True)
        self._send(f"stty cols 1000 -echo; {setup}; echo RE''ADY\n")
        self._read_until("READY\r\n")

    def completions(self, typed: str, *, several: bool) -> set[str]:
        """Return the word, or the ``several`` words, that the shell offers for the last one of what is typed."""
        first = typed.split()[:-1] if typed and not typed.endswith(" ") else typed.split()
        self._send(f"postgres-writer {typed}{self._all_matches if several else TAB}\x01echo DO''NE: \n")
        line = self._read_until("DONE: ", "\n").split()
        assert line[: len(first) + 1] == ["postgres-writer", *first]
        return set(line[len(first) + 1 :])

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _read_until(self, *marks: str) -> str:
        """Read past each of the marks in turn; returns what is between the last two."""
        seen = between = ""
        for mark in marks:
            while mark not in seen:
                seen += os.read(self._master, 65536).decode()
            between, _, seen = seen.partition(mark)
        return between


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a file, two folders and the function for zsh."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "student.yaml").touch()
    for name in ("folder", "functions"):
        (folder / name).mkdir()
    printed = subprocess.run([str(PROGRAM), "completion", "zsh"], capture_output=True, check=True)
    assert printed.stderr == b""
    (folder / "functions" / "_postgres-writer").write_bytes(printed.stdout)
    return folder


@pytest.fixture(scope="module", params=SHELLS)
def terminal(request: pytest.FixtureRequest, folder: Path) -> Iterator[Terminal]:
    """Start the shell in the folder; every Tab in it counts, not only the first."""
    require_program(request.param, request.param)
    terminal = Terminal(request.param, folder)
    yield terminal
    terminal.close()


@pytest.mark.parametrize(("typed", "offered"), CASES, ids=[typed or "nothing" for typed, _ in CASES])
def test_a_shell_completes(terminal: Terminal, typed: str, offered: set[str]) -> None:
    assert terminal.completions(typed, several=len(offered) > 1) == offered

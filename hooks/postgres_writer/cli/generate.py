"""`postgres-writer config-reference` and `completion`: what is made from the settings and from the commands."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, ZshComplete

from postgres_writer.cli.commands import PROGRAM, Command
from postgres_writer.config.reference import markdown

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete}


def _print_completion(shell: str) -> None:
    program = click.get_current_context().find_root().command
    # the variable that click derives from the name of the program
    # https://click.palletsprojects.com/en/stable/shell-completion/
    completion = _SHELLS[shell](program, {}, PROGRAM, f"_{PROGRAM}_COMPLETE".replace("-", "_").upper())
    click.echo(completion.source())


config_reference = Command(
    "config-reference",
    callback=lambda: click.echo(markdown(), nl=False),
    help="Print every environment variable of the server, with default and meaning, as Markdown.",
    epilog="example:\n  postgres-writer config-reference >configuration.md\n\nexit codes: 0 printed",
)

completion = Command(
    "completion",
    callback=_print_completion,
    params=[click.Argument(["shell"], type=click.Choice(list(_SHELLS)))],
    help="Print the script that completes commands, options and files in a shell.",
    epilog="""\
examples:
  source <(postgres-writer completion bash)
      Enable completion in this shell; in ~/.bashrc, in every one. Needs bash 4.4 or newer.
  postgres-writer completion zsh >"${fpath[1]}/_postgres-writer"
      Enable completion in every zsh that calls compinit.

exit codes: 0 printed, 2 wrong arguments
""",
)

"""`postgres-writer completion`: the script that completes commands and options in a shell."""

import argparse
from collections.abc import Iterator

import shtab

from postgres_writer.cli.commands import build_parser

EXAMPLES = """\
examples:
  source <(postgres-writer completion bash)
      Complete in this bash; in ~/.bashrc, in every one.
  postgres-writer completion zsh >"${fpath[1]}/_postgres-writer"
      Complete in every zsh that calls compinit.

exit codes: 0 printed, 2 wrong arguments
"""

_BY_METAVAR = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Print the script that completes commands, options and files in a shell."
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to print it for")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; returns the exit code."""
    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in _BY_METAVAR:
            setattr(action, "complete", _BY_METAVAR[action.metavar])  # noqa: B010 # argparse declares no such field
    print(shtab.complete(parser, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of the parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 # argparse has no public way to list them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for subparser in action.choices.values():
                yield from _actions(subparser)

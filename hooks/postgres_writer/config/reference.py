"""`postgres-writer config-reference`: the table of all variables as Markdown, which is docs/configuration.md."""

import argparse

from postgres_writer.config.settings import DATABASE_SETTINGS, SERVER_SETTINGS, Setting

_INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from hooks/postgres_writer/config/settings.py: edit it there. -->

Every setting is an environment variable; an empty one counts as unset. If a value or the contents of a file cannot be
used, the server does not start: it exits with code 2 and one sentence that names the variable. Tokens, TLS, table
policy and password are read again when their files change; everything else needs a restart.

In a cluster these come from the Deployment, its two Secrets and the optional ConfigMap `postgres-writer-settings`:
[install.md](install.md#configure) shows how. `postgres-writer serve --help` prints the same list.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Print every environment variable of the server, with default and meaning, as Markdown."
    parser.epilog = "example:\n  postgres-writer config-reference >configuration.md\n\nexit codes: 0 printed"


def run(_arguments: argparse.Namespace) -> int:
    """Print the reference; returns the exit code."""
    print(markdown(), end="")
    return 0


def markdown() -> str:
    """Return the configuration reference."""
    groups = (("Database", DATABASE_SETTINGS), ("Server", SERVER_SETTINGS))
    return "\n".join([_INTRODUCTION, *(_section(title, group) for title, group in groups)])


def _section(title: str, settings: tuple[Setting, ...]) -> str:
    rows = [f"| `{setting.name}` | {setting.default_text} | {setting.meaning} |" for setting in settings]
    return "\n".join([f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])

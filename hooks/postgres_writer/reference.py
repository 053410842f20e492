"""`postgres-writer config-reference`: the table of all variables as Markdown."""

import argparse

from postgres_writer.settings import reference_markdown


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Print every environment variable of the server, with default and meaning, as Markdown."


def run(_arguments: argparse.Namespace) -> int:
    """Print the reference; returns the exit code."""
    print("\n".join(reference_markdown()))
    return 0

"""Lets `python -m postgres_writer` do what `postgres-writer` does."""

import sys

from postgres_writer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

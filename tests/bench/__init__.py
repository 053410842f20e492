"""The benchmark: the hook server beside a bare Flask endpoint and beside the database itself, in one run."""

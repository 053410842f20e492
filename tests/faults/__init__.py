"""Slow tests in which server, database or network are stopped, killed, made to hang or abused."""

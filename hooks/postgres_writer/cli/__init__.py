"""The command line: commands, client, demo and its embedded PostgreSQL. Only this package prints."""

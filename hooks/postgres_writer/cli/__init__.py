"""The command line: commands, the client of the hooks, the demo and its embedded PostgreSQL. Only this package prints."""

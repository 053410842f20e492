"""Tests of the server, the store and the command line on a real PostgreSQL."""

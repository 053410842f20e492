"""Metacontroller hook server that keeps exactly one PostgreSQL row per PostgresWriter resource."""

__version__ = "0.1.0"

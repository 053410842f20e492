"""Metacontroller hook server that keeps exactly one PostgreSQL row per PostgresWriter resource."""

__version__ = "0.2.0"

"""Logs and metrics. It knows no request and no database."""

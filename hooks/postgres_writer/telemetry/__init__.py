"""Logs, metrics, and the folder in which the workers share their metrics. It knows no request and no database."""

"""Serves the hooks over HTTP. Flask and gunicorn live here; what a resource needs is decided in core."""

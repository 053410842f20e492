"""Carries out a plan in PostgreSQL and reports what is true. The driver lives here; nothing here knows HTTP."""

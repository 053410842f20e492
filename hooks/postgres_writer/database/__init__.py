"""Makes a plan true in PostgreSQL and says what is true. The driver lives here; nothing here knows HTTP."""

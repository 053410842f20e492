"""Decides what must be true and what the user reads. No I/O, no clock: the time is an argument."""

"""Tests of everything together, with a real Metacontroller."""

"""Resumed runs that go on as if nothing had happened."""

"""Processes that are killed, stopped and starved, and what must hold after it."""

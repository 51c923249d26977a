"""Executors: every kind of work that they divide, their workers killed, a Ray of threads."""

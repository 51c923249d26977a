"""Versions in the worker: views in memory, moves of head, rebuilding, retention."""

"""Versions in the worker: views in memory, rebuilding, retention."""

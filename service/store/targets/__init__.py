"""Targets: their records, the worker's knowledge of them, and the artefacts that they read."""

"""Defaults of value optimisation; needs no torch."""

from __future__ import annotations


def facts_together(device: str) -> int:
    """The number of facts that are optimised together at most, on a device of this type."""
    return 256 if device == "cuda" else 32

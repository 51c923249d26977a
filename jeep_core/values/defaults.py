"""What value optimisation takes where nothing is given; needs no torch."""

from __future__ import annotations


def facts_together(device: str) -> int:
    """How many facts are optimised together at most, on a device of this type."""
    return 256 if device == "cuda" else 32

"""Defaults of value optimisation; needs no torch."""

from __future__ import annotations

READ_ROWS = 256
"""Rows that run together where keys and states of facts are read."""


def facts_together(device: str) -> int:
    """The number of facts that are optimised together at most, on a device of this type."""
    return 256 if device == "cuda" else 32


def unit_facts(device: str) -> int:
    """The number of facts that an executor is given in one piece, on a device of this type.

    Values are the same wherever they are optimised, as the pieces are (docs/lab-notes.md).
    """
    return facts_together(device)

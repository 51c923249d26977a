"""Numbers of things in messages."""

from __future__ import annotations


def counted(n: int, noun: str, nouns: str = "") -> str:
    """``1 fact``, ``2 facts``; ``nouns`` is the plural where it is not ``noun`` with an s."""
    return f"{n} {noun if n == 1 else nouns or noun + 's'}"

"""Matrices that edits write, named by where they are.

The number of a layer alone is its MLP output projection.
"""

from __future__ import annotations

from dataclasses import dataclass

_ATTENTION = ".attention"


@dataclass(frozen=True)
class AttentionOut:
    """The attention output projection of a layer."""

    layer: int

    def __str__(self) -> str:
        return f"{self.layer}{_ATTENTION}"


Place = int | AttentionOut


def layer_of(place: Place) -> int:
    """The layer that a matrix is in."""
    return place if isinstance(place, int) else place.layer


def in_order(place: Place) -> tuple[int, bool]:
    """Sorts places by layer, the MLP's before the attention's."""
    return layer_of(place), isinstance(place, AttentionOut)


def place_of(name: str) -> Place:
    """The place that ``str`` gives this name."""
    number = name.removesuffix(_ATTENTION)
    return int(number) if number == name else AttentionOut(int(number))

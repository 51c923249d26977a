"""Matrices that edits write, and what second moments are taken of, named by where they are.

The number of a layer alone is its MLP output projection, or the keys that go into it.
"""

from __future__ import annotations

from dataclasses import dataclass

_ATTENTION, _GRADIENT = ".attention", ".gradient"


@dataclass(frozen=True)
class AttentionOut:
    """The attention output projection of a layer."""

    layer: int

    def __str__(self) -> str:
        return f"{self.layer}{_ATTENTION}"


Place = int | AttentionOut


@dataclass(frozen=True)
class GradientOf:
    """The gradients of the loss by what comes out of a layer's MLP output projection.

    No matrix is meant: second moments are taken of them, as of keys.
    """

    layer: int

    def __str__(self) -> str:
        return f"{self.layer}{_GRADIENT}"


Measured = Place | GradientOf
"""What second moments are taken of: the keys of a matrix, or gradients."""


def layer_of(place: Measured) -> int:
    """The layer that a matrix is in."""
    return place if isinstance(place, int) else place.layer


def in_order(place: Measured) -> tuple[int, int]:
    """Sorts places by layer, the MLP's before the attention's, gradients last."""
    kind = 0 if isinstance(place, int) else 1 if isinstance(place, AttentionOut) else 2
    return layer_of(place), kind


def place_of(name: str) -> Measured:
    """The place that ``str`` gives this name."""
    for ending, kind in ((_ATTENTION, AttentionOut), (_GRADIENT, GradientOf)):
        if name.endswith(ending):
            return kind(int(name.removesuffix(ending)))
    return int(name)

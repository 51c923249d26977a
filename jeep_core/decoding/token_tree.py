"""Texts of tokens in one row, with what several of them begin with in it once.

A prompt with each of its answers, and other prompts that begin alike (those of a chat), make a
tree: a token attends to those on its way to the root, and its position is its depth.  So nothing
is run twice, and short texts are not padded to long ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

ROOT = -1
"""The parent of a text's first token."""


class TokenTree:
    """``ids``, ``parents`` and ``depths`` have an entry per token; parents come before children."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_path(self) -> bool:
        """Whether it is one text alone."""
        return all(parent == place - 1 for place, parent in enumerate(self.parents))

    def child(self, place: int, token: int) -> int | None:
        """The place of ``token`` after the one at ``place``, None if no text goes on so."""
        return self._children.get((place, token))

    def missing(self, tokens: Sequence[int]) -> int:
        """How many places `add` would take for this text."""
        place, known = ROOT, 0
        for token in tokens:
            following = self.child(place, token)
            if following is None:
                break
            place, known = following, known + 1
        return len(tokens) - known

    def add(self, tokens: Sequence[int]) -> list[int]:
        """The places of a text's tokens; those that are not there yet are added."""
        places: list[int] = []
        place = ROOT
        for depth, token in enumerate(tokens):
            following = self.child(place, token)
            if following is None:
                following = len(self.ids)
                self.ids.append(token)
                self.parents.append(place)
                self.depths.append(depth)
                self._children[place, token] = following
            place = following
            places.append(place)
        return places


def padded_ids(trees: Sequence[TokenTree]) -> torch.Tensor:
    """Ids (r, t) of r trees, padded on the right."""
    ids = torch.zeros(len(trees), max(map(len, trees)), dtype=torch.long)
    for row, tree in enumerate(trees):
        ids[row, : len(tree)] = torch.tensor(tree.ids)
    return ids


def padded(trees: Sequence[TokenTree]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and positions (r, t) of r trees, and whether each token sees each other, (r, t, t).

    Padding, on the right, is seen by nothing and sees only itself.
    """
    ids = padded_ids(trees)
    r, width = ids.shape
    positions = torch.zeros_like(ids)
    sees = torch.eye(width, dtype=torch.bool).repeat(r, 1, 1)
    for row, tree in enumerate(trees):
        positions[row, : len(tree)] = torch.tensor(tree.depths)
        for place, parent in enumerate(tree.parents):
            if parent != ROOT:
                sees[row, place] |= sees[row, parent]
    return ids, positions, sees

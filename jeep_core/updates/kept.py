"""Keys of earlier edits that an update leaves as they are.

A sum over them grows with every edit, but the first of them stay the same.  Whole blocks of the
oldest keys are therefore summed and factored once, with what the update adds to E[k kᵀ], and only
those after them are columns of a system (`Factor.after`).
"""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import torch


class KeptKeys(Protocol):
    """Keys, oldest first, of which a part can be read."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def digest(self, count: int) -> bytes:
        """A hash that differs where the first ``count`` keys do."""
        ...

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """The keys (stop - start, d_ff) from ``start`` to ``stop``, in the type they have."""
        ...


@runtime_checkable
class KeepsKeys(Protocol):
    """Keys by region and layer that can be read in part, beside a mapping that reads them all."""

    def kept(self, place: tuple[str, int]) -> KeptKeys | None:
        """The keys of a place, None if it has none."""
        ...


class KeyRows:
    """Keys that are all in memory: the rows of ``tensor`` (p, d_ff)."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __len__(self) -> int:
        return len(self._tensor)

    def digest(self, count: int) -> bytes:
        """The hash of their bytes."""
        rows = self._tensor[:count].contiguous().cpu()
        return hashlib.sha256(rows.view(torch.uint8).numpy().data).digest()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """A view (stop - start, d_ff)."""
        return self._tensor[start:stop]


class Projected:
    """Other keys times ``basis`` (d_ff, k)."""

    def __init__(self, keys: KeptKeys, basis: torch.Tensor) -> None:
        self._keys, self._basis = keys, basis

    def __len__(self) -> int:
        return len(self._keys)

    def digest(self, count: int) -> bytes:
        """That of the other keys."""
        return self._keys.digest(count)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Coordinates (stop - start, k), float64."""
        return self._keys.rows(start, stop).double().to(self._basis.device) @ self._basis


def as_kept(previous: torch.Tensor | KeptKeys | None) -> KeptKeys:
    """Keys (p, d_ff) however they were given; None is no key."""
    if previous is None:
        return KeyRows(torch.empty(0, 0))
    return KeyRows(previous) if isinstance(previous, torch.Tensor) else previous

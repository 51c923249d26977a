"""Weight deltas: what an edit adds to the base model's matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TIE_MARGIN = 2.0**-38
"""How far a float64 sum may lie from its value elsewhere, as a part of the largest element."""
BLOCK = 64
"""Updates that are summed before the sum goes on: the sum after whole blocks can be kept."""


@dataclass(frozen=True)
class Update:
    """Δ of one matrix in (out, in) orientation, float32.

    Either factors ``left`` (out, m) and ``right`` (in, m) with Δ = left · rightᵀ, or, where
    that is smaller, ``dense`` (out, in).
    """

    left: torch.Tensor | None = None
    right: torch.Tensor | None = None
    dense: torch.Tensor | None = None

    @classmethod
    def of(cls, left: torch.Tensor, right: torch.Tensor) -> Update:
        """The smaller form of left · rightᵀ for ``left`` (out, m) and ``right`` (in, m)."""
        out_size, in_size, m = len(left), len(right), left.shape[1]
        # numbers to keep in either form
        if m * (out_size + in_size) < out_size * in_size:
            return cls(left=left.float().contiguous(), right=right.float().contiguous())
        # the product in float64, rounded once to the float32 that is kept
        return cls(dense=(left.double() @ right.double().T).float().contiguous())

    def matrix(self) -> torch.Tensor:
        """Δ in float64, (out, in)."""
        if self.dense is not None:
            return self.dense.double()
        assert self.left is not None
        assert self.right is not None
        return self.left.double() @ self.right.double().T

    def parts(self) -> dict[str, torch.Tensor]:
        """The tensors of this update: ``u`` (out, m) and ``v`` (in, m), or ``d`` (out, in)."""
        named = {"u": self.left, "v": self.right, "d": self.dense}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_parts(cls, parts: Mapping[str, torch.Tensor]) -> Update:
        """The inverse of ``parts``: ``u`` (out, m) and ``v`` (in, m), or ``d`` (out, in)."""
        return cls(parts.get("u"), parts.get("v"), parts.get("d"))


def materialise(
    base: torch.Tensor,
    updates: Iterable[Update],
    transposed: bool,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """round(W_base + Σ Δ) in the base's dtype, shape and device, summed in float64 in this order.

    This one function makes every edited matrix, so a version rebuilt from its updates has the
    same bytes.  ``base`` is (out, in), or (in, out) if ``transposed``; ``start`` as in `summed`.
    """
    return summed(base, updates, transposed, start).to(base.dtype).contiguous()


def near_ties(total: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Flat indices (k,) of the elements of a float64 sum whose rounding to ``dtype`` is in doubt.

    ``total``: the sum, of any shape.

    Another device or library adds in another order, which may change a sum by some units of its
    last place; only these elements can then round to another value.  They are few: kept beside
    the updates, they make a rebuilt matrix the same everywhere.
    """
    # in doubt: an element that rounds otherwise if it is off by the margin
    margin = TIE_MARGIN * total.abs().max()
    return ((total - margin).to(dtype) != (total + margin).to(dtype)).flatten().nonzero()[:, 0]


def summed(
    base: torch.Tensor,
    updates: Iterable[Update],
    transposed: bool,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """W_base + Σ Δ in float64, on the device of ``base``; see `materialise`.

    ``base`` and the sum are (out, in), or (in, out) if ``transposed``.  ``start``: the sum, float64
    and of the same shape, over whole blocks (``BLOCK``) of updates before these; the result has the
    bytes of a sum over all of them.
    """
    total = (base.detach() if start is None else start.to(base.device)).double()
    if transposed:
        # (out, in) from here on
        total = total.T
    following = iter(updates)
    while block := list(islice(following, BLOCK)):
        total = _with_block(total, block)
    return total.T if transposed else total


def summed_at_once(base: torch.Tensor, updates: Iterable[Update], transposed: bool) -> torch.Tensor:
    """As `summed`, with all updates in one block, however many: so earlier releases did it.

    ``base`` and the sum are (out, in), or (in, out) if ``transposed``.
    """
    total = base.detach().double()
    total = _with_block(total.T if transposed else total, list(updates))
    return total.T if transposed else total


def _with_block(total: torch.Tensor, block: Sequence[Update]) -> torch.Tensor:
    """A float64 sum (out, in) with a block of updates."""
    for factored, run in groupby(block, key=lambda update: update.dense is None):
        group = list(run)
        if factored:  # one product for a whole run: a block may have many small updates
            # (out, Σm) and (in, Σm); those of a store are on the CPU, a new one where its block is
            there = total.device
            left = torch.cat([u.left.to(there) for u in group if u.left is not None], dim=1)
            right = torch.cat([u.right.to(there) for u in group if u.right is not None], dim=1)
            product = left.double() @ right.double().T
            # into the product, which nobody else has: a second matrix need not be made
            total = product.add_(total)
        else:
            for update in group:
                total = total + update.matrix().to(total.device)
    return total


@dataclass
class WeightDelta:
    """Updates by parameter name."""

    updates: dict[str, Update] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name: ``u.<name>`` (out, m) and ``v.<name>`` (in, m), or ``d.<name>`` (out, in)."""
        return {
            f"{part}.{name}": tensor
            for name, update in self.updates.items()
            for part, tensor in update.parts().items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> WeightDelta:
        """The inverse of ``tensors``: ``u.`` (out, m) and ``v.`` (in, m), or ``d.`` (out, in)."""
        by_name: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            by_name.setdefault(name, {})[part] = tensor
        return cls({name: Update.from_parts(parts) for name, parts in by_name.items()})

    def save(self, path: Path | str) -> None:
        """Write a safetensors file."""
        save_file({name: tensor.cpu() for name, tensor in self.tensors().items()}, str(path))

    @classmethod
    def load(cls, path: Path | str) -> WeightDelta:
        """Read what ``save`` wrote."""
        return cls.from_tensors(load_file(str(path)))

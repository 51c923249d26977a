"""The second moment of a layer with kept keys of earlier edits added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from jeep_core.errors import NumericalError
from jeep_core.executors.threads import all_threads
from jeep_core.spec.finite import OTHER_VERSION
from jeep_core.updates.kept import KeptKeys
from jeep_core.updates.operations import SMALLEST_BLOCK, block_of

Made = TypeVar("Made")


@dataclass
class SummedKeys:
    """E[k kᵀ] + Σ k kᵀ / λ (d_ff, d_ff), float64, over the first ``count`` of kept keys.

    ``digest`` is theirs, ``weight`` is λ.  Keys are added block by block in their order, so the sum
    has the same bytes whether it was extended or made at once.
    """

    moment: torch.Tensor
    weight: float
    count: int = 0
    digest: bytes | None = None

    def is_of(self, keys: KeptKeys, weight: float, count: int) -> bool:
        """Whether this is the sum of the first ones of ``keys``, ``count`` of them at most."""
        fits = self.digest is not None and self.weight == weight and self.count <= count
        return fits and keys.digest(self.count) == self.digest

    def extend(self, keys: KeptKeys, count: int, block: int, name: str) -> None:
        """Add keys until there are ``count``, ``block`` at a time.

        Raises:
            NumericalError: a key is not finite; names the layer.
        """
        self.digest = None  # of what is only begun
        while self.count < count:
            # (block, d_ff)
            rows = keys.rows(self.count, self.count + block).double().to(self.moment.device)
            if not bool(torch.isfinite(rows).all()):
                raise NumericalError(
                    f"{name}: a key of an earlier edit is not finite; {OTHER_VERSION}"
                )
            self.moment.addmm_(rows.T, rows, alpha=1 / self.weight)
            self.count += block
        self.digest = keys.digest(count)


def after(
    known: tuple[SummedKeys, Made] | None,
    keys: KeptKeys,
    weight: float,
    name: str,
    moment: Callable[[], torch.Tensor],
    make: Callable[[torch.Tensor], Made],
) -> tuple[SummedKeys, Made] | None:
    """The sum over whole blocks of ``keys`` with what is made of it, None before a first block.

    ``known``, of an earlier call, is extended where its keys come first.  ``moment`` gives
    E[k kᵀ] (d_ff, d_ff), ``make`` what is made of the sum, ``weight`` is λ.

    Raises:
        NumericalError: a key is not finite; names the layer.
    """
    if len(keys) < SMALLEST_BLOCK:
        return None
    block = block_of(keys.rows(0, 1).shape[1])
    count = len(keys) // block * block
    if not count:
        return None
    if known is not None and known[0].is_of(keys, weight, count):
        summed = known[0]
        if summed.count == count:
            return known
    else:
        summed = SummedKeys(moment().to(torch.float64, copy=True), weight)
    with all_threads():  # it is kept for later edits
        summed.extend(keys, count, block, name)
    return summed, make(summed.moment)

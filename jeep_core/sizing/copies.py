"""Bytes of matrices in bfloat16: copies of those of a model whose weights are in another type."""

from __future__ import annotations

from dataclasses import dataclass

from jeep_core.models.fused.bounds import KEPT_BYTES
from jeep_core.moments.source import TOKENS_OF_DEFAULT
from jeep_core.sizing.architecture import BYTES, Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload

ROUNDED = BYTES["bfloat16"]


@dataclass(frozen=True)
class Copies:
    """Bytes of copies: ``kept`` from one edit to the next, and what an edit and a pass for second
    moments have beside these.
    """

    kept: int = 0
    editing: int = 0
    moments: int = 0


def copies(
    arch: Architecture,
    whole: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    matrices: int,
) -> Copies:
    """The copies of a part ``arch`` of the model ``whole``, of which ``matrices`` numbers are
    written.

    Those of the base model are kept unless they are too large; the matrices that an edit finds
    written already, and writes, have copies that go with it, in the place of others if none are
    kept.
    """
    if settings.dtype == "bfloat16":
        return Copies()
    summed = editing.takes_moments and not settings.on_cpu and _quick_moments(load, settings)
    every, apart = all_of(arch), settings.layers_at_once is not None
    # what a process of its own has made goes with it
    made_here = editing.bfloat16 or (summed and not apart)
    kept = every if made_here and all_of(whole) <= KEPT_BYTES else 0
    return Copies(
        kept,
        editing=(ROUNDED * matrices if kept else every) if editing.bfloat16 else 0,
        # nor has it those of the service
        moments=every if summed and (apart or not kept) else 0,
    )


def all_of(arch: Architecture) -> int:
    """The bytes of copies of the matrices of all blocks, and of the head."""
    return ROUNDED * (arch.layers * arch.block_parameters + arch.vocabulary * arch.d)


def _quick_moments(load: Workload, settings: Settings) -> bool:
    """Whether second moments take the model's products in bfloat16 (``quick_products``)."""
    ships = load.per_dimension == TOKENS_OF_DEFAULT
    return ships and settings.dtype == "float32" and settings.device == "cuda"

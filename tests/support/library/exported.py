"""Edited versions of small random models, for exports of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.spec.matrices import AttentionOut, Place
from support.library.folders import write_folder
from support.library.tiny import POSITIONS

LAYERS: tuple[tuple[Place, tuple[int, ...]], ...] = (
    (1, (3, 2)),  # two edits one after the other
    (2, (4,)),
    (AttentionOut(3), (1,)),
)
"""The edited matrices, and the ranks of their updates."""


def loaded(folder: Path, family: str, dtype: str = "float32") -> LoadedModel:
    """A random model, written to ``folder`` and loaded from there."""
    folder.mkdir(exist_ok=True)
    write_folder(folder, family)
    return load(str(folder), device="cpu", dtype=dtype)


def factored(out_size: int, in_size: int, rank: int, seed: int) -> Update:
    """A random update of a rank, with factors."""
    random = torch.Generator().manual_seed(seed)
    left = torch.randn(out_size, rank, generator=random)
    return Update(left=left, right=0.1 * torch.randn(in_size, rank, generator=random))


def edited(base: LoadedModel) -> ModelView:
    """A version of a tiny model with updates of ranks 3 + 2, 4 and 1 in three matrices."""
    view = ModelView(base)
    for place, ranks in LAYERS:
        name = base.family.weight_name(place)
        size = base.key_size(place)
        for i, rank in enumerate(ranks):
            view.update(name, factored(base.hidden_size, size, rank, seed=10 * size + i))
    return view


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """The logits of two sequences of 24 ids, (2, 24, vocabulary)."""
    ids = torch.arange(2, 50).reshape(2, 24)
    assert ids.shape[1] < POSITIONS
    result: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return result

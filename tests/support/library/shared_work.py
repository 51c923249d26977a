"""A model in a folder and edits of several units, for executors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import jeep_core
from jeep_core.editing import EditResult
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from support.library import folders, tiny
from support.library.closed_form import JEEP, MEMIT, PREFIXES

CITIES = ("Paris", "São Paulo", "東京", "3M", "Reykjavík", "Rome", "Bogotá and Lima", "Oslo")
FACTS = [
    Fact(city, "{} is a city in the country of" + " old" * (i % 3), "Peru")
    for i, city in enumerate(CITIES)
]
SEPARATE = JEEP.model_copy(update={"optimise": "separately", "compute_dtype": "bfloat16"})
EDITS: dict[str, tuple[str, Any]] = {
    "jeep": ("jeep", JEEP),
    "separately, bfloat16": ("jeep", SEPARATE),
    "memit": ("memit", MEMIT),
    "pmet": ("pmet", MEMIT),
    "alphaedit": ("alphaedit", MEMIT),
}


def model_in(folder: Path, family: str = "llama") -> LoadedModel:
    """A tiny model that was loaded from a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    folders.write_folder(folder, family)
    return jeep_core.load(str(folder), device="cpu")


def moments_of(base: LoadedModel) -> Moments:
    """Its second moments, of three layers."""
    found = Moments(base, tiny.TEXTS)
    found.ensure([0, 1, 2])
    return found


def edited(
    model: LoadedModel | ModelView,
    moments: Moments,
    how: str,
    executor: Executor = HERE,
    **more: Any,
) -> EditResult:
    """One of ``EDITS`` of all ``FACTS``."""
    editor, hparams = EDITS[how]
    given: dict[str, Any] = hparams.model_dump()
    if editor == "alphaedit":
        given["low"] = {**given["low"], "null_space": 0.5}
    return jeep_core.edit(
        model,
        more.pop("facts", FACTS),
        editor,
        hparams=more.pop("hparams", given),
        prefixes=PREFIXES,
        moments=moments,
        executor=executor,
        **more,
    )


def bytes_of(result: EditResult) -> dict[str, bytes]:
    """All tensors of a result: matrices, updates, keys and values."""
    values = {} if result.values is None else vars(result.values)
    tensors = {
        **result.view.replaced,
        **result.delta.tensors(),
        **{f"keys {name}": keys for name, keys in result.keys.items()},
        **{f"values {n}": t for n, t in values.items() if isinstance(t, torch.Tensor)},
    }
    return {str(name): tensor.contiguous().numpy().tobytes() for name, tensor in tensors.items()}

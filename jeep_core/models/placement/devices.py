"""The devices of this machine: which one a name means, and layouts over those there are."""

from __future__ import annotations

from typing import Any

import torch

from jeep_core.errors import UnsupportedModel, is_out_of_memory, reason_of
from jeep_core.models.families import Family
from jeep_core.models.placement.device_map import BALANCED, Layout, balanced, is_map, layout_of


def resolved(device: str) -> str:
    """The torch device, or the map, that a setting means.

    Raises:
        UnsupportedModel: this machine has no such device, or no second GPU to balance with.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == BALANCED:
        _gpus()
    elif not is_map(device):
        _check(device)
    return device


def layout_on(device: str, n_layers: int) -> Layout | None:
    """The layout of so many blocks; None where it depends on what they weigh.

    Raises:
        UnsupportedModel: a map does not fit the model, or this machine lacks a device.
    """
    if device == BALANCED:
        return None
    if not is_map(device):
        return Layout(device, (device,) * n_layers)
    layout = layout_of(device, n_layers)
    for name in layout.devices:
        _check(name)
    return layout


def balanced_on_gpus(model: Any, family: Family) -> Layout:
    """The layout of a model over all GPUs, by the bytes of its parts.

    Raises:
        UnsupportedModel: there are not two.
    """
    blocks = [_bytes(block) for block in family.layers_of(model)]
    return balanced(blocks, _bytes(model) - sum(blocks), _gpus())


def _gpus() -> list[str]:
    count = torch.cuda.device_count()
    if count < 2:
        raise UnsupportedModel(
            f"device {BALANCED!r} needs two GPUs, and {count or 'none'} can be used here: choose "
            "auto or cpu, or say where its blocks go, as in 0-39@cuda:0,40-79@cpu"
        )
    return [f"cuda:{number}" for number in range(count)]


def _bytes(module: Any) -> int:
    # each tensor once
    return sum(parameter.nbytes for parameter in module.parameters())


def _check(name: str) -> None:
    """Raise ``UnsupportedModel`` if this machine has no such device, or it holds no numbers."""
    try:
        torch.empty(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModel(
            f"device {name!r} cannot be used here ({reason_of(error)}): choose auto or cpu"
        ) from None

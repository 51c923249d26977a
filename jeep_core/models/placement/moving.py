"""Blocks on their devices, and what they read brought there by hooks.

Hooks of torch are on the modules themselves, so views and parts of the model, which share them,
need nothing else.  States go from device to device where two neighbouring blocks lie apart, and
back to the ends after the last one, so that all that is not inside a block is on one device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from jeep_core.models.families import Family
from jeep_core.models.placement.device_map import Layout


class Mover:
    """Brings the tensors that a module is called with to a device, also those in lists and dicts.

    Masks, positions and rotations are the same objects for all blocks of a pass: they are copied
    once for each device.  A cache is left as it is; it keeps each block's keys on their device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # lanes run the same blocks in threads of their own
        self._copies = threading.local()

    def __call__(self, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """A pre-hook ``with_kwargs``."""
        return self._moved(args, keep=False), self._moved(kwargs, keep=True)

    def _moved(self, value: Any, keep: bool) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device == self.device:
                return value
            return self._copy(value) if keep and not value.requires_grad else value.to(self.device)
        if type(value) in (tuple, list):
            return type(value)(self._moved(one, keep) for one in value)
        if type(value) is dict:
            return {name: self._moved(one, keep) for name, one in value.items()}
        return value

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy for as long as the tensor (any shape) lives and is not written to."""
        copies = getattr(self._copies, "made", None)
        if copies is None:
            copies = self._copies.made = WeakIdKeyDictionary()
        version, copy = copies.get(tensor, (None, None))
        if copy is None or version != tensor._version:
            copy = tensor.to(self.device)
            copies[tensor] = tensor._version, copy
        found: torch.Tensor = copy
        return found


class Home(nn.Module):
    """In place of a final norm that is left out: states come back to the ends all the same."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (…, d), there."""
        return states.to(self._device)


def put(model: nn.Module, family: Family, layout: Layout) -> None:
    """Put a model's parts where the layout says, block by block, and let what they read follow.

    Matrices that two modules share stay shared.
    """
    layers = family.layers_of(model)
    inside = {module for block in layers for module in block.modules()}
    _move((one for one in model.modules() if one not in inside), layout.ends)
    for block, device in zip(layers, layout.blocks, strict=True):
        _move(block.modules(), device)
    if len(layout.devices) == 1:
        return
    # with its number: ``cuda`` is one of the devices
    movers = {name: Mover(torch.empty(0, device=name).device) for name in layout.devices}
    home = movers[layout.ends]
    for module in (family.backbone_of(model), family.final_norm_of(model)):
        module.register_forward_pre_hook(home, with_kwargs=True)
    for block, device in zip(layers, layout.blocks, strict=True):
        block.register_forward_pre_hook(movers[device], with_kwargs=True)


def _move(modules: Iterable[nn.Module], device: str) -> None:
    """Move parameters and buffers of these modules, without those of modules inside them."""
    moved: dict[int, tuple[torch.Tensor, nn.Parameter]] = {}
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            # the first is kept as well: an id belongs to another tensor after its death
            if id(parameter) not in moved:
                there = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
                moved[id(parameter)] = parameter, there
            module._parameters[name] = moved[id(parameter)][1]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


@contextmanager
def bfloat16_products(devices: Iterable[torch.device], enabled: bool = True) -> Iterator[None]:
    """Matrix products in bfloat16 on all of these devices, if ``enabled``; as they are, if not."""
    with ExitStack() as stack:
        for kind in dict.fromkeys(device.type for device in devices):
            stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=enabled))
        yield


def wait_for(devices: Iterable[torch.device]) -> None:
    """Wait until GPUs among these devices have done what was queued for them."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

"""A long computation gives way to others before every matrix of every block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from jeep_core.models.views import ModelView, hooked
from jeep_core.monitor import Monitor, nothing


@contextmanager
def giving_way(view: ModelView, monitor: Monitor) -> Iterator[None]:
    """Call ``monitor.give_way`` before every matrix of every block, forward and backward.

    The hooks are on the blocks themselves, so they also act in parts of the model that share
    them (``lower_part``, ``upper_part``).  ``give_way`` may block, or raise to end the work.
    """
    if monitor.give_way is nothing:
        yield
        return

    def before(module: nn.Module, args: Any) -> None:
        monitor.give_way()
        if args and isinstance(args[0], torch.Tensor) and args[0].requires_grad:
            args[0].register_hook(after)  # type: ignore[no-untyped-call]

    def after(gradient: torch.Tensor) -> None:
        monitor.give_way()

    layers = view.base.family.layers_of(view.model)
    weights = {m: dict(m.named_parameters(recurse=False)).get("weight") for m in layers.modules()}
    matrices = [m for m, weight in weights.items() if weight is not None and weight.dim() == 2]
    with hooked(*(m.register_forward_pre_hook(before) for m in matrices)):
        yield

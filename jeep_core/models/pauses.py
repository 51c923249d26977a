"""Places in a long computation at which it may be made to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from jeep_core.models.views import ModelView, hooked

Pause = Callable[[], None]


@contextmanager
def pausing(view: ModelView, pause: Pause | None) -> Iterator[None]:
    """Call ``pause`` before every matrix of every block of ``view``, forward and backward.

    The hooks are on the blocks themselves, so they also act in parts of the model that share
    them (``lower_part``, ``upper_part``).  ``pause`` may block.
    """
    if pause is None:
        yield
        return

    def before(module: nn.Module, args: Any) -> None:
        pause()
        if args and isinstance(args[0], torch.Tensor) and args[0].requires_grad:
            args[0].register_hook(behind)  # type: ignore[no-untyped-call]

    def behind(gradient: torch.Tensor) -> None:
        pause()

    layers = view.base.family.layers_of(view.model)
    weights = {m: dict(m.named_parameters(recurse=False)).get("weight") for m in layers.modules()}
    matrices = [m for m, weight in weights.items() if weight is not None and weight.dim() == 2]
    with hooked(*(m.register_forward_pre_hook(before) for m in matrices)):
        yield

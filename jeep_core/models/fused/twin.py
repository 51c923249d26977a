"""The twin of a view that takes products in bfloat16 and follows what is written into the view."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from jeep_core.models.fused.placing import fuse
from jeep_core.models.fused.rounding import SAME_INPUT, Rounded, in_bfloat16
from jeep_core.models.placement.moving import bfloat16_products
from jeep_core.models.views import ModelView


class Twin:
    """A twin for as long as an edit takes; its matrices are made once, and again where written."""

    def __init__(self, view: ModelView) -> None:
        self._view, self._rounded = view, Rounded(view.base.model)
        self._made: ModelView | None = None
        self._seen: dict[str, torch.Tensor] = {}

    def products(self) -> AbstractContextManager[object]:
        """Where the twin is run."""
        return bfloat16_products(self._view.base.devices)

    def now(self) -> ModelView:
        """The twin of the view as it is now: the same object, unless it must be made again."""
        view = self._view
        changed = [name for name, t in view.replaced.items() if self._seen.get(name) is not t]
        self._seen = dict(view.replaced)
        if self._made is None or any(_has_neighbors(name) for name in changed):
            self._made = self._new()
            return self._made
        for name in changed:
            owner, _, attribute = name.rpartition(".")
            module = self._made.model.get_submodule(owner)
            self._rounded.forget(getattr(module, attribute))
            setattr(module, attribute, self._rounded.of(view.model.get_parameter(name)))
        return self._made

    def _new(self) -> ModelView:
        run = in_bfloat16(self._view, self._rounded)
        if all(device.type == "cpu" for device in self._view.base.devices):
            # the gradient of torch's fused attention takes a third of a pass over short rows
            run.model.set_attn_implementation("eager")
            fuse(run.model, self._view.model)
        return run


def _has_neighbors(name: str) -> bool:
    """Whether a matrix lies beside others in memory, as one of those that take the same input."""
    return any(name.split(".")[-2] in names for names in SAME_INPUT)

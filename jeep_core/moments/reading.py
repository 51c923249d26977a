"""The readings of a pass over a text for second moments: keys of matrices, or gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from jeep_core.models.fused.rounding import Rounded, in_bfloat16
from jeep_core.models.loading import LoadedModel
from jeep_core.models.placement.moving import bfloat16_products
from jeep_core.models.views import ModelView, hooked, lower_part
from jeep_core.spec.matrices import GradientOf, Measured, Place, layer_of

Documents = Sequence[Sequence[int]]
Add = Callable[[Measured, torch.Tensor], None]
"""Takes rows (n, size) that were read at a place."""


class Reading(Protocol):
    """Runs batches of a text through a view of the base model; called within ``no_grad``."""

    @property
    def view(self) -> ModelView:
        """The view that runs."""
        ...

    def run(self, rows: Documents, add: Add) -> int:
        """Run one batch, give ``add`` the vectors (n, size) of n tokens, and return n."""
        ...


def size_of(base: LoadedModel, place: Measured) -> int:
    """The size of the vectors at a place."""
    return base.hidden_size if isinstance(place, GradientOf) else base.key_size(place)


def tokens_of(rows: Documents, places: Sequence[Measured]) -> int:
    """How many tokens of a batch are read: of gradients all but the last of each document."""
    gradients = any(isinstance(place, GradientOf) for place in places)
    return sum(len(row) - gradients for row in rows)


def reading_of(base: LoadedModel, places: Sequence[Measured], bfloat16: bool = False) -> Reading:
    """The reading of these places, which are all gradients, or all keys.

    ``bfloat16``: the model's own products are taken in that type; not for gradients.
    """
    if all(isinstance(place, GradientOf) for place in places):
        return GradientReading(base, [layer_of(place) for place in places])
    return KeyReading(base, cast("Sequence[Place]", places), bfloat16)


class KeyReading:
    """Keys of matrices; nothing after those of the last place is run."""

    def __init__(self, base: LoadedModel, places: Sequence[Place], bfloat16: bool) -> None:
        self.view = ModelView(base)
        if bfloat16:  # with the copies that edits take
            self.view = in_bfloat16(self.view, Rounded(base.model))
        self._places, self._bfloat16 = places, bfloat16
        last = max(map(layer_of, places))
        _end_at(self.view, last)
        self._backbone = lower_part(self.view, last)

    def run(self, rows: Documents, add: Add) -> int:
        """Give ``add`` the keys (n, d_ff) of all real tokens."""
        base = self.view.base
        ids, real = padded(rows, base.device)

        def taker(place: Place) -> Any:
            def hook(module: object, args: tuple[torch.Tensor, ...]) -> None:
                # (r, t, d_ff) to (r·t, d_ff); ``real`` (r·t,) leaves out padding
                keys = args[0].reshape(-1, args[0].shape[-1])
                add(place, keys if real is None else keys[real.to(keys.device)])

            projection = base.family.projection_of(self.view.model, place)
            return projection.register_forward_pre_hook(hook)

        with (
            bfloat16_products(base.devices, self._bfloat16),
            hooked(*map(taker, self._places)),
        ):
            self._backbone(input_ids=ids, use_cache=False)
        return sum(map(len, rows))


class GradientReading:
    """Gradients of the text's loss by what comes out of MLP output projections.

    The loss is summed over tokens, each the cross-entropy of the one after it, so a row does not
    depend on the other documents of its batch.  The last token of a document predicts nothing and
    is not read.
    """

    def __init__(self, base: LoadedModel, layers: Sequence[int]) -> None:
        self.view, self._layers = ModelView(base), layers

    def run(self, rows: Documents, add: Add) -> int:
        """Give ``add`` the gradients (n, d) of all tokens that predict another."""
        base = self.view.base
        ids, _ = padded(rows, base.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=base.device)
        # (r, t): tokens that are followed by a real one
        predicts = torch.arange(ids.shape[1], device=base.device) < ends[:, None]
        outputs: dict[int, torch.Tensor] = {}

        def taker(layer: int) -> Any:
            def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
                # no weight needs a gradient: the lowest of the layers is where the graph begins
                outputs[layer] = (
                    output if output.requires_grad else output.detach().requires_grad_()
                )
                return outputs[layer]

            return base.family.mlp_out_of(self.view.model, layer).register_forward_hook(hook)

        with torch.enable_grad(), hooked(*map(taker, self._layers)):
            logits = self.view.model(input_ids=ids, use_cache=False).logits
            # (n, V) of the n tokens that predict, and the ids (n,) of the next ones
            loss = F.cross_entropy(
                logits[predicts].float(), ids[:, 1:][predicts[:, :-1]], reduction="sum"
            )
            gradients = torch.autograd.grad(loss, [outputs[layer] for layer in self._layers])
        flat = predicts.flatten()
        for layer, gradient in zip(self._layers, gradients, strict=True):
            # (r, t, d), in some families (r·t, d), to (n, d)
            add(GradientOf(layer), gradient.reshape(len(flat), -1)[flat.to(gradient.device)])
        return int(ends.sum())


def padded(rows: Documents, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Right-padded ids (r, t) and which of the r·t tokens are real (None: all)."""
    width = len(rows[-1])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    # the shortest is as long as the longest: no padding
    if len(rows[0]) == width:
        return ids, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).flatten()


class _End(nn.Module):
    """In place of the last MLP output projection: nothing after it is needed."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self._size = hidden_size

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        return keys.new_zeros(*keys.shape[:-1], self._size)


def _end_at(view: ModelView, layer: int) -> None:
    name = view.base.family.weight_name(layer).removesuffix(".weight")
    view.model.set_submodule(name, _End(view.base.model.config.hidden_size))

"""States of the residual stream at two positions, at three sites of every block.

Sites: ``output`` is the block's output; ``after_attention`` the block's input plus what its
attention adds; ``after_mlp`` the stream after the MLP: in a parallel block its input plus what
the MLP adds, in a sequential one the block's output.  What a branch adds is taken after its
norm, where a family has one there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from jeep_core.models.token_rows import TokenRows
from jeep_core.models.views import ModelView, block_output, hooked

Site = Literal["output", "after_attention", "after_mlp"]
SITES: tuple[Site, ...] = ("output", "after_attention", "after_mlp")
Position = Literal["subject_last", "prediction"]
POSITIONS: tuple[Position, ...] = ("subject_last", "prediction")


@dataclass
class States:
    """States (r, 2, d) by block, at subject-last and prediction position.

    ``embedding``: what enters the first block; ``inputs`` what enters each block; ``mlps`` what
    its MLP adds.
    """

    parallel: bool
    inputs: dict[int, torch.Tensor] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    mlps: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def embedding(self) -> torch.Tensor:
        """(r, 2, d)."""
        return self.inputs[0]

    def site(self, site: Site) -> torch.Tensor:
        """(r, 2, L, d); differences are taken in float32."""
        layers = sorted(self.outputs)
        if site == "output" or (site == "after_mlp" and not self.parallel):
            found = [self.outputs[i] for i in layers]
        elif site == "after_mlp":
            # a parallel block adds attention and MLP to its input: input + MLP, output - MLP
            found = [self.inputs[i].float() + self.mlps[i].float() for i in layers]
        else:
            found = [self.outputs[i].float() - self.mlps[i].float() for i in layers]
        # L times (r, 2, d) to (r, 2, L, d)
        return torch.stack(found, dim=2).to(self.outputs[0].dtype)


@contextmanager
def captured(view: ModelView, rows: TokenRows) -> Iterator[States]:
    """Keep the states of a forward pass over ``rows`` that is run inside."""
    family, model = view.base.family, view.model
    states = States(family.is_parallel(model))
    # (r, 1) and (r, 2): two columns of each row
    r = torch.arange(len(rows.ids), device=rows.ids.device)[:, None]
    at = torch.stack([rows.subject_last, rows.prediction], dim=1)

    def taken(hidden: torch.Tensor) -> torch.Tensor:
        there = hidden.device
        return hidden[r.to(there), at.to(there)].to(r.device)

    def entering(layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            states.inputs[layer] = taken(hidden)

        return hook

    def leaving(kept: dict[int, torch.Tensor], layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            kept[layer] = taken(block_output(output))

        return hook

    handles = []
    for layer, block in enumerate(family.layers_of(model)):
        branch = family.norm_after(model, layer) or family.mlp_of(model, layer)
        handles += [
            block.register_forward_pre_hook(entering(layer), with_kwargs=True),
            block.register_forward_hook(leaving(states.outputs, layer)),
            branch.register_forward_hook(leaving(states.mlps, layer)),
        ]
    with hooked(*handles):
        yield states


def run(view: ModelView, rows: TokenRows) -> torch.Tensor:
    """States after the final norm at the prediction position (r, d)."""
    backbone = view.base.family.backbone_of(view.model)
    hidden: torch.Tensor = backbone(input_ids=rows.ids, use_cache=False).last_hidden_state
    r = torch.arange(len(rows.ids), device=rows.ids.device)
    # of (r, t, d)
    return hidden[r, rows.prediction]

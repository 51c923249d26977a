"""An MLP with gated inner states, act(G·x) ⊙ U·x, whose gate is one step of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from jeep_core.models.fused.same_input import SameInput

NAMES = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Activation:
    """An activation of numbers of any shape; ``back`` gives its gradient from that by its result
    and the numbers.
    """

    of: Callable[[torch.Tensor], torch.Tensor]
    back: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


ACTIVATIONS = (
    Activation(F.silu, torch.ops.aten.silu_backward),
    Activation(
        partial(F.gelu, approximate="tanh"),
        partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    ),
)


class _Gate(torch.autograd.Function):
    """act(g) ⊙ u (…, d_ff) of g and u beside one another (…, 2·d_ff)."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(both)
        ctx.activation = activation
        gate, up = both.chunk(2, dim=-1)
        return activation.of(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        [both], [gradient] = ctx.saved_tensors, gradients
        gate, up = both.chunk(2, dim=-1)
        by_both = torch.empty_like(both)
        by_gate, by_up = by_both.chunk(2, dim=-1)
        torch.mul(gradient, ctx.activation.of(gate), out=by_up)
        by_gate.copy_(ctx.activation.back(gradient * up, gate))
        return by_both, None


class GatedMlp:
    """A gated MLP's ``forward``; its output projection is called, so that hooks on it act.

    It holds parts of the module, never the module, which holds it.
    """

    def __init__(self, module: Any, activation: Activation) -> None:
        self.out, self.activation = module.down_proj, activation
        self.inner = SameInput([module.gate_proj, module.up_proj])

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Outputs (…, d) for ``hidden_states`` (…, d)."""
        inner = _Gate.apply(self.inner(hidden_states), self.activation)  # type: ignore[no-untyped-call]
        out: torch.Tensor = self.out(inner)
        return out


def may_be_gated(module: nn.Module) -> bool:
    """Whether a module has the parts of `GatedMlp`, and no others."""
    if not all(isinstance(getattr(module, name, None), nn.Linear) for name in NAMES):
        return False
    return not set(dict(module.named_children())) - {*NAMES, "act_fn"}

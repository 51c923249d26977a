"""Fused parts in the places of a model's own, where these are recognised.

A part is recognised by its attributes, and by its numbers: on random input the fused one must say
what the module says, in float32.  Anything else stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from jeep_core.models.families import is_transposed
from jeep_core.models.fused.attention import GroupedAttention, may_be_grouped
from jeep_core.models.fused.casts import CastOnce
from jeep_core.models.fused.gates import ACTIVATIONS, Activation, GatedMlp, may_be_gated
from jeep_core.models.fused.norms import RootMeanSquareNorm, gains_of
from jeep_core.models.token_rows import GivenPast

TOLERANCE = 1e-4
"""Largest difference from the module's own numbers, as a part of the largest one."""
TOKENS, GIVEN = 4, 3
"""New and given tokens of the input that attention is tried on."""


@torch.no_grad()
def fuse(run: nn.Module, model: nn.Module) -> None:
    """Put fused parts into ``run``, the model with its matrices in bfloat16.

    ``model`` is the same with its own matrices; parts are recognised in it.  Only float32 models
    are changed; hooks act as before.
    """
    with torch.autocast("cpu", enabled=False):
        _fuse(run, model)


def _fuse(run: nn.Module, model: nn.Module) -> None:
    once = CastOnce()
    known: dict[Any, bool] = {}
    gates: dict[Any, Activation | None] = {}
    for module, own in zip(run.modules(), model.modules(), strict=True):
        if isinstance(module, nn.Linear) or is_transposed(module):
            if own.weight.dtype == torch.float32:
                module.register_forward_pre_hook(once)
        elif (norm := norm_of(own)) is not None:
            module.forward = norm
        elif is_gelu(own):
            module.forward = tanh_gelu
        elif may_be_gated(own):
            of = type(own), type(getattr(own, "act_fn", None))
            if of not in gates:
                gates[of] = activation_of(own)
            if (activation := gates[of]) is not None:
                module.forward = GatedMlp(module, activation)
        elif may_be_grouped(own):
            kind = type(own), getattr(own, "layer_type", None)
            if kind not in known:
                known[kind] = _is_grouped(own)
            if known[kind]:
                module.forward = GroupedAttention(module, torch.bfloat16)


def norm_of(module: nn.Module) -> RootMeanSquareNorm | None:
    """The fused norm that gives a module's numbers, if there is one."""
    for norm in gains_of(module):
        x = _random(2, len(norm.gain), like=norm.gain) * 3
        if norm.gain.dtype == torch.float32 and _same(partial(module, x), norm(x)):
            return norm
    return None


def activation_of(module: Any) -> Activation | None:
    """The activation with which `GatedMlp` gives a gated MLP's numbers; None: with none."""
    like = module.gate_proj.weight
    if like.dtype != torch.float32:
        return None
    x = _random(2, like.shape[1], like=like) * 3
    for activation in ACTIVATIONS:
        if _same(partial(module, x), GatedMlp(module, activation)(x)):
            return activation
    return None


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU of numbers of any shape, by the hyperbolic tangent, in one operation."""
    return F.gelu(x, approximate="tanh")


def is_gelu(module: nn.Module) -> bool:
    """Whether a module without parameters gives the numbers of `tanh_gelu`."""
    if isinstance(module, nn.GELU) or next(module.parameters(), None) is not None:
        return False
    if next(module.children(), None) is not None:
        return False
    # GELU itself is up to 5e-4 away
    x = torch.linspace(-4, 4, 65)
    return _same(partial(module, x), tanh_gelu(x), 1e-5)


def _is_grouped(module: Any) -> bool:
    """Whether a module that has the parts of grouped attention also has its numbers."""
    like = module.q_proj.weight
    if like.dtype != torch.float32:
        return False
    e, heads = module.head_dim, module.k_proj.out_features // module.head_dim
    states = _random(2, TOKENS, module.q_proj.in_features, like=like)
    angles = _random(2, TOKENS, e // 2, like=like).repeat(1, 1, 2)
    past = tuple(_random(2, heads, GIVEN, e, like=like) for _ in range(2))
    mask = torch.zeros(2, 1, TOKENS, GIVEN + TOKENS, device=like.device)
    hidden = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=like.device).triu(1)
    mask[..., GIVEN:].masked_fill_(hidden, torch.finfo(torch.float32).min)
    mask[0, ..., 0] = torch.finfo(torch.float32).min
    asked: dict[str, Any] = {
        "hidden_states": states * 3,
        "position_embeddings": (angles.cos(), angles.sin()),
        "attention_mask": mask,
        "cache": GivenPast({module.layer_idx: past}),  # type: ignore[dict-item]
    }
    found = GroupedAttention(module, torch.float32)(**asked)[0]
    return _same(lambda: module(**asked)[0], found)


def _same(own: Callable[[], Any], fused: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    try:
        expected = own()
    except (TypeError, RuntimeError, ValueError, LookupError, AttributeError):
        return False  # it takes other arguments, or of another shape: another kind of module
    if (
        not isinstance(expected, torch.Tensor)
        or expected.shape != fused.shape
        or expected.dtype != fused.dtype
    ):
        return False
    return bool((expected - fused).abs().max() <= tolerance * expected.abs().max())


def _random(*shape: int, like: torch.Tensor) -> torch.Tensor:
    """The same random numbers at every call, which disturb no one else's."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(like.device)

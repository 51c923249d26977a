"""Attention in groups with rotary embeddings, after given keys and values.

Keys and values are not copied for every head of a group, given ones get no gradient, and what
lies between projections is one step of the gradient.  Products are taken in bfloat16 or float32,
the softmax in float32.  In comments n is the number of rows, q that of new tokens, s that of given
ones, h the number of heads of keys, g that of queries to each, e the head size.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from jeep_core.models.fused.same_input import SameInput
from jeep_core.models.token_rows import GivenPast


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (n, q, heads, e) turned by the angles of cos and sin (n, q, 1, e), float32."""
    half = x.shape[-1] // 2
    x = x.float()
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return y


def _turned_back(y: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The gradient of `_rotated` by x, from that by its result, (n, q, heads, e)."""
    half = y.shape[-1] // 2
    x = y * cos
    x[..., :half].addcmul_(y[..., half:], sin[..., half:])
    x[..., half:].addcmul_(y[..., :half], sin[..., :half], value=-1)
    return x


class _Attend(torch.autograd.Function):
    """States (n, q, h·g·e) of queries (n, q, h·g, e), keys and values (n, q, h, e)."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        past: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        scaling: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        n, q, heads, e = queries.shape
        h = keys.shape[2]
        rotated = _rotated(queries, *turn).to(dtype)
        # (n, h, g·q, e)
        asked = rotated.view(n, q, h, -1, e).permute(0, 2, 3, 1, 4).reshape(n, h, -1, e)
        own = _rotated(keys, *turn).to(dtype).transpose(1, 2)
        # (n, h, s + q, e)
        all_keys = torch.cat([past[0].to(dtype), own], dim=2)
        all_values = torch.cat([past[1].to(dtype), values.to(dtype).transpose(1, 2)], dim=2)
        found = (asked @ all_keys.transpose(2, 3)).view(n, h, heads // h, q, -1)
        # (n, h, g, q, s + q)
        weights = torch.add(mask[:, :, None], found, alpha=scaling).softmax(dim=-1)
        states = weights.to(dtype).view(n, h, -1, weights.shape[-1]) @ all_values
        ctx.save_for_backward(asked, all_keys, all_values, weights, *turn)
        ctx.scaling, ctx.types = scaling, (queries.dtype, keys.dtype, values.dtype)
        return states.view(n, h, -1, q, e).permute(0, 3, 1, 2, 4).reshape(n, q, heads * e)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        asked, keys, values, weights, *turn = ctx.saved_tensors
        n, h, g, q, width = weights.shape
        dtype, s, e = asked.dtype, width - q, asked.shape[-1]
        # (n, h, g·q, e)
        states = gradients[0].to(dtype).view(n, q, h, g, e).permute(0, 2, 3, 1, 4)
        states = states.reshape(n, h, -1, e)
        flat = weights.view(n, h, -1, width)
        own_values = flat[..., s:].to(dtype).transpose(2, 3) @ states
        by_weight = (states @ values.transpose(2, 3)).float()
        by_score = torch.ops.aten._softmax_backward_data(by_weight, flat, -1, torch.float32)
        by_score = by_score.mul_(ctx.scaling).to(dtype)
        by_query = (by_score @ keys).view(n, h, g, q, e).permute(0, 3, 1, 2, 4)
        by_key = (by_score[..., s:].transpose(2, 3) @ asked).transpose(1, 2)
        found = (
            _turned_back(by_query.reshape(n, q, -1, e).float(), *turn),
            _turned_back(by_key.float(), *turn),
            own_values.transpose(1, 2),
        )
        typed = (part.to(kind) for part, kind in zip(found, ctx.types, strict=True))
        return (*typed, None, None, None, None, None)


class GroupedAttention:
    """An attention module's ``forward`` with these steps, for rows after `GivenPast`.

    Any other call is the module's own.  The module holds this, so this holds parts of it and a
    weak reference: a model that nobody uses any more is freed at once, with all its matrices.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self.dtype = weakref.ref(module), dtype
        self.inner = SameInput([module.q_proj, module.k_proj, module.v_proj])
        self.out, self.head_size = module.o_proj, module.head_dim
        self.layer, self.scaling = module.layer_idx, module.scaling
        self.norms = (module.q_norm, module.k_norm) if hasattr(module, "q_norm") else None

    def __call__(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        """States (n, q, d) of ``hidden_states`` (n, q, d); ``attention_mask`` (n, 1, q, s + q)."""
        if type(cache) is not GivenPast or cache.keep or attention_mask is None:
            module = self._module()
            assert module is not None  # it is what is being called
            passed: tuple[torch.Tensor, None] = type(module).forward(
                module,
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                cache=cache,
                **more,
            )
            return passed
        shape = (*hidden_states.shape[:-1], -1, self.head_size)
        parts = torch.split(self.inner(hidden_states), self.inner.sizes, dim=-1)
        queries, keys, values = (part.reshape(shape) for part in parts)
        if self.norms is not None:
            queries, keys = self.norms[0](queries), self.norms[1](keys)
        # (n, q, 1, e)
        turn = tuple(part.unsqueeze(2).float() for part in position_embeddings)
        past = cache.past[self.layer]
        states = _Attend.apply(  # type: ignore[no-untyped-call]
            queries, keys, values, turn, past, attention_mask, self.scaling, self.dtype
        )
        return self.out(states), None


def may_be_grouped(module: nn.Module) -> bool:
    """Whether an attention module has the parts of `GroupedAttention`, and no others."""
    named = ("q_proj", "k_proj", "v_proj", "o_proj")
    if not all(isinstance(getattr(module, name, None), nn.Linear) for name in named):
        return False
    if set(dict(module.named_children())) - {*named, "q_norm", "k_norm"}:
        return False
    kinds = {"head_dim": int, "scaling": float, "layer_idx": int}
    if not all(isinstance(getattr(module, name, None), kind) for name, kind in kinds.items()):
        return False
    return getattr(module, "attn_logit_softcapping", None) is None and not module.training

"""A view whose matrix products are taken in bfloat16, for computations that may be inexact."""

from __future__ import annotations

import copy

import torch
from torch import nn

from jeep_core.models.families import is_transposed
from jeep_core.models.views import ModelView, share


def in_bfloat16(view: ModelView) -> ModelView:
    """The view with its matrices in bfloat16, to be run under autocast; hooks on it act as well.

    Autocast alone would round every float32 matrix again at every call, which takes longer than
    the product of a few rows with it.  Norms, biases of theirs, embeddings and sums of hidden
    states stay in the model's type.  The matrices take half the memory of float32 ones, for as
    long as the view lives; those that are bfloat16 already are shared.
    """
    twin = copy.copy(view)
    twin.model = share(view.model)
    copies: dict[int, nn.Parameter] = {}
    for module in twin.model.modules():
        if not (isinstance(module, nn.Linear) or is_transposed(module)):
            continue
        for name in ("weight", "bias"):
            tensor = getattr(module, name)
            if tensor is None or tensor.dtype == torch.bfloat16:
                continue
            # (out, in), or (in, out) in a ``Conv1D``; the same matrix is rounded once
            if id(tensor) not in copies:
                rounded = tensor.detach().to(torch.bfloat16)
                copies[id(tensor)] = nn.Parameter(rounded, requires_grad=False)
            setattr(module, name, copies[id(tensor)])
    return twin


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices take less time on this device than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

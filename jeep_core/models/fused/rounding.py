"""Models with their matrices in bfloat16, and the matrices that are given the same input as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from jeep_core.models.families import is_transposed
from jeep_core.models.fused.bounds import KEPT_BYTES
from jeep_core.models.views import ModelView, share

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of a module's matrices that are given the same input."""


class Rounded:
    """Matrices in bfloat16, each rounded once for as long as this lives; float32 ones take half
    their memory again.

    Those of ``model``, if it is given, are kept for as long as it lives and serve all others of
    the same model, unless they are more than `KEPT_BYTES`.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._made: dict[int, _Made] = {}
        self._kept = _Kept(()) if model is None else _kept_of(model)

    def of(self, tensor: torch.Tensor) -> nn.Parameter:
        """A matrix (out, in), or (in, out) in a ``Conv1D``, in bfloat16."""
        with self._kept.lock:
            found = self._found(tensor)
            if found is None:
                found = self._put([tensor], [tensor.detach().to(torch.bfloat16)])[0]
            return found

    def beside_one_another(self, tensors: Sequence[torch.Tensor]) -> list[nn.Parameter]:
        """Matrices (out, in) in bfloat16, beside one another in memory; see `joined`."""
        with self._kept.lock:
            found = [one for one in map(self._found, tensors) if one is not None]
            if len(found) == len(tensors) and joined(found) is not None:
                return found
            whole = torch.empty(
                sum(map(len, tensors)), tensors[0].shape[1], dtype=torch.bfloat16,
                device=tensors[0].device,
            )  # fmt: skip
            parts = torch.split(whole, [len(tensor) for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                part.copy_(tensor.detach())
            return self._put(tensors, parts)

    def forget(self, rounded: torch.Tensor) -> None:
        """Let go of a copy (out, in) that is not of ``model`` itself, and of its original."""
        with self._kept.lock:
            for key, made in self._made.items():
                if made.rounded is rounded:
                    del self._made[key]
                    return

    def _found(self, tensor: torch.Tensor) -> nn.Parameter | None:
        made = self._made.get(id(tensor)) or self._kept.made.get(id(tensor))
        return None if made is None or made.changed else made.rounded

    def _put(
        self, tensors: Sequence[torch.Tensor], rounded: Sequence[torch.Tensor]
    ) -> list[nn.Parameter]:
        # the memory of some that lie beside one another is that of all: an edited one would stay
        every = all(id(tensor) in self._kept.ids for tensor in tensors)
        made = [_Made(*pair) for pair in zip(tensors, rounded, strict=True)]
        (self._kept.made if every else self._made).update(zip(map(id, tensors), made, strict=True))
        return [one.rounded for one in made]


class _Made:
    """A tensor and its copy in bfloat16.  An id belongs to another tensor after its own's death, so
    the tensor is held as well.  Numbers that are written through ``.data`` are not noticed."""

    def __init__(self, tensor: torch.Tensor, rounded: torch.Tensor) -> None:
        self._tensor, self._was = tensor, _state(tensor)
        self.rounded = nn.Parameter(rounded, requires_grad=False)

    @property
    def changed(self) -> bool:
        """Whether the tensor was written to, or moved, since."""
        return _state(self._tensor) != self._was


def _state(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor._version, tensor.data_ptr(), tensor.device, tensor.dtype


class _Kept:
    """Copies of a model's tensors, by their ``ids``; ``lock`` is for its users' threads."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self.ids = {id(tensor) for tensor in tensors}
        self.made: dict[int, _Made] = {}
        self.lock = Lock()


_models: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
_lock = Lock()


def _kept_of(model: nn.Module) -> _Kept:
    with _lock:
        if model not in _models:
            some = dict.fromkeys(_rounded_parameters(model))
            small = sum(one.numel() for one in some) * torch.bfloat16.itemsize <= KEPT_BYTES
            _models[model] = _Kept(some if small else ())
        return _models[model]


def _rounded_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of a model that `in_bfloat16` rounds."""
    for module in model.modules():
        if isinstance(module, nn.Linear) or is_transposed(module):
            some: tuple[Any, ...] = (module.weight, module.bias)
            yield from (one for one in some if one is not None and one.dtype != torch.bfloat16)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The matrix whose rows are those of matrices (out, in), if they lie so in memory already."""
    first = parts[0]
    end = first.storage_offset()
    for part in parts:
        alike = part.shape[1] == first.shape[1] and part.is_contiguous()
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (alike and same and part.storage_offset() == end):
            return None
        end += part.numel()
    whole = (sum(map(len, parts)), first.shape[1])
    return first.detach().as_strided(whole, first.stride(), first.storage_offset())


def in_bfloat16(view: ModelView, rounded: Rounded | None = None) -> ModelView:
    """The view with its matrices in bfloat16, to be run under autocast; hooks on it act as well.

    Matrices that are given the same input lie beside one another in memory (`joined`).
    Autocast alone would round every float32 matrix again at every call, which takes longer than
    the product of a few rows with it.  Embeddings stay in the model's type, and so do norms and the
    sums of hidden states, but for a float16 model on a CPU, whose sums are float32 and whose layer
    norms become so.  The matrices take half the memory of float32 ones, for as long as the view
    lives; those that are bfloat16 already are shared, and those that are in ``rounded`` are taken
    from there.
    """
    twin = copy.copy(view)
    twin.model = share(view.model)
    rounded = rounded or Rounded()
    for module in twin.model.modules():
        if isinstance(module, nn.LayerNorm):
            _in_float32(module)
        for names in SAME_INPUT:
            _beside_one_another([getattr(module, name, None) for name in names], rounded)
        if not (isinstance(module, nn.Linear) or is_transposed(module)):
            continue
        for name in ("weight", "bias"):
            tensor = getattr(module, name)
            if tensor is None or tensor.dtype == torch.bfloat16:
                continue
            # (out, in), or (in, out) in a ``Conv1D``
            setattr(module, name, rounded.of(tensor))
    return twin


def _beside_one_another(matrices: Sequence[Any], rounded: Rounded) -> None:
    """Put matrices of the same input beside one another in bfloat16, if they are all there."""
    if not all(isinstance(one, nn.Linear) for one in matrices):
        return
    weights = [one.weight for one in matrices]
    if any(one.dtype == torch.bfloat16 or one.shape[1] != weights[0].shape[1] for one in weights):
        return
    for one, weight in zip(matrices, rounded.beside_one_another(weights), strict=True):
        one.weight = weight


def _in_float32(norm: nn.LayerNorm) -> None:
    """Give a float16 norm parameters (d,) in float32 on a CPU.

    The sum of a float16 state and a bfloat16 product is float32, and a CPU takes no norm of it with
    float16 parameters.
    """
    for name, parameter in norm.named_parameters(recurse=False):
        if parameter.dtype == torch.float16 and parameter.device.type == "cpu":
            setattr(norm, name, nn.Parameter(parameter.detach().float(), requires_grad=False))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices take less time on this device than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

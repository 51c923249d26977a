"""Views: a second module tree over the same tensors, in which chosen matrices are replaced.

A view costs no weight memory.  The model it was made from never sees hooks, half-written
layers or replaced matrices.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from jeep_core.models.delta import Update, WeightDelta, materialise
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel, combined_sha256, tensor_sha256
from jeep_core.models.placement.moving import Home
from jeep_core.spec.finite import SMALLER_STEPS, check_tensor


def share(module: nn.Module) -> Any:
    """A copy of a module tree that shares every parameter and buffer with the original.

    Configurations and what else modules hold are copies, hooks are the same.
    """
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        # deepcopy returns what the memo has: tensors are shared, modules are new
        memo[id(tensor)] = tensor
    return _copied(module, memo)


def _copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    """As ``deepcopy``, which looks at every number of every module and takes twice as long."""
    if id(module) in memo:
        return memo[id(module)]
    if hasattr(type(module), "__deepcopy__"):
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = type(module).__new__(type(module))
    for name, value in vars(module).items():
        if type(value) in _ATOMS:
            twin.__dict__[name] = value
        elif name == "_modules":
            twin.__dict__[name] = {
                child: part if part is None else _copied(part, memo)
                for child, part in value.items()
            }
        elif name in ("_parameters", "_buffers") or "_hooks" in name:
            twin.__dict__[name] = value if value is None else value.copy()
        elif type(value) in _CONTAINERS and not value:
            # most are, and ``deepcopy`` takes its time
            twin.__dict__[name] = memo.setdefault(id(value), type(value)())
        else:
            twin.__dict__[name] = copy.deepcopy(value, memo)
    return twin


_ATOMS = (bool, int, float, str, type(None))
_CONTAINERS = (dict, list, set, OrderedDict)


class ModelView:
    """One version of a model: the base's tensors but for the replaced ones.

    ``history`` holds the updates of each replaced matrix, oldest first.  ``starts``: the float64
    sums of base and the updates before those of ``history``, for matrices that have had so many
    (``start`` of `summed`).
    """

    def __init__(
        self,
        base: LoadedModel,
        tensors: Mapping[str, torch.Tensor] | None = None,
        history: Mapping[str, Sequence[Update]] | None = None,
        starts: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.base = base
        self.model = share(base.model)
        self.replaced: dict[str, torch.Tensor] = {}
        self.history = {name: list(updates) for name, updates in (history or {}).items()}
        self.starts: dict[str, torch.Tensor] = dict(starts or {})
        for name, tensor in (tensors or {}).items():
            self.replace(name, tensor)

    def fork(self) -> ModelView:
        """A view of its own that starts with the same tensors and history."""
        return ModelView(self.base, self.replaced, self.history, self.starts)

    def apply(self, delta: WeightDelta) -> None:
        """Apply the updates of an edit to this version."""
        for name, update in delta.updates.items():
            self.update(name, update)

    def update(self, name: str, update: Update) -> None:
        """Add one update to a matrix: base plus all updates so far, rounded once.

        Raises:
            ValueError: the matrix was replaced, and no history says by which updates.
            NumericalError: the update, or the rounded sum, is not finite; nothing is changed.
        """
        if name in self.replaced and not self.history.get(name) and name not in self.starts:
            raise ValueError(
                f"{name} was replaced by a tensor; without the updates that made it "
                "a further one would drop them"
            )
        for part in update.parts().values():
            check_tensor(part, f"{name}: the update of its weights", SMALLER_STEPS)
        self._write(name, [*self.history.get(name, []), update])

    def settle(self, before: Mapping[str, Sequence[Update]], delta: WeightDelta) -> None:
        """Make a view in which an editor has worked exactly the version before it plus ``delta``.

        ``before`` is the history of that version.  A matrix whose updates are those before it
        and then that of ``delta``, the same objects, was made from them by `materialise` and
        stays as it is.  Any other is made again: an editor may have come to its update in parts.

        Raises:
            NumericalError: the rounded sum is not finite.
        """
        for name, update in delta.updates.items():
            # by identity: an update is never copied on its way, and tensors are slow to compare
            wanted, made = [*before.get(name, []), update], self.history.get(name, [])
            if list(map(id, made)) != list(map(id, wanted)):
                self._write(name, wanted)

    def _write(self, name: str, updates: list[Update]) -> None:
        """Put base plus all ``updates`` of a matrix, rounded once, in its place."""
        # (out, in), or (in, out) in a ``Conv1D``
        owner = self.model.get_submodule(name.rpartition(".")[0])
        base = self.base.model.get_parameter(name)
        tensor = materialise(base, updates, is_transposed(owner), self.starts.get(name))
        check_tensor(tensor, f"{name}: the edited weights in {tensor.dtype}", SMALLER_STEPS)
        self.history[name] = updates
        self.replace(name, tensor)

    def parameter(self, name: str) -> torch.Tensor:
        """A parameter (any shape) of this version, in the base's shape, dtype and device."""
        parameter: torch.Tensor = self.model.get_parameter(name)
        return parameter

    def replace(self, name: str, tensor: torch.Tensor) -> None:
        """Put ``tensor`` in place of a parameter (any shape) that has the same shape and dtype.

        Raises:
            ValueError: another shape or dtype.
        """
        old = self.parameter(name)
        if tensor.shape != old.shape or tensor.dtype != old.dtype:
            raise ValueError(
                f"{name} is {tuple(old.shape)} {old.dtype}, "
                f"not {tuple(tensor.shape)} {tensor.dtype}"
            )
        owner, _, attribute = name.rpartition(".")
        tensor = tensor.to(old.device)
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(self.model.get_submodule(owner), attribute, parameter)
        self.replaced[name] = parameter.data

    def weights_sha256(self) -> str:
        """Hash over all parameters, as ``LoadedModel.weights_sha256``."""
        changed = {name: tensor_sha256(tensor) for name, tensor in self.replaced.items()}
        return combined_sha256({**self.base.tensor_hashes, **changed})


def lower_part(view: ModelView, last: int) -> Any:
    """A backbone that ends after block ``last``; its final norm is left out."""
    family = view.base.family
    backbone = _shell(family.backbone_of(view.model))
    layers = family.layers_of(view.model)
    _set(backbone, family.layers, layers[: last + 1])
    return backbone


def upper_part(view: ModelView, first: int, last: int | None = None) -> Any:
    """A backbone that starts at block ``first``, with hidden states (r, t, d) as embeddings.

    It ends after block ``last``, if that is given.
    """
    end = None if last is None else last + 1
    family = view.base.family
    backbone = _shell(family.backbone_of(view.model))
    layers = family.layers_of(view.model)
    _set(backbone, family.layers, layers[first:end])
    # transformers takes the mask of block i from entry i, counted from the first block here
    kinds = getattr(backbone.config, "layer_types", None)
    if kinds is not None:
        backbone.config = copy.copy(backbone.config)
        backbone.config.layer_types = kinds[first:end]
    if family.absolute_positions:
        _set(backbone, family.absolute_positions, _NoPositions())
    return backbone


def middle_part(view: ModelView, first: int, last: int) -> Any:
    """A backbone of blocks ``first`` to ``last``: at block 0 it takes ids, else hidden states."""
    return upper_part(view, first, last) if first else lower_part(view, last)


def block_part(view: ModelView, layer: int) -> Any:
    """A backbone of block ``layer`` alone, without the final norm.

    Block 0 takes token ids, every other one hidden states (r, t, d) as embeddings.
    """
    backbone = middle_part(view, layer, layer)
    _set(backbone, view.base.family.final_norm, Home(view.base.device))
    return backbone


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Remove hooks at the end, also after an error."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def mlp_only_at(
    view: ModelView, layer: int, row: torch.Tensor, place: torch.Tensor
) -> Iterator[None]:
    """Run a block's MLP only at n places, ``row`` (n,) and ``place`` (n,); it gives 0 elsewhere.

    For a block of whose output nothing else is read, and for rows that are padded.
    """
    mlp = view.base.family.mlp_of(view.model, layer)
    shapes, at = list[torch.Size](), list[tuple[torch.Tensor, torch.Tensor]]()

    def cut(module: Any, args: Any) -> Any:
        shapes.append(args[0].shape)
        at.append((row.to(args[0].device), place.to(args[0].device)))
        # (r, t, d) to (n, d)
        return (args[0][at[-1]], *args[1:])

    def spread(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        # (n, d) back to (r, t, d)
        return output.new_zeros(shapes.pop()).index_put_(at.pop(), output)

    with hooked(mlp.register_forward_pre_hook(cut), mlp.register_forward_hook(spread)):
        yield


@contextmanager
def answering(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module answer by ``forward`` instead of its own; hooks on it act."""
    # a fused part is an attribute of the module itself, any other forward one of its class
    former = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if former is not None:
            module.forward = former


def block_output(output: Any) -> torch.Tensor:
    """The hidden states (r, t, d) in a block's output, which some families wrap in a tuple."""
    tensor: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """A block's output with other hidden states (r, t, d)."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class _NoPositions(nn.Module):
    """In place of a position embedding when the input already is a hidden state."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=position_ids.device)


def _shell(module: nn.Module) -> Any:
    """A module with its own table of children, the children themselves shared."""
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    return shell


def _set(module: nn.Module, name: str, child: nn.Module) -> None:
    module._modules[name] = child

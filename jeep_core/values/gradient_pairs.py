"""Losses of rows through the whole model, and their gradients as pairs of vectors.

The gradient of a loss by a matrix W (out, in) is Σ δ uᵀ over tokens, with u what goes into the
matrix and δ the gradient of the loss by what comes out (Mitchell et al. 2021, section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView, hooked, lower_part, upper_part
from jeep_core.spec.positions import PromptTokens

NO_TARGET = -100
Pairs = tuple[torch.Tensor, torch.Tensor]
"""u (n, in) and δ (n, out) of n tokens, float32."""


@dataclass
class Read:
    """Log-probabilities (p, vocabulary), float32, with the row and the target id of each (p,).

    Every token from the prompt's last on that predicts a target is read; a row without a target
    is read at its prompt's last token, with target -100.
    """

    log_probabilities: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor

    def mean_by_row(self, values: torch.Tensor, n_rows: int) -> torch.Tensor:
        """Mean (n_rows,) by row of ``values`` (p,), one per read place."""
        zeros = values.new_zeros(n_rows)
        # (n_rows,): sums by row of values per place
        counts = zeros.index_add(0, self.rows, torch.ones_like(values))
        return zeros.index_add(0, self.rows, values) / counts

    def nll(self, n_rows: int) -> torch.Tensor:
        """Mean negative log-likelihood of the target tokens of each row, (n_rows,)."""
        losses = F.nll_loss(self.log_probabilities, self.targets, reduction="none")
        return self.mean_by_row(losses, n_rows)


def batches(rows: Sequence[PromptTokens], batch_rows: int) -> Iterator[list[int]]:
    """Indices of rows of like length, ``batch_rows`` at most together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    for start in range(0, len(order), batch_rows):
        yield order[start : start + batch_rows]


def read(view: ModelView, rows: Sequence[PromptTokens], entered: Entered | None = None) -> Read:
    """Run the rows and read what they predict; hooks on the view's model act.

    ``entered`` are the same rows, run up to some block before.
    """
    device = view.base.device
    offset = min(row.prediction for row in rows)
    if entered is None:
        ids = stack_rows(rows, device).ids
        # the head is run from the first prompt end on: logits (r, keep, V)
        keep = ids.shape[1] - offset
        logits = view.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    else:
        keep = entered.hidden.shape[1] - offset
        logits = entered.model(
            inputs_embeds=entered.hidden, use_cache=False, logits_to_keep=keep
        ).logits
    places = [
        (i, row.prediction + j - offset, row.ids[row.prediction + 1 + j] if row.n_target else -100)
        for i, row in enumerate(rows)
        for j in range(max(row.n_target, 1))
    ]
    # (p,) each
    row, place, target = torch.tensor(places, device=device).T
    return Read(F.log_softmax(logits[row, place].float(), dim=-1), row, target)


@dataclass
class Entered:
    """Rows at the entry of a block: ``hidden`` (r, t, d), and the model from there on."""

    model: Any
    hidden: torch.Tensor


@torch.no_grad()
def enter(view: ModelView, rows: Sequence[PromptTokens], block: int) -> Entered:
    """Run the rows up to the entry of ``block``; the rest shares the view's modules and hooks."""
    ids = stack_rows(rows, view.base.device).ids
    taken: list[torch.Tensor] = []

    def take(module: Any, args: Any, kwargs: Any) -> None:
        taken.append(args[0] if args else kwargs["hidden_states"])

    family = view.base.family
    before = family.layers_of(view.model)[block]
    with hooked(before.register_forward_pre_hook(take, with_kwargs=True)):
        # the backbone ends after this block, which must run for its hook to be called
        lower_part(view, block)(input_ids=ids, use_cache=False)
    # another root of the module tree: all but the backbone's list of blocks is shared
    model = copy.copy(view.model)
    model._modules = dict(view.model._modules)
    model._modules[family.backbone] = upper_part(view, block)
    return Entered(model, taken[0])


def gradient_pairs(
    view: ModelView,
    rows: Sequence[PromptTokens],
    layers: Sequence[int],
    *,
    answers: bool = False,
) -> dict[int, Pairs]:
    """Pairs u (n, d_ff), δ (n, d) of the MLP output projections of ``layers``, for the rows' loss.

    Each layer's are on the device of its block.
    The loss is summed over rows, each with its mean negative log-likelihood per target token,
    so pairs do not depend on the other rows of the batch.  The last target token of a row
    predicts nothing and has no pair.  ``answers``: only the tokens that predict one of the target.
    """
    keys: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}

    def taker(layer: int) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            keys[layer] = args[0].detach()
            # no weight needs a gradient: the lowest of the layers is where the graph begins
            outputs[layer] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[layer]

        return view.base.family.mlp_out_of(view.model, layer).register_forward_hook(hook)

    with torch.enable_grad(), hooked(*map(taker, layers)):
        loss = read(view, rows).nll(len(rows)).sum()
        gradients = torch.autograd.grad(loss, [outputs[layer] for layer in layers])
    real = _with_pairs(rows, answers, view.base.device)
    return {
        layer: (
            # (r, t, d_ff) and (r, t, d) to the n real tokens
            _real(keys[layer], real),
            _real(gradient, real),
        )
        for layer, gradient in zip(layers, gradients, strict=True)
    }


def _real(vectors: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Of vectors (r, t, size) or (r · t, size) those of the marked tokens (r · t,), float32."""
    return vectors.reshape(len(real), -1)[real.to(vectors.device)].float()


def _with_pairs(rows: Sequence[PromptTokens], answers: bool, device: torch.device) -> torch.Tensor:
    """Which of the r · t tokens of padded rows have a pair, (r · t,)."""
    ends = torch.tensor([len(row.ids) - 1 for row in rows], device=device)
    columns = torch.arange(int(ends.max()) + 1, device=device)
    # (r, t): the last token of a row and padding have none
    real = columns < ends[:, None]
    if answers:
        starts = torch.tensor([row.prediction for row in rows], device=device)
        real &= columns >= starts[:, None]
    return real.flatten()


def shifted(view: ModelView, deltas: Mapping[int, torch.Tensor]) -> AbstractContextManager[None]:
    """Add Δ (out, in) to the MLP output projections of these layers, differentiably.

    The matrices themselves stay; Δ is float32 whatever the model's type, so a step too small
    for that type is not lost.
    """

    def adder(layer: int, delta: torch.Tensor) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            # (r, t, in) · (in, out) to (r, t, out); the product is taken in float32
            matrix = delta.to(output.device)
            shift: torch.Tensor = (args[0].float() @ matrix.T).to(output.dtype)
            return output + shift.view(output.shape)

        return view.base.family.mlp_out_of(view.model, layer).register_forward_hook(hook)

    return hooked(*(adder(layer, delta) for layer, delta in deltas.items()))

"""CrispEdit (ICML 2026): each gradient is projected before Adam sees it.

A = E[a aᵀ] of a matrix's inputs and B = E[b bᵀ] of its output gradients, over text and the facts of
earlier edits, say in which directions the loss bends; those stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jeep_core.editors.base import EditContext, EditorOutcome, answer_pairs
from jeep_core.editors.crispedit.hparams import CrispEditHParams
from jeep_core.editors.fine_tuning.passes import fine_tune, rows_of
from jeep_core.spec.matrices import GradientOf, Measured
from jeep_core.spec.positions import PromptTokens
from jeep_core.updates.curvature import FlatDirections, flat_directions


class CrispEdit:
    """Curvature-restricted in-place editing."""

    def run(self, context: EditContext, hparams: CrispEditHParams) -> EditorOutcome:
        """Find the flat directions of every layer, then tune within them; see ``fine_tune``.

        Inputs and gradients of the facts are taken on the version as it was given, where their
        answers are still to be learned: at the end of an edit their gradients are nearly zero.

        Raises:
            NumericalError: a moment, the loss, or a resulting matrix is not finite.
            Cancelled: checked between layers and before every mini-batch.
        """
        flat: dict[int, FlatDirections] = {}
        for done, layer in enumerate(hparams.layers):
            context.report("flat directions", done, len(hparams.layers))
            moments = (
                _moment(context, layer, hparams),
                _moment(context, GradientOf(layer), hparams),
            )
            flat[layer] = flat_directions(*moments, hparams.energy, f"layer {layer}")
        base = context.view.base
        rows = [row for fact in context.facts for row in rows_of(base, fact, hparams.end_of_text)]
        state = _state(context, rows, hparams.layers)
        outcome = fine_tune(context, hparams, flat)
        outcome.state |= state
        return outcome


def _moment(context: EditContext, place: Measured, hparams: CrispEditHParams) -> torch.Tensor:
    """E[x xᵀ] (size, size) at a place over text and earlier edits, weighted by their tokens."""
    assert context.moments is not None
    tokens: float = context.moments.tokens(place)
    total = context.moments.factor(place).moment * tokens
    for state in context.states:
        if f"rows.{place}" in state:
            rows = state[f"rows.{place}"].double().to(total.device)
            total = total + hparams.previous_weight * (rows.T @ rows)
            tokens += hparams.previous_weight * int(state[f"count.{place}"])
    return total / tokens


def _state(
    context: EditContext, rows: Sequence[PromptTokens], layers: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Per layer the inputs and gradients of this edit's answers, as rows R with Rᵀ R their sum."""
    found: dict[str, torch.Tensor] = {}
    # a pair is of the mean loss of its row's tokens; text has the loss of every token
    lengths = [row.n_target for row in sorted(rows, key=lambda row: len(row.ids))]
    repeated = [length for length in lengths for _ in range(length)]
    for layer, (inputs, gradients) in answer_pairs(context, rows, layers).items():
        scale = torch.tensor(repeated, dtype=gradients.dtype, device=gradients.device)
        parts: dict[Measured, torch.Tensor] = {
            layer: inputs,
            GradientOf(layer): gradients * scale[:, None],
        }
        for place, part in parts.items():
            found[f"rows.{place}"] = _compressed(part)
            found[f"count.{place}"] = torch.tensor([len(part)])
    return found


def _compressed(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, size), or at most ``size`` other ones with the same sum of outer products."""
    if len(rows) <= rows.shape[1]:
        return rows.contiguous()
    triangle: torch.Tensor = torch.linalg.qr(rows.double(), mode="r").R
    return triangle.float().contiguous()

"""UltraEdit (Gu et al., TMLR 2026): standardised gradients, aggregated by least squares.

Of every token that predicts one of an answer: h goes into the matrix, g is the gradient of the loss
by what comes out.  [h; g] is standardised to [ĥ; ĝ] by running means and deviations, and the
output is to move by v = -η‖ĥ‖²ĝ.  Δᵀ = Hᵀ (H Hᵀ + I)⁻¹ V comes closest to all of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jeep_core.editors.base import EditContext, EditorOutcome, LayerUpdate, State, answer_pairs
from jeep_core.editors.ultraedit.hparams import UltraEditHParams
from jeep_core.editors.ultraedit.step import Direction, found_step
from jeep_core.errors import JeepError
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.updates.ridge import ridge_inverse
from jeep_core.updates.standardise import RunningMoments
from jeep_core.values.gradient_pairs import Pairs

RIDGE = 1.0
PARTS = ("count", "mean", "squares")
"""The tensors that a version keeps for each layer."""


class UltraEdit:
    """Nothing is optimised: one forward and one backward pass for all layers."""

    def run(self, context: EditContext, hparams: UltraEditHParams) -> EditorOutcome:
        """Take the gradients on the version as it was given, then write every layer.

        Raises:
            JeepError: there is one token of an answer in all edits so far, so nothing to
                standardise by.
            NumericalError: a key, or an update, is not finite.
            Cancelled: checked between batches of rows and between layers.
        """
        view = context.view
        base = view.base
        rows = [row for fact in context.facts for row in fact.all_rows]
        bfloat16 = hparams.compute_dtype == "bfloat16"
        pairs = answer_pairs(context, rows, hparams.layers, bfloat16=bfloat16)
        outcome = EditorOutcome()
        directions: dict[int, Direction] = {}
        for done, layer in enumerate(hparams.layers):
            context.report("solve", done, len(hparams.layers))
            for part, what in zip(pairs[layer], ("key", "gradient"), strict=True):
                check_tensor(part, f"layer {layer}: a {what} of an answer", OTHER_VERSION)
            running = _running(context.states, layer, pairs[layer])
            outcome.state |= _tensors(layer, running)
            directions[layer] = _direction(pairs.pop(layer), running, f"layer {layer}")
        size = hparams.step_size
        if hparams.target_probability is not None:
            aim = hparams.target_probability
            size = found_step(context, rows, directions, aim, bfloat16=bfloat16)
        for done, layer in enumerate(hparams.layers):
            context.report("write", done, len(hparams.layers))
            name = base.family.weight_name(layer)
            update = directions.pop(layer).update(size)
            outcome.delta.updates[name] = update
            view.update(name, update)
            weight = base.model.get_parameter(name).double().norm()
            relative = float(update.matrix().norm() / weight)
            outcome.layers.append(LayerUpdate(name, layer, "mlp", relative))
        context.report("write", len(hparams.layers), len(hparams.layers))
        return outcome


def _running(states: Sequence[State], layer: int, pairs: Pairs) -> RunningMoments:
    """Means and deviations of [h; g] at ``layer`` over all edits so far, this one included.

    ``pairs`` are h (n, d_ff) and g (n, d) of this one.
    """
    rows = torch.cat(pairs, dim=1)
    running = RunningMoments.empty(rows.shape[1], rows.device)
    # the newest has what the older ones had; an edit may have had other layers
    last = next((state for state in reversed(states) if f"count.{layer}" in state), None)
    if last is not None:
        count, mean, squares = (last[f"{part}.{layer}"].to(rows.device) for part in PARTS)
        running = RunningMoments(int(count), mean, squares)
    running = running.extended(rows)
    if running.count < 2:
        raise JeepError(
            "ultraedit compares tokens of answers with one another, and there is only one: edit "
            "more facts at once, or raise n_prefixes"
        )
    return running


def _tensors(layer: int, running: RunningMoments) -> dict[str, torch.Tensor]:
    """The state (s,) of a layer by name, for the version."""
    count = torch.tensor([running.count])
    return dict(
        zip(
            (f"{part}.{layer}" for part in PARTS),
            (count, running.mean, running.squares),
            strict=True,
        )
    )


def _direction(pairs: Pairs, running: RunningMoments, name: str) -> Direction:
    """Δ/η (out, in) for ``pairs`` h (n, in) and g (n, out)."""
    keys, gradients = pairs
    # (n, in + out)
    hat = running.standardised(torch.cat(pairs, dim=1))
    keys_hat, gradients_hat = hat[:, : keys.shape[1]], hat[:, keys.shape[1] :].clone()
    squares = keys_hat.square().sum(dim=1, keepdim=True)
    return Direction(squares, gradients_hat, gradients, ridge_inverse(keys, RIDGE, name))

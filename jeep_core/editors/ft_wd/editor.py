"""FT-WD: fine-tuning of one matrix on the facts (Zhu et al. 2020, arXiv 2012.00363)."""

from __future__ import annotations

import torch

from jeep_core.editors.base import EditContext, EditorOutcome, LayerUpdate
from jeep_core.editors.ft_wd.hparams import FtWdHParams
from jeep_core.models.delta import Update
from jeep_core.models.families import is_transposed
from jeep_core.spec.finite import SMALLER_STEPS, check_number, overflow_named
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.gradient_pairs import Entered, enter, read, shifted


class FtWd:
    """Fine-tuning with soft weight decay and early stopping."""

    def run(self, context: EditContext, hparams: FtWdHParams) -> EditorOutcome:
        """Tune the layer in passes over all facts, mini-batch by mini-batch, in their order.

        Raises:
            Cancelled: checked before every mini-batch.
            NumericalError: the loss, or the resulting matrix, is not finite.
        """
        view, layer = context.view, hparams.layer
        name = view.base.family.weight_name(layer)
        transposed = is_transposed(view.base.family.mlp_out_of(view.model, layer))
        # (out, in) from here on, float32 whatever the model's type
        start = view.parameter(name).detach().float()
        start = start.T if transposed else start
        delta = torch.zeros_like(start, memory_format=torch.contiguous_format).requires_grad_()
        _tune(context, hparams, start, delta)
        update = Update(dense=delta.detach().clone())
        view.update(name, update)
        outcome = EditorOutcome()
        outcome.delta.updates[name] = update
        base = view.base.model.get_parameter(name).double().norm()
        relative = float(update.matrix().norm() / base)
        outcome.layers.append(LayerUpdate(name, layer, "mlp", relative))
        return outcome


def _tune(
    context: EditContext, hparams: FtWdHParams, start: torch.Tensor, delta: torch.Tensor
) -> None:
    """Adam on ``delta`` (out, in); ``start`` is the matrix it is added to."""
    rows = [rows[0] for fact in context.facts for rows in fact.contexts]
    size = hparams.batch_facts
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    # blocks below the layer do not change: they are run once, not in every pass
    entered = [enter(context.view, chunk, hparams.layer) for chunk in chunks]
    adam = torch.optim.Adam([delta], lr=hparams.learning_rate)
    decay = hparams.decay(len(context.facts))
    total = hparams.n_steps * len(chunks)
    for step in range(hparams.n_steps):
        losses = []
        for i, chunk in enumerate(chunks):
            context.report("fine-tune", step * len(chunks) + i, total)
            loss = _loss(context, hparams.layer, chunk, entered[i], delta)
            what = f"layer {hparams.layer}: the loss of fine-tuning in pass {step + 1}"
            # a chunk's mean times its facts, so that the last, shorter one counts less
            losses.append(check_number(float(loss.detach()), what, SMALLER_STEPS) * len(chunk))
            if losses[-1] < hparams.stop_loss * len(chunk):
                continue
            (gradient,) = torch.autograd.grad(loss, [delta])
            # (out, in): towards zero the matrix itself decays, else only what is added to it
            weight = delta.detach() + (start if hparams.decay_towards == "zero" else 0)
            delta.grad = gradient + decay * weight
            with overflow_named(f"layer {hparams.layer}: a step of fine-tuning"):
                adam.step()
        if sum(losses) < hparams.stop_loss * len(rows):
            break
    context.report("fine-tune", total, total)


def _loss(
    context: EditContext,
    layer: int,
    rows: list[PromptTokens],
    entered: Entered,
    delta: torch.Tensor,
) -> torch.Tensor:
    with torch.enable_grad(), shifted(context.view, {layer: delta}):
        return read(context.view, rows, entered).nll(len(rows)).mean()

"""Fine-tuning in passes over all facts: Adam on what is added to a few matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from jeep_core.editors.base import EditContext, EditorOutcome, LayerUpdate
from jeep_core.editors.fine_tuning.hparams import FineTuningHParams
from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel
from jeep_core.models.special_tokens import ending_id
from jeep_core.spec.finite import SMALLER_STEPS, check_number, overflow_named
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.gradient_pairs import Entered, enter, read, shifted
from jeep_core.values.objective import FactTokens

Projection = Callable[[torch.Tensor], torch.Tensor]
"""From the gradient (out, in) of a matrix to the part of it that may be followed, (out, in)."""


def rows_of(base: LoadedModel, fact: FactTokens, end_of_text: bool) -> list[PromptTokens]:
    """The rows of a fact, one for each context, without prefixes.

    ``end_of_text``: with the token that the model ends an answer with, if it names one.
    """
    rows = [rows[0] for rows in fact.contexts]
    end = ending_id(base) if end_of_text else None
    if end is None:
        return rows
    return [replace(row, ids=(*row.ids, end), n_target=row.n_target + 1) for row in rows]


def fine_tune(
    context: EditContext,
    hparams: FineTuningHParams,
    projections: Mapping[int, Projection] | None = None,
) -> EditorOutcome:
    """Tune the layers of ``hparams`` and write them into the view.

    ``projections``, by layer, are laid on every gradient (out, in) before Adam sees it.

    Raises:
        Cancelled: checked before every mini-batch.
        NumericalError: the loss, or a resulting matrix, is not finite.
    """
    view, family = context.view, context.view.base.family
    deltas = {
        # (out, in), float32 whatever the model's type
        layer: torch.zeros(
            view.base.hidden_size, view.base.key_size(layer), device=view.base.device_of(layer)
        ).requires_grad_()
        for layer in hparams.layers
    }
    _Tuning(context, hparams, deltas, projections or {}).run()
    outcome = EditorOutcome()
    for layer, delta in deltas.items():
        name, update = family.weight_name(layer), Update(dense=delta.detach().clone())
        view.update(name, update)
        outcome.delta.updates[name] = update
        base = view.base.model.get_parameter(name).double().norm()
        relative = float(update.matrix().norm() / base)
        outcome.layers.append(LayerUpdate(name, layer, "mlp", relative))
    return outcome


@dataclass
class _Tuning:
    """One edit: ``deltas`` (out, in) by layer are what Adam moves."""

    context: EditContext
    hparams: FineTuningHParams
    deltas: Mapping[int, torch.Tensor]
    projections: Mapping[int, Projection]
    _batches: list[list[PromptTokens]] = field(init=False)

    def __post_init__(self) -> None:
        self._order = torch.Generator().manual_seed(self.hparams.seed)
        facts, size = self.context.facts, self.hparams.batch_facts
        base = self.context.view.base
        rows = [rows_of(base, facts[i], self.hparams.end_of_text) for i in self._shuffled(facts)]
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        self._batches = [[row for fact in part for row in fact] for part in parts]

    def run(self) -> None:
        """Pass after pass, until the mean loss of one is small."""
        hparams, batches = self.hparams, self._batches
        # blocks below the lowest layer do not change: they are run once, not in every pass
        below = hparams.layers[0]
        entered = [enter(self.context.view, rows, below) for rows in batches]
        adam = torch.optim.Adam(list(self.deltas.values()), lr=hparams.learning_rate)
        total, done = hparams.n_passes * len(batches), 0
        for _ in range(hparams.n_passes):
            losses = 0.0
            for i in self._shuffled(batches):
                self.context.report("fine-tune", done, total)
                # a mini-batch's mean times its rows, so that a shorter one counts less
                losses += self._step(adam, batches[i], entered[i]) * len(batches[i])
                done += 1
            if losses < hparams.stop_loss * sum(map(len, batches)):
                break
        self.context.report("fine-tune", total, total)

    def _step(self, adam: torch.optim.Adam, rows: list[PromptTokens], entered: Entered) -> float:
        """One step of Adam; the mean loss of the rows before it."""
        view, layers = self.context.view, self.hparams.layers
        with torch.enable_grad(), shifted(view, self.deltas):
            loss = read(view, rows, entered).nll(len(rows)).mean()
        where = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
        what = f"{where}: the loss of fine-tuning"
        value = check_number(float(loss.detach()), what, SMALLER_STEPS)
        gradients = torch.autograd.grad(loss, list(self.deltas.values()))
        for (layer, delta), gradient in zip(self.deltas.items(), gradients, strict=True):
            project = self.projections.get(layer)
            delta.grad = gradient if project is None else project(gradient)
        with overflow_named(f"{where}: a step of fine-tuning"):
            adam.step()
        return value

    def _shuffled(self, things: Sequence[object]) -> list[int]:
        """Their numbers in a random order, the same for the same seed."""
        order: list[int] = torch.randperm(len(things), generator=self._order).tolist()
        return order

"""ROME (Meng et al. 2022, arXiv 2202.05262): one layer, a fact at a time, rank one."""

from __future__ import annotations

import torch

from jeep_core.editors.base import EditContext, EditorOutcome, LayerUpdate, objective_of
from jeep_core.editors.rome.hparams import RomeHParams
from jeep_core.models.delta import Update
from jeep_core.monitor import nothing
from jeep_core.updates.least_squares import solve_update
from jeep_core.values.keys import keys_by_row
from jeep_core.values.optimiser import FactTokens, Objective, Values


class Rome:
    """Rank-one model editing; many facts are edited one after the other."""

    def objective(self, hparams: RomeHParams) -> Objective | None:
        """None: each fact is optimised on the model that the facts before it have edited."""
        return None

    def anchor_objective(self, hparams: RomeHParams) -> Objective:
        """The objective whose vectors ``norm_anchor`` brings to one norm."""
        return _objective(hparams)

    def run(self, context: EditContext, hparams: RomeHParams) -> EditorOutcome:
        """For every fact: key, value, Δ = (v - W k₀) uᵀ / (k₀·u) with u ∝ C⁻¹ k.

        k is the mean key over prefixes, k₀ that of the prompt alone; where facts are asked in
        two contexts, both are means over these.
        """
        view, layer = context.view, hparams.layer
        name = view.base.family.weight_name(layer)
        found: list[Values] = []
        lefts: list[torch.Tensor] = []
        rights: list[torch.Tensor] = []
        keys: list[torch.Tensor] = []
        conditions: list[float] = []
        alone = context.monitor.reporting(nothing)  # facts are counted here
        for i, fact in enumerate(context.facts):
            context.report("edit fact by fact", i, len(context.facts))
            one = context.part([fact], alone)
            values = one.optimised(_objective(hparams))
            left, right, key, condition = _rank_one(one, fact, values, hparams)
            view.update(name, Update.of(left, right))
            for parts, part in ((lefts, left), (rights, right), (keys, key)):
                parts.append(part)
            found.append(values)
            conditions.append(condition)
        context.report("edit fact by fact", len(context.facts), len(context.facts))
        # columns (d, 1) and (d_ff, 1) of the single facts, side by side: their sum
        update = Update.of(torch.cat(lefts, dim=1), torch.cat(rights, dim=1))
        outcome = EditorOutcome(values=_joined(found))
        outcome.delta.updates[name] = update
        outcome.keys["low", layer] = torch.cat(keys)
        weight = view.base.model.get_parameter(name).double().norm()
        outcome.layers.append(
            LayerUpdate(
                name=name,
                layer=layer,
                region="low",
                relative_norm=float(update.matrix().norm() / weight),
                condition=max(conditions),
            )
        )
        return outcome


def _objective(hparams: RomeHParams) -> Objective:
    return objective_of(
        hparams,
        hparams.low,
        high=None,
        stop_loss=hparams.stop_loss,
        low_site="mlp",
    )


def _rank_one(
    context: EditContext, fact: FactTokens, values: Values, hparams: RomeHParams
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Left (d, 1) and right (d_ff, 1) factor, mean key (1, d_ff), condition."""
    assert context.moments is not None
    # by context rows (prefixes, d_ff), the empty prefix first; key and alone (1, d_ff)
    found = [
        keys_by_row(context.view, [rows], "subject_last", hparams.layer)[0]
        for rows in fact.contexts
    ]
    key = torch.stack([rows.mean(dim=0) for rows in found]).mean(dim=0, keepdim=True)
    alone = torch.stack([rows[0] for rows in found]).mean(dim=0, keepdim=True)
    # (C + k kᵀ)⁻¹ k is C⁻¹ k up to its length
    shift = values.delta_low.to(key.device)
    solution = solve_update(key, shift, context.moments.factor(hparams.layer), 1.0)
    right = solution.right / solution.right.norm()
    # (d, 1): the shift over k₀·u, so that k₀ itself is mapped by exactly the shift
    left = shift.double().T / (alone.double() @ right)
    return left, right, key, solution.condition


def _joined(found: list[Values]) -> Values:
    """Values of single facts as those of a batch."""
    return Values(
        low=torch.cat([v.low for v in found]),
        high=None,
        delta_low=torch.cat([v.delta_low for v in found]),
        delta_high=None,
        steps=torch.cat([v.steps for v in found]),
        losses=torch.cat([v.losses for v in found]),
        probabilities=torch.cat([v.probabilities for v in found]),
        left_out=_all([v.left_out for v in found]),
        changed=_all([v.changed for v in found]),
        peak_bytes=max(v.peak_bytes for v in found),
    )


def _all(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    """Figures (1,) of single facts, side by side; None where there are none."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None

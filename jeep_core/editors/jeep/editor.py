"""JEEP (Shi et al., AAAI 2025): both regions optimised together, low written first, then high."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from jeep_core.editors.base import (
    EditContext,
    EditorOutcome,
    Targets,
    objective_of,
    write_region,
)
from jeep_core.editors.closed_form import closed_form
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.values.optimiser import Objective, Values
from jeep_core.values.reader import Position


class Jeep:
    """Joint editing for information enrichment and probability promotion."""

    def objective(self, hparams: JeepHParams) -> Objective | None:
        """The objective of step 1; None if its second half depends on the first's update."""
        if hparams.optimise == "separately":
            return None
        return _objective(hparams, "both" if hparams.optimise == "together" else hparams.optimise)

    def anchor_objective(self, hparams: JeepHParams) -> Objective | None:
        """The objective whose low vectors ``norm_anchor`` brings to one norm; None: there are none.

        The high vectors stay as they are: they are no value of a subject.
        """
        if hparams.optimise == "high":
            return None
        return self.objective(hparams) or _objective(hparams, "low")

    def run(self, context: EditContext, hparams: JeepHParams) -> EditorOutcome:
        """Optimise δ' and δ* together (step 1), write low (step 2), then high (step 3)."""
        if hparams.optimise == "separately":
            return self._separately(context, hparams)
        objective = self.objective(hparams)
        assert objective is not None
        outcome = EditorOutcome(values=context.optimised(objective))
        values = outcome.values
        assert isinstance(values, Values)
        reached = {
            "low": Targets(values.low, values.chat_low),
            "high": Targets(values.high, values.chat_high),
        }
        for name in hparams.written:
            _write(name, reached[name], context, hparams, outcome)
        return outcome

    def _separately(self, context: EditContext, hparams: JeepHParams) -> EditorOutcome:
        """δ' alone, low written, then δ* alone on the edited model, high written."""
        first = context.optimised(_objective(hparams, "low"))
        outcome = EditorOutcome(values=first)
        _write("low", Targets(first.low, first.chat_low), context, hparams, outcome)
        # most facts need no δ* any more: all of their texts are asked at once
        second = context.optimised(replace(_objective(hparams, "high"), early_prefixes=None))
        outcome.values = replace(
            second,
            low=first.low,
            delta_low=first.delta_low,
            chat_low=first.chat_low,
            # ``changed`` is not taken: the second pass has measured what was written
            left_out=first.left_out,
            steps=first.steps + second.steps,
        )
        # over the states as the region is read: those of the optimisation may be of rounded
        # products, and the difference would be written, of a fact with δ* = 0 nothing else
        _write("high", Targets(deltas=second.delta_high), context, hparams, outcome)
        return outcome


def _write(
    name: str,
    targets: Targets,
    context: EditContext,
    hparams: JeepHParams,
    outcome: EditorOutcome,
) -> None:
    region = hparams.regions[name]
    position: Position = "subject_last" if name == "low" else "prediction"
    solve = closed_form(region)
    write_region(context, name, region, position, targets, hparams, outcome, solve=solve)


def _objective(hparams: JeepHParams, train: Literal["both", "low", "high"]) -> Objective:
    return objective_of(
        hparams,
        hparams.low,
        high=None if train == "low" else hparams.high,
        stop_probability=hparams.stop_probability,
        high_target=hparams.high_target,
        train=train,
    )

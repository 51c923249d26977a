"""JEEP (Shi et al., AAAI 2025): both regions optimised together, low written first, then high."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from jeep_core.editors.base import EditContext, EditorOutcome, objective_of, write_region
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
        for name in hparams.written:
            self._write(name, context, hparams, outcome)
        return outcome

    def _separately(self, context: EditContext, hparams: JeepHParams) -> EditorOutcome:
        """δ' alone, low written, then δ* alone on the edited model, high written."""
        first = context.optimised(_objective(hparams, "low"))
        outcome = EditorOutcome(values=first)
        self._write("low", context, hparams, outcome)
        second = context.optimised(_objective(hparams, "high"))
        outcome.values = replace(
            second,
            low=first.low,
            delta_low=first.delta_low,
            chat_low=first.chat_low,
            steps=first.steps + second.steps,
        )
        self._write("high", context, hparams, outcome)
        return outcome

    @staticmethod
    def _write(
        name: str, context: EditContext, hparams: JeepHParams, outcome: EditorOutcome
    ) -> None:
        values = outcome.values
        assert isinstance(values, Values)
        region = hparams.regions[name]
        position: Position = "subject_last" if name == "low" else "prediction"
        targets = values.low if name == "low" else values.high
        assert targets is not None
        write_region(
            context,
            name,
            region,
            position,
            targets,
            hparams,
            outcome,
            solve=closed_form(region),
            chat_targets=values.chat_low if name == "low" else values.chat_high,
        )


def _objective(hparams: JeepHParams, train: Literal["both", "low", "high"]) -> Objective:
    return objective_of(
        hparams,
        hparams.low,
        high=None if train == "low" else hparams.high,
        stop_probability=hparams.stop_probability,
        high_target=hparams.high_target,
        train=train,
    )

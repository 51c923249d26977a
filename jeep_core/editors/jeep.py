"""JEEP (Shi et al., AAAI 2025): both regions optimised together, low written first, then high."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome, write_region
from jeep_core.hparams import JeepHParams
from jeep_core.values import Objective


class Jeep:
    """Joint editing for information enrichment and probability promotion."""

    def objective(self, hparams: JeepHParams) -> Objective:
        """What step 1 minimises."""
        return Objective(
            low=hparams.low,
            high=hparams.high,
            n_steps=hparams.n_steps,
            learning_rate=hparams.learning_rate,
            kl_weight=hparams.kl_weight,
            compute_dtype=hparams.compute_dtype,
            stop_probability=hparams.stop_probability,
            high_target=hparams.high_target,
        )

    def run(self, context: EditContext, hparams: JeepHParams) -> EditorOutcome:
        """Optimise δ' and δ* together (step 1), write low (step 2), then high (step 3)."""
        values = context.optimised(self.objective(hparams))
        assert values.high is not None
        outcome = EditorOutcome(values=values)
        write_region(context, "low", hparams.low, "subject_last", values.low, hparams, outcome)
        write_region(context, "high", hparams.high, "prediction", values.high, hparams, outcome)
        return outcome

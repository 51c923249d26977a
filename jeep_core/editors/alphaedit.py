"""AlphaEdit (Fang et al. 2024, arXiv 2410.02355): MEMIT's values, written into the null space."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome, write_region
from jeep_core.hparams import AlphaEditHParams
from jeep_core.values import Objective


class AlphaEdit:
    """Updates that leave alone what the second moment sees: see ``Region.null_space``."""

    def objective(self, hparams: AlphaEditHParams) -> Objective:
        """What step 1 minimises."""
        return Objective(
            low=hparams.low,
            high=None,
            n_steps=hparams.n_steps,
            learning_rate=hparams.learning_rate,
            kl_weight=hparams.kl_weight,
            compute_dtype=hparams.compute_dtype,
            stop_loss=hparams.stop_loss,
        )

    def run(self, context: EditContext, hparams: AlphaEditHParams) -> EditorOutcome:
        """Optimise δ at the subject's last token, then write the region."""
        values = context.optimised(self.objective(hparams))
        outcome = EditorOutcome(values=values)
        write_region(context, "low", hparams.low, "subject_last", values.low, hparams, outcome)
        return outcome

"""AlphaEdit (Fang et al. 2024, arXiv 2410.02355): MEMIT's values, written into the null space."""

from __future__ import annotations

from jeep_core.editors.alphaedit.hparams import AlphaEditHParams
from jeep_core.editors.base import EditContext, EditorOutcome, objective_of, write_region
from jeep_core.updates.null_space import in_null_space
from jeep_core.values.optimiser import Objective


class AlphaEdit:
    """Updates in the null space of the second moment: see ``Region.null_space``."""

    def objective(self, hparams: AlphaEditHParams) -> Objective:
        """The objective of step 1."""
        return objective_of(
            hparams,
            hparams.low,
            high=None,
            stop_loss=hparams.stop_loss,
        )

    def run(self, context: EditContext, hparams: AlphaEditHParams) -> EditorOutcome:
        """Optimise δ at the subject's last token, then write the region."""
        values = context.optimised(self.objective(hparams))
        outcome = EditorOutcome(values=values)
        assert hparams.low.null_space is not None
        write_region(
            context,
            "low",
            hparams.low,
            "subject_last",
            values.low,
            hparams,
            outcome,
            solve=in_null_space(hparams.low.null_space),
        )
        return outcome

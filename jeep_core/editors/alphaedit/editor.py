"""AlphaEdit (Fang et al. 2025, arXiv 2410.02355): MEMIT's values, written into the null space."""

from __future__ import annotations

from jeep_core.editors.alphaedit.hparams import AlphaEditHParams
from jeep_core.editors.base import EditContext, EditorOutcome, objective_of
from jeep_core.editors.closed_form import optimise_and_write
from jeep_core.values.optimiser import Objective


class AlphaEdit:
    """Updates in the null space of the second moment: see ``Region.null_space``."""

    def objective(self, hparams: AlphaEditHParams) -> Objective:
        """The objective of step 1."""
        return objective_of(hparams, hparams.low, high=None, stop_loss=hparams.stop_loss)

    def anchor_objective(self, hparams: AlphaEditHParams) -> Objective:
        """The objective whose vectors ``norm_anchor`` brings to one norm."""
        return self.objective(hparams)

    def run(self, context: EditContext, hparams: AlphaEditHParams) -> EditorOutcome:
        """Optimise δ at the subject's last token, then write the region."""
        return optimise_and_write(context, hparams, self.objective(hparams))

"""PMET (Li et al. 2024, arXiv 2308.08742): values at both projections, the MLP's one is written."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome, objective_of
from jeep_core.editors.closed_form import optimise_and_write
from jeep_core.editors.pmet.hparams import PmetHParams
from jeep_core.values.optimiser import Objective


class Pmet:
    """Precise model editing in a transformer."""

    def objective(self, hparams: PmetHParams) -> Objective:
        """The objective of step 1."""
        return objective_of(
            hparams,
            hparams.low,
            high=None,
            stop_loss=hparams.stop_loss,
            low_site="mlp_and_attention",
            written_weight=hparams.written_weight,
        )

    def anchor_objective(self, hparams: PmetHParams) -> Objective:
        """The objective whose vectors ``norm_anchor`` brings to one norm."""
        return self.objective(hparams)

    def run(self, context: EditContext, hparams: PmetHParams) -> EditorOutcome:
        """Optimise at both projections of the last layer, write the MLPs of the region."""
        return optimise_and_write(context, hparams, self.objective(hparams), at_projection=True)

"""MEMIT (Meng et al. 2023, arXiv 2210.07229): the low region alone."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome, objective_of
from jeep_core.editors.closed_form import optimise_and_write
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.values.optimiser import Objective


class Memit:
    """Mass-editing memory in a transformer."""

    def objective(self, hparams: MemitHParams) -> Objective:
        """The objective of step 1."""
        return objective_of(hparams, hparams.low, high=None, stop_loss=hparams.stop_loss)

    def anchor_objective(self, hparams: MemitHParams) -> Objective:
        """The objective whose vectors ``norm_anchor`` brings to one norm."""
        return self.objective(hparams)

    def run(self, context: EditContext, hparams: MemitHParams) -> EditorOutcome:
        """Optimise δ at the subject's last token, then write the region."""
        return optimise_and_write(context, hparams, self.objective(hparams))

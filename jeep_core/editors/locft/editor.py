"""LocFT-BF (ICLR 2026): passes over all facts in mini-batches, not fact by fact until it is done.

Fine-tuning of one fact after the other forgets the earlier ones; in passes each step serves a
mini-batch of many facts, and all of them are seen again until the mean loss is small.
"""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.fine_tuning.passes import fine_tune
from jeep_core.editors.locft.hparams import LocFtHParams


class LocFt:
    """Localised fine-tuning, breadth first."""

    def run(self, context: EditContext, hparams: LocFtHParams) -> EditorOutcome:
        """Tune the layers; see ``fine_tune``.

        Raises:
            Cancelled, NumericalError: as ``fine_tune``.
        """
        return fine_tune(context, hparams)

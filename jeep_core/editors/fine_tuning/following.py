"""How fine-tuning in passes follows gradients, for the records of the editors that do it."""

from __future__ import annotations

from jeep_core.editors.fine_tuning.hparams import FineTuningHParams
from jeep_core.editors.record import Following


def following(hparams: FineTuningHParams) -> Following:
    """Passes of Adam; projected where the editor needs second moments."""
    return Following(
        hparams.layers,
        hparams.n_passes,
        hparams.batch_facts,
        tunes=True,
        ends=int(hparams.end_of_text),
        projected=bool(hparams.moment_layers),
    )

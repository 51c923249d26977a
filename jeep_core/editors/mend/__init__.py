"""MEND: a trained network turns gradients into an update (Mitchell et al. 2022)."""

from __future__ import annotations

from jeep_core.editors.mend.hparams import MendHParams
from jeep_core.editors.record import EditorRecord, Following, PlotStyle
from jeep_core.reports.colours import SKY

record = EditorRecord(
    hparams=MendHParams,
    editor="jeep_core.editors.mend.editor:Mend",
    network="jeep_core.editors.mend.network:MendNetwork",
    order=2,
    many_facts=False,
    plot=PlotStyle(SKY, "<", "-."),
    follows=lambda found: Following(
        found.layers, every_token=True, blocks=found.n_blocks, rank=found.rank
    ),
)

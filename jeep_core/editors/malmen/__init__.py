"""MALMEN: MEND for thousands of facts at once (Tan et al. 2024)."""

from __future__ import annotations

from jeep_core.editors.malmen.hparams import MalmenHParams
from jeep_core.editors.record import EditorRecord, Following, PlotStyle
from jeep_core.reports.colours import PURPLE

record = EditorRecord(
    hparams=MalmenHParams,
    editor="jeep_core.editors.malmen.editor:Malmen",
    network="jeep_core.editors.malmen.network:MalmenNetwork",
    order=4,
    plot=PlotStyle(PURPLE, "D", ":"),
    follows=lambda found: Following(
        found.layers, every_token=True, blocks=found.n_blocks, rank=found.rank, solves=True
    ),
)
